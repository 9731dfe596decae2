"""Games: what is secret, drawn before training."""

from __future__ import annotations

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


def test_membership_of_a_given_size() -> None:
    graph = tiny_graphs()["blocks"]
    known, secret = graphsec.play({"name": "membership", "members": 5}, graph)
    assert secret is not None
    assert known.split is not None
    assert (len(known.split.train), len(secret.answer)) == (5, 10)
