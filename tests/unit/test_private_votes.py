"""Private votes: what one node or edge moves, what is drawn and for whom, what is claimed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import graphsec
from graphsec.defenses.private._noisy_sums import fewest
from graphsec.defenses.private.gap import Perturbed
from graphsec.defenses.private.votes import PrivateVotes, Votes
from graphsec.graph import Graph
from graphsec.models.base import inputs
from graphsec.ops import propagate
from graphsec.registry import SpecError
from graphsec.testing import tiny_graphs

KARATE = tiny_graphs()["karate"]
MLP: Any = {"name": "mlp", "hidden": 8}
QUICK: Any = {"name": "private-votes", "steps": 5, "rate": 0.5, "delta": 1e-3}


def fitted(graph: Graph = KARATE, seed: int = 0, **fields: Any) -> graphsec.Predictor:
    return graphsec.fit(graph, MLP, {**QUICK, **fields}, seed=seed)


def votes(predictor: graphsec.Predictor) -> Votes:
    assert isinstance(predictor.model, Votes)
    return predictor.model


def sums(predictor: graphsec.Predictor, graph: Graph) -> torch.Tensor:
    """(n, classes) the sums of votes before noise."""
    model = votes(predictor)
    x, adj = predictor.sanitise(inputs(graph), graph.adj)
    with torch.no_grad():
        return model.heard(model.own(x, adj).log_softmax(1), adj)


def without(graph: Graph, node: int) -> Graph:
    """The graph in which a node has no edges: all that its neighbours could hear is gone."""
    row, col = graph.adj.csr.coo
    edges = torch.stack([row, col])[:, (row < col) & (row != node) & (col != node)]
    return Graph.from_edges(edges, graph.num_nodes, x=graph.x, y=graph.y, split=graph.split)


@pytest.mark.parametrize(("heard", "cap"), [("soft", 4.0), ("bound", 20.0)])
def test_a_node_moves_the_others_within_the_sensitivity(heard: Any, cap: float) -> None:
    """For every node of a graph with hubs; the noise is the multiplier times that."""
    made = PrivateVotes(heard=heard, cap=cap)
    predictor = fitted(heard=heard, cap=cap)
    whole = sums(predictor, KARATE)
    bound = made.sensitivity
    moves = []
    for node in range(KARATE.num_nodes):
        others = torch.arange(KARATE.num_nodes) != node
        moves.append(float((whole - sums(predictor, without(KARATE, node)))[others].norm()))
    assert 0 < max(moves) <= bound
    degree = int(KARATE.indptr.diff().max())
    if heard == "bound":
        assert bound == math.sqrt(cap)
        assert max(moves) > 0.5 * math.sqrt(degree)


def test_an_edge_moves_two_sums_by_a_vote_each() -> None:
    """√2 in all, for the level "edge"."""
    predictor = fitted(level="edge")
    edge = KARATE.edge_index[:, :1]
    moved = sums(predictor, KARATE) - sums(predictor, KARATE.flip(edge))
    assert float(moved.norm()) == pytest.approx(math.sqrt(2), rel=1e-4)
    assert int((moved.norm(dim=1) > 1e-5).sum()) == 2


def test_heavy_edges_count_as_edges_of_weight_1() -> None:
    """The sensitivity is that of such edges, whatever a graph says."""
    heavy = KARATE.replace(edge_weight=torch.full((len(KARATE.indices),), 2.0))
    predictor = fitted(level="edge")
    torch.testing.assert_close(sums(predictor, heavy), sums(predictor, KARATE))


def test_the_noise_is_drawn_once_and_not_for_strangers() -> None:
    """Answers repeat; an attacker with the weights gets neither the noise nor the labels."""
    predictor = fitted()
    assert torch.equal(predictor.logits(KARATE), predictor.answer(inputs(KARATE), KARATE.adj))
    stranger, mine = votes(predictor.public()), votes(predictor)
    assert stranger.noise is None
    assert stranger.told is None
    assert mine.noise is not None
    assert all(map(torch.equal, stranger.parameters(), mine.parameters()))
    other = votes(fitted(seed=1)).noise
    assert other is not None
    assert not torch.equal(other, mine.noise)
    with pytest.raises(TypeError, match="secret"):
        predictor.save("votes.pt")


def test_noise_has_the_size_that_epsilon_asks_for() -> None:
    """A fifth of ε takes more noise, relative to the sums; no ε, none."""
    much, little = fitted(epsilon=1.0), fitted(epsilon=5.0)
    assert votes(much)._scale > 3 * votes(little)._scale
    assert votes(fitted(noise_multiplier=0)).noise is None


def test_statements_say_what_they_are_about() -> None:
    """Only with secure noise, and at most the ε that was asked for."""
    assert fitted().privacy is None
    assert fitted(secure=True, noise_multiplier=0).privacy is None
    node = fitted(secure=True, epsilon=3.0).privacy
    assert node is not None
    assert 2.9 < node.epsilon <= 3.0
    assert node.delta == 1e-3
    assert "other nodes" in node.release
    assert "node with its edges" in node.relation
    bound = fitted(secure=True, heard="bound", cap=20).privacy
    assert bound is not None
    assert "degrees of at most 20" in bound.family
    edge = fitted(secure=True, level="edge").privacy
    assert edge is not None
    assert edge.relation == "add or remove one undirected edge"


def test_the_published_cut_moves_sums_that_never_heard_the_node() -> None:
    """Why nothing is claimed for it: a hub goes, and its neighbours speak to others instead."""
    rng = torch.Generator().manual_seed(0)
    pairs = torch.randint(1, 400, (2, 1500), generator=rng)
    hub = torch.stack([torch.zeros(399, dtype=torch.int64), torch.arange(1, 400)])
    graph = Graph.from_edges(torch.cat([hub, pairs[:, pairs[0] != pairs[1]]], 1), 400)
    ones = torch.ones(400, 1)
    cut = fewest(graph.adj, 4, 7)
    after = fewest(without(graph, 0).adj, 4, 7)
    heard_it = cut.merged().csr.coo[0][(cut.merged().csr.coo[1] == 0) & (cut.weight != 0)]
    moved = (propagate(cut, ones) != propagate(after, ones)).ravel()
    moved[heard_it] = False
    assert len(heard_it) <= 4
    assert int(moved[1:].sum()) > 200
    published = fitted(secure=True, heard="published")
    assert published.privacy is None


def test_gap_claims_and_keeps_its_noise() -> None:
    """Two private models and two sums; strangers have no noise; no hidden layer, no encoder."""
    spec = {**QUICK, "name": "gap", "secure": True, "epsilon": 4.0}
    made = graphsec.fit(KARATE, MLP, spec)
    assert made.privacy is not None
    assert 3.9 < made.privacy.epsilon <= 4.0
    assert [count for _, count in made.trace.spent] == [5, 2, 5]
    assert isinstance(made.model, Perturbed)
    assert made.model.noise is not None
    stranger = made.public().model
    assert isinstance(stranger, Perturbed)
    assert stranger.noise is None
    with pytest.raises(SpecError, match="two layers or more"):
        graphsec.fit(KARATE, {"name": "mlp", "layers": 1}, spec)


def test_bad_input_is_refused_before_training() -> None:
    """Models with edges, directed graphs, broken bounds; a matrix would skip the first."""
    with pytest.raises(SpecError, match="uses no edges, such as 'mlp', got 'gcn'"):
        graphsec.fit(KARATE, "gcn", QUICK)
    cell = graphsec.Cell(dataset="karate", model="gcn", defense=QUICK)
    assert any("uses no edges" in problem for problem in cell.problems())
    with pytest.raises(ValueError, match="cap must be a bound on degrees"):
        fitted(heard="bound", cap=3)
    with pytest.raises(ValueError, match="undirected"):
        fitted(directed())


def directed() -> Graph:
    return Graph.from_edges(
        torch.tensor([[0, 1, 2], [1, 2, 3]]), 4, x=torch.eye(4), y=torch.tensor([0, 1, 0, 1]),
        split=[[0, 1], [2], [3]], directed=True,
    )  # fmt: skip
