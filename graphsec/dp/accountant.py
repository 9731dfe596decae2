"""What training on a graph spends, counted by dp-accounting.

A step sums one clipped term a root and adds Gaussian noise. On a graph a node has a part in many
terms: in its own, which disappears with it (a change of C at most, C the clip norm), and in those
of the roots that see it, which change (by 2C at most). dp-accounting knows the first; the events
here add the second, and that of a record which changes and is nobody else's. All speak of
neighbours by adding or removing one node with its edges.
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
_FARTHEST = 400.0  # standard deviations of the noise over which divergences are integrated


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


@attr.s(frozen=True, slots=True, auto_attribs=True)
class SwappedTermDpEvent(dp_accounting.DpEvent):  # type: ignore[misc]
    """A step on records sampled independently, one of which changes, and no other.

    Its term, of norm C at most, becomes another one of norm C at most. No pair of such steps can
    be told apart better than these two on a line, with noise of standard deviation σ:

        (1 − q) N(0, σ²) + q N(1, σ²)   and   (1 − q) N(0, σ²) + q N(−1, σ²).

    Half of the noise's multiplier in a Poisson-sampled Gaussian, as if a term of 2C came or went,
    is the same at q = 1 and more than it costs below.

    Source: the proof is in docs/privacy.md, "Disjoint cells".

    Attributes:
        noise_multiplier: σ, the noise's standard deviation over C.
        sampling_probability: q, the chance of each record to be in a step.
    """

    noise_multiplier: float
    sampling_probability: float


GraphEvent = ChangedTermsDpEvent | FixedSizeTermsDpEvent | SwappedTermDpEvent


class NodeAccountant(RdpAccountant):  # type: ignore[misc]
    """Rényi accountant that also knows the events of steps on graphs."""

    def _maybe_compose(self, event: Any, count: int, do_compose: bool) -> Any:
        if not isinstance(event, GraphEvent):
            return super()._maybe_compose(event, count, do_compose)
        if do_compose:
            self._rdp += count * step_rdp(event, self._orders)
        return None


def step_rdp(event: GraphEvent, orders: Sequence[float] | Array) -> Array:
    """(orders,) Rényi divergence of one step at each order α > 1."""
    from scipy.special import logsumexp

    if isinstance(event, SwappedTermDpEvent):
        return np.array([_swapped_rdp(event, float(alpha)) for alpha in orders])
    chance, shift = _levels(event)
    alpha = np.asarray(orders, dtype=np.float64)[:, None]
    with np.errstate(divide="ignore"):
        exponent = np.log(chance) + alpha * (alpha - 1) * shift**2 / 2
    found: Array = logsumexp(exponent, axis=1) / (alpha[:, 0] - 1)
    return np.maximum(found, 0.0)


def _swapped_rdp(event: SwappedTermDpEvent, alpha: float) -> float:
    """The divergence of order α, log ∫ P^α Q^(1 − α) / (α − 1), by the trapezoidal rule.

    In units of the noise the integrand has its peaks between 0 and 2 α / σ. They are as wide as a
    Gaussian or σ / √α, so that the error is exponentially small. Farther out, where no order is
    of use, stands what joint convexity gives, (1 − q) + q exp(2 α (α − 1) / σ²).
    """
    from scipy.special import logsumexp

    q, noise = event.sampling_probability, event.noise_multiplier
    if noise <= 0 or not 0 <= q <= 1:
        raise ValueError(
            f"noise_multiplier must be > 0 and sampling_probability lie in 0…1, got {noise} and {q}"
        )
    far = 1 / noise
    with np.errstate(divide="ignore"):
        rest, drawn = np.log1p(-q), np.log(q)
    if 2 * alpha * far > _FARTHEST:
        return float(np.logaddexp(rest, drawn + 2 * alpha * (alpha - 1) * far**2) / (alpha - 1))
    step = min(0.1, noise / 2 / alpha**0.5)
    x = np.arange(-15 - far, 2 * alpha * far + 15, step)
    p, other = (np.logaddexp(rest, drawn + sign * far * x - far**2 / 2) for sign in (1, -1))
    density = -(x**2) / 2 + alpha * p + (1 - alpha) * other
    total = logsumexp(density) + np.log(step) - np.log(2 * np.pi) / 2
    return max(float(total) / (alpha - 1), 0.0)


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
        chance = np.exp(binom.logpmf(count, changed, q))  # pmf overflows at subnormal rates
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
