"""What private steps cost: figures, bounds, and both sides of every event drawn or integrated."""

from __future__ import annotations

from typing import Any

import dp_accounting
import numpy as np
import numpy.typing as npt
import pytest
import torch
from dp_accounting.rdp import compute_epsilon
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import binom, chisquare, norm

from graphsec.dp.accountant import (
    ChangedTermsDpEvent,
    FixedSizeTermsDpEvent,
    Ledger,
    NodeAccountant,
    epsilon_of,
    noise_for,
    step_event,
    step_rdp,
)
from graphsec.dp.roots import BoundedRoots, PublishedRoots, Roots, reach
from graphsec.graph import Graph

# privacy.md §5: ogbn-arxiv's training nodes, batches of 10,000, K = 5, one hop.
NODES, BATCH, TERMS, DELTA = 90_941, 10_000, 6, 1 / 909_410
ORDERS = np.arange(1.5, 12, 0.5)


def poisson(noise: float, rate: float) -> Any:
    return dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))


# -- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "steps", "epsilon"), [(0.5, 3000, 272.696), (1, 3000, 90.488), (2, 100, 4.737)]
)
def test_published_event(noise: float, steps: int, epsilon: float) -> None:
    event = FixedSizeTermsDpEvent(noise, NODES, BATCH, TERMS)
    assert epsilon_of(event, steps, DELTA) == pytest.approx(epsilon, abs=5e-4)


def test_published_perceptron_and_opacus() -> None:
    assert epsilon_of(poisson(3, BATCH / NODES), 101, DELTA) == pytest.approx(1.915, abs=5e-4)
    # Opacus' own orders give 7.32911117143.
    assert epsilon_of(poisson(1.5, 0.04), 2250, 1e-5) == pytest.approx(7.329, abs=5e-4)


@pytest.mark.parametrize(("steps", "loose", "tight"), [(1, 3.553, 0.956), (10, 5.614, 1.035)])
def test_one_term_is_loose_beside_poisson(steps: int, loose: float, tight: float) -> None:
    event = FixedSizeTermsDpEvent(1, 1000, 10, 1)
    assert epsilon_of(event, steps, 1e-5) == pytest.approx(loose, abs=5e-4)
    assert epsilon_of(poisson(1, 0.01), steps, 1e-5) == pytest.approx(tight, abs=5e-4)


def test_with_replacement_costs_more_than_is_accounted_for() -> None:
    """The published code draws with replacement, where a root counts as often as it is drawn.

    At most 25 draws of the six terms, which is as good as certain, cost 5.034 for 4.737. The
    figure of 5.139 in this project's notes could not be had in any reading of the formula.
    """
    orders = np.asarray(NodeAccountant().orders)
    rho, alpha = np.arange(26), orders[:, None]
    chance = binom.logpmf(rho, BATCH, TERMS / NODES)
    exponent = chance + alpha * (alpha - 1) / (2 * 2.0**2) * (rho / TERMS) ** 2
    rdp = 100 * logsumexp(exponent, axis=1) / (orders - 1)
    assert compute_epsilon(orders, rdp, DELTA)[0] == pytest.approx(5.034, abs=5e-4)


# -- order ----------------------------------------------------------------------------------------

noises = st.floats(0.3, 50)
rates = st.floats(0, 1)
counts = st.integers(0, 400)


@settings(max_examples=150, deadline=None)
@given(noise=noises, rate=rates, changed=counts, less=st.floats(0, 1))
def test_changed_terms_cost_less_with_more_noise_and_more_with_the_rest(
    noise: float, rate: float, changed: int, less: float
) -> None:
    at = step_rdp(ChangedTermsDpEvent(noise, rate, changed), ORDERS)
    slack = 1e-9 * (1 + at)
    noisier = step_rdp(ChangedTermsDpEvent(noise * (1 + less), rate, changed), ORDERS)
    rarer = step_rdp(ChangedTermsDpEvent(noise, rate * less, changed), ORDERS)
    fewer = step_rdp(ChangedTermsDpEvent(noise, rate, int(changed * less)), ORDERS)
    for smaller in (noisier, rarer, fewer):
        assert (smaller <= at + slack).all()
    assert (np.diff(at) >= -slack[1:]).all()


@settings(max_examples=40, deadline=None)
@given(degree=st.integers(1, 15), hops=st.integers(0, 2), rate=st.floats(0.001, 0.2))
def test_more_degree_hops_and_steps_cost_more(degree: int, hops: int, rate: float) -> None:
    def cost(d: int, r: int, steps: int) -> float:
        return epsilon_of(ChangedTermsDpEvent(30.0, rate, reach(d, r)), steps, 1e-5)

    here = cost(degree, hops, 10)
    assert here <= cost(degree + 1, hops, 10) * (1 + 1e-9)
    assert here <= cost(degree, hops + 1, 10) * (1 + 1e-9)
    assert here <= cost(degree, hops, 11) * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(noise=st.floats(0.5, 5), size=st.integers(1, 200))
def test_never_below_poisson_in_the_case_of_one_term(noise: float, size: int) -> None:
    orders = [2, 3, 5, 8, 16]
    known = NodeAccountant(orders)
    known.compose(poisson(noise, size / 200))
    for event in (
        ChangedTermsDpEvent(noise, size / 200, 0),
        FixedSizeTermsDpEvent(noise, 200, size, 1),
    ):
        assert (step_rdp(event, orders) >= known._rdp * (1 - 1e-9)).all()


@settings(max_examples=60, deadline=None)
@given(noise=st.floats(0.5, 5), size=st.integers(1, 200), terms=st.integers(1, 199))
def test_published_event_grows_with_its_batch_and_keeps_jensen(
    noise: float, size: int, terms: int
) -> None:
    at = step_rdp(FixedSizeTermsDpEvent(noise, 200, size, terms), ORDERS)
    assert (at >= ORDERS / (2 * noise**2) * (size / 200) ** 2 * (1 - 1e-9)).all()
    if size < 200:
        more = step_rdp(FixedSizeTermsDpEvent(noise, 200, size + 1, terms), ORDERS)
        assert (at <= more * (1 + 1e-9)).all()


# -- beside draws and integrals -------------------------------------------------------------------


def test_hypergeometric_mixture_beside_draws() -> None:
    event, alpha, draws = FixedSizeTermsDpEvent(1.0, 60, 15, 8), 4.0, 200_000
    generator = np.random.default_rng(0)
    shuffled = generator.permuted(np.tile(np.arange(60), (draws // 10, 1)), axis=1)
    rho = np.concatenate([(shuffled[:, :15] < 8).sum(1)])
    moment = np.exp(alpha * (alpha - 1) / 2 * (rho / 8) ** 2)
    wanted = np.exp((alpha - 1) * step_rdp(event, [alpha])[0])
    assert abs(moment.mean() - wanted) < 4 * moment.std() / len(moment) ** 0.5


def test_binomial_mixture_beside_draws() -> None:
    event, alpha = ChangedTermsDpEvent(40.0, 0.2, 10), 4.0
    coins = np.random.default_rng(0).random((200_000, 11)) < 0.2
    shift = 2 * coins[:, :10].sum(1) + coins[:, 10]
    moment = np.exp(alpha * (alpha - 1) / 2 * (shift / 40.0) ** 2)
    wanted = np.exp((alpha - 1) * step_rdp(event, [alpha])[0])
    assert abs(moment.mean() - wanted) < 4 * moment.std() / len(moment) ** 0.5


@pytest.mark.parametrize("noise", [2.0, 5.0])
@pytest.mark.parametrize(("rate", "changed"), [(0.1, 4), (0.5, 3), (1.0, 2), (0.3, 0)])
def test_bound_holds_for_the_worst_sums(noise: float, rate: float, changed: int) -> None:
    """All changed terms from −C to C: the divergence itself, integrated, both ways round."""
    z: npt.NDArray[np.float64] = np.linspace(-80, 90, 200_001)
    logp = np.full_like(z, -np.inf)
    logq = np.full_like(z, -np.inf)
    with np.errstate(divide="ignore"):
        for rho in range(changed + 1):
            here = binom.logpmf(rho, changed, rate)
            logq = np.logaddexp(logq, here + norm.logpdf(z, -rho, noise))
            for own, coin in ((0, 1 - rate), (1, rate)):
                logp = np.logaddexp(logp, here + np.log(coin) + norm.logpdf(z, rho + own, noise))
    for alpha in (1.5, 2.0, 4.0):
        bound = step_rdp(ChangedTermsDpEvent(noise, rate, changed), [alpha])[0]
        for a, b in ((logp, logq), (logq, logp)):
            true = logsumexp(alpha * a + (1 - alpha) * b + np.log(z[1] - z[0])) / (alpha - 1)
            assert true <= bound + 1e-6


# -- samplers beside their events -----------------------------------------------------------------


def lonely(n: int) -> Graph:
    return Graph.from_edges(
        np.zeros((2, 0), int), n, x=np.ones((n, 1)), y=np.zeros(n, int), split=(range(n), [], [])
    )


def matches(roots: Roots, draws: int = 3000) -> str:
    """What about a sampler is not as its event says; empty if nothing."""
    event, generator = roots.event(1.0), np.random.default_rng(0)
    samples = [roots.draw(generator) for _ in range(draws)]
    sizes = np.array([len(sample) for sample in samples])
    repeated = any(len(sample.unique()) < len(sample) for sample in samples)  # type: ignore[no-untyped-call]
    if repeated:
        return "a root more than once"
    if isinstance(event, FixedSizeTermsDpEvent):
        if (sizes != event.sample_size).any():
            return "a size that is not fixed"
        chance = event.sample_size / event.roots
    else:
        chance = event.sampling_probability
        n = len(roots.nodes)  # type: ignore[attr-defined]
        if abs(sizes.var() / (n * chance * (1 - chance)) - 1) > 0.15:
            return "sizes that are not binomial"
    seen = torch.cat(samples).bincount().numpy()
    if chisquare(seen).pvalue < 1e-4 or abs(seen.mean() / draws - chance) > 0.01:
        return "roots at other rates"
    return ""


def bounded(n: int) -> BoundedRoots:
    graph = lonely(n)
    return BoundedRoots.of(graph.adj, torch.arange(n), rate=0.2, hops=1, max_degree=3, public=n)


def published(n: int) -> PublishedRoots:
    return PublishedRoots.of(
        lonely(n).adj, torch.arange(n), size=n // 5, hops=1, max_degree=3,
        generator=np.random.default_rng(0),
    )  # fmt: skip


def test_samplers_draw_what_their_events_say() -> None:
    assert matches(bounded(40)) == ""
    assert matches(published(40)) == ""


def test_sampling_with_replacement_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is a shuffled batch under an event of independent coins."""

    def again(self: Any, generator: np.random.Generator) -> torch.Tensor:
        return self.nodes[torch.from_numpy(generator.choice(40, 8))]  # type: ignore[no-any-return]

    def fixed(self: Any, generator: np.random.Generator) -> torch.Tensor:
        return self.nodes[torch.from_numpy(generator.permutation(40)[:8])]  # type: ignore[no-any-return]

    monkeypatch.setattr(PublishedRoots, "draw", again)
    assert matches(published(40)) == "a root more than once"
    monkeypatch.setattr(BoundedRoots, "draw", fixed)
    assert matches(bounded(40)) == "sizes that are not binomial"


# -- the ledger -----------------------------------------------------------------------------------


def test_a_ledger_goes_on_from_its_state() -> None:
    events = [step_event(3.0, 0.1, 5), step_event(3.0, 0.1, 5), step_event(2.0, 0.1, 0)]
    whole = Ledger()
    for event in events:
        whole.spend(event)
    half = Ledger()
    half.spend(events[0])
    rest = Ledger.resumed(half.state)
    for event in events[1:]:
        rest.spend(event)
    assert rest.state == whole.state
    assert len(whole.state) == 2
    assert rest.epsilon(1e-5) == whole.epsilon(1e-5)
    assert whole.epsilon(1e-5) > half.epsilon(1e-5)


def test_what_no_accountant_knows_is_not_spent() -> None:
    ledger = Ledger()
    with pytest.raises(dp_accounting.UnsupportedEventError):
        ledger.spend(dp_accounting.UnsupportedDpEvent())
    assert ledger.state == []
    ledger.spend(dp_accounting.NonPrivateDpEvent())
    assert ledger.epsilon(1e-5) == np.inf


@pytest.mark.parametrize("changed", [0, 10])
def test_noise_is_enough_and_not_much_more(changed: int) -> None:
    def spent(noise: float) -> Any:
        return dp_accounting.SelfComposedDpEvent(step_event(noise, 0.05, changed), 100)

    noise = noise_for(spent, 4.0, 1e-5)
    assert epsilon_of(spent(noise), 1, 1e-5) <= 4.0
    assert epsilon_of(spent(noise * 0.999), 1, 1e-5) > 4.0


@pytest.mark.parametrize(
    ("event", "word"),
    [
        (ChangedTermsDpEvent(0.0, 0.1, 1), "noise_multiplier"),
        (ChangedTermsDpEvent(1.0, 1.1, 1), "sampling_probability"),
        (ChangedTermsDpEvent(1.0, 0.1, -1), "changed"),
        (FixedSizeTermsDpEvent(1.0, 10, 11, 1), "sample_size"),
        (FixedSizeTermsDpEvent(1.0, 10, 5, 0), "terms"),
    ],
)
def test_events_that_make_no_sense_are_refused(event: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        step_rdp(event, [2.0])
