"""What training on a graph spends, counted by dp-accounting.

A step sums one clipped term a root and adds Gaussian noise. On a graph a node has a part in many
terms: in its own, which disappears with it (a change of C at most, C the clip norm), and in those
of the roots that see it, which change (by 2C at most). dp-accounting knows the first; the events
here add the second. All speak of neighbours by adding or removing one node with its edges.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attr
import numpy as np
import numpy.typing as npt

try:
    import dp_accounting
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "privacy accounting needs dp-accounting: pip install 'graphsec[privacy]'"
    ) from error
from dp_accounting.rdp import RdpAccountant

Array = npt.NDArray[np.float64]

_TOLERANCE = 1e-4  # of noise multipliers that are searched for


@attr.s(frozen=True, slots=True, auto_attribs=True)
class ChangedTermsDpEvent(dp_accounting.DpEvent):  # type: ignore[misc]
    """A step on roots sampled independently, one of which a node is, and some of which it changes.

    With ρ of the changed roots sampled and b = 1 where the node's own root is, the two sums differ
    by (2ρ + b) C at most. Both runs can be given the same sample of the other roots, so that the
    outputs are mixtures of Gaussians with the same weights, and by joint convexity

        exp((α − 1) ε_α) ≤ E_{ρ, b} exp(α (α − 1) (2ρ + b)² / (2 σ²)),

    with ρ ~ Binomial(changed, q) and b ~ Bernoulli(q). Which roots are changed must not depend on
    the sample, nor the chance of a root on the graph.

    Source: the argument of Daigavane et al., Node-Level Differentially Private Graph Neural
    Networks, 2021, theorem 1, for Poisson samples (theirs are of fixed size), and with the node's
    own term, which is gone and not changed, at C for 2C.

    Attributes:
        noise_multiplier: σ, the noise's standard deviation over C.
        sampling_probability: q, the chance of each root to be in a step.
        changed: Most other roots whose term a node can change.
    """

    noise_multiplier: float
    sampling_probability: float
    changed: int


@attr.s(frozen=True, slots=True, auto_attribs=True)
class FixedSizeTermsDpEvent(dp_accounting.DpEvent):  # type: ignore[misc]
    """The published step: roots drawn without replacement, ``terms`` of which a node is in.

        ε_α = log E_ρ exp(α (α − 1) (ρ / N)² / (2 λ²)) / (α − 1), ρ ~ Hypergeometric

    counts the node's own root as changed. It needs a number of terms that holds on both graphs, and
    speaks of graphs with as many roots: a removed one counts as there, with a term of 0.

    Source: Daigavane et al., Node-Level Differentially Private Graph Neural Networks, 2021,
    theorem 1 and the accountant of its code.

    Attributes:
        noise_multiplier: λ, the noise's standard deviation over 2 N C.
        roots: All roots.
        sample_size: Roots of a step.
        terms: N, most roots whose term a node has a part in, its own included.
    """

    noise_multiplier: float
    roots: int
    sample_size: int
    terms: int


class NodeAccountant(RdpAccountant):  # type: ignore[misc]
    """Rényi accountant that also knows the events of steps on graphs."""

    def _maybe_compose(self, event: Any, count: int, do_compose: bool) -> Any:
        if not isinstance(event, ChangedTermsDpEvent | FixedSizeTermsDpEvent):
            return super()._maybe_compose(event, count, do_compose)
        if do_compose:
            self._rdp += count * step_rdp(event, self._orders)
        return None


def step_rdp(
    event: ChangedTermsDpEvent | FixedSizeTermsDpEvent, orders: Sequence[float] | Array
) -> Array:
    """(orders,) Rényi divergence of one step at each order α > 1."""
    chance, shift = _levels(event)
    alpha = np.asarray(orders, dtype=np.float64)[:, None]
    from scipy.special import logsumexp

    with np.errstate(divide="ignore"):
        exponent = np.log(chance) + alpha * (alpha - 1) * shift**2 / 2
    found: Array = logsumexp(exponent, axis=1) / (alpha[:, 0] - 1)
    return np.maximum(found, 0.0)


def _levels(event: ChangedTermsDpEvent | FixedSizeTermsDpEvent) -> tuple[Array, Array]:
    """(chance, shift in standard deviations of the noise) of each number of terms in a step."""
    from scipy.stats import binom, hypergeom

    if event.noise_multiplier <= 0:
        raise ValueError(f"noise_multiplier must be > 0, got {event.noise_multiplier}")
    if isinstance(event, ChangedTermsDpEvent):
        q, changed = event.sampling_probability, event.changed
        if not 0 <= q <= 1 or changed < 0:
            raise ValueError(
                f"sampling_probability must lie in 0…1 and changed be ≥ 0, got {q} and {changed}"
            )
        count = np.arange(changed + 1)
        chance = binom.pmf(count, changed, q)
        both = np.concatenate([(1 - q) * chance, q * chance])
        shift = np.concatenate([2.0 * count, 2.0 * count + 1])
        return both, shift / event.noise_multiplier
    if not 1 <= event.sample_size <= event.roots or not 1 <= event.terms <= event.roots:
        raise ValueError(
            f"sample_size and terms must lie in 1…roots, got {event.sample_size}, {event.terms} "
            f"and {event.roots}"
        )
    count = np.arange(event.terms + 1)
    chance = hypergeom.pmf(count, event.roots, event.terms, event.sample_size)
    return chance, count / event.terms / event.noise_multiplier


def step_event(noise_multiplier: float, sampling_probability: float, changed: int) -> Any:
    """The event of a step; dp-accounting's own, which is tighter, where no other root changes."""
    if changed == 0:
        return dp_accounting.PoissonSampledDpEvent(
            sampling_probability, dp_accounting.GaussianDpEvent(noise_multiplier)
        )
    return ChangedTermsDpEvent(noise_multiplier, sampling_probability, changed)


class Ledger:
    """What has been spent, event by event; a resumed run goes on from its ``state``.

    Args:
        orders: Rényi orders; default those of dp-accounting.
    """

    def __init__(self, orders: Sequence[float] | None = None) -> None:
        self._orders = orders
        self._spent: list[tuple[Any, int]] = []

    def spend(self, event: Any, count: int = 1) -> None:
        """Note ``count`` releases of an event, made before anything of them is used.

        Raises:
            UnsupportedEventError: The accountant can't count it.
        """
        if self._spent and self._spent[-1][0] == event:
            self._spent[-1] = (event, self._spent[-1][1] + count)
            return
        if not NodeAccountant(self._orders).supports(event):
            raise dp_accounting.UnsupportedEventError(f"no accountant knows {event}")
        self._spent.append((event, count))

    def epsilon(self, delta: float) -> float:
        """ε of all that was spent."""
        check_delta(delta)
        accountant = NodeAccountant(self._orders)
        with _quiet():
            for event, count in self._spent:
                accountant.compose(event, count)
            return float(accountant.get_epsilon(delta))

    @property
    def state(self) -> list[tuple[Any, int]]:
        """Events and how often each was spent, in order."""
        return list(self._spent)

    @staticmethod
    def resumed(state: Sequence[tuple[Any, int]], orders: Sequence[float] | None = None) -> Ledger:
        """A ledger in which ``state`` has been spent."""
        ledger = Ledger(orders)
        for event, count in state:
            ledger.spend(event, count)
        return ledger


def epsilon_of(
    event: Any, count: int, delta: float, orders: Sequence[float] | None = None
) -> float:
    """ε of ``count`` releases of one event."""
    ledger = Ledger(orders)
    ledger.spend(event, count)
    return ledger.epsilon(delta)


def noise_for(event: Callable[[float], Any], epsilon: float, delta: float) -> float:
    """Least noise multiplier at which an event (as a function of it) costs at most ε.

    Raises:
        ValueError: ε is not above 0, or δ not between 0 and 1.
    """
    if epsilon <= 0:
        raise ValueError(f"epsilon must be > 0, got {epsilon}")
    check_delta(delta)
    with _quiet():
        found = dp_accounting.calibrate_dp_mechanism(
            NodeAccountant, event, epsilon, delta,
            bracket_interval=dp_accounting.LowerEndpointAndGuess(0.05, 2.0), tol=_TOLERANCE,
        )  # fmt: skip
    while epsilon_of(event(found), 1, delta) > epsilon:  # the search may end on either side
        found += _TOLERANCE
    return float(found)


def check_delta(delta: float) -> None:
    """Refuse a δ that promises nothing."""
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie between 0 and 1, got {delta}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without dp-accounting's word on each order it leaves out, which costs tightness only."""
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
