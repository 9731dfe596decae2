"""What surrounds a node, features and edges, from a gradient: game, metrics, recovery, errors."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import graphsec
from graphsec.attacks.leakage.grain.alphabet import Kinds
from graphsec.attacks.leakage.grain.colours import Colours, deeper, tree
from graphsec.attacks.leakage.grain.layers import GCNLayers, layers_of
from graphsec.attacks.leakage.grain.span import Span
from graphsec.game import Secret
from graphsec.game.neighbourhood_gradients import true_trees
from graphsec.graph import Graph
from graphsec.metrics.trees import Tree, tree_metrics, unrolled
from graphsec.outcome import Reconstruction
from graphsec.predict import Predictor
from graphsec.testing import tiny_graphs


@cache
def atoms(graphs: int = 60) -> Graph:
    spec = {"name": "molecules", "graphs": graphs, "largest": 9, "labels": "atoms"}
    return graphsec.load(spec)


def played(seed: int = 0, **game: Any) -> tuple[Graph, Secret]:
    spec = {"name": "neighbourhood-gradients", **game}
    known, secret = graphsec.play(spec, atoms(), seed=seed)
    assert secret is not None
    return known, secret


def fitted(known: Graph, seed: int = 0, model: str = "gcn", **more: Any) -> Predictor:
    fields = {"name": model, "dropout": 0, "layers": 2, **more}
    return graphsec.fit(known, fields, training={"epochs": 1, "expose": 1}, seed=seed)


def numbers(attack: Any, seed: int = 0, layers: int = 2, **game: Any) -> dict[str, float]:
    known, secret = played(seed, hops=layers, **game)
    victim = fitted(known, seed, layers=layers)
    outcome = graphsec.attack(attack, victim, known, **secret.shown)
    scored = graphsec.score(outcome, known, victim, secret=secret)
    return {"found": bool(outcome.info.get("exact"))} | {k: float(v) for k, v in scored.items()}


def test_labels_of_atoms_count_unlike_neighbours() -> None:
    graph = atoms()
    assert graph.task == "classification"
    assert graph.x is not None
    assert graph.y is not None
    unlike = graph.x[:, 0] == 0
    u, v = graph.edge_index
    near = torch.zeros(graph.num_nodes).index_add(0, u, unlike[v].float())
    assert torch.equal(graph.y, near.clamp(max=3).long())


def test_the_game_hides_the_components_of_roots() -> None:
    known, secret = played(roots=2, degree=3)
    graph, public = atoms(), secret.public
    roots = secret.answer[0]
    assert public is not None
    assert graph.graph_id is not None
    assert (graph.degree[roots] == 3).all()
    gone = torch.isin(graph.graph_id, graph.graph_id[roots])
    assert public.num_nodes == int((~gone).sum())
    assert secret.question.tolist() == [-1, -1]
    assert known.split is not None
    assert torch.equal(known.split.train, roots)
    with pytest.raises(ValueError, match="roots must be at most the"):
        played(degree=9)
    with pytest.raises(ValueError, match="nothing is left to know"):
        graphsec.play("neighbourhood-gradients", tiny_graphs()["karate"])


def test_neighbourhoods_unroll_to_trees() -> None:
    """A triangle's other corners hang on each other, two edges from the root."""
    x = torch.eye(3)
    ring = 1 - torch.eye(3)
    a, b, c = ((100, 0, 0), (0, 100, 0), (0, 0, 100))
    found = unrolled(x, ring, 0, 2)
    assert found.look == a
    assert {child.look for child in found.children} == {b, c}
    assert {child.children for child in found.children} == {(Tree(b),), (Tree(c),)}
    assert unrolled(x, ring, 0, 0) == Tree(a)
    order = torch.tensor([2, 0, 1])
    assert unrolled(x[order], ring, 1, 2) == found


def test_shares_of_trees() -> None:
    a, b, c = ((i,) for i in range(3))
    true = Tree(a, (Tree(b), Tree(c)))
    deep = Tree(a, (Tree(b, (Tree(a),)), Tree(c)))

    def shares(found: list[Tree], truth: list[Tree], hops: int = 2) -> list[float]:
        return [round(float(v), 3) for v in tree_metrics(found, truth, hops).values()]

    assert shares([true], [true]) == [1, 1, 1, 1]
    assert shares([], [true]) == [0, 0, 0, 0]
    assert shares([deep], [true]) == [0, 0.75, 1, 1]
    assert shares([deep], [true], 1) == [1, 1, 1, 1]
    assert shares([Tree(b), true], [true, Tree(a)]) == [0.5, 0.5, 0.5, 0.5]


def test_colours_hold_the_states_of_nodes() -> None:
    """With spans of everything, the true tree is among the colours, with its true states."""
    known, secret = played(1, degree=2)
    victim = fitted(known, 1, layers=2)
    layers = layers_of(victim.model)
    assert isinstance(layers, GCNLayers)
    assert known.x is not None
    assert known.graph_id is not None
    root = int(secret.answer[0])
    part = known.subgraph(torch.isin(known.graph_id, known.graph_id[root]).nonzero().ravel())
    assert part.x is not None
    rows, which = torch.unique(
        torch.cat([part.x, part.degree[:, None]], 1), dim=0, return_inverse=True
    )
    kinds = Kinds(rows[:, :-1].double().numpy(), rows[:, -1].long().numpy())
    everything = Span(np.eye(1), np.eye(kinds.x.shape[1]), 1e-9, 1e-9)
    one = deeper(Colours.of(kinds), kinds, layers, 1, everything, 10**6)
    truth = layers.states(part.x.double().numpy(), part.to_scipy().toarray())[0]
    for node in range(part.num_nodes):
        same = one.kind == int(which[node])
        assert np.abs(one.state[same] - truth[node]).max(1).min() < 1e-9
    with pytest.raises(ValueError, match="there is more to try 1 edges deep around a node than"):
        deeper(Colours.of(kinds), kinds, layers, 1, everything, 3)


def test_trees_of_colours_are_walks_that_do_not_turn_back() -> None:
    """Two kinds in turn around a ring: whatever the depth, a path with the root in its middle."""
    level = Colours(np.array([0, 1]), np.array([0, 1]), np.zeros((2, 0), np.int64), np.eye(2))
    near = np.array([[1, 1], [0, 0]])
    levels = [level, *[Colours(level.kind, level.own, near, np.eye(2))] * 3]
    kinds, adj = tree(levels, 0)
    assert len(kinds) == 7
    assert sorted(adj.sum(0).tolist()) == [1, 1, 2, 2, 2, 2, 2]
    looks = torch.eye(2)[kinds]
    assert unrolled(looks, torch.from_numpy(adj), 0, 3).cut(1).look == (100, 0)
    assert (adj.astype(bool) & (kinds[:, None] == kinds)).sum() == 0


@pytest.mark.parametrize(("layers", "least"), [(2, 5), (3, 4)])
def test_surroundings_are_recovered_exactly(layers: int, least: int) -> None:
    """As deep as the model has layers; what counts as found is right."""
    exact = 0
    for seed in range(6):
        try:
            scored = numbers({"name": "grain-nodes", "colours": 30_000}, seed, layers)
        except ValueError:  # too many surroundings
            continue
        assert scored["label_accuracy"] == 1
        if scored["found"]:
            assert scored["exact_share"] == 1
        exact += scored["exact_share"] == 1
    assert exact >= least


def test_two_roots_are_told_apart() -> None:
    exact = [numbers("grain-nodes", seed, roots=2, degree=1)["exact_share"] for seed in range(3)]
    assert np.mean(exact) >= 0.5


def test_guesses_are_surroundings_of_known_nodes() -> None:
    zero = numbers({"name": "neighbourhood-guess", "guess": "zero"}, 2)
    assert zero["placed_share"] == 0
    assert zero["label_accuracy"] == 1
    found = [numbers("neighbourhood-guess", seed, degree=1) for seed in range(6)]
    assert np.mean([each["root_share"] for each in found]) > 0
    assert np.mean([each["exact_share"] for each in found]) < 1
    known, secret = played()
    victim = fitted(known)
    outcome = graphsec.attack("neighbourhood-guess", victim, known, **secret.shown)
    public = secret.public
    assert public is not None
    assert public.x is not None
    assert isinstance(outcome, Reconstruction)
    assert outcome.x is not None
    assert (public.x == outcome.x[0]).all(1).any()


@pytest.mark.parametrize(
    ("model", "fields", "game", "message"),
    [
        ("gat", {}, {}, "knows the sums of gcn, not those of gat"),
        ("gcn", {"layers": 1}, {}, "layers must be ≥ 2, got 1"),
        ("gcn", {}, {"roots": 4}, "roots must be at most 3, got 4"),
    ],
)
def test_what_does_not_go(model: str, fields: Any, game: Any, message: str) -> None:
    known, secret = played(**game)
    victim = fitted(known, model=model, **fields)
    with pytest.raises(ValueError, match=message):
        graphsec.attack("grain-nodes", victim, known, **secret.shown)


def test_truth_is_what_surrounds_the_roots() -> None:
    known, secret = played(3, roots=2)
    for root, found in zip(secret.answer[0].tolist(), true_trees(known, secret), strict=True):
        assert len(found.children) == int(known.degree[root])
