"""The graph container: canonical form, edits, conversions."""

from __future__ import annotations

import dataclasses

import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphsec.graph import Graph, GraphError, Split
from graphsec.testing import tiny_graphs

GRAPHS = pytest.mark.parametrize("graph", tiny_graphs().values(), ids=list(tiny_graphs()))
edge_lists = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=30)


@given(edges=edge_lists, directed=st.booleans())
@settings(max_examples=40, deadline=None)
def test_canonical_form(edges: list[tuple[int, int]], directed: bool) -> None:
    """Any edge list gives the matrix it describes, without loops and duplicates."""
    graph = Graph.from_edges(np.array(edges, int).reshape(-1, 2).T, 8, directed=directed)
    wanted = np.zeros((8, 8))
    for u, v in edges:
        if u != v:
            wanted[u, v] = 1
            if not directed:
                wanted[v, u] = 1
    assert np.array_equal(graph.to_scipy().toarray(), wanted)
    assert graph.num_edges == wanted.sum() / (1 if directed else 2)
    assert torch.equal(graph.degree, torch.from_numpy(wanted.sum(1)).long())
    assert graph.pairs.shape == (2, graph.num_edges)
    every = torch.cartesian_prod(torch.arange(8), torch.arange(8)).T
    assert np.array_equal(graph.has_edges(every).numpy(), wanted.ravel().astype(bool))


@given(edges=edge_lists, flips=st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7))),
       directed=st.booleans())  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_flip(edges: list[tuple[int, int]], flips: set[tuple[int, int]], directed: bool) -> None:
    graph = Graph.from_edges(np.array(edges, int).reshape(-1, 2).T, 8, directed=directed)
    pairs = sorted({(u, v) if directed else (min(u, v), max(u, v)) for u, v in flips if u != v})
    array = np.array(pairs, int).reshape(-1, 2).T
    wanted = graph.to_scipy().toarray() != 0
    for u, v in pairs:
        wanted[u, v] ^= True
        if not directed:
            wanted[v, u] = wanted[u, v]
    flipped = graph.flip(array)
    assert np.array_equal(flipped.to_scipy().toarray() != 0, wanted)
    assert flipped.flip(array).fingerprint == graph.fingerprint


def test_duplicates_keep_the_first_weight_in_both_directions() -> None:
    graph = Graph.from_edges([[0, 1, 1], [1, 0, 2]], 3, edge_weight=[2.0, 5.0, 3.0])
    assert graph.to_scipy().toarray().tolist() == [[0, 2, 0], [2, 0, 3], [0, 3, 0]]


def test_flip_adds_weight_one_and_keeps_others() -> None:
    graph = tiny_graphs()["weighted"]
    flipped = graph.flip([[46], [47]])
    before, after = graph.to_scipy().toarray(), flipped.to_scipy().toarray()
    assert after[46, 47] == after[47, 46] == 1
    after[[46, 47], [47, 46]] = 0
    assert np.array_equal(before, after)


@GRAPHS
def test_fingerprint_is_of_content(graph: Graph) -> None:
    assert graph.replace(name="other").fingerprint == graph.fingerprint
    assert dataclasses.replace(graph).fingerprint == graph.fingerprint
    for changed in (graph.flip([[0], [1]]), graph.replace(split=None), graph.replace(y=None)):
        assert changed.fingerprint != graph.fingerprint
    dense = None if graph.x is None else graph.x.to_dense().clone()
    assert dense is not None
    dense[0, 0] += 1
    assert graph.replace(x=dense).fingerprint != graph.fingerprint


@GRAPHS
@pytest.mark.parametrize("library", ["dgl", "pyg", "networkx", "scipy"])
def test_round_trips(graph: Graph, library: str) -> None:
    if library == "dgl":
        pytest.importorskip("dgl", reason="DGL has no wheels for this Python")
    there = getattr(graph, f"to_{library}")()
    back = getattr(Graph, f"from_{library}")(there)
    assert torch.equal(back.indptr, graph.indptr)
    assert torch.equal(back.indices, graph.indices)
    assert (back.to_scipy() != graph.to_scipy()).nnz == 0
    assert back.directed == graph.directed
    if library in ("dgl", "pyg"):
        assert back.x is not None
        assert graph.x is not None
        assert torch.equal(back.x, graph.x.to_dense())
        assert back.y is not None
        assert graph.y is not None
        assert torch.equal(back.y, graph.y)
        assert back.split is not None
        assert graph.split is not None
        for (_, one), (_, two) in zip(back.split.items(), graph.split.items(), strict=True):
            assert torch.equal(one, two)


def test_directed_round_trips() -> None:
    graph = Graph.from_edges([[0, 1, 2, 0], [1, 2, 0, 3]], 5, directed=True)
    for back in (
        Graph.from_networkx(graph.to_networkx()),
        Graph.from_pyg(graph.to_pyg()),
        Graph.from_scipy(graph.to_scipy(), directed=True),
    ):
        assert back.fingerprint == graph.fingerprint


def test_from_scipy_drops_explicit_zeros_and_reads_weights() -> None:
    matrix = sp.csr_matrix(np.array([[0, 2.0, 0], [2.0, 0, 0], [0, 0, 0]]))
    assert Graph.from_scipy(matrix).edge_weight.tolist() == [2, 2]  # type: ignore[union-attr]
    matrix.data[:] = 0
    assert Graph.from_scipy(matrix).num_edges == 0
    assert Graph.from_networkx(nx.path_graph(4)).edge_weight is None


@GRAPHS
def test_subgraph(graph: Graph) -> None:
    order = torch.from_numpy(np.random.default_rng(0).permutation(graph.num_nodes)[:20])
    small = graph.subgraph(order)
    wanted = graph.to_scipy().toarray()[order][:, order]
    assert np.array_equal(small.to_scipy().toarray(), wanted)
    assert small.x is not None
    assert graph.x is not None
    assert torch.equal(small.x.to_dense(), graph.x.to_dense()[order])
    assert (small.x.layout == torch.sparse_csr) == (graph.x.layout == torch.sparse_csr)
    assert torch.equal(small.y, graph.y[order])  # type: ignore[index, arg-type]
    assert small.split is not None
    assert graph.split is not None
    assert set(order[small.split.train].tolist()) == set(graph.split.train.tolist()) & set(
        order.tolist()
    )


def test_isolated_nodes_and_no_edges_are_legal() -> None:
    graph = Graph.from_edges([], 3, x=np.ones((3, 2)))
    assert (graph.num_edges, graph.num_nodes) == (0, 3)
    assert graph.flip([[0], [2]]).num_edges == 1


def test_masks_and_indices_are_the_same_split() -> None:
    mask = [np.array([True, False, False]), np.array([False, True, False]), np.zeros(3, bool)]
    one, two = Split.of(*mask), Split.of([0], [1], [])
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one.items(), two.items(), strict=True))


def test_graphs_are_frozen() -> None:
    graph = tiny_graphs()["blocks"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        graph.y = None  # type: ignore[misc]
    with pytest.raises(GraphError):
        graph.replace(y=torch.zeros(3, dtype=torch.int64))
