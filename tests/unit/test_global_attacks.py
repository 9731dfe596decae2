"""GR-BCD, LR-BCD, PGD and FGSM against naive dense ones, and what all of them must keep to."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import graphsec
from graphsec.attacks.adversarial._search import Found, Objective
from graphsec.defenses.purify.svd import SVD
from graphsec.graph import Graph
from graphsec.models.base import inputs
from graphsec.ops.structure import compiled
from graphsec.outcome import Perturbation
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.search import Candidates, attack_loss, knapsack, margins, project
from graphsec.search.pairs import heaviest
from graphsec.testing import tiny_graphs
from graphsec.threat import Threat

BLOCKS = tiny_graphs()["blocks"]
N = BLOCKS.num_nodes


@pytest.fixture(scope="module")
def victim() -> graphsec.Predictor:
    return graphsec.fit(BLOCKS, {"name": "gcn", "hidden": 16}, training={"epochs": 40})


def attacked(spec: Any, victim: graphsec.Predictor, graph: Graph = BLOCKS, **threat: Any) -> Any:
    outcome = graphsec.attack(spec, victim, graph, threat=threat, seed=1)
    assert isinstance(outcome, Perturbation)
    return outcome


def accuracy(victim: graphsec.Predictor, outcome: Perturbation, graph: Graph = BLOCKS) -> float:
    return float(graphsec.score(outcome, graph, victim)["attacked_accuracy"])


def objective(spec: Any, victim: graphsec.Predictor, **budget: Any) -> Objective:
    attack = ATTACKS.build(spec)
    threat = Threat.of({"budget": budget}).resolve(attack)
    return Objective(attack, threat.open(victim, BLOCKS, Rng(0)["view"]))


# -- naive dense attacks ----------------------------------------------------------------------


class Dense:
    """A GCN's loss by all pairs of an undirected graph, with dense matrices in float64."""

    def __init__(self, victim: graphsec.Predictor, loss: Any) -> None:
        assert BLOCKS.x is not None
        assert BLOCKS.y is not None
        assert BLOCKS.split is not None
        state = {k: v.double() for k, v in victim.model.state_dict().items()}
        self.w = [(state[f"weight.{i}"], state[f"bias.{i}"]) for i in range(2)]
        self.x, self.test = BLOCKS.x.double(), BLOCKS.split.test
        self.y, self.loss = BLOCKS.y[self.test], loss
        self.clean = torch.from_numpy(np.asarray(BLOCKS.to_scipy().todense())).double()
        self.pairs = torch.triu_indices(N, N, 1)

    def logits(self, p: Tensor) -> Tensor:
        u, v = self.pairs
        flip = torch.zeros(N, N).double().index_put((u, v), p)
        flip = flip + flip.T
        a = self.clean + flip * (1 - 2 * self.clean) + torch.eye(N)
        a = a.sum(1).rsqrt()[:, None] * a * a.sum(1).rsqrt()
        h = F.relu(a @ self.x @ self.w[0][0] + self.w[0][1])
        out: Tensor = a @ h @ self.w[1][0] + self.w[1][1]
        return out[self.test]

    def gradient(self, p: Tensor) -> tuple[float, Tensor, tuple[float, float]]:
        """Loss, derivatives, and score of the flips p."""
        p = p.clone().requires_grad_()
        logits = self.logits(p)
        value = attack_loss(self.loss, logits, self.y)
        (gradient,) = torch.autograd.grad(value, p)
        margin = margins(logits.detach(), self.y)
        score = float((margin > 0).double().mean()), float(margin.tanh().mean())
        return float(value.detach()), gradient, score


def greedy(dense: Dense, counts: list[int], tabu: bool) -> tuple[list[float], Tensor, bool]:
    """Losses on the way, the best flips, and whether any flip was undone."""
    p = torch.zeros(dense.pairs.shape[1]).double()
    losses, tried, undone = [], [], False
    for count in [*counts, 0]:
        loss, gradient, score = dense.gradient(p)
        losses.append(loss)
        tried.append((score, p))
        gain = torch.where(p > 0, torch.zeros(()) if tabu else -gradient, gradient)
        top = torch.topk(gain, count).indices
        top = top[gain[top] > 0]
        undone |= bool(p[top].any())
        p = p.clone()
        p[top] = 1 - p[top]
    best = min(tried, key=lambda one: one[0])[1]
    return losses[:-1], dense.pairs[:, best > 0], undone


@pytest.mark.parametrize("loss", ["mce", "tanh_margin"])
def test_fgsm_is_the_dense_attack(victim: graphsec.Predictor, loss: str) -> None:
    outcome = attacked({"name": "fgsm", "loss": loss}, victim, budget={"edges": 12})
    losses, flips, _ = greedy(Dense(victim, loss), [1] * 12, tabu=True)
    assert torch.equal(outcome.flips, flips)
    assert outcome.info["loss"] == pytest.approx(losses, abs=1e-5)


def test_greedy_flips_can_be_undone(victim: graphsec.Predictor) -> None:
    """With all pairs in the block and without tabu, many at a time, as the dense attack does."""
    counts = [25] * 8
    losses, flips, undone = greedy(Dense(victim, "tanh_margin"), counts, tabu=False)
    assert undone
    assert flips.shape[1] < sum(counts)
    mine = objective({"name": "grbcd", "loss": "tanh_margin"}, victim, edges=sum(counts))
    candidates, codes = mine.every_pair(victim, Rng(0))
    pairs = candidates.pairs(codes)
    found = mine.greedy(victim, counts, lambda _: (codes, pairs), tabu=False)
    assert torch.equal(found.flips, flips)
    assert mine.history == pytest.approx(losses, abs=1e-5)


def test_pgd_is_the_dense_attack(victim: graphsec.Predictor) -> None:
    outcome = attacked({"name": "pgd", "steps": 30, "samples": 0}, victim, budget={"edges": 15})
    dense = Dense(victim, "ce")
    p, losses = torch.zeros(dense.pairs.shape[1]).double(), []
    for t in range(30):
        loss, gradient, _ = dense.gradient(p)
        losses.append(loss)
        p = project(p + 15 * 0.1 / math.sqrt(t + 1) * gradient, 15)
    assert outcome.info["loss"] == pytest.approx(losses, abs=1e-4)
    top = torch.topk(p, 15).indices.sort().values
    assert outcome.flips.shape[1] == 15
    assert outcome.info["scores"][0] == pytest.approx(
        dense.gradient(torch.zeros_like(p).index_fill(0, top, 1))[2], abs=1e-4
    )


def test_dense_attacks_refuse_large_graphs() -> None:
    n = 6_400
    graph = Graph.from_edges(
        [[0], [1]], n, x=torch.ones(n, 2), y=torch.arange(n) % 2, name="wide",
        split=[torch.arange(20), torch.arange(20, 40), torch.arange(40, n)],
    )  # fmt: skip
    victim = graphsec.fit(graph, {"name": "gcn", "hidden": 2}, training={"epochs": 1})
    for name in ("fgsm", "pgd"):
        with pytest.raises(ValueError, match=r"num_nodes of 'wide' .* 20,000,000 pairs, .* 6,400"):
            attacked(name, victim, graph, budget={"edges": 1})


# -- projections, and which weights count -------------------------------------------------------


@pytest.mark.parametrize("native", [True, False])
@given(
    seed=st.integers(0, 2**32 - 1), budget=st.sampled_from([0, 0.25, 1, 3, 17, 250]),
    scale=st.sampled_from([1e-3, 0.3, 1, 40, 1e4]), power=st.sampled_from([1, 5]),
)  # fmt: skip
@settings(deadline=None)  # the first example may compile
def test_projection_is_the_nearest_point(
    native: bool, seed: int, budget: float, scale: float, power: int
) -> None:
    """By its conditions: 0 ≤ q ≤ 1, Σ q ≤ budget, q = clip(p − s) with s > 0 only on the budget."""
    p = scale * torch.randn(300, generator=torch.Generator().manual_seed(seed)) ** power
    p[::7] = p[0]  # ties
    with compiled(native):
        q = project(p, budget).double()
    wide = p.double()
    # Weights of 10⁴ and more are stored to .001, and so is how far they are shifted.
    slack = 1e-6 * max(1, budget) + 300 * float(p.abs().max()) * 2**-24
    assert ((q >= 0) & (q <= 1)).all()
    assert float(q.sum()) <= budget + slack
    inside = (q > 0) & (q < 1)
    if float(wide.clamp(0, 1).sum()) <= budget:
        assert torch.allclose(q, wide.clamp(0, 1), atol=1e-6)
    else:
        assert float(q.sum()) >= budget - slack
        if inside.any():
            shift = (wide - q)[inside]
            assert float(shift.max() - shift.min()) <= slack
            assert float(shift.min()) >= -slack
            assert torch.allclose(q, (wide - shift.mean()).clamp(0, 1), atol=slack)


@given(st.integers(0, 2**32 - 1), st.integers(0, 30))
def test_heaviest_are_the_largest_positive_weights(seed: int, count: int) -> None:
    p = torch.randint(-3, 5, (25,), generator=torch.Generator().manual_seed(seed)).float()
    chosen = heaviest(p, count)
    assert (chosen.diff() > 0).all()
    assert len(chosen) == min(count, int((p > 0).sum()))
    assert torch.equal(p[chosen].sort().values, p[p > 0].sort().values[-len(chosen) or 25 :])


@given(st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_draws_are_fresh_sorted_pairs(seed: int, kept: int) -> None:
    """With few nodes, so that many draws hit what is taken."""
    graph = tiny_graphs()["karate"]
    rng = Rng(seed)
    every = Candidates(graph, None, None, rng["all"]).every()
    taken = np.sort(rng["taken"].numpy().permutation(every)[:kept])
    drawn = Candidates(graph, None, None, rng["block"]).draw(400, taken)
    assert (np.diff(drawn) > 0).all()
    assert np.isin(drawn, every).all()
    assert not np.isin(drawn, taken).any()
    again = Candidates(graph, None, None, rng["block"]).draw(400)
    assert np.array_equal(drawn, np.setdiff1d(again, taken))


@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(0, 4))
def test_knapsack_holds_all_budgets_and_wastes_none(seed: int, budget: int, each: int) -> None:
    """A pair gets less than it asks for only where stronger pairs have used a budget up."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.triu_indices(9, 9, 1)
    p = torch.rand(pairs.shape[1], generator=generator) * 2.5 - 1
    p[::5] = p[0]  # ties
    limit = torch.randint(0, each + 1, (9,), generator=generator)
    got = knapsack(pairs, p, budget, limit).double()
    asked = p.clamp(0, 1).double()
    both = torch.cat([pairs[0], pairs[1]])

    def sums(mask: Tensor) -> Tensor:
        part = torch.where(mask, got, 0.0)
        return torch.zeros(9).double().index_add(0, both, torch.cat([part, part]))

    assert ((got >= 0) & (got <= asked)).all()
    assert got.sum() <= budget + 1e-6
    assert (sums(torch.ones_like(p).bool()) <= limit + 1e-6).all()
    for i in (got < asked).nonzero().ravel().tolist():
        stronger = p >= p[i]
        ends = sums(stronger)[pairs[:, i]] >= limit[pairs[:, i]] - 1e-6
        assert bool(ends.any()) or float(got[stronger].sum()) >= budget - 1e-6


def test_knapsack_leaves_feasible_weights_alone() -> None:
    pairs, p = torch.tensor([[0, 0, 2], [1, 3, 3]]), torch.tensor([0.5, 0.25, -1.0])
    got = knapsack(pairs, p, 1, torch.tensor([1, 1, 0, 1]))
    assert got.tolist() == [0.5, 0.25, 0.0]


# -- rules ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "steps", "gradients"), [(10, 4, 4), (3, 8, 3), (8, 8, 8)])
def test_grbcd_spreads_its_budget(
    victim: graphsec.Predictor, budget: int, steps: int, gradients: int
) -> None:
    spec = {"name": "grbcd", "steps": steps}
    outcome = attacked(spec, victim, budget={"edges": budget})
    assert len(outcome.info["loss"]) == gradients
    assert outcome.flips.shape[1] <= budget
    assert len(set(zip(*outcome.flips.tolist(), strict=True))) == outcome.flips.shape[1]


def test_grbcd_gains_with_its_budget(victim: graphsec.Predictor) -> None:
    """Accuracy falls with the budget, up to .05: each budget is a search of its own."""
    values = [
        accuracy(victim, attacked("grbcd", victim, budget={"edges": budget}))
        for budget in (0, 3, 6, 12, 25, 50, 100)
    ]
    assert all(later <= earlier + 0.05 for earlier, later in itertools.pairwise(values))
    assert values[-1] < values[0] - 0.3


@pytest.mark.parametrize(
    "spec", ["fgsm", "grbcd", {"name": "pgd", "steps": 40, "samples": 5}], ids=str
)
def test_adaptive_is_never_weaker_than_transfer(spec: Any) -> None:
    graph = tiny_graphs()["karate"]
    model = {"name": "gcn", "hidden": 8}
    for seed in range(3):
        victim = graphsec.fit(graph, model, "jaccard", training={"epochs": 30}, seed=seed)
        adaptive, transfer = (
            attacked(spec, victim, graph, budget={"edges": 8}, adaptive=known)
            for known in (True, False)
        )
        assert accuracy(victim, adaptive, graph) <= accuracy(victim, transfer, graph)
        assert len(adaptive.info["scores"]) == 2


@pytest.mark.parametrize("name", ["fgsm", "grbcd", "lrbcd", "pgd"])
def test_node_budgets_of_directed_graphs(name: str) -> None:
    graph = Graph.from_edges(
        BLOCKS.edge_index[:, ::2], N, directed=True, x=BLOCKS.x, y=BLOCKS.y, split=BLOCKS.split
    )
    victim = graphsec.fit(graph, {"name": "gcn", "hidden": 8}, training={"epochs": 20})
    spec = {"name": name, **({"steps": 20, "samples": 3} if name in ("lrbcd", "pgd") else {})}
    outcome = attacked(spec, victim, graph, budget={"edges": 20, "edges_per_node": 2})
    changed = graph.to_scipy() != outcome.apply(graph).to_scipy()
    assert 0 < outcome.flips.shape[1] <= 20
    assert changed.sum() == outcome.flips.shape[1]
    assert torch.bincount(outcome.flips.ravel(), minlength=N).max() <= 2


def test_nothing_is_flipped_without_node_budgets(victim: graphsec.Predictor) -> None:
    for name in ("fgsm", "grbcd", "lrbcd", "pgd", "prbcd"):
        budget = {"edges": 5, "edges_per_node": 0}
        assert attacked(name, victim, budget=budget).flips.shape == (2, 0)


def test_lrbcd_holds_a_share_of_each_degree(victim: graphsec.Predictor) -> None:
    """Unless the threat names a budget for nodes."""
    spec = {"name": "lrbcd", "steps": 30, "samples": 5, "delta": 0.25}
    count = torch.bincount(attacked(spec, victim, budget={"edges": 60}).flips.ravel(), minlength=N)
    assert (count <= (BLOCKS.degree * 0.25).floor()).all()
    assert count.sum() > 0
    given = attacked(spec, victim, budget={"edges": 60, "edges_per_node": 3})
    count = torch.bincount(given.flips.ravel(), minlength=N)
    assert count.max() <= 3
    assert (count > (BLOCKS.degree * 0.25).floor()).any()


def test_samples_hold_node_budgets(victim: graphsec.Predictor) -> None:
    """And are drawn from the pairs that have weight."""
    mine = objective("prbcd", victim, edges=10, edges_per_node=1)
    u = torch.arange(40)
    pairs = torch.stack([torch.cat([u, u]), torch.cat([u + 40, u + 41])])
    p = torch.where(torch.arange(80) >= 60, 0.4, 0.0)
    nothing = Found((math.inf, math.inf), pairs[:, :0])
    found = mine.sample(victim, pairs, p, 10, nothing, Rng(0))
    assert 0 < found.flips.shape[1] <= 10
    assert torch.bincount(found.flips.ravel()).max() == 1
    drawn = {tuple(pair) for pair in pairs[:, p > 0].T.tolist()}
    assert {tuple(pair) for pair in found.flips.T.tolist()} <= drawn


# -- degree collapse ----------------------------------------------------------------------------


def _sparse_blocks(n: int, seed: int) -> Graph:
    """A block model of few edges and uneven degrees: what a low rank can't hold."""
    rng, y = np.random.default_rng(seed), np.arange(n) % 3
    pull = rng.pareto(2.0, n) + 0.5
    chance = np.where(y[:, None] == y, 9.0, 1.0) / n * np.outer(pull, pull) / pull.mean() ** 2
    edges = np.argwhere(np.triu(rng.random((n, n)) < chance, 1))
    x = np.eye(3)[y] @ rng.normal(size=(3, 12)) + rng.normal(size=(n, 12)) * 1.5
    parts = np.split(rng.permutation(n), [n // 3, n // 2])
    return Graph.from_edges(edges.T, n, x=x, y=y, split=tuple(parts), name="sparse")


def test_a_few_flips_collapse_svd_where_degrees_are_bounded_below() -> None:
    """Twelve flips in 1,100 edges, which PR-BCD spends for a few points."""
    graph = _sparse_blocks(600, seed=0)
    svd = {"name": "svd", "rank": 15, "min_degree": 1e-5}
    victim = graphsec.fit(graph, {"name": "gcn", "hidden": 16}, svd, training={"epochs": 60})

    def attacked(attack: Any) -> tuple[float, Perturbation]:
        outcome = graphsec.attack(attack, victim, graph, threat={"budget": {"edges": 12}})
        assert isinstance(outcome, Perturbation)
        return float(graphsec.score(outcome, graph, victim)["attacked_accuracy"]), outcome

    collapsed, outcome = attacked("degree")
    searched, _ = attacked(
        {"name": "prbcd", "steps": 15, "samples": 3, "block": 20_000, "warm_start": False}
    )
    assert collapsed < 0.6 < 0.75 < searched
    _, low = SVD(rank=15).sanitise(inputs(graph), outcome.apply(graph).adj)
    assert float(low.degrees().min()) <= -1.0
    _, low = SVD(rank=15).sanitise(inputs(graph), graph.adj)
    assert float(low.degrees().min()) > -0.5
