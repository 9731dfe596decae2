"""Neighbourhood samples."""

from __future__ import annotations

import pytest
import torch

from graphsec.graph import Graph
from graphsec.ops import Adj, Features, propagate
from graphsec.rng import Rng
from graphsec.sampling import batches, sample, take
from graphsec.testing import tiny_graphs

GRAPHS = pytest.mark.parametrize("graph", tiny_graphs().values(), ids=list(tiny_graphs()))
ROOTS = torch.tensor([5, 0, 17])


def through(graph: Graph, adj: Adj, nodes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    h = x[nodes]
    for hop in adj.hops:
        h = propagate(hop, h)
    return h


@GRAPHS
@pytest.mark.parametrize("separate", [False, True])
def test_full_fan_out_is_exact(graph: Graph, separate: bool) -> None:
    x = torch.linspace(-1, 1, graph.num_nodes).unsqueeze(1)
    nodes, adj = sample(graph.adj, ROOTS, [-1, -1], Rng(0), separate=separate)
    whole = propagate(graph.adj, propagate(graph.adj, x))[ROOTS]
    torch.testing.assert_close(through(graph, adj, nodes, x), whole, rtol=1e-4, atol=1e-5)
    assert [hop.csr.num_rows for hop in adj.hops][-1] == len(ROOTS)
    assert adj.hops[0].csr.num_rows == adj.hops[1].csr.num_cols


@GRAPHS
def test_fan_out_is_kept_and_real(graph: Graph) -> None:
    nodes, adj = sample(graph.adj, ROOTS, [3, 2], Rng(0))
    for hop, most in zip(adj.hops, [3, 2], strict=True):
        assert int(hop.csr.indptr.diff().max()) <= most
    row, col = adj.hops[0].csr.coo
    assert graph.has_edges(torch.stack([nodes[row], nodes[col]])).all()
    assert len(set(nodes.tolist())) == len(nodes)


def test_sampled_sums_are_unbiased() -> None:
    graph = tiny_graphs()["weighted"]
    x = torch.linspace(0, 1, graph.num_nodes).unsqueeze(1)
    whole = propagate(graph.adj, x)[ROOTS]
    total = torch.zeros_like(whole)
    for i in range(600):
        nodes, adj = sample(graph.adj, ROOTS, [2], Rng(0)[i])
        total += through(graph, adj, nodes, x)
    torch.testing.assert_close(total / 600, whole, rtol=0.08, atol=0.02)


@GRAPHS
def test_subtrees_are_kept_apart(graph: Graph) -> None:
    """No copy of a node is shared between roots, so one root's gradient stays its own."""
    nodes, adj = sample(graph.adj, ROOTS, [-1, -1], Rng(0), separate=True)
    assert adj.owner is not None
    assert len(adj.owner) == len(nodes)
    h = torch.ones(len(nodes), 1, requires_grad=True)
    out = h
    for hop in adj.hops:
        out = propagate(hop, out)
    for i in range(len(ROOTS)):
        (slope,) = torch.autograd.grad(out[i].sum(), h, retain_graph=True)
        assert (slope[adj.owner != i] == 0).all()


def test_batches_cover_every_node_once() -> None:
    graph = tiny_graphs()["blocks"]
    every = torch.arange(0, 90, 2)
    seen = [roots for roots, _, _ in batches(graph.adj, every, 7, [-1], Rng(0))]
    assert [len(roots) for roots in seen] == [7] * 6 + [3]
    assert torch.cat(seen).sort().values.equal(every)
    assert not torch.cat(seen).equal(every)
    still = [roots for roots, _, _ in batches(graph.adj, every, 7, [-1], Rng(0), shuffle=False)]
    assert torch.cat(still).equal(every)


def test_same_stream_same_sample() -> None:
    graph = tiny_graphs()["blocks"]
    one, two, other = (sample(graph.adj, ROOTS, [2, 2], Rng(s))[0] for s in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_take_keeps_sparse_features_sparse() -> None:
    graph = tiny_graphs()["karate"]
    assert graph.x is not None
    taken = take(graph.x, ROOTS)
    assert isinstance(taken, Features)
    assert torch.equal(taken.to_dense(), graph.x.to_dense()[ROOTS])
