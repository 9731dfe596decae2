"""The certificate of sparse randomised smoothing: pure functions of numbers.

Source: Bojchevski, Gasteiger & Günnemann, Efficient Robustness Certificates for Discrete Data:
Sparsity-Aware Randomized Smoothing for Graphs, Images and More, ICML 2020.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
LARGEST = 100  # flips; a larger radius is reported as this one


def lower_bound(hits: Counts, trials: int, alpha: float) -> Array:
    """One-sided Clopper-Pearson bounds: each probability is above with confidence 1 − alpha.

    Source: Clopper & Pearson, The Use of Confidence or Fiducial Limits, Biometrika 1934.

    Args:
        hits: Successes, of any shape.
        trials: Number of trials.
        alpha: Probability that a bound is wrong.
    """
    from scipy import stats

    some = np.maximum(hits, 1)
    bound: Array = np.where(hits > 0, stats.beta.ppf(alpha, some, trials - some + 1), 0.0)
    return bound


def vote_bounds(votes: Counts, answers: Counts, alpha: float) -> tuple[Array, Array]:
    """Probability of the answer, from below, and of its strongest rival, from above.

    All bounds of a row hold at once with confidence 1 − alpha: half of it for the answer, the
    other half shared by its rivals. With two classes the rival's is one minus the answer's.

    Args:
        votes: (k, classes) votes, as many in each row.
        answers: (k,) the classes to certify, chosen without a look at these votes.
        alpha: Probability that any bound of a row is wrong.
    """
    trials, classes = int(votes[0].sum()), votes.shape[1]
    rows = np.arange(len(votes))
    if classes <= 2:
        lower = lower_bound(votes[rows, answers], trials, alpha)
        return lower, 1 - lower
    lower = lower_bound(votes[rows, answers], trials, alpha / 2)
    each = 1 - lower_bound(trials - votes, trials, alpha / 2 / (classes - 1))
    each[rows, answers] = 0.0
    return lower, np.minimum(each.max(1), 1 - lower)


def worst_case(p: Array, added: int, deleted: int, p_add: float, p_del: float) -> Array:
    """Least probability of a class on the perturbed graph, of whatever classifier.

    The ratio of the likelihoods of a noisy graph under clean and perturbed graph depends only on
    how many of the changed pairs show their clean state: ``added + deleted + 1`` regions. The
    worst classifier answers with the class where the ratio is largest. Requires p_add + p_del < 1.

    Args:
        p: (k,) probability of the class on the clean graph.
        added: Edges that the perturbation adds.
        deleted: Edges that it deletes.
        p_add: Probability that the noise adds a pair.
        p_del: Probability that it deletes an edge.
    """

    def regions(deleted_shows: float, added_shows: float) -> Array:
        """Cumulated chances of 0, 1, … hidden clean states, where each shows with a chance."""
        each = (_binomial(deleted, 1 - deleted_shows), _binomial(added, 1 - added_shows))
        return np.concatenate([[0.0], np.cumsum(np.convolve(*each))])

    clean = regions(1 - p_del, 1 - p_add)
    perturbed = regions(p_add, p_del)
    # What the clean graph never shows costs the worst classifier nothing: it never has the class.
    last = int(np.searchsorted(clean, clean[-1])) + 1
    rho: Array = np.interp(p, clean[:last], perturbed[:last])
    return rho


def _binomial(trials: int, p: float) -> Array:
    """Chances of 0, 1, …, trials successes (scipy's own function takes ten times as long)."""
    from scipy import special

    k = np.arange(trials + 1)
    ways = special.gammaln(trials + 1) - special.gammaln(k + 1) - special.gammaln(trials - k + 1)
    chance: Array = np.exp(ways + special.xlogy(k, p) + special.xlog1py(trials - k, -p))
    return chance


def best_case(p: Array, added: int, deleted: int, p_add: float, p_del: float) -> Array:
    """Largest probability of a class on the perturbed graph, as ``worst_case`` the least."""
    return 1 - worst_case(1 - p, added, deleted, p_add, p_del)


def certified(
    lower: Array, upper: Array, added: int, deleted: int, p_add: float, p_del: float
) -> npt.NDArray[np.bool_]:
    """(k,) whether no perturbation of that many flips makes a rival as likely as the answer.

    With ``upper = 1 - lower`` this is the certificate of the majority, ρ > 1/2, else that of the
    multi-class case. The worst cases of answer and rival take different regions, so that one
    classifier can meet both: from these bounds alone nothing better follows.

    Args:
        lower: (k,) least probability of the answer on the clean graph.
        upper: (k,) largest of any rival, at most ``1 - lower``.
        added: Edges that the perturbation adds.
        deleted: Edges that it deletes.
        p_add: Probability that the noise adds a pair.
        p_del: Probability that it deletes an edge.
    """
    noise = (p_add, p_del)
    wins = worst_case(lower, added, deleted, *noise) > best_case(upper, added, deleted, *noise)
    return np.asarray(wins)


def radii(lower: Array, upper: Array, p_add: float, p_del: float) -> Counts:
    """(k, 3) certified additions (no deletion), deletions (no addition), and flips of either kind.

    Each is the largest number at which the answer, and at all smaller ones, is certified; of flips
    of either kind, under every share of additions and deletions. −1 where not even the clean graph
    is certified, at most ``LARGEST``.
    """

    def flips(r: int, rows: Counts) -> Counts:
        for added in range(r, -1, -1):  # additions are the harder ones: most rows end there
            rows = rows[holds(added, r - added, rows)]
            if not len(rows):
                break
        return rows

    def holds(added: int, deleted: int, rows: Counts) -> npt.NDArray[np.bool_]:
        return certified(lower[rows], upper[rows], added, deleted, p_add, p_del)

    return np.stack(
        [
            _largest(lambda r, rows: rows[holds(r, 0, rows)], len(lower)),
            _largest(lambda r, rows: rows[holds(0, r, rows)], len(lower)),
            _largest(flips, len(lower)),
        ],
        axis=1,
    )


def frontier(lower: Array, upper: Array, p_add: float, p_del: float) -> list[Counts]:
    """Joint certificates: for 0, 1, … additions the most deletions at the same time.

    Returns:
        One (k,) array for each number of additions, −1 where that many are not certified even
        without deletions; it ends where no row has any.
    """
    columns = []
    for added in range(LARGEST + 1):

        def holding(deleted: int, rows: Counts, added: int = added) -> Counts:
            return rows[certified(lower[rows], upper[rows], added, deleted, p_add, p_del)]

        columns.append(_largest(holding, len(lower)))
        if (columns[-1] < 0).all():
            break
    return columns


def _largest(holding: Callable[[int, Counts], Counts], count: int) -> Counts:
    """(count,) largest r ≤ ``LARGEST`` at which each row is among ``holding(r, rows)``, or −1.

    By bisection: no certificate gets better with more flips.
    """
    low, high = np.full(count, -1), np.full(count, LARGEST + 1)
    while (open_ := high - low > 1).any():
        middle = (low + high) // 2
        for r in np.unique(middle[open_]).tolist():
            rows = np.flatnonzero(open_ & (middle == r))
            good = holding(r, rows)
            low[good] = r
            high[np.setdiff1d(rows, good)] = r
    return low
