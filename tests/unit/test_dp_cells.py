"""Training on disjoint subgraphs: what a node moves, what a step costs, and where nothing holds."""

from __future__ import annotations

from typing import Any

import dp_accounting
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import norm
from torch import Tensor

import graphsec
from graphsec.dp.accountant import Ledger, NodeAccountant, SwappedTermDpEvent, noise_for, step_rdp
from graphsec.dp.canaries import removed
from graphsec.dp.cells import Cells, CellSteps, hashed, walked
from graphsec.dp.gradients import Clip
from graphsec.graph import Graph
from graphsec.models.base import build, inputs
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs

CLIP = 0.5
BLOCKS = tiny_graphs()["blocks"]
GCN: Any = {"name": "gcn", "hidden": 8}
DP: Any = {"name": "dp-subgraphs", "cells": 20, "steps": 5, "rate": 0.3}


def drawn(seed: int, nodes: int, hubs: int) -> Graph:
    """A random graph whose first nodes are joined to all others; a part is not trained on."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, nodes, (2, 2 * nodes))
    pairs = pairs[:, pairs[0] != pairs[1]]
    star = [(u, v) for u in range(hubs) for v in range(nodes) if u != v]
    pairs = np.concatenate([pairs, np.array(star, dtype=int).reshape(-1, 2).T], axis=1)
    order = rng.permutation(nodes)
    return Graph.from_edges(
        pairs, nodes, x=rng.normal(size=(nodes, 3)), y=rng.integers(0, 2, nodes),
        split=(order[: nodes - nodes // 3], [], order[nodes - nodes // 3 :]),
    )  # fmt: skip


def steps(
    graph: Graph, count: int, spec: Any = GCN, how: Any = "flat", cell: Tensor | None = None,
    like: Graph | None = None,
) -> CellSteps:  # fmt: skip
    assert graph.split is not None
    assert graph.y is not None
    with Rng(1).scope():
        model = build(spec, like or graph).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    y = torch.full_like(graph.y, -1)
    y[graph.split.train] = graph.y[graph.split.train]
    cell = hashed(graph.num_nodes, count, 7) if cell is None else cell
    return CellSteps(
        model, inputs(graph), y, graph.task,
        roots=Cells.of(graph.adj, cell, count=count, rate=0.5),
        clip=Clip(norm=CLIP, how=how), noise_multiplier=1.0,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        generator=np.random.default_rng(0), ledger=Ledger(),
    )  # fmt: skip


def flat(sums: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.double().flatten() for value in sums.values()])


# -- sensitivity ----------------------------------------------------------------------------------


def check(seed: int, nodes: int, hubs: int, count: int, model: str, layers: int, how: Any) -> None:
    """On graphs with hubs, at any depth: one term moves, by 2C at most, and so does any sum."""
    graph, rng = drawn(seed, nodes, min(hubs, nodes)), np.random.default_rng(seed)
    gone = int(rng.integers(min(hubs, nodes) or nodes))
    spec = {"name": model, "layers": layers, "hidden": 4, "dropout": 0.0}
    before = steps(graph, count, spec, how)
    after = steps(removed(graph, torch.tensor([gone])), count, spec, how, like=graph)
    own = int(before.cells.cell[gone])
    for cell in range(count):
        one, other = (flat(made.total(torch.tensor([cell]))) for made in (before, after))
        assert max(float(one.norm()), float(other.norm())) <= CLIP * (1 + 1e-5)
        if cell != own:
            assert torch.equal(one, other)
    sample = before.cells.draw(rng)
    moved = float((flat(before.total(sample)) - flat(after.total(sample))).norm())
    assert moved <= (2 * CLIP if own in sample else 0) * (1 + 1e-5) + 1e-5


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6), nodes=st.integers(2, 30), hubs=st.integers(0, 2),
    count=st.integers(1, 8), model=st.sampled_from(["gcn", "sage", "mlp"]),
    layers=st.integers(1, 3), how=st.sampled_from(["flat", "layer", "automatic"]),
)  # fmt: skip
def test_a_node_changes_the_term_of_its_own_cell_alone(
    seed: int, nodes: int, hubs: int, count: int, model: str, layers: int, how: Any
) -> None:
    check(seed, nodes, hubs, count, model, layers, how)


@pytest.mark.slow
def test_a_node_changes_no_other_cell_of_thousands() -> None:
    rng = np.random.default_rng()
    for seed in rng.integers(0, 10**9, 2000).tolist():
        spans = ((2, 16), (0, 3), (1, 6), (1, 4))
        nodes, hubs, count, layers = (int(rng.integers(*span)) for span in spans)
        model, how = rng.choice(["gcn", "sage", "mlp"]), rng.choice(["flat", "layer", "automatic"])
        check(seed, nodes, hubs, count, str(model), layers, str(how))


def test_two_clip_norms_are_reached() -> None:
    """A term does not vanish with a node: without a neighbour the other one's gradient turns."""
    graph = Graph.from_edges([[0], [1]], 2, x=[[-30.0], [10.0]], y=[1, 0], split=([1], [], [0]))
    spec = {"name": "gcn", "layers": 1, "dropout": 0.0}
    ways = [graph, removed(graph, torch.tensor([0]))]
    cell = torch.zeros(2, dtype=torch.int64)
    made = [steps(way, 1, spec, cell=cell, like=graph) for way in ways]
    for way in made:
        for parameter in way.model.parameters():
            torch.nn.init.zeros_(parameter)
    one, other = (flat(way.total(torch.tensor([0]))) for way in made)
    assert 1.9 * CLIP < float((one - other).norm()) <= 2 * CLIP * (1 + 1e-5)


def test_a_cell_depends_on_the_number_of_a_node_alone() -> None:
    assert torch.equal(hashed(50, 7, 3), hashed(80, 7, 3)[:50])
    assert not torch.equal(hashed(50, 7, 3), hashed(50, 7, 4))
    counts = hashed(20_000, 50, 0).bincount(minlength=50)
    assert int(counts.min()) > 320  # 400 each, with a deviation of 20
    assert int(counts.max()) < 480


@pytest.mark.parametrize("spec", [GCN, {"name": "sage", "layers": 3}, {"name": "mlp"}], ids=str)
def test_sums_are_those_of_a_loop_over_cells(spec: Any) -> None:
    """The gradient of the mean loss of a cell's training nodes, on the edges inside of it."""
    made = steps(BLOCKS, 12, {**spec, "dropout": 0.0})
    model, total = made.model, torch.zeros((), dtype=torch.float64)
    for cell in range(12):
        nodes = (made.cells.cell == cell).nonzero().ravel()
        labelled = nodes[made.y[nodes] >= 0]
        if not len(labelled):
            continue
        row, col = BLOCKS.pairs[:, (made.cells.cell[BLOCKS.pairs] == cell).all(0)]
        inside = Graph.from_edges(torch.stack([row, col]), 90, x=BLOCKS.x)
        logits = model(inputs(inside), inside.adj)[labelled]
        loss = torch.nn.functional.cross_entropy(logits, made.y[labelled])
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        one = torch.cat([g.double().flatten() for g in gradient])
        total = total + one * min(1.0, CLIP / float(one.norm()))
    found = flat(made.total(torch.arange(12)))
    torch.testing.assert_close(found, total, rtol=1e-4, atol=1e-5)
    made._looped = True
    torch.testing.assert_close(flat(made.total(torch.arange(12))), total, rtol=1e-4, atol=1e-5)


def test_empty_cells_and_cells_without_labels_are_drawn_and_add_nothing() -> None:
    graph = Graph.from_edges([[0], [1]], 3, x=np.eye(3), y=[0, 1, 1], split=([0, 1], [], [2]))
    made = steps(graph, 9, cell=torch.tensor([4, 4, 6]))
    sizes = [len(made.cells.draw(np.random.default_rng(seed))) for seed in range(40)]
    assert 3.5 < np.mean(sizes) < 5.5  # of nine, not of two
    assert made.cells.batch == 4.5
    nothing = torch.tensor([0, 1, 6, 8])
    assert float(flat(made.total(nothing)).norm()) == 0
    everything = flat(made.total(torch.arange(9)))
    assert torch.equal(everything, flat(made.total(torch.tensor([4]))))
    made.step()
    assert made.ledger.state == [(SwappedTermDpEvent(1.0, 0.5), 1)]


# -- what a step costs ----------------------------------------------------------------------------


def poisson(noise: float, rate: float, orders: Any) -> np.ndarray:
    accountant = NodeAccountant(orders)
    accountant.compose(
        dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    )
    found: np.ndarray = accountant._rdp
    return found


@settings(max_examples=60, deadline=None)
@given(noise=st.floats(0.3, 30), rate=st.floats(1e-3, 1))
def test_a_changed_term_costs_no_more_than_one_of_twice_the_length(
    noise: float, rate: float
) -> None:
    orders = [2, 3, 5, 9, 20]  # whole ones: dp-accounting gives up on some others
    mine, loose = (
        step_rdp(SwappedTermDpEvent(noise, rate), orders),
        poisson(noise / 2, rate, orders),
    )
    assert (mine <= loose * (1 + 1e-6) + 1e-12).all()
    assert (mine >= poisson(noise, rate, orders) * (1 - 1e-6) - 1e-12).all()


def test_without_sampling_it_is_the_gaussian_mechanism() -> None:
    orders = np.array([1.1, 2, 7, 30])
    for noise in (0.5, 2.0, 9.0):
        mine = step_rdp(SwappedTermDpEvent(noise, 1.0), orders)
        np.testing.assert_allclose(mine, orders * (2 / noise) ** 2 / 2, rtol=1e-9)
    assert (step_rdp(SwappedTermDpEvent(1.0, 0.0), orders) < 1e-9).all()
    far = step_rdp(SwappedTermDpEvent(0.05, 0.3), [50.0])  # not integrated
    assert 50 * 40**2 / 2 - 1 < far[0] <= 50 * 40**2 / 2


def test_a_lower_noise_is_enough() -> None:
    """What the proof is worth: 200 steps at rate .05 and ε = 8 ask for .98 and not for 1.66."""

    def spent(noise: float, tight: bool) -> Any:
        half = dp_accounting.PoissonSampledDpEvent(0.05, dp_accounting.GaussianDpEvent(noise / 2))
        one = SwappedTermDpEvent(noise, 0.05) if tight else half
        return dp_accounting.SelfComposedDpEvent(one, 200)

    tight, loose = (noise_for(lambda s, t=t: spent(s, t), 8.0, 1e-5) for t in (True, False))  # type: ignore[misc]
    assert tight == pytest.approx(0.982, abs=2e-3)
    assert loose == pytest.approx(1.663, abs=2e-3)


@settings(max_examples=100, deadline=None)
@given(
    noise=st.floats(0.4, 4), rate=st.floats(0.01, 0.99), first=st.floats(0, 1),
    second=st.floats(0, 1), angle=st.floats(0, np.pi), bar=st.floats(1, 20),
)  # fmt: skip
def test_no_pair_of_terms_is_told_apart_better(
    noise: float, rate: float, first: float, second: float, angle: float, bar: float
) -> None:
    """The lemma of the proof, by integration over the plane: opposite terms of full length."""
    x = np.arange(-9, 9, 0.05)
    grid = np.stack(np.meshgrid(x, x), -1)
    one = first / noise * np.array([1.0, 0.0])
    other = second / noise * np.array([np.cos(angle), np.sin(angle)])

    def density(term: np.ndarray) -> np.ndarray:
        both = [np.exp(-((grid - at) ** 2).sum(-1) / 2) / (2 * np.pi) for at in (0 * term, term)]
        found: np.ndarray = (1 - rate) * both[0] + rate * both[1]
        return found

    def apart(p: np.ndarray, q: np.ndarray) -> float:
        return float(np.maximum(p - bar * q, 0).sum() * 0.05**2)

    p, q = density(one), density(other)
    line = np.arange(-12, 12, 0.001)
    opposite = [(1 - rate) * norm.pdf(line) + rate * norm.pdf(line - s / noise) for s in (1, -1)]
    most = float(np.maximum(opposite[0] - bar * opposite[1], 0).sum() * 0.001)
    assert max(apart(p, q), apart(q, p)) <= most + 1e-4


def test_divergence_is_that_of_the_pair_of_the_proof() -> None:
    """Against integration on a grid a hundred times as fine."""
    for noise, rate, order in ((1.0, 0.05, 3.0), (0.6, 0.9, 6.0), (3.0, 1 - 1e-6, 30.0)):
        at = np.arange(-25, 2 * order / noise + 25, 5e-4)
        p, q = (
            np.logaddexp(
                np.log1p(-rate) + norm.logpdf(at), np.log(rate) + norm.logpdf(at - s / noise)
            )
            for s in (1, -1)
        )
        wanted = (logsumexp(order * p + (1 - order) * q) + np.log(5e-4)) / (order - 1)
        found = step_rdp(SwappedTermDpEvent(noise, rate), [order])[0]
        assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("noise", "rate"), [(0.0, 0.1), (-1.0, 0.1), (1.0, 1.5), (1.0, -0.1)])
def test_impossible_steps_are_refused(noise: float, rate: float) -> None:
    with pytest.raises(ValueError, match="noise_multiplier must be > 0 and sampling_probability"):
        step_rdp(SwappedTermDpEvent(noise, rate), [2.0])


# -- the published partition ----------------------------------------------------------------------


class InOrder:
    """Walks start from the nodes as they are listed, and go to the neighbour of least number."""

    def __init__(self, order: np.ndarray) -> None:
        self.order = order

    def permutation(self, count: int) -> np.ndarray:
        assert count == len(self.order)
        return self.order

    def integers(self, most: int) -> int:
        assert most > 0
        return 0


def parts(graph: Graph, length: int, order: Any) -> set[frozenset[int]]:
    walk = walked(graph.adj, length, InOrder(np.asarray(order)))  # type: ignore[arg-type]
    return {frozenset((walk == i).nonzero().ravel().tolist()) for i in walk.unique()}  # type: ignore[no-untyped-call]


def test_walks_share_no_node_and_follow_edges() -> None:
    walk = walked(BLOCKS.adj, 5, np.random.default_rng(0))
    assert int(walk.min()) == 0
    assert int(walk.bincount().max()) == 5
    assert int(walk.bincount().min()) >= 1
    row, col = BLOCKS.edge_index
    for i in range(int(walk.max()) + 1):
        inside = ((walk[row] == i) & (walk[col] == i)).sum() // 2
        assert int(inside) >= int((walk == i).sum()) - 1


def test_one_node_changes_every_walk() -> None:
    """The counter-example of docs/privacy.md: a path, cut in twos from its end."""
    path = np.stack([np.arange(39), np.arange(1, 40)])
    graph = Graph.from_edges(path, 40, x=np.ones((40, 1)), y=np.zeros(40, int))
    rest = Graph.from_edges(path[:, 1:], 40, x=np.ones((40, 1)), y=np.zeros(40, int))
    before, after = (parts(one, 2, np.arange(40)) for one in (graph, rest))
    assert before == {frozenset((i, i + 1)) for i in range(0, 40, 2)}
    assert before.isdisjoint(after)


def test_a_hub_changes_walks_that_it_is_not_on() -> None:
    """With starts in random order and the same preferences of all nodes: not one, but 19."""
    changed = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        graph = drawn(seed, 200, 1)
        order = rng.permutation(200)
        before, after = (parts(one, 8, order) for one in (graph, removed(graph, torch.tensor([0]))))
        changed.append(sum(0 not in part for part in before - after))
    assert np.mean(changed) > 10


# -- what is promised and refused -----------------------------------------------------------------


def test_a_statement_says_what_was_spent() -> None:
    made = graphsec.fit(BLOCKS, GCN, {**DP, "secure": True, "epsilon": 3.0})
    assert made.privacy is not None
    assert 2.99 < made.privacy.epsilon <= 3.0
    assert made.privacy.relation == "add or remove one node with its edges, features and label"
    assert made.privacy.family.startswith("all graphs")
    assert "not answers" in made.privacy.release
    event, count = made.trace.spent[0]
    assert isinstance(event, SwappedTermDpEvent)
    assert count == 5
    groups = tuple(i % 20 for i in range(90))
    listed = graphsec.fit(BLOCKS, GCN, {**DP, "secure": True, "groups": groups})
    assert listed.privacy is not None
    assert listed.privacy.family.endswith("by a public list")


def test_nothing_is_promised_without_a_proof() -> None:
    clear = {**DP, "secure": True, "noise_multiplier": 0.0}
    for spec in (DP, clear, {**DP, "secure": True, "partition": "walks"}):
        assert graphsec.fit(BLOCKS, GCN, spec).privacy is None


def test_labels_of_other_nodes_are_not_trained_on() -> None:
    assert BLOCKS.split is not None
    assert BLOCKS.y is not None
    y = BLOCKS.y.clone()
    y[BLOCKS.split.test] = 1 - y[BLOCKS.split.test].clamp(max=1)
    first, second = (graphsec.fit(graph, GCN, DP) for graph in (BLOCKS, BLOCKS.replace(y=y)))
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("groups", "word"),
    [((0, 1), "for all 90 nodes, got 2"), ((20,) * 90, r"must lie in 0…19, got 20…20")],
)
def test_groups_that_are_no_cells_are_refused(groups: tuple[int, ...], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        graphsec.fit(BLOCKS, GCN, {**DP, "groups": groups})
