"""Nodes planted to be found: worst-case neighbours of a graph, many at once.

A canary is in the training or not by a coin of its own, as a whole: node, edges, features, label.
Each has a feature of its own, which only it and its helpers hold, large enough for their gradients
to be clipped. So its part in a sum of gradients lies in the rows of the first layer's weights that
belong to that feature, where there is nothing else but noise, and canaries do not disturb each
other: their neighbourhoods don't meet.

Source: gradients along directions of their own, as in Nasr et al., Tight Auditing of Differentially
Private Machine Learning, USENIX Security 2023, and Steinke et al., Privacy Auditing with One (1)
Training Run, NeurIPS 2023 (both from memory); as nodes with such gradients, and hubs: ours.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from graphsec.graph import Graph, Split
from graphsec.graph.arrays import as_scipy, features

Shape = Literal["lone", "hub", "crowd"]
Ints = npt.NDArray[np.int64]

_CROWD = 40  # neighbours of a crowd's hub, over the bound


@dataclass(frozen=True, eq=False)
class Planted:
    """A graph with canaries.

    Attributes:
        graph: With all canaries, and their helpers, among the training nodes.
        canaries: (m,) nodes.
        columns: (m,) the feature of each.
    """

    graph: Graph
    canaries: Tensor
    columns: Tensor

    def drawn(self, inside: Tensor) -> Graph:
        """The graph without the canaries whose coin (m,) says 0; helpers stay."""
        return removed(self.graph, self.canaries[~inside.bool()])


def plant(
    graph: Graph, count: int, shape: Shape, *, degree: int, hops: int, scale: float
) -> Planted:
    """A graph with ``count`` canaries beside it.

    - "lone": a node without edges. It adds one term to the sum, of norm C.
    - "hub": the middle of a tree in which every node but the leaves has ``degree`` neighbours, as
      deep as a root sees. It turns the sums of features of all its roots from positive to negative,
      and with them the direction of their gradients.
    - "crowd", against samplers that look at degrees: a hub of ``degree`` neighbours, each of which
      has so many leaves that one neighbour more or less moves their chance to see it most. The hub
      itself is hardly seen by anybody.

    Args:
        graph: An undirected classification graph with features, labels and a split.
        count: m.
        shape: Of each.
        degree: Public bound on degrees ("crowd": K; its hub has 40 · K neighbours).
        hops: Steps that a root sees.
        scale: Of features; the gradients of their roots are about as long.

    Raises:
        ValueError: The graph can't take them.
    """
    if graph.x is None or graph.y is None or graph.split is None or graph.directed:
        raise ValueError(
            f"canaries need an undirected graph with features, labels and a split: {graph.name!r}"
        )
    if graph.task != "classification" or graph.edge_weight is not None:
        raise ValueError(
            f"canaries need unweighted edges and classes, {graph.name!r} is for {graph.task} and "
            f"has {'no ' * (graph.edge_weight is None)}weights"
        )
    edges, value = _tree(shape, degree, hops)
    size, n, width = len(value), graph.num_nodes, graph.num_features
    first = n + size * np.arange(count)
    pairs = (first[:, None, None] + edges.T[None]).reshape(-1, 2).T
    nodes = n + np.arange(size * count)
    columns = width + np.repeat(np.arange(count), size)
    own = sp.csr_matrix(
        (np.tile(scale * value, count), (np.arange(size * count), columns)),
        shape=(size * count, width + count),
    )
    old = as_scipy(graph.x)
    old = sp.csr_matrix((old.data, old.indices, old.indptr), shape=(n, width + count))
    x = features(sp.vstack([old, own]).tocsr())
    labels = np.repeat(np.arange(count) % graph.num_classes, size)
    made = Graph.from_edges(
        np.concatenate([graph.pairs.numpy(), pairs], axis=1), n + size * count,
        x=x if graph.x.layout != torch.strided else x.to_dense(),
        y=torch.cat([graph.y, torch.from_numpy(labels)]),
        split=Split.of(
            torch.cat([graph.split.train, torch.from_numpy(nodes)]),
            graph.split.val, graph.split.test,
        ),
        name=f"{graph.name} with {count} canaries ({shape})",
    )  # fmt: skip
    return Planted(made, torch.from_numpy(first), torch.arange(width, width + count))


def tree_size(shape: Shape, degree: int, hops: int) -> int:
    """Nodes of a canary with its helpers."""
    if shape == "lone":
        return 1
    if shape == "crowd":
        return 1 + _CROWD * degree * (1 + (degree + 1) // 2)
    return 1 + sum(degree * int((degree - 1) ** hop) for hop in range(hops))


def _tree(shape: Shape, degree: int, hops: int) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Edges (2, e) and feature of the nodes of a canary and its helpers; node 0 is the canary."""
    if shape == "lone":
        return np.zeros((2, 0), np.int64), np.ones(1)
    if shape == "crowd":
        # Of ℓ leaves each sees its neighbour with chance K / 2ℓ without the hub, K / 2 (ℓ + 1)
        # with it: K / 2 (ℓ + 1) fewer do so in the mean, most for the least ℓ ≥ K / 2.
        leaves, many = (degree + 1) // 2, _CROWD * degree
        edges = _level([0], many, 1) + _level(range(1, many + 1), leaves, many + 1)
        value = np.concatenate([[0.0], np.full(many, -4.0), np.ones(many * leaves)])
        return np.array(edges).T, value
    edges, level, nodes = [], [0], 1
    for hop in range(hops):
        new = _level(level, degree if hop == 0 else degree - 1, nodes)
        edges += new
        level, nodes = [child for _, child in new], nodes + len(new)
    # Under symmetric normalisation the farthest sum goes from about 1 to about −1.
    outweighs = 2.0 * (degree + 1) ** max(hops - 0.5, 0.0)
    return np.array(edges).T.reshape(2, -1), np.array([-outweighs, *[1.0] * (nodes - 1)])


def _level(parents: list[int] | range, children: int, first: int) -> list[tuple[int, int]]:
    return [
        (parent, first + i * children + j)
        for i, parent in enumerate(parents)
        for j in range(children)
    ]


def removed(graph: Graph, nodes: Tensor) -> Graph:
    """The graph without some nodes: no edges, features, label or place in the split.

    Their numbers stay, so that those of the others do.
    """
    if len(nodes) == 0:
        return graph
    assert graph.x is not None
    assert graph.y is not None
    assert graph.split is not None
    gone = torch.zeros(graph.num_nodes, dtype=torch.bool)
    gone[nodes] = True
    u, v = graph.pairs
    kept = ~gone[u] & ~gone[v]
    if graph.x.layout == torch.strided:
        x = graph.x.masked_fill(gone.unsqueeze(1), 0)
    else:
        x = features(sp.diags((~gone).float().numpy()) @ as_scipy(graph.x))
    weight = graph.edge_weight
    if weight is not None:
        row, col = graph.edge_index
        weight = weight[row < col][kept]
    rest = {
        f.name: getattr(graph, f.name)
        for f in dataclasses.fields(graph)
        if f.name not in ("indptr", "indices", "x", "y", "split", "edge_weight")
    }
    split = Split.of(*(part[~gone[part]] for _, part in graph.split.items()))
    return Graph.from_edges(
        graph.pairs[:, kept], graph.num_nodes, edge_weight=weight, x=x,
        y=graph.y.masked_fill(gone, -1), split=split, **rest,
    )  # fmt: skip
