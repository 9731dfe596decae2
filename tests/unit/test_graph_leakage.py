"""Whole graphs from a gradient, and edges of nodes: games, exact recovery, baselines, errors."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import graphsec
from graphsec.attacks.leakage.grain.alphabet import Alphabet, Kinds, one_hot_blocks
from graphsec.attacks.leakage.grain.blocks import building_blocks
from graphsec.attacks.leakage.grain.join import Search
from graphsec.attacks.leakage.grain.layers import layers_of
from graphsec.attacks.leakage.grain.span import Span, complete
from graphsec.attacks.leakage.graph_matching import rounded_graph
from graphsec.game import Secret
from graphsec.game.edge_gradients import pairs_at, roots_of
from graphsec.game.graph_gradients import truth
from graphsec.graph import Graph, GraphError
from graphsec.metrics.graphs import graph_metrics, same_graph
from graphsec.outcome import Outcome, Reconstruction
from graphsec.predict import Predictor
from graphsec.readout import graph_labels, pooled
from graphsec.testing import tiny_graphs

ONE = {"epochs": 1, "expose": 1}


@cache
def molecules(**fields: Any) -> Graph:
    return graphsec.load({"name": "molecules", "graphs": 60, "largest": 9, **fields})


def played(graph: Graph, seed: int = 0, **game: Any) -> tuple[Graph, Secret]:
    known, secret = graphsec.play({"name": "graph-gradients", **game}, graph, seed=seed)
    assert secret is not None
    return known, secret


def fitted(
    known: Graph, model: str = "gcn", seed: int = 0, defense: Any = "none", training: Any = ONE,
    **fields: Any,
) -> Predictor:  # fmt: skip
    spec = {"name": model, "dropout": 0, "layers": 3, **fields}
    return graphsec.fit(known, spec, defense, training=training, seed=seed)


def found(attack: Any, victim: Predictor, known: Graph, secret: Secret, **more: Any) -> Any:
    return graphsec.attack(attack, victim, known, **secret.shown, **more)


def numbers(outcome: Any, known: Graph, victim: Predictor, secret: Secret) -> dict[str, float]:
    scored = graphsec.score(outcome, known, victim, secret=secret)
    return {name: float(metric) for name, metric in scored.items()}


# -- classification of whole graphs -------------------------------------------------------------


def test_readouts_pool_each_graph() -> None:
    logits, owner = torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 2, 2])
    assert pooled(logits, owner, "mean").ravel().tolist() == [1, 0, 4]
    assert pooled(logits, owner, "sum").ravel().tolist() == [1, 0, 8]


@pytest.mark.parametrize("readout", ["mean", "sum"])
def test_whole_graphs_are_classified(readout: str) -> None:
    """Nitrogen shows in the features; every node of a graph has the graph's answer."""
    graph = molecules()
    victim = fitted(graph, training={"epochs": 40, "readout": readout}, layers=2)
    scored = {k: float(v) for k, v in graphsec.score(Outcome(), graph, victim).items()}
    labels = graph_labels(graph)
    assert graph.graph_id is not None
    assert graph.split is not None
    tested = labels[torch.unique(graph.graph_id[graph.split.test])]
    assert scored["accuracy"] > float(tested.double().mean().clamp(min=0.5))
    assert scored["val_accuracy"] > 0.5
    logits = victim.logits(graph)
    nodes = victim.forward(graph.x, graph.adj).detach()  # type: ignore[arg-type]
    torch.testing.assert_close(logits, pooled(nodes, graph.graph_id, readout)[graph.graph_id])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"training\.batch_size must be None for task 'graph'"):
        fitted(graph, training={"batch_size": 4})


def test_labels_and_parts_are_of_whole_graphs() -> None:
    graph = molecules()
    assert graph.y is not None
    y = graph.y.clone()
    y[0] = 1 - y[0]
    with pytest.raises(GraphError, match="y must be one for all nodes of a graph, it differs in"):
        graph.replace(y=y)
    with pytest.raises(GraphError, match="graph_id is missing"):
        graph.replace(graph_id=None)
    assert graph.split is not None
    part = dataclasses.replace(graph.split, train=graph.split.train[1:])
    with pytest.raises(GraphError, match="split must be one for all nodes of a graph"):
        graph.replace(split=part)


def test_molecules_are_connected_and_keep_to_valences() -> None:
    graph = molecules()
    assert graph.x is not None
    assert graph.graph_id is not None
    atoms = graph.x[:, :4].argmax(1)
    assert (graph.degree <= torch.tensor([4, 2, 3, 1])[atoms]).all()
    assert torch.equal(graph.x[:, 4:].argmax(1), graph.degree)
    for secret in (played(graph, seed)[1] for seed in range(3)):
        known, _ = played(graph)
        for x, adj in truth(known, dataclasses.replace(secret)):
            reach = torch.linalg.matrix_power(adj.double() + torch.eye(len(x)), len(x))
            assert (reach > 0).all()


# -- the game -----------------------------------------------------------------------------------


def test_the_game_hides_the_drawn_graphs() -> None:
    graph = molecules()
    known, secret = played(graph, graphs=2, smallest=5, largest=7, sizes="known")
    assert graph.graph_id is not None
    assert known.split is not None
    ids, labels = secret.answer
    mine = torch.isin(graph.graph_id, ids)
    assert torch.equal(known.split.train, mine.nonzero().ravel())
    assert torch.equal(torch.bincount(graph.graph_id)[ids], secret.question)
    assert ((secret.question >= 5) & (secret.question <= 7)).all()
    assert torch.equal(graph_labels(graph)[ids], labels)
    assert secret.public is not None
    assert secret.public.num_nodes == graph.num_nodes - int(mine.sum())
    assert (played(graph)[1].question == -1).all()
    for x, adj in truth(known, secret):
        assert len(x) == len(adj)


@pytest.mark.parametrize(
    ("game", "message"),
    [
        ({"graphs": 500}, "graphs must be at most the"),
        ({"largest": 1}, "with 1 to 1 nodes, got 1"),
    ],
)
def test_the_game_says_what_it_lacks(game: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        played(molecules(), **game)
    with pytest.raises(ValueError, match="needs a set of graphs with labels"):
        played(tiny_graphs()["blocks"])


# -- metrics ------------------------------------------------------------------------------------


def path(*kinds: int) -> tuple[Tensor, Tensor]:
    adj = torch.zeros(len(kinds), len(kinds))
    for i in range(len(kinds) - 1):
        adj[i, i + 1] = adj[i + 1, i] = 1
    return torch.eye(3)[list(kinds)], adj


def test_graphs_are_the_same_in_any_order_of_nodes_and_only_then() -> None:
    one = path(0, 1, 2, 1, 0)
    order = torch.tensor([3, 0, 4, 2, 1])
    assert same_graph(one, (one[0][order], one[1][order][:, order]))
    assert not same_graph(one, path(0, 1, 1, 2, 0))
    x = torch.zeros(6, 1)
    ring, two = torch.zeros(6, 6), torch.zeros(6, 6)
    for i in range(6):
        ring[i, (i + 1) % 6] = ring[(i + 1) % 6, i] = 1
        j = i // 3 * 3 + (i + 1) % 3
        two[i, j] = two[j, i] = 1
    assert not same_graph((x, ring), (x, two))  # equal to any message passing


def test_shares_of_graphs() -> None:
    true = [path(0, 1, 2), path(1, 1)]
    perfect = {k: float(v) for k, v in graph_metrics(true[::-1], true).items()}
    assert set(perfect.values()) == {1.0}
    none = graph_metrics([], true)
    assert {float(v) for v in none.values()} == {0.0}
    part = {k: float(v) for k, v in graph_metrics([path(0, 1, 1)], [path(0, 1, 2)]).items()}
    assert part["exact_share"] == 0
    assert part["placed_share"] == pytest.approx(2 / 3)
    assert part["neighbourhood_share"] == pytest.approx(1 / 3)
    assert part["edge_f1"] == 0.5
    half = graph_metrics([path(0, 1, 2)], true)
    assert float(half["exact_share"]) == 0.5


# -- the algebra --------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gcn", "gat"])
def test_what_layers_are_given_lies_in_the_span(model: str) -> None:
    """Every row, where the gradient's rank is that of the rows; and other rows do not."""
    checked = 0
    for seed in range(6):
        known, secret = played(molecules(), seed)
        victim = fitted(known, model, seed)
        moment = victim.at(victim.trace.releases[0])
        x, adj = truth(known, secret)[0]
        layers = layers_of(moment.model)
        states = layers.states(x.double().numpy(), adj.double().numpy())
        alone = Graph.from_edges(adj.nonzero().T, len(x), x=x)
        for mine, theirs in zip(states, moment.model.hidden(x, alone.adj), strict=False):
            np.testing.assert_allclose(mine, theirs.detach().numpy(), atol=1e-5)
        seen = victim.trace.releases[0].tensors["weight.1"].double().numpy()
        span = Span.of(seen, 1e-3, 1e-6)
        rows = np.unique(states[0].round(6), axis=0)
        if span.rank == len(rows):
            checked += 1
            assert span.residual(states[0]).max() < 1e-3
        assert span.residual(np.random.default_rng(0).random((5, len(span.basis)))).min() > 0.1
    assert checked >= 2


@pytest.mark.parametrize("model", ["gcn", "gat"])
def test_stars_are_the_states_of_nodes(model: str) -> None:
    known, secret = played(molecules(), 2)
    victim = fitted(known, model)
    layers = layers_of(victim.model)
    x, adj = (t.double().numpy() for t in truth(known, secret)[0])
    kinds = Kinds(x, adj.sum(1).astype(int))
    states = layers.states(x, adj)[0]
    for node, near in enumerate(adj):
        star = layers.stars(kinds, node, near.nonzero()[0][None])
        np.testing.assert_allclose(star[0], states[node], atol=1e-12)


def test_complete_columns_are_those_that_pruning_left_alone() -> None:
    g = np.array([[1.0, 0.0, 2.0], [3.0, 4.0, 5.0], [0.0, 0.0, 0.0]])
    assert complete(g).tolist() == [[1, 2], [3, 5], [0, 0]]
    assert Span.of(complete(np.eye(3)), 1e-3, 1e-6).rank == 0


def test_one_hot_blocks() -> None:
    x = torch.cat([torch.eye(3)[[0, 2, 1]], torch.eye(2)[[1, 0, 1]], torch.zeros(3, 1)], 1)
    assert one_hot_blocks(x) == [(0, 3), (3, 6)]
    assert one_hot_blocks(torch.tensor([[1.0, 1.0], [0.0, 1.0]])) == []
    graph = molecules()
    told = Alphabet.of(graph)
    assert told.blocks == [(0, 4), (4, graph.num_features)]
    assert told.degree_of[5] == 1


def test_search_finds_every_graph_of_its_blocks() -> None:
    """A ring of six of one kind, and no more graphs of six nodes of degree two."""
    kinds = Kinds(np.ones((1, 1)), np.array([2]))

    class Any_:
        def stars(self, kinds: Kinds, centre: int, leaves: np.ndarray) -> np.ndarray:
            return np.ones((len(leaves), 1))

        def states(self, x: np.ndarray, adj: np.ndarray) -> list[np.ndarray]:
            return []

    blocks = building_blocks(kinds, Any_(), None, 10)
    graphs = list(Search(blocks, 1000).graphs(6))
    assert graphs
    for kind, adj in graphs:
        assert len(kind) == 6
        assert (adj.sum(1) == 2).all()
        assert (np.linalg.matrix_power(adj + np.eye(6), 6) > 0).all()
    with pytest.raises(ValueError, match="blocks must be at least 1 to try"):
        building_blocks(kinds, Any_(), None, 0)


# -- exact recovery -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "fields", "least"),
    [
        ("gcn", {"layers": 2}, 3),
        ("gcn", {"layers": 3}, 4),
        ("gcn", {"layers": 4}, 4),
        ("gat", {"layers": 3}, 5),
    ],
)
def test_grain_recovers_graphs_exactly(model: str, fields: Any, least: int) -> None:
    """Features, edges and label, of unknown size; what counts as found is never a wrong graph."""
    exact = 0
    for seed in range(6 if fields["layers"] > 2 else 3):
        known, secret = played(molecules(), seed)
        victim = fitted(known, model, seed, **fields)
        outcome = found({"name": "grain", "steps": 2000}, victim, known, secret)
        scored = numbers(outcome, known, victim, secret)
        assert scored["label_accuracy"] == 1
        if outcome.info.get("exact") and fields["layers"] > 2:
            assert scored["exact_share"] == 1
        exact += scored["exact_share"] == 1
        if scored["exact_share"] == 1:
            cut = outcome.adj.clone()
            edge = cut.nonzero()[0]
            cut[edge[0], edge[1]] = cut[edge[1], edge[0]] = 0
            less = dataclasses.replace(outcome, adj=cut)
            assert numbers(less, known, victim, secret)["exact_share"] == 0
    assert exact >= least


def test_a_batch_of_graphs_is_told_apart() -> None:
    """Two graphs whose gradients add up to the one seen, and how many of them have each label."""
    exact = []
    for seed in range(4):
        known, secret = played(molecules(), seed, graphs=2, largest=6)
        victim = fitted(known, "gat", seed)
        outcome = found({"name": "grain", "largest": 7, "steps": 1000}, victim, known, secret)
        scored = numbers(outcome, known, victim, secret)
        exact.append(scored["exact_share"])
        if outcome.info["exact"]:
            assert scored["label_counts"] == 1
    assert np.mean(exact) >= 0.5


def test_grain_after_steps_with_the_sum_for_readout() -> None:
    known, secret = played(molecules(), 1, step=3)
    victim = fitted(known, training={"epochs": 4, "expose": 4, "readout": "sum"}, seed=1)
    outcome = found("grain", victim, known, secret)
    assert numbers(outcome, known, victim, secret)["exact_share"] == 1


def test_degrees_that_features_do_not_tell_are_tried() -> None:
    graph = molecules(rings=0.0)
    assert graph.x is not None
    bare = graph.replace(x=graph.x[:, :4])
    exact = 0
    for seed in range(3):
        known, secret = played(bare, seed, largest=5)
        victim = fitted(known, "gat", seed)
        outcome = found({"name": "grain", "steps": 1000}, victim, known, secret)
        exact += numbers(outcome, known, victim, secret)["exact_share"] == 1
    assert exact >= 2


def test_a_cell_plays_it() -> None:
    cell = graphsec.Cell(
        dataset={"name": "molecules", "graphs": 40, "largest": 7}, attack="grain", training=ONE,
        model={"name": "gat", "dropout": 0.0, "layers": 3}, seed=1,
    )  # fmt: skip
    record = graphsec.run(cell)
    assert record.status == "done", record.reason
    assert record.value("exact_share") == 1
    wrong = dataclasses.replace(cell, dataset={"name": "dc-sbm", "num_nodes": 60})
    assert graphsec.run(wrong).status == "skipped"


# -- baselines ----------------------------------------------------------------------------------


def test_matching_and_guesses_give_graphs_of_the_alphabet() -> None:
    known, secret = played(molecules(), 3, sizes="known", largest=6)
    victim = fitted(known)
    spec = {"name": "graph-matching", "steps": 20, "restarts": 1}
    for attack in (spec, "graph-guess"):
        outcome = found(attack, victim, known, secret)
        assert len(outcome.x) == int(secret.question)
        assert (outcome.x[:, :4].sum(1) == 1).all()
        assert (outcome.x[:, 4:].sum(1) == 1).all()
        assert torch.equal(outcome.adj, outcome.adj.T)
        scored = numbers(outcome, known, victim, secret)
        assert scored["label_accuracy"] == 1
        assert 0 <= scored["edge_f1"] < 1


def test_matching_comes_near_the_gradient() -> None:
    known, secret = played(molecules(), 3, sizes="known", largest=5)
    victim = fitted(known, activation="tanh")
    losses = [
        found({"name": "graph-matching", "steps": n, "restarts": 1}, victim, known, secret).info
        for n in (1, 60)
    ]
    assert losses[1]["loss"] < 0.1 * losses[0]["loss"]


def test_rounding_keeps_as_many_edges_as_degrees_say() -> None:
    alphabet = Alphabet([(0, 2), (2, 5)], np.zeros((1, 5)), {2: 0, 3: 1, 4: 2}, 2)
    x = torch.tensor([[0.9, 0.1, 0, 0.8, 0.2], [0.4, 0.6, 0, 0.1, 0.9], [1, 0, 0, 0.7, 0.3]])
    weight = torch.tensor([[0, 0.4, 0.1], [0.4, 0, 0.3], [0.1, 0.3, 0]])
    hard, adj = rounded_graph(x.double(), weight.double(), alphabet)
    assert hard.tolist() == [[1, 0, 0, 1, 0], [0, 1, 0, 0, 1], [1, 0, 0, 1, 0]]
    assert adj.tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]


# -- what does not go ---------------------------------------------------------------------------


def refused(message: str, model: str = "gcn", game: Any = None, **more: Any) -> None:
    graph = more.pop("graph", molecules())
    known, secret = played(graph, **(game or {}))
    victim = fitted(known, model, **more)
    with pytest.raises(ValueError, match=message):
        found("grain", victim, known, secret)


def test_grain_says_what_the_theory_does_not_allow() -> None:
    graph = molecules()
    assert graph.x is not None
    refused("layers must be ≥ 2, got 1", layers=1)
    refused("dropout must be 0, got 0.5", dropout=0.5)
    refused("knows the layers of gcn and gat that aggregate by sums, not SAGE", "sage")
    refused("layers must be ≥ 3 for 2 graphs, got 2", layers=2, game={"graphs": 2})
    refused(
        r"x must hold 0 and 1 only, found 2 values from 0 to 0\.5",
        graph=graph.replace(x=graph.x / 2),
    )
    narrow: dict[str, Any] = {"hidden": 2, "activation": "tanh", "game": {"smallest": 7}}
    refused(r"'weight.1' must have a rank below its width \(2\)", **narrow)
    refused("'weight.1' must have a rank below its width", defense="noisy-gradients")


def test_pruning_breaks_the_rank_test() -> None:
    """What is kept is exact, but its columns lie in no common span of rows."""
    shares = []
    for keep in (1.0, 0.3):
        exact = 0.0
        for seed in range(4):
            known, secret = played(molecules(), seed)
            defense = {"name": "prune-gradients", "keep": keep}
            victim = fitted(known, "gat", seed, defense)
            try:
                outcome = found({"name": "grain", "steps": 500}, victim, known, secret)
            except ValueError:  # the rank is full: nothing is found
                continue
            exact += numbers(outcome, known, victim, secret)["exact_share"]
        shares.append(exact / 4)
    assert shares[0] == 1
    assert shares[1] == 0


def test_scorers_need_a_whole_graph() -> None:
    known, secret = played(molecules())
    outcome = Reconstruction(nodes=torch.arange(2), x=torch.zeros(2, 9))
    with pytest.raises(ValueError, match="needs x, adj and owner"):
        graphsec.score(outcome, known, fitted(known), secret=secret)
    other = Reconstruction(
        nodes=torch.arange(2), x=torch.zeros(2, 9), adj=torch.zeros(2, 2),
        owner=torch.tensor([0, 1]),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"owner must lie in 0…0, found 0…1"):
        graphsec.score(other, known, fitted(known), secret=secret)


# -- edges at nodes -----------------------------------------------------------------------------


def edges_played(graph: Graph, seed: int = 0, **game: Any) -> tuple[Graph, Secret]:
    known, secret = graphsec.play({"name": "edge-gradients", **game}, graph, seed=seed)
    assert secret is not None
    return known, secret


def test_the_game_hides_the_edges_at_roots() -> None:
    graph = tiny_graphs()["weighted"]
    known, secret = edges_played(graph, roots=2)
    assert known.split is not None
    roots = known.split.train
    assert torch.equal(roots_of(secret.question, graph.num_nodes), roots)
    assert secret.question.shape[1] == 2 * (graph.num_nodes - 1) - 1
    assert torch.equal(graph.has_edges(secret.question).long(), secret.answer)
    public = secret.public
    assert public is not None
    assert (public.degree[roots] == 0).all()
    assert public.num_edges == graph.num_edges - int(secret.answer.sum())
    assert pairs_at(torch.tensor([1]), 3).tolist() == [[0, 1], [1, 2]]
    with pytest.raises(ValueError, match="roots must be at most the"):
        edges_played(graph, roots=40)


@pytest.mark.parametrize("model", ["gcn", "sage"])
def test_edges_are_found_from_the_gradient(model: str) -> None:
    """Most of them, and more than by likeness of features, at as many edges as there are."""
    mine: list[float] = []
    alike: list[float] = []
    for seed in range(3):
        known, secret = edges_played(tiny_graphs()["blocks"], seed)
        victim = graphsec.fit(known, {"name": model, "dropout": 0}, training=ONE, seed=seed)
        spec = {"name": "structure-matching", "steps": 80 if model == "sage" else 200}
        for attack, into in ((spec, mine), ("structure-similarity", alike)):
            scored = numbers(found(attack, victim, known, secret), known, victim, secret)
            into.append(scored["precision_at_count"])
    assert np.mean(mine) > 0.6
    assert np.mean(mine) > np.mean(alike) + 0.2


@pytest.mark.parametrize(("width", "solved"), [(120, True), (12, False)])
def test_one_layer_tells_all_edges_where_features_are_independent(width: int, solved: bool) -> None:
    """(ÂX)_v is one sum of rows only then: 12 features of 90 nodes leave most weights open."""
    graph = tiny_graphs()["blocks"]
    x = torch.randn(graph.num_nodes, width, generator=torch.Generator().manual_seed(0))
    shares = []
    for seed in range(3):
        known, secret = edges_played(graph.replace(x=x), seed)
        spec = {"name": "gcn", "dropout": 0, "layers": 1}
        victim = graphsec.fit(known, spec, training=ONE, seed=seed)
        outcome = found({"name": "structure-matching", "steps": 100}, victim, known, secret)
        shares.append(numbers(outcome, known, victim, secret)["precision_at_count"])
    assert (min(shares) == 1) == solved


def test_edges_of_several_roots_need_their_labels() -> None:
    known, secret = edges_played(tiny_graphs()["blocks"], roots=2)
    victim = graphsec.fit(known, {"name": "gcn", "dropout": 0}, training=ONE)
    with pytest.raises(ValueError, match="needs the labels of several roots"):
        found("structure-matching", victim, known, secret)
    known, secret = edges_played(tiny_graphs()["blocks"], roots=2, labels="known")
    victim = graphsec.fit(known, {"name": "gcn", "dropout": 0}, training=ONE)
    spec = {"name": "structure-matching", "labels": True, "steps": 80}
    scored = numbers(found(spec, victim, known, secret), known, victim, secret)
    assert scored["auc"] > 0.8
    blind = graphsec.fit(known, {"name": "mlp", "dropout": 0}, training=ONE)
    with pytest.raises(ValueError, match="MLP"):
        found(spec, blind, known, secret)
