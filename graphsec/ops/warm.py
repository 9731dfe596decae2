"""Compile the CPU kernels ahead of time: ``python -m graphsec.ops.warm``.

Numba keeps what it compiled on disk, so that this is needed once an installation; without it
the first training and the first attack of a fresh installation compile as they go.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch

from graphsec.graph import Graph
from graphsec.kernels.projection import budget_shift
from graphsec.ops.adj import edge_scores, edge_softmax, propagate
from graphsec.ops.flips import TwoHop
from graphsec.ops.linear import linear
from graphsec.ops.median import soft_median
from graphsec.ops.push import visited
from graphsec.ops.similarity import pair_similarity


def warm() -> None:
    """Run every kernel once, forwards and backwards, on a graph of four nodes."""
    x = sp.identity(4, format="csr")
    graph = Graph.from_edges([[0, 1, 2, 3], [1, 2, 3, 0]], 4, x=x)
    assert graph.x is not None
    weight = torch.rand(4, 16, requires_grad=True)
    p = torch.tensor([0.5, 0.5], requires_grad=True)
    pairs = torch.tensor([[0, 0], [1, 2]])
    h = linear(graph.x, weight)
    adj = graph.adj.with_block(pairs, p)
    total = propagate(graph.adj.normalized(), h).sum() + propagate(adj.normalized(), h).sum()
    total = total + soft_median(adj.normalized(), h).sum()
    merged = adj.merged(self_loops=True)
    heads = h.view(4, 2, 8)
    attention = edge_softmax(merged, edge_scores(merged.csr, heads.sum(-1), heads.sum(-1)))
    total = total + propagate(replace(merged, weight=attention), heads).sum()
    total.backward()  # type: ignore[no-untyped-call]
    pair_similarity(graph.x, pairs, "jaccard")
    budget_shift(np.ones(2, np.float32), 1.0)
    model = TwoHop(graph.to_scipy(), np.ones(4), 0.0, np.ones(4), np.array([0, 0, 1, 1]))
    model.effects(pairs.numpy())
    for one in (graph.adj, replace(graph.adj, weight=torch.ones(graph.adj.csr.nnz))):
        visited(one, pairs[0], most=2, threshold=0.01, teleport=0.15, epsilon=1e-6)


if __name__ == "__main__":
    warm()
