"""Soft Medoid and weighted-median aggregation: robust stand-ins for the weighted sum."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphsec.ops.adj import Adj, edge_softmax, propagate
from graphsec.ops.functions import sddmm
from graphsec.ops.median import by_head, replace_weight, segment_median
from graphsec.ops.structure import CSR, Pairs, outside_transforms


def median_sum(adj: Adj, h: Tensor) -> Tensor:
    """Weighted median of each neighbourhood, dimension by dimension, times the row's weight.

    In the weights the median has derivative 0 (see ``segment_median``) and the row's weight 1.

    Args:
        adj: Adjacency or operator with weights ≥ 0, (E,) or (E, heads).
        h: (cols, width) or (cols, heads, width).

    Returns:
        (rows, …) like h. First order in h and the weights.
    """
    return by_head(lambda one, x: segment_median(one, x) * _total(one), adj, h)


def soft_medoid(adj: Adj, h: Tensor, k: int = 64, temperature: float = 1.0) -> Tensor:
    """Soft Medoid of the ``k`` heaviest neighbours (Geisler et al. 2020, §3; 2021, §4).

    A neighbour j counts by its weight times exp(−c_j/T), where c_j = Σ_l a_l ‖x_j − x_l‖ over
    the k heaviest; the result is rescaled to the total weight of the whole row. T → ∞ with
    k at least the row's length is the plain weighted sum, T → 0 the medoid.

    Distances are held for all pairs within a row's heaviest: Σ_rows min(k, degree)² numbers. An
    absent entry gets a cost too if the row has fewer than k others, since it would be taken: at
    most k numbers more for each candidate of a structure attack.

    Args:
        adj: Adjacency or operator with weights ≥ 0, (E,) or (E, heads).
        h: (cols, width) or (cols, heads, width).
        k: Entries a row; among equal weights the smaller column is taken.
        temperature: T > 0; with ``math.inf`` all k count by their weight alone.

    Returns:
        (rows, …) like h; differentiable in h and the weights up to the choice of the k.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if k < 1:
        raise ValueError(f"k must be ≥ 1, got {k}")
    return by_head(lambda one, x: _soft_medoid(one, x, k, temperature), adj, h)


def _total(adj: Adj) -> Tensor:
    """(rows, 1) weight of each row."""
    assert adj.weight is not None
    zeros = adj.weight.new_zeros(adj.num_nodes)
    return zeros.index_add(0, adj.csr.coo[0], adj.weight).unsqueeze(-1)


def _soft_medoid(adj: Adj, h: Tensor, k: int, temperature: float) -> Tensor:
    weight = adj.weight
    assert weight is not None
    with outside_transforms():
        present = weight.detach() > 0
        kept = _heaviest(adj.csr, weight.detach(), k)
        entry, other = _within_rows(adj.csr, kept, kept & present)
    cost = torch.zeros_like(weight)
    if not math.isinf(temperature):
        apart = _distances(h, adj.csr.indices[entry], adj.csr.indices[other])
        cost = cost.index_add(0, entry, weight[other] * apart)
        # Absent entries cost the others nothing yet, but have a derivative.
        cost = cost.index_add(0, other, weight[entry] * apart * ~present[entry])
    near = replace_weight(adj, weight * kept)
    share = edge_softmax(near, cost.unsqueeze(-1) / -temperature).squeeze(-1)
    return propagate(replace_weight(adj, share), h) * _total(adj)


def _heaviest(csr: CSR, weight: Tensor, k: int) -> Tensor:
    """(E,) whether an entry is among the k heaviest of its row, or would be with any weight."""
    row, col = csr.coo
    order = col.argsort(stable=True)
    order = order[weight[order].argsort(descending=True, stable=True)]
    order = order[row[order].argsort(stable=True)]
    place = torch.empty_like(order)
    place[order] = torch.arange(csr.nnz, device=order.device) - csr.indptr[row]
    present = torch.bincount(row[weight > 0], minlength=csr.num_rows)
    return (place < k) | (present < k)[row]


def _within_rows(csr: CSR, entries: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs (entry, other) of the same row, from two masks over the entries."""
    row = csr.coo[0]
    entry, other = entries.nonzero().ravel(), others.nonzero().ravel()
    count = torch.bincount(row[other], minlength=csr.num_rows)
    start, times = count.cumsum(0) - count, count[row[entry]]
    first = torch.repeat_interleave(times.cumsum(0) - times, times)
    place = torch.arange(len(first), device=first.device) - first
    entry = torch.repeat_interleave(entry, times)
    return entry, other[start[row[entry]] + place]


def _distances(h: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """‖h_u − h_v‖ of each pair, without holding the differences.

    sqrt has no derivative at 0: pairs that are equal up to rounding have distance 0 and pass
    nothing on.
    """
    centred = (h - h.detach().mean(0)).unsqueeze(1)  # changes no distance, but keeps squares small
    length = centred.square().sum((1, 2))
    both = length[u] + length[v]
    dots = sddmm(Pairs(u, v, len(h), symmetric=False), centred, centred).squeeze(-1)
    square = both - 2 * dots
    apart = square.detach() > 16 * torch.finfo(h.dtype).eps * both.detach()
    return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)
