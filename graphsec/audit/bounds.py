"""Audits: what membership scores prove about ε, at least.

A lower bound speaks against a claim of privacy, never for one: 0 means that this attack has
found nothing. Both bounds hold whatever made the scores, as long as it saw the released model
and public data only: a better attack gives a larger bound.

Mind the relation of neighbours. In the game ``membership`` a node's label is trained on or not
while the node itself stays in the graph, so the bound is on ε for that change. A guarantee for
adding or removing a whole node covers the change as two steps, with 2ε, not ε; with ε where the
training reads nothing of a node that it does not train on, which then is as good as not there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from graphsec.predict import PrivacyStatement

Array = npt.NDArray[np.float64]
Correction = Literal["bonferroni", "split"]

_LARGEST = 64.0  # of any bound: e^64 could not be told from infinity by any audit
SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """A lower bound.

    Attributes:
        epsilon: No ε below this is possible at this δ, unless with probability 1 − confidence.
        delta: δ.
        confidence: Of the whole audit, all thresholds included.
        method: "one run" or "many runs".
        tests: Thresholds that were tried, and corrected for.
        threshold: The best: number of guesses in one run, score in many.
        ceiling: What it would have been with every guess right: nothing above could be refuted.
    """

    epsilon: float
    delta: float
    confidence: float
    method: str
    tests: int
    threshold: float
    ceiling: float = math.inf

    def refutes(self, claim: PrivacyStatement) -> bool:
        """Whether the claim can't be true: a claim at a smaller δ is one at this δ too."""
        return self.epsilon > claim.epsilon and self.delta >= claim.delta


def one_run_epsilon(
    canaries: int, guesses: int, correct: int, delta: float, *, confidence: float = 0.95
) -> float:
    """Largest ε ruled out by ``correct`` of ``guesses`` about the canaries of one training.

    Assumes that each canary was in training by a fair coin of its own (``draw = "coin"`` of the
    game), that guesses were made from the model without knowledge of the coins, and that their
    number was fixed beforehand. Were training (ε, δ)-private, so many right guesses would have
    probability p(ε) = β + 2mδ max_{1≤i≤v} (P[B ≥ v − i] − β) / i at most, with β = P[B ≥ v] and
    B ~ Binomial(r, e^ε / (1 + e^ε)), for m canaries, r guesses, v of them right.

    Source: Steinke, Nasr and Jagielski, Privacy Auditing with One (1) Training Run, NeurIPS 2023,
    theorem 5.2; the formula from our notes on its use, the theorem's number from memory.

    Args:
        canaries: m.
        guesses: r; on the others no guess is made.
        correct: v.
        delta: δ of the claim.
        confidence: 1 − the chance of a bound above the true ε.

    Raises:
        ValueError: Not 0 ≤ correct ≤ guesses ≤ canaries, or a probability out of range.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(
            f"must hold: 0 ≤ correct ≤ guesses ≤ canaries, got {correct}, {guesses}, {canaries}"
        )
    _check(delta, confidence)
    if correct == 0:
        return 0.0
    return _ruled_out(
        lambda epsilon: _chance(canaries, guesses, correct, delta, epsilon), 1 - confidence
    )


def _chance(m: int, r: int, v: int, delta: float, epsilon: float) -> float:
    """p(ε): the largest chance of v right guesses or more."""
    from scipy.stats import binom

    right = 1 / (1 + np.exp(-epsilon))
    tail = binom.sf(v - np.arange(v + 1) - 1, r, right)  # P[B ≥ v − i], i = 0 … v
    return float(tail[0] + 2 * m * delta * ((tail[1:] - tail[0]) / np.arange(1, v + 1)).max())


def _ruled_out(chance: Callable[[float], float], level: float) -> float:
    """Largest ε (rounded down) with chance(ε) ≤ level, for a rising chance."""
    if chance(0.0) > level:
        return 0.0
    low, high = 0.0, 1.0
    while high < _LARGEST and chance(high) <= level:
        low, high = high, 2 * high
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle) <= level else (low, middle)
    return low


def one_run(
    scores: Tensor,
    truth: Tensor,
    delta: float,
    rng: np.random.Generator,
    *,
    guesses: Sequence[int] | None = None,
    correction: Correction = "bonferroni",
    confidence: float = 0.95,
) -> Audit:
    """Audit one training: its membership scores against who was in.

    Of r guesses the upper half are "in", about the canaries of the highest scores, the others
    "out", about those of the lowest. Several r may be tried: "bonferroni" tests each at a part of
    the error, "split" chooses on a random half of the canaries and tests on the other. Assumptions
    as for ``one_run_epsilon``; canaries whose neighbourhoods don't meet give the sharpest bounds.

    Args:
        scores: (m,) higher means more likely in; made without any of ``truth``.
        truth: (m,) 1 for in, 0 for out, by fair coins.
        delta: δ of the claim.
        rng: Breaks ties, so that the order of the canaries tells nothing, and splits.
        guesses: Numbers r to try, of all canaries; default 5, 10, 25, 50 and 100 %.
        correction: How several are paid for.
        confidence: Of the bound.
    """
    values, hit = scores.double().numpy(), truth.bool().numpy()
    if len(values) != len(hit) or len(hit) < 2:
        raise ValueError(
            f"scores and truth must be of 2 canaries or more, got {len(values)} and {len(hit)}"
        )
    _check(delta, confidence)
    m = len(hit)
    counts = [round(share * m) for share in SHARES] if guesses is None else list(guesses)
    counts = sorted({count for count in counts if count})
    if not counts or counts[0] < 1 or counts[-1] > m:
        raise ValueError(f"guesses must lie in 1…{m}, got {counts}")
    order = rng.permutation(m)

    def bound(part: npt.NDArray[np.int64], count: int, level: float) -> float:
        right = _right(values[part], hit[part], count)
        return one_run_epsilon(len(part), count, right, delta, confidence=level)

    if correction == "split":
        first, second = np.array_split(order, 2)
        shares = [count / m for count in counts]
        tried = [bound(first, max(1, round(s * len(first))), confidence) for s in shares]
        chosen = max(1, round(shares[int(np.argmax(tried))] * len(second)))
        return Audit(
            epsilon=bound(second, chosen, confidence), delta=delta, confidence=confidence,
            method="one run", tests=1, threshold=chosen,
            ceiling=one_run_epsilon(len(second), chosen, chosen, delta, confidence=confidence),
        )  # fmt: skip
    level = 1 - (1 - confidence) / len(counts)
    bounds = [bound(order, count, level) for count in counts]
    best = int(np.argmax(bounds))
    return Audit(
        epsilon=bounds[best], delta=delta, confidence=confidence, method="one run",
        tests=len(counts), threshold=counts[best],
        ceiling=max(one_run_epsilon(m, r, r, delta, confidence=level) for r in counts),
    )  # fmt: skip


def _right(scores: Array, hit: npt.NDArray[np.bool_], count: int) -> int:
    """Right guesses: the highest are in, the lowest out; ties as they stand."""
    order = np.argsort(-scores, kind="stable")
    inside = (count + 1) // 2
    return int(hit[order[:inside]].sum() + (~hit[order[len(order) - (count - inside) :]]).sum())


def many_runs_epsilon(
    true_positives: int,
    positives: int,
    false_positives: int,
    negatives: int,
    delta: float,
    *,
    confidence: float = 0.95,
) -> float:
    """Largest ε ruled out by a test's errors over independent trainings.

    Private training bounds TPR ≤ e^ε FPR + δ, and TNR ≤ e^ε FNR + δ. The rates are bounded by
    Clopper and Pearson's intervals, one-sided, which with two rates in each of two directions hold
    jointly by a quarter of the error each. Assumes one canary, trainings that are independent of
    each other, and a test fixed beforehand.

    Source: Jagielski, Ullman and Oprea, Auditing Differentially Private Machine Learning, NeurIPS
    2020, §3; Clopper and Pearson 1934. From memory.

    Args:
        true_positives: Trainings with the canary that were told so.
        positives: Trainings with it.
        false_positives: Trainings without it that were told to have it.
        negatives: Trainings without it.
        delta: δ of the claim.
        confidence: Of the bound.
    """
    if not 0 <= true_positives <= positives or not 0 <= false_positives <= negatives:
        raise ValueError(
            f"counts must not exceed their runs, got {true_positives} of {positives} and "
            f"{false_positives} of {negatives}"
        )
    if not positives or not negatives:
        raise ValueError(f"runs of both kinds are needed, got {positives} and {negatives}")
    _check(delta, confidence)
    error = (1 - confidence) / 4
    best = 0.0
    for hits, runs, false, others in (
        (true_positives, positives, false_positives, negatives),
        (negatives - false_positives, negatives, positives - true_positives, positives),
    ):
        gain = _at_least(hits, runs, error) - delta
        if gain > 0:
            best = max(best, float(np.log(gain / _at_most(false, others, error))))
    return best


def _at_least(hits: int, runs: int, error: float) -> float:
    from scipy.stats import beta

    return float(beta.ppf(error, hits, runs - hits + 1)) if hits else 0.0


def _at_most(hits: int, runs: int, error: float) -> float:
    from scipy.stats import beta

    return float(beta.ppf(1 - error, hits + 1, runs - hits)) if hits < runs else 1.0


def many_runs(
    inside: Tensor,
    outside: Tensor,
    delta: float,
    *,
    thresholds: Sequence[float] | None = None,
    correction: Correction = "bonferroni",
    confidence: float = 0.95,
) -> Audit:
    """Audit by repeated games: a canary's scores over trainings with it and without.

    With ``thresholds``, fixed before any score was seen, "bonferroni" tests each at a part of the
    error (0 is natural for a log-likelihood ratio). Otherwise, or with "split", the first half of
    the trainings chooses the threshold, among those given or the percentiles of its scores, and
    the second half tests it. Assumptions as for ``many_runs_epsilon``.

    Args:
        inside: (a,) scores of trainings with the canary, in the order in which they were run.
        outside: (b,) scores of those without.
        delta: δ of the claim.
        thresholds: Scores from which on "in" is said.
        correction: How several are paid for.
        confidence: Of the bound.
    """
    with_it, without = inside.double().numpy(), outside.double().numpy()
    if min(len(with_it), len(without)) < 2:
        raise ValueError(
            f"2 runs of each kind or more are needed, got {len(with_it)} and {len(without)}"
        )

    def bound(a: Array, b: Array, threshold: float, level: float) -> float:
        return many_runs_epsilon(
            int((a >= threshold).sum()), len(a), int((b >= threshold).sum()), len(b), delta,
            confidence=level,
        )  # fmt: skip

    if thresholds is None or correction == "split":
        (a, c), (b, d) = np.array_split(with_it, 2), np.array_split(without, 2)
        own = np.quantile(np.concatenate([a, b]), np.linspace(0, 1, 101))
        tried = np.unique(own if thresholds is None else np.array(thresholds))
        chosen = tried[int(np.argmax([bound(a, b, t, confidence) for t in tried]))]
        epsilon, tests, last = bound(c, d, chosen, confidence), 1, (len(c), len(d), confidence)
    else:
        level = 1 - (1 - confidence) / len(thresholds)
        bounds = [bound(with_it, without, t, level) for t in thresholds]
        best = int(np.argmax(bounds))
        epsilon, chosen, tests = bounds[best], thresholds[best], len(thresholds)
        last = (len(with_it), len(without), level)
    return Audit(
        epsilon=epsilon, delta=delta, confidence=confidence, method="many runs", tests=tests,
        threshold=float(chosen),
        ceiling=many_runs_epsilon(last[0], last[0], 0, last[1], delta, confidence=last[2]),
    )  # fmt: skip


def _check(delta: float, confidence: float) -> None:
    if not 0 <= delta < 1:
        raise ValueError(f"delta must lie in 0…1, below 1, got {delta}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
