"""The nodes around each root that random walks from it visit most, without a dense matrix."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphsec.ops.adj import Adj
from graphsec.ops.structure import kernels_for


@torch.no_grad()
def visited(
    adj: Adj, roots: Tensor, *, most: int, threshold: float, teleport: float, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The nodes with the largest personalised PageRank of each root, the root among them.

    Walks go from a receiving node to those that send to it. Scores are from below, and by at most
    ε times the sum of degrees in all; without numba they are iterated until less than ε is left.

    Args:
        adj: Plain adjacency, without candidate pairs.
        roots: (B,) nodes.
        most: Largest number of nodes a root.
        threshold: Leave out nodes with less than this share of the score of the best node other
            than the root.
        teleport: Probability of starting again, in (0, 1].
        epsilon: Mass that may stay where it is, per unit of degree.

    Returns:
        (indptr (B + 1,), nodes, scores): ragged, the root first, then by falling score.

    Source: Andersen, Chung & Lang, Local Graph Partitioning using PageRank Vectors, FOCS 2006, §3
    (without the lazy steps).
    """
    most = max(1, min(most, adj.num_nodes))
    shape = (len(roots), most)
    nodes, scores = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.float64)
    counts = torch.zeros(len(roots), dtype=torch.int64)
    degree = adj.degrees().double()
    kernels = kernels_for("push", adj.weight, degree)
    if kernels is None:
        _iterate(adj, roots, degree, threshold, teleport, epsilon, nodes, scores, counts)
    else:
        weight = None if adj.weight is None else adj.weight.detach().double().numpy()
        kernels.push(
            adj.csr.indptr.numpy(), adj.csr.indices.numpy(), weight, degree.numpy(),
            roots.contiguous().numpy(), teleport, epsilon, threshold,
            nodes.numpy(), scores.numpy(), counts.numpy(),
        )  # fmt: skip
    inside = torch.from_numpy(np.arange(most)) < counts.unsqueeze(1)
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return indptr, nodes[inside], scores[inside]


def _iterate(
    adj: Adj, roots: Tensor, degree: Tensor, threshold: float, teleport: float, epsilon: float,
    nodes: Tensor, scores: Tensor, counts: Tensor,
) -> None:  # fmt: skip
    """The same in plain torch, all nodes of some roots at a time."""
    row, col = adj.csr.coo
    share = 1 / degree[row] if adj.weight is None else adj.weight.detach().double() / degree[row]
    for start in range(0, len(roots), 256):
        part = roots[start : start + 256]
        waiting = torch.zeros(adj.num_nodes, len(part), dtype=torch.float64)
        waiting[part, torch.arange(len(part))] = 1
        kept = torch.zeros_like(waiting)
        while waiting.numel() and float(waiting.sum(0).max()) > epsilon:
            kept += torch.where(degree.unsqueeze(1) > 0, teleport, 1.0) * waiting
            moved = (1 - teleport) * waiting[row] * share.unsqueeze(1)
            waiting = torch.zeros_like(waiting).index_add_(0, col, moved)
        own = kept[part, torch.arange(len(part))]
        kept[part, torch.arange(len(part))] = -1
        best = kept.amax(0) if kept.numel() else own
        kept = torch.where((kept > 0) & (kept >= threshold * best), kept, -1)
        kept[part, torch.arange(len(part))] = torch.inf
        top, index = kept.topk(nodes.shape[1], dim=0)
        top[0] = own
        nodes[start : start + 256], scores[start : start + 256] = index.T, top.T
        counts[start : start + 256] = (top >= 0).sum(0)
