"""The nodes around each root that random walks from it visit most, without a dense matrix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from graphsec.ops.adj import Adj
from graphsec.ops.structure import CSR, kernels_for, outside_transforms

_AT_ONCE = 65_536  # roots of ``ranked`` between which memory is given back


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
    nodes, scores, counts = _best(adj, roots, most, threshold, teleport, epsilon)
    inside = torch.from_numpy(np.arange(most)) < counts.unsqueeze(1)
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return indptr, nodes[inside], scores[inside]


def _best(
    adj: Adj, roots: Tensor, most: int, threshold: float, teleport: float, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(nodes (B, most), scores (B, most), how many of them (B,)) of each root."""
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
    return nodes, scores, counts


@torch.no_grad()
def ranked(adj: Adj, roots: Tensor, most: int, teleport: float, epsilon: float) -> Adj:
    """Rows of personalised PageRank: a finished operator from all nodes to ``roots``.

    Rows are computed once and kept with the adjacency, unless it has candidate pairs. Memory is
    linear in rows computed so far times ``most``.

    Args:
        adj: Plain adjacency; candidate pairs count with the weight that they have.
        roots: (B,) nodes.
        most: Largest number of entries a row.
        teleport: Probability of starting again, in (0, 1].
        epsilon: Mass that may stay where it is, per unit of degree: rows add up to less than one.

    Returns:
        (B rows, n columns), the root's own entry first, then by falling score; no gradients.

    Source: Bojchevski et al., Scaling Graph Neural Networks with Approximate PageRank, KDD 2020,
    algorithm 1.
    """
    if adj.factors is not None:
        raise ValueError("adj must be sparse for PageRank by pushes, got a low-rank one")
    most = min(most, adj.num_nodes)
    with outside_transforms():
        if adj.block is not None:
            adj = replace(adj.merged().pruned(), final=False)
        cache: dict[tuple[int, float, float], _Rows] = adj.__dict__.setdefault("_ranked", {})
        key = (most, teleport, epsilon)
        if key not in cache:
            cache[key] = _Rows(adj.num_nodes, most)
        return cache[key].take(adj, roots, teleport, epsilon)


class _Rows:
    """Rows found so far; memory that was never written to is never taken."""

    def __init__(self, n: int, most: int) -> None:
        self.nodes = torch.empty(n, most, dtype=torch.int32)
        self.scores = torch.empty(n, most)
        self.counts = torch.zeros(n, dtype=torch.int64)

    def take(self, adj: Adj, roots: Tensor, teleport: float, epsilon: float) -> Adj:
        """The rows of ``roots``; those not found yet are."""
        most = self.nodes.shape[1]
        for part in torch.split(torch.unique(roots[self.counts[roots] == 0]), _AT_ONCE):
            nodes, scores, counts = _best(adj, part, most, 0.0, teleport, epsilon)
            self.nodes[part], self.scores[part] = nodes.int(), scores.float()
            self.counts[part] = counts
        counts = self.counts[roots]
        inside = torch.arange(most) < counts.unsqueeze(1)
        indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        csr = CSR(indptr, self.nodes[roots][inside].long(), adj.num_nodes)
        return Adj(csr=csr, weight=self.scores[roots][inside], final=True)


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
