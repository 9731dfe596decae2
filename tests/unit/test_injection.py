"""Injected nodes: the larger graph, its budget, and the attacks that make it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graphsec
from graphsec.attacks.adversarial._inject import Lookalike, attached, larger, stacked
from graphsec.graph import Graph
from graphsec.graph.arrays import GraphError
from graphsec.outcome import Injection, Perturbation
from graphsec.testing import tiny_graphs
from graphsec.threat import Budget, BudgetExceeded, Threat
from graphsec.threat.features import FeatureLimits

GRAPHS = tiny_graphs()
BLOCKS = GRAPHS["blocks"]
PATH = Graph.from_edges(
    [[0, 1], [1, 2]], 3, x=[[0.0, 1.0], [0.5, 3.0], [1.0, 2.0]], y=[0, 1, 0],
    split=([0], [1], [2]), sensitive=[1, 0, 1],
)  # fmt: skip
EDGES = torch.tensor([[3, 0, 4], [0, 4, 3]])  # 3–0, 0–4, 4–3


@pytest.fixture(scope="module")
def victim() -> graphsec.Predictor:
    return graphsec.fit(BLOCKS, {"name": "gcn", "hidden": 16}, training={"epochs": 40})


def attacked(
    spec: Any, victim: graphsec.Predictor, graph: Graph = BLOCKS, seed: int = 1, **threat: Any
) -> Perturbation:
    outcome = graphsec.attack(spec, victim, graph, threat=threat, seed=seed)
    assert isinstance(outcome, Perturbation)
    return outcome


def accuracy(victim: graphsec.Predictor, outcome: Perturbation, graph: Graph = BLOCKS) -> float:
    return float(graphsec.score(outcome, graph, victim)["attacked_accuracy"])


# -- the larger graph -----------------------------------------------------------------------------


def test_a_graph_grows() -> None:
    grown = PATH.grow([[9.0, 8.0], [7.0, 6.0]], EDGES)
    assert grown.num_nodes == 5
    assert grown.pairs.T.tolist() == [[0, 1], [0, 3], [0, 4], [1, 2], [3, 4]]
    assert grown.y is not None
    assert grown.y.tolist() == [0, 1, 0, -1, -1]
    assert grown.split is PATH.split
    assert grown.sensitive is not None
    assert grown.sensitive.tolist() == [1, 0, 1, -1, -1]
    assert grown.x is not None
    assert PATH.x is not None
    assert torch.equal(grown.x, torch.cat([PATH.x, torch.tensor([[9.0, 8], [7, 6]])]))
    assert PATH.grow(torch.zeros(0, 2), torch.zeros(2, 0, dtype=torch.int64)).num_nodes == 3


def test_weights_sparse_features_and_directions_are_kept() -> None:
    weighted = GRAPHS["weighted"]
    grown = weighted.grow(torch.ones(1, 12), [[48, 48], [0, 5]])
    old = grown.to_scipy()[:48, :48]
    assert (old != weighted.to_scipy()).nnz == 0
    assert grown.to_scipy()[48, [0, 5, 6]].toarray().tolist() == [[1, 1, 0]]
    karate = GRAPHS["karate"]
    x = karate.grow(torch.eye(20)[:2], [[34, 35], [0, 1]]).x
    assert x is not None
    assert karate.x is not None
    assert x.layout == torch.sparse_csr
    assert torch.equal(x.to_dense(), torch.cat([karate.x.to_dense(), torch.eye(20)[:2]]))
    arcs = Graph.from_edges([[0, 1], [1, 2]], 3, directed=True, x=PATH.x)
    assert arcs.grow(torch.ones(1, 2), [[3], [1]]).pairs.T.tolist() == [[0, 1], [1, 2], [3, 1]]


@pytest.mark.parametrize(
    ("x", "edges", "message"),
    [
        ([[1.0]], [[3], [0]], r"shape \(m, 2\), found \(1, 1\)"),
        ([[1.0, 2.0]], [[3], [4]], r"lie in 0…3, found 3…4"),
        ([[1.0, 2.0]], [[3], [3]], "self-loops, found one at node 3"),
        ([[1.0, 2.0]], [[0], [2]], r"a new end \(≥ 3\), found 0–2"),
        ([[1.0, 2.0]], [[3, 0], [0, 3]], "listed twice"),
    ],
)
def test_a_graph_refuses_to_grow(x: Any, edges: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        PATH.grow(x, torch.tensor(edges))


def test_only_classification_grows() -> None:
    real = PATH.replace(y=[0.5, 1.0, 2.0], task="regression")
    with pytest.raises(GraphError, match="task must be 'classification'"):
        real.grow([[1.0, 2.0]], [[3], [0]])


# -- the budget -----------------------------------------------------------------------------------


def injection(x: Any = ((0.5, 1.0), (1.0, 3.0)), edges: torch.Tensor = EDGES) -> Perturbation:
    return Perturbation(injected=Injection(torch.tensor(x), edges))


@pytest.mark.parametrize(
    ("budget", "outcome", "message"),
    [
        ({}, injection(), "budget.nodes allows 0 nodes, the outcome has 2"),
        ({"nodes": 1}, injection(), "allows 1 nodes"),
        ({"nodes": 0.5}, injection(), "allows 1 nodes"),
        ({"nodes": 2, "edges_per_injected": 1}, injection(),
         "edges_per_injected allows 1 edges at an injected node, the outcome has 2"),
        ({"nodes": 2}, injection(((1.1, 1.0), (1.0, 3.0))), "allows 0…1 in column 0"),
        ({"nodes": 2, "features_per_node": 1}, injection(), "allows 1 entries that are not 0"),
        ({"nodes": 2, "feature_range": (0, 2)}, injection(), "allows 0…2 in column 1"),
    ],
)  # fmt: skip
def test_what_is_refused(budget: Any, outcome: Perturbation, message: str) -> None:
    with pytest.raises(BudgetExceeded, match=message):
        Threat(budget=Budget(**budget)).check(outcome, PATH)


def test_what_is_allowed() -> None:
    for budget in ({"nodes": 2}, {"nodes": 0.7, "edges_per_injected": 2}):  # mean degree 4/3
        Threat.of({"budget": budget}).check(injection(), PATH)
    with pytest.raises(GraphError, match="finite"):
        Threat(budget=Budget(nodes=2)).check(injection(((torch.nan, 1.0), (1.0, 1.0))), PATH)
    words = PATH.replace(x=[[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    one = torch.tensor([[3], [0]])
    Threat(budget=Budget(nodes=1)).check(injection(((0.0, 1.0),), one), words)
    with pytest.raises(BudgetExceeded, match="only 0 and 1"):
        Threat(budget=Budget(nodes=1)).check(injection(((0.0, 0.5),), one), words)
    with pytest.raises(BudgetExceeded, match="allows 1 entries that are not 0"):
        Threat(budget=Budget(nodes=1)).check(injection(((1.0, 1.0),), one), words)


def test_scores_count_the_old_targets_in_the_larger_graph(victim: graphsec.Predictor) -> None:
    outcome = attacked("tdgia", victim, budget={"nodes": 0.1})
    assert outcome.injected is not None
    world = BLOCKS.grow(outcome.injected.x, outcome.injected.edges)
    assert BLOCKS.split is not None
    assert BLOCKS.y is not None
    test = BLOCKS.split.test
    right = victim.predict(world, test) == BLOCKS.y[test]
    numbers = graphsec.score(outcome, BLOCKS, victim)
    assert float(numbers["attacked_accuracy"]) == pytest.approx(float(right.double().mean()))
    assert float(numbers["injected"]) == len(outcome.injected.x) == 9
    assert min(outcome.info["scores"])[0] == pytest.approx(float(right.double().mean()))
    bare = BLOCKS.replace(split=None)  # without a split all old nodes count, and no new one
    every = graphsec.score(outcome, bare, victim)
    right = victim.predict(world, torch.arange(90)) == BLOCKS.y
    assert float(every["attacked_accuracy"]) == pytest.approx(float(right.double().mean()))


# -- the attacks ----------------------------------------------------------------------------------


def test_ends_are_dealt_in_order() -> None:
    made = attached(3, 2, 10, torch.tensor([7, 8, 9]))
    assert made.tolist() == [[10, 10, 11, 11, 12, 12], [7, 8, 9, 7, 8, 9]]


def test_new_rows_join_sparse_features() -> None:
    karate = GRAPHS["karate"]
    new = torch.rand(2, 20).requires_grad_()
    assert karate.x is not None
    made = stacked(karate.x, new)
    assert not isinstance(made, torch.Tensor)
    dense = made.to_dense()
    assert torch.equal(dense.detach(), torch.cat([karate.x.to_dense(), new.detach()]))
    (by,) = torch.autograd.grad((dense * 2).sum(), new)
    assert torch.equal(by, torch.full_like(new, 2.0))
    assert larger(karate, 2, torch.tensor([[34, 35], [0, 1]])).num_nodes == 36


@pytest.mark.parametrize("name", GRAPHS)
def test_lookalikes_are_allowed_whatever_theta(name: str) -> None:
    graph = GRAPHS[name]
    for budget in (Budget(nodes=8), Budget(nodes=8, features_per_node=4)):
        like = Lookalike(FeatureLimits.of(budget, graph))
        theta = torch.randn(8, graph.num_features, generator=torch.Generator().manual_seed(0)) * 3
        x = like.features(theta.requires_grad_())
        ends = torch.arange(graph.num_nodes, graph.num_nodes + 8)
        outcome = Perturbation(injected=Injection(x.detach(), torch.stack([ends, ends * 0])))
        Threat(budget=budget).check(outcome, graph)
        (by,) = torch.autograd.grad(x.sum(), theta)
        assert (by != 0).float().mean() > 0.9


def test_real_rows_are_their_own_lookalikes() -> None:
    for graph in GRAPHS.values():
        assert graph.x is not None
        like, x = Lookalike(FeatureLimits.of(Budget(nodes=1), graph)), graph.x.to_dense()
        torch.testing.assert_close(like.allowed(x), x)
        near = like.features(like.start(x))
        assert float((near - x).abs().mean()) <= 0.1 * float((like.span).mean())


@pytest.mark.parametrize("name", GRAPHS)
def test_tdgia_beats_random_nodes(name: str) -> None:
    """For every seed, with as many nodes and edges."""
    graph = GRAPHS[name]
    victim = graphsec.fit(graph, {"name": "gcn", "hidden": 16}, training={"epochs": 40})
    threat = {"budget": {"nodes": 4, "edges_per_injected": 4}}
    spec = {"name": "tdgia", "rounds": 2, "steps": 30}
    mine = [accuracy(victim, attacked(spec, victim, graph, s, **threat), graph) for s in (0, 1)]
    blind = [
        accuracy(victim, attacked("random-injection", victim, graph, s, **threat), graph)
        for s in range(4)
    ]
    assert max(mine) < min(blind)


@pytest.mark.parametrize("name", ["tdgia", "random-injection"])
def test_new_nodes_are_joined_to_targets_only(victim: graphsec.Predictor, name: str) -> None:
    budget = {"nodes": 3, "edges_per_injected": 5}
    new = attacked(name, victim, targets=(4, 5, 6, 7), budget=budget).injected
    assert new is not None
    assert new.edges.shape[1] == 4 * len(new.x)  # only four targets: each node gets all of them
    assert (new.edges[0] >= 90).all()
    assert set(new.edges[1].tolist()) <= {4, 5, 6, 7}
    assert attacked(name, victim, budget={"nodes": 0}).injected is None


@pytest.mark.parametrize("defense", ["soft-median", "jaccard", "svd"])
def test_defenses_answer_on_the_larger_graph(defense: str) -> None:
    """And an attacker who knows of one is never weaker than one who does not."""
    model = {"name": "gcn", "hidden": 16}
    victim = graphsec.fit(BLOCKS, model, defense, training={"epochs": 30})
    spec = {"name": "tdgia", "rounds": 2, "steps": 15}
    adaptive, blind = (
        accuracy(victim, attacked(spec, victim, adaptive=a, budget={"nodes": 5}))
        for a in (True, False)
    )
    assert adaptive <= blind


def test_poisoning_trains_with_new_nodes_and_not_on_them() -> None:
    cell = graphsec.Cell(
        dataset="karate", attack={"name": "tdgia", "steps": 5, "rounds": 1},
        threat={"budget": {"nodes": 2}, "timing": "poisoning"}, training={"epochs": 5},
    )  # fmt: skip
    record = graphsec.run(cell)
    assert record.status == "done", record.reason
    assert record.value("injected") == 2
