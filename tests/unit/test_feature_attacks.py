"""Attacks on features: what they may change, and what they do with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graphsec
from graphsec.attacks.adversarial._features import flipped
from graphsec.graph import Graph
from graphsec.outcome import Perturbation
from graphsec.registry import SpecError
from graphsec.testing import tiny_graphs
from graphsec.threat import Budget, BudgetExceeded, Threat
from graphsec.threat.features import FeatureLimits, feature_changes

GRAPHS = tiny_graphs()
BLOCKS, KARATE = GRAPHS["blocks"], GRAPHS["karate"]
assert BLOCKS.x is not None
assert KARATE.x is not None
QUICK = {"name": "feature-prbcd", "steps": 30, "samples": 3}
TINY = Graph.from_edges([[0, 1], [1, 2]], 3, x=[[0.0, 1.0], [0.5, 3.0], [1.0, 2.0]])
WORDS = TINY.replace(x=[[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


def fit(graph: Graph, model: str = "gcn", defense: Any = "none") -> graphsec.Predictor:
    spec = {"name": model, "hidden": 16}
    return graphsec.fit(graph, spec, defense, training={"epochs": 40})


@pytest.fixture(scope="module")
def victim() -> graphsec.Predictor:
    return fit(BLOCKS)


def attacked(
    spec: Any, victim: graphsec.Predictor, graph: Graph = BLOCKS, seed: int = 1, **threat: Any
) -> Perturbation:
    outcome = graphsec.attack(spec, victim, graph, threat=threat, seed=seed)
    assert isinstance(outcome, Perturbation)
    return outcome


def accuracy(victim: graphsec.Predictor, outcome: Perturbation, graph: Graph = BLOCKS) -> float:
    return float(graphsec.score(outcome, graph, victim)["attacked_accuracy"])


# -- what the harness allows ----------------------------------------------------------------------


def moved(graph: Graph, *entries: tuple[int, int, float]) -> Perturbation:
    assert graph.x is not None
    x = graph.x.to_dense().clone()
    for node, column, value in entries:
        x[node, column] = value
    return Perturbation(x=x)


ALLOWED: list[tuple[dict[str, Any], Graph, Perturbation]] = [
    ({"features": 2}, TINY, moved(TINY, (0, 0, 1.0), (1, 1, 0.0))),
    ({"features": 0.5}, TINY, moved(TINY, (0, 0, 1.0), (0, 1, 0.0), (1, 1, 0.0))),
    ({"features_per_node": 1}, TINY, moved(TINY, (0, 0, 1.0), (1, 1, 0.0), (2, 0, 0.0))),
    ({"features_per_node": 0.5}, TINY, moved(TINY, (0, 0, 1.0))),
    ({"feature_change": 0.5}, TINY, moved(TINY, (0, 0, 0.5), (0, 1, 0.5), (1, 1, 2.5))),
    ({"feature_change": 0.5, "feature_norm": "l2"}, TINY, moved(TINY, (0, 0, 0.3), (0, 1, 1.4))),
    ({"features": 1, "feature_range": (-1, 9)}, TINY, moved(TINY, (0, 0, 9.0))),
    ({"features": 2}, WORDS, moved(WORDS, (0, 0, 1.0), (0, 1, 0.0))),
    ({"features": 1, "feature_range": (0, 1)}, WORDS, moved(WORDS, (0, 0, 0.5))),
    ({}, TINY, moved(TINY)),
]

REFUSED: list[tuple[dict[str, Any], Graph, Perturbation, str]] = [
    ({}, TINY, moved(TINY, (0, 0, 1.0)), "budget.features allows 0"),
    ({"features": 0, "feature_change": 9.0}, TINY, moved(TINY, (0, 0, 1.0)), "allows 0 changes"),
    ({"features": 1}, TINY, moved(TINY, (0, 0, 1.0), (1, 1, 0.0)), "allows 1 changes, .* 2"),
    ({"features_per_node": 1}, TINY, moved(TINY, (1, 0, 1.0), (1, 1, 0.0)),
     "features_per_node allows 1 changes at node 1, the outcome has 2"),
    ({"features_per_node": 0.4}, TINY, moved(TINY, (2, 0, 0.0)), "allows 0 changes at node 2"),
    ({"feature_change": 0.5}, TINY, moved(TINY, (1, 1, 2.4)), "feature_change allows 0.5 .*node 1"),
    ({"feature_change": 0.5, "feature_norm": "l2"}, TINY, moved(TINY, (0, 0, 0.4), (0, 1, 1.4)),
     "feature_change allows 0.5 .l2. at node 0"),
    ({"features": 1}, TINY, moved(TINY, (0, 0, 1.1)), "feature_range allows 0…1 in column 0"),
    ({"features": 1}, TINY, moved(TINY, (0, 1, -0.1)), "feature_range allows 0…3 in column 1"),
    ({"features": 1, "feature_range": (0, 2)}, TINY, moved(TINY, (0, 1, 2.5)), "allows 0…2"),
    ({"features": 1}, WORDS, moved(WORDS, (0, 0, 0.5)), "only 0 and 1"),
    ({"features": 1}, WORDS, moved(WORDS, (0, 2, 1.0)), "allows 0…0 in column 2"),
]  # fmt: skip


@pytest.mark.parametrize(("budget", "graph", "outcome"), ALLOWED)
def test_what_is_allowed(budget: dict[str, Any], graph: Graph, outcome: Perturbation) -> None:
    Threat(budget=Budget(**budget)).check(outcome, graph)


@pytest.mark.parametrize(("budget", "graph", "outcome", "message"), REFUSED)
def test_what_is_refused(
    budget: dict[str, Any], graph: Graph, outcome: Perturbation, message: str
) -> None:
    with pytest.raises(BudgetExceeded, match=message):
        Threat(budget=Budget(**budget)).check(outcome, graph)


def test_bad_features_are_named() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 2\), the outcome has \(3, 3\)"):
        Threat(budget=Budget(features=9)).check(Perturbation(x=torch.zeros(3, 3)), TINY)
    with pytest.raises(ValueError, match="finite"):
        Threat(budget=Budget(features=9)).check(moved(TINY, (0, 0, torch.nan)), TINY)
    with pytest.raises(SpecError, match="feature_range must rise"):
        Budget(feature_range=(1, 0))


def test_sparse_changes_are_those_of_dense_ones() -> None:
    assert KARATE.x is not None
    x = KARATE.x.to_dense().clone()
    x[3, :5] = 1 - x[3, :5]
    rows, columns, values = feature_changes(KARATE.x, x.to_sparse_csr())
    wanted = x - KARATE.x.to_dense()
    assert torch.equal(torch.stack([rows, columns]), wanted.nonzero().T)
    assert torch.equal(values, wanted[rows, columns])
    assert len(rows) == 5


def test_the_threat_line_says_what_a_distance_is() -> None:
    budget = Budget(feature_change=0.5, feature_norm="l2", feature_range=(0, 2))
    assert "feature_change 0.5 (l2), features in 0…2" in Threat(budget=budget).describe()


def test_limits_read_the_graph() -> None:
    limits = FeatureLimits.of(Budget(features=0.5), KARATE)
    assert limits.binary
    assert (limits.entries, limits.per_node) == (340, 20)
    assert limits.nonzero == int(KARATE.x.to_dense().sum(1).max())  # type: ignore[union-attr]
    assert not FeatureLimits.of(Budget(), BLOCKS).binary
    assert not FeatureLimits.of(Budget(feature_range=(0, 1)), KARATE).binary


# -- flips of words -------------------------------------------------------------------------------


def test_flipped_entries_and_their_derivatives() -> None:
    """Sparse and dense agree; whole flips are flips, halves are in the middle."""
    sparse = KARATE.x
    assert sparse is not None
    dense = sparse.to_dense()
    entries = torch.tensor([[30, 0, 0, 5], [2, 3, 0, 19]])
    w = torch.tensor([1.0, 0.5, 0.25, 1.0])
    ways = []
    for x in (sparse, dense):
        weight = w.clone().requires_grad_()
        made = flipped(x, entries, weight).to_dense()
        (by,) = torch.autograd.grad((made * torch.arange(20.0)).sum(), weight)
        ways.append((made.detach(), by))
    assert torch.equal(ways[0][0], ways[1][0])
    assert torch.equal(ways[0][1], ways[1][1])
    wanted = dense.clone()
    u, c = entries
    wanted[u, c] += w * (1 - 2 * wanted[u, c])
    assert torch.equal(ways[0][0], wanted)
    assert torch.equal(ways[0][1], c * (1 - 2 * dense[u, c]))


def test_flips_stay_sparse_and_are_what_is_scored() -> None:
    victim = fit(KARATE, defense="jaccard")
    outcome = attacked(QUICK, victim, KARATE, budget={"features": 12})
    assert outcome.x is not None
    assert KARATE.x is not None
    assert outcome.x.layout == torch.sparse_csr
    assert (outcome.x.values() == 1).all()
    assert 0 < len(feature_changes(KARATE.x, outcome.x)[0]) <= 12
    best = min(outcome.info["scores"])
    assert best[0] == pytest.approx(accuracy(victim, outcome, KARATE))


def test_words_at_a_node_are_spent_where_they_can_be() -> None:
    """With one entry a node the whole budget is used: no weight is stuck at one node."""
    victim = fit(KARATE)
    outcome = attacked(QUICK, victim, KARATE, budget={"features_per_node": 1})
    assert outcome.x is not None
    assert KARATE.x is not None
    nodes, _, _ = feature_changes(KARATE.x, outcome.x)
    assert len(nodes) > 25
    assert nodes.bincount().max() == 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_distances_bind_words_too(norm: str) -> None:
    victim = fit(KARATE)
    for change, each in ((0.9, 0), (1.5, 20 if norm == "linf" else 2)):
        budget = {"feature_change": change, "feature_norm": norm}
        for name in ("feature-prbcd", "random-features"):
            spec = {"name": name, "steps": 5} if name == "feature-prbcd" else name
            outcome = attacked(spec, victim, KARATE, budget=budget)
            x = KARATE.x if outcome.x is None else outcome.x
            assert x is not None
            assert KARATE.x is not None
            nodes = feature_changes(KARATE.x, x)[0]
            assert nodes.bincount(minlength=1).max() <= each


# -- moves ----------------------------------------------------------------------------------------

MOVES: list[dict[str, Any]] = [
    {"feature_change": 0.4},
    {"feature_change": 1.2, "feature_norm": "l2"},
    {"features": 60},
    {"features": 90, "features_per_node": 2, "feature_change": 1.5},
    {"features_per_node": 1, "feature_range": (-2, 2)},
    {"features_per_node": 4, "feature_change": 1.5, "feature_norm": "l2"},
]


@pytest.mark.parametrize("budget", MOVES)
def test_moves_beat_random_ones(victim: graphsec.Predictor, budget: dict[str, Any]) -> None:
    """For every seed, under every kind of limit (each checked by the threat)."""
    mine = [
        accuracy(victim, attacked("feature-pgd", victim, seed=s, budget=budget)) for s in (0, 1)
    ]
    blind = [
        accuracy(victim, attacked("random-features", victim, seed=s, budget=budget))
        for s in range(4)
    ]
    assert max(mine) < min(blind)


@pytest.mark.parametrize("budget", [{}, {"features": 0}, {"feature_change": 0.0}])
@pytest.mark.parametrize("name", ["feature-pgd", "random-features"])
def test_no_budget_no_change(victim: graphsec.Predictor, name: str, budget: Any) -> None:
    assert attacked(name, victim, budget=budget).x is None


def test_entries_out_of_reach_stay(victim: graphsec.Predictor) -> None:
    """Nodes more than two hops from all targets have no gradient, and are left alone."""
    target = 0
    near = (torch.from_numpy(BLOCKS.to_scipy().toarray()) + torch.eye(90))[target]
    near = near @ (torch.from_numpy(BLOCKS.to_scipy().toarray()) + torch.eye(90))
    outcome = attacked("feature-pgd", victim, targets=(target,), budget={"feature_change": 0.5})
    assert outcome.x is not None
    assert BLOCKS.x is not None
    moved = (outcome.x != BLOCKS.x).any(1)
    assert moved[target]
    assert not moved[near == 0].any()
    assert bool((near == 0).any())


def test_adaptive_is_never_weaker_than_transfer() -> None:
    defended = fit(BLOCKS, defense="soft-median")
    budget = {"feature_change": 0.6}
    adaptive = accuracy(defended, attacked("feature-pgd", defended, budget=budget))
    transfer = accuracy(defended, attacked("feature-pgd", defended, budget=budget, adaptive=False))
    assert adaptive <= transfer


def test_models_without_edges_can_be_attacked() -> None:
    cell = graphsec.Cell(dataset="digits-knn", model="mlp", attack="feature-pgd")
    assert cell.problems() == []
    victim = fit(BLOCKS, "mlp")
    mine, blind = (
        accuracy(victim, attacked(name, victim, budget={"feature_change": 0.4}))
        for name in ("feature-pgd", "random-features")
    )
    assert mine < blind


def test_each_kind_of_features_has_its_attack(victim: graphsec.Predictor) -> None:
    with pytest.raises(SpecError, match="take 'feature-pgd'"):
        attacked("feature-prbcd", victim, budget={"features": 3})
    words = fit(KARATE)
    with pytest.raises(SpecError, match="take 'feature-prbcd'"):
        attacked("feature-pgd", words, KARATE, budget={"features": 3})
    free = {"features": 3, "feature_range": (0.0, 1.0)}
    assert attacked("feature-pgd", words, KARATE, budget=free).x is not None
