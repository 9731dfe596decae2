"""Threats, budgets and the view that enforces them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import graphsec
from graphsec.graph import Graph, GraphError
from graphsec.outcome import Perturbation
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.testing import tiny_graphs
from graphsec.threat import Access, AccessDenied, Budget, BudgetExceeded, Threat, View


@pytest.fixture(scope="module")
def graph() -> Graph:
    return tiny_graphs()["blocks"]


@pytest.fixture(scope="module")
def victim(graph: Graph) -> graphsec.Predictor:
    return graphsec.fit(graph, {"name": "gcn", "hidden": 8}, training={"epochs": 20})


def view(victim: Any, graph: Graph, *access: str, **fields: Any) -> View:
    origin = None if victim is None else victim.origin
    return Threat(access=access, **fields).open(victim, graph, Rng(0)["view"], origin=origin)


def test_access_flags_and_names() -> None:
    both = Access.of(["scores", "Weights"])
    assert both == Access.SCORES | Access.WEIGHTS
    assert Access.of("edges") is Access.EDGES
    assert both.names == ["scores", "weights"]
    assert Threat(access=both).access == ("scores", "weights")  # type: ignore[arg-type]
    assert Threat(access=("weights", "scores")) == Threat(access=("scores", "weights"))


def test_resolve_fills_in_what_the_attack_needs() -> None:
    attack = ATTACKS.build("dice")
    resolved = Threat().resolve(attack)
    assert resolved.granted == attack.needs
    assert resolved.timing == "evasion"
    asked = Threat(access=("edges",), timing="poisoning")
    assert asked.resolve(attack).timing == "poisoning"
    assert asked.missing(attack) == ["true_labels"]
    assert Threat().missing(attack) == []


@pytest.mark.parametrize(
    ("budget", "flips"),
    [(0, 0), (7, 7), (0.0, 0), (0.1, None), (1.0, None), (None, 0)],
)
def test_edge_budget(graph: Graph, budget: Any, flips: int | None) -> None:
    count = Budget(edges=budget).edge_count(graph)
    assert count == (int(budget * graph.num_edges + 1e-9) if flips is None else flips)


def test_fractions_do_not_lose_a_flip_to_rounding() -> None:
    ring = Graph.from_edges([list(range(100)), [*range(1, 100), 0]], 100)
    assert [Budget(edges=k / 100).edge_count(ring) for k in range(101)] == list(range(101))


def test_node_budget(graph: Graph) -> None:
    assert Budget().node_count(graph) is None
    two = Budget(edges_per_node=2).node_count(graph)
    assert two is not None
    assert two.tolist() == [2] * 90
    half = Budget(edges_per_node=0.5).node_count(graph)
    assert half is not None
    assert torch.equal(half, graph.degree // 2)


def test_known_graph_shows_what_is_granted(victim: Any, graph: Graph) -> None:
    nothing = view(victim, graph).known
    assert (nothing.x, nothing.y, nothing.split, nothing.num_edges) == (None, None, None, 0)
    assert nothing.num_nodes == graph.num_nodes
    assert view(victim, graph, "features").known.x is graph.x
    assert view(victim, graph, "edges").known.num_edges == graph.num_edges
    labels = view(victim, graph, "train_labels").known.y
    assert graph.split is not None
    assert graph.y is not None
    assert isinstance(labels, torch.Tensor)
    train = torch.zeros(graph.num_nodes, dtype=torch.bool)
    train[graph.split.train] = True
    assert torch.equal(labels[train], graph.y[train])
    assert torch.equal(labels[~train], torch.full_like(labels[~train], -1))
    assert torch.equal(view(victim, graph, "true_labels").known.y, graph.y)  # type: ignore[arg-type]


REFUSED: dict[str, tuple[Callable[[View], Any], str]] = {
    "logits": (lambda v: v.logits(), "scores"),
    "labels": (lambda v: v.labels(), "labels"),
    "hidden": (lambda v: v.hidden(), "hidden"),
    "model": (lambda v: v.model(), "weights"),
    "train": (lambda v: v.train(v.known, Rng(0)), "recipe"),
    "releases": (lambda v: v.releases(), "transcript"),
    "num_edges": (lambda v: v.num_edges, "edge_count"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_every_door_is_closed_without_access(victim: Any, graph: Graph, name: str) -> None:
    look, needed = REFUSED[name]
    with pytest.raises(AccessDenied, match=needed):
        look(view(victim, graph))


def test_own_features_need_query_input(victim: Any, graph: Graph) -> None:
    with pytest.raises(AccessDenied, match="query_input"):
        view(victim, graph, "scores").logits(x=graph.x)
    allowed = view(victim, graph, "scores", "query_input")
    assert graph.x is not None
    assert torch.equal(allowed.logits(x=graph.x), victim.logits(graph))
    assert not torch.equal(allowed.logits(x=graph.x * 2), victim.logits(graph))


def test_queries_are_counted_and_limited(victim: Any, graph: Graph) -> None:
    looker = view(victim, graph, "scores", "labels", budget=Budget(queries=10))
    nodes = torch.arange(4)
    assert torch.equal(looker.logits(nodes), victim.logits(graph)[:4])
    assert torch.equal(looker.labels(nodes), victim.predict(graph)[:4])
    assert looker.queries == 8
    with pytest.raises(BudgetExceeded, match="allows 10 answers, 12"):
        looker.logits(nodes)
    with pytest.raises(BudgetExceeded):
        looker.logits()
    assert looker.queries == 8


def test_poisoning_has_no_victim(victim: Any, graph: Graph) -> None:
    threat = Threat(access=("scores", "recipe", "features", "edges", "true_labels", "split"),
                    timing="poisoning")  # fmt: skip
    poisoned = threat.open(None, graph, Rng(0)["view"], origin=victim.origin)
    with pytest.raises(AccessDenied, match="no trained victim"):
        poisoned.logits()
    surrogate = poisoned.model()
    assert poisoned.trainings == 1
    assert poisoned.model() is surrogate


def test_transfer_model_is_undefended(graph: Graph) -> None:
    defended = graphsec.fit(graph, "gcn", "jaccard", training={"epochs": 3})
    access = ("weights", "recipe", "features", "edges", "true_labels", "split")
    adaptive, naive = (view(defended, graph, *access, adaptive=a) for a in (True, False))
    assert (adaptive.defended, naive.defended) == (True, False)
    assert adaptive.model().model is defended.model
    assert naive.model().origin.defense.name == "none"  # type: ignore[union-attr]
    assert adaptive.train(graph, Rng(0)).origin.defense.name == "jaccard"  # type: ignore[union-attr]


def test_targets(graph: Graph) -> None:
    assert graph.split is not None
    assert torch.equal(Threat().target_nodes(graph), graph.split.test)
    assert torch.equal(Threat(targets="train").target_nodes(graph), graph.split.train)
    assert Threat(targets="all").target_nodes(graph).tolist() == list(range(90))
    assert Threat(targets=(3, 1)).target_nodes(graph).tolist() == [3, 1]


def test_check_of_features_and_utility(victim: Any, graph: Graph) -> None:
    assert graph.x is not None
    x = graph.x.clone()
    x[0, :3] += 1
    changed = Perturbation(x=x)
    Threat(budget=Budget(features=3)).check(changed, graph)
    with pytest.raises(BudgetExceeded, match="allows 2 changes, the outcome has 3"):
        Threat(budget=Budget(features=2)).check(changed, graph)
    harmful = graphsec.attack("random", victim, graph, threat={"budget": {"edges": 800}})
    tight = Threat(budget=Budget(edges=800, utility_drop=0.01))
    with pytest.raises(BudgetExceeded, match="utility_drop"):
        tight.check(harmful, graph, victim, victim)


def test_local_flips_are_checked_one_by_one(graph: Graph) -> None:
    flips = torch.tensor([[0, 0], [1, 2]])
    local = Perturbation(per_target={0: flips, 1: flips[:, :1]})
    Threat(budget=Budget(edges=2)).check(local, graph)
    with pytest.raises(BudgetExceeded):
        Threat(budget=Budget(edges=1)).check(local, graph)


def test_words_flipped_in_a_world_are_checked() -> None:
    """Each world by itself: how many in all, how many at a node, and that each is named once."""
    graph = tiny_graphs()["karate"]
    entries = torch.tensor([[0, 0, 5], [1, 2, 1]])
    none = torch.zeros((2, 0), dtype=torch.int64)

    def check(entries: torch.Tensor, **budget: Any) -> None:
        local = Perturbation(per_target={0: none, 1: none}, features_per_target={1: entries})
        Threat(budget=Budget(**budget)).check(local, graph)

    check(entries, features=3)
    check(entries, features_per_node=2)
    with pytest.raises(BudgetExceeded, match="allows 2 changes, the outcome has 3"):
        check(entries, features=2)
    with pytest.raises(BudgetExceeded, match="allows 1 changes at node 0"):
        check(entries, features_per_node=1)
    with pytest.raises(BudgetExceeded, match="features"):
        check(entries, edges=3)
    with pytest.raises(GraphError, match="distinct"):
        check(entries[:, [0, 0]], features=3)
    with pytest.raises(GraphError, match="within"):
        check(entries + 18, features=3)


def test_description_carries_the_threat() -> None:
    text = Threat(access=("weights",), budget=Budget(edges=0.05), adaptive=False).describe()
    for part in ("weights", "edges 0.05", "not adaptive"):
        assert part in text
