"""Games: what is secret, drawn before training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graphsec
from graphsec.graph import Graph
from graphsec.testing import tiny_graphs

GRAPHS = pytest.mark.parametrize("graph", tiny_graphs().values(), ids=list(tiny_graphs()))


def test_open_has_no_secret() -> None:
    graph = tiny_graphs()["blocks"]
    assert graphsec.play("open", graph) == (graph, None)


@GRAPHS
@pytest.mark.parametrize("pairs", [10_000, 7])
def test_links(graph: Graph, pairs: int) -> None:
    known, secret = graphsec.play({"name": "links", "pairs": pairs}, graph, seed=2)
    assert secret is not None
    assert known is graph
    count = min(pairs, graph.num_edges)
    assert int(secret.answer.sum()) == count
    assert secret.question.shape == (2, 2 * count)
    assert torch.equal(graph.has_edges(secret.question), secret.answer.bool())
    assert (secret.question[0] < secret.question[1]).all()
    codes = secret.question[0] * graph.num_nodes + secret.question[1]
    assert len(set(codes.tolist())) == 2 * count
    again = graphsec.play({"name": "links", "pairs": pairs}, graph, seed=2)[1]
    assert again is not None
    assert torch.equal(again.question, secret.question)


@GRAPHS
@pytest.mark.parametrize("game", [{}, {"pairs": 7}, {"ask": "all"}, {"ask": "all", "pairs": 50}])
@pytest.mark.parametrize("reveal", [0.001, 0.3, 0.9])
def test_examples_are_never_in_question(graph: Graph, game: dict[str, Any], reveal: float) -> None:
    _, secret = graphsec.play({"name": "links", "reveal": reveal, **game}, graph, seed=1)
    assert secret is not None
    assert secret.examples is not None
    pairs, answers = secret.examples
    edges = max(1, round(reveal * graph.num_edges))
    assert (int(answers.sum()), len(answers)) == (edges, 2 * edges)
    assert torch.equal(graph.has_edges(pairs), answers.bool())
    assert torch.equal(graph.has_edges(secret.question), secret.answer.bool())
    codes = torch.cat([pairs, secret.question], 1)
    assert len(set(map(tuple, codes.T.tolist()))) == codes.shape[1]
    left = graph.num_edges - edges
    if game.get("ask") != "all":
        assert int(secret.answer.sum()) == min(game.get("pairs", 10_000), left)
    elif "pairs" not in game:
        assert int(secret.answer.sum()) == left


@GRAPHS
@pytest.mark.parametrize("ask", ["balanced", "all"])
def test_revealing_nothing_changes_nothing(graph: Graph, ask: str) -> None:
    played = [
        graphsec.play({"name": "links", "ask": ask, **more}, graph, seed=4)[1]
        for more in ({}, {"reveal": 0})
    ]
    assert played[0] is not None
    assert played[1] is not None
    assert played[0].examples is played[1].examples is None
    assert torch.equal(played[0].question, played[1].question)


def test_the_question_is_that_of_version_1() -> None:
    """The first pairs asked about for a seed, before the game could reveal anything."""
    _, secret = graphsec.play("links", tiny_graphs()["karate"], seed=0)
    assert secret is not None
    assert secret.question[:, :4].tolist() == [[18, 18, 27, 8], [33, 19, 33, 23]]


def test_something_must_be_left_to_ask_about() -> None:
    graph = tiny_graphs()["karate"]
    with pytest.raises(ValueError, match="leaves none of the 78 edges"):
        graphsec.play({"name": "links", "reveal": 0.999}, graph)


def test_links_of_a_dense_graph_asks_what_there_is() -> None:
    u, v = torch.triu_indices(6, 6, 1)
    graph = Graph.from_edges(torch.stack([u, v])[:, :-2], 6)
    _, secret = graphsec.play("links", graph)
    assert secret is not None
    assert (int(secret.answer.sum()), len(secret.answer)) == (13, 15)


@GRAPHS
def test_membership(graph: Graph) -> None:
    known, secret = graphsec.play("membership", graph, seed=1)
    assert secret is not None
    assert known.split is not None
    assert graph.split is not None
    members = secret.question[secret.answer == 1]
    others = secret.question[secret.answer == 0]
    assert len(members) == len(others)
    assert set(members.tolist()) == set(known.split.train.tolist())
    assert set(others.tolist()) <= set(known.split.test.tolist())
    assert torch.equal(known.split.val, graph.split.val)
    pool = torch.cat([graph.split.train, graph.split.test])
    assert torch.cat([known.split.train, known.split.test]).sort().values.equal(pool.sort().values)
    assert known.y is graph.y
    assert (secret.question.diff() > 0).all()  # the order tells nothing


def test_membership_by_coins() -> None:
    graph = tiny_graphs()["blocks"]
    drawn = []
    for seed in range(20):
        game = {"name": "membership", "draw": "coin"}
        known, secret = graphsec.play(game, graph, seed=seed)
        assert secret is not None
        assert known.split is not None
        members = secret.question[secret.answer == 1]
        assert torch.equal(members, known.split.train)
        assert len(secret.question) == 60
        drawn.append(len(members))
    assert len(set(drawn)) > 3
    assert 26 < sum(drawn) / 20 < 34  # 30, standard error .87


def test_nobody_asks_about_nodes_without_a_label() -> None:
    graph = tiny_graphs()["blocks"]
    assert graph.y is not None
    y = graph.y.clone()
    y[::3] = -1
    known, secret = graphsec.play("membership", graph.replace(y=y))
    assert secret is not None
    assert known.split is not None
    assert (y[secret.question] >= 0).all()
    assert (y[known.split.train] >= 0).all()


def test_membership_of_a_given_size() -> None:
    graph = tiny_graphs()["blocks"]
    known, secret = graphsec.play({"name": "membership", "members": 5}, graph)
    assert secret is not None
    assert known.split is not None
    assert (len(known.split.train), len(secret.answer)) == (5, 10)
