"""Weighted medians of neighbourhoods, and the Soft Median built on them."""

# mypy: disable-error-code="no-untyped-call, override, no-any-return"
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from graphsec.ops.adj import Adj, edge_softmax, propagate
from graphsec.ops.structure import CSR, array, kernels_for

_HALF = 1 - 1e-5  # see kernels/median.py
_ABSENT = 1e-20  # smaller weights count as 0: their reciprocal would overflow


def argmedian(csr: CSR, w: Tensor, h: Tensor) -> Tensor:
    """(rows, width) entry of each row that holds the weighted lower median, −1 without weight.

    Rule for ties: the smallest value whose cumulative weight reaches half (up to a relative
    1e-5), and among entries of that value the first in the row.
    """
    kernels = kernels_for("median", w, h)
    if kernels is not None:
        out = torch.empty(csr.num_rows, h.shape[1], dtype=torch.int64)
        indptr, indices = csr.indptr.numpy(), csr.indices.numpy()
        kernels.argmedian(indptr, indices, array(w), array(h), out.numpy())
        return out
    row, col = csr.coo
    present = (w > 0).nonzero().ravel()
    row, values, weight = row[present], h[col[present]], w[present].double()
    order = values.argsort(dim=0, stable=True)
    order = order.gather(0, row[order].argsort(dim=0, stable=True))
    counts = torch.bincount(row, minlength=csr.num_rows)
    start = counts.cumsum(0) - counts
    reached = weight[order].cumsum(0)
    total = torch.zeros(csr.num_rows, dtype=torch.float64, device=w.device)
    total = total.index_add(0, row, weight)
    offset = total.cumsum(0) - total
    below = (reached - offset[row].unsqueeze(1)) < (0.5 * _HALF * total)[row].unsqueeze(1)
    skip = torch.zeros(csr.num_rows, h.shape[1], dtype=torch.int64, device=w.device)
    skip = skip.index_add(0, row, below.long())
    place = (start.unsqueeze(1) + skip).clamp(max=max(len(row) - 1, 0))
    if len(row) == 0:
        return skip - 1
    entry = present[order.gather(0, place)]
    # Stable sorting keeps the row's order among equals only from the first of them on.
    median = h[col_of(csr, entry), torch.arange(h.shape[1], device=h.device)]
    first = torch.full_like(entry, csr.nnz)
    same = values == median[row]
    candidates = torch.where(same, present.unsqueeze(1), csr.nnz)
    first = first.scatter_reduce(0, row.unsqueeze(1).expand_as(same), candidates, "amin")
    first = torch.where(first == csr.nnz, entry, first)  # NaN equals nothing, itself included
    return torch.where((counts == 0).unsqueeze(1), -1, first)


def col_of(csr: CSR, entry: Tensor) -> Tensor:
    """Column of each entry."""
    return csr.indices[entry]


def segment_median(adj: Adj, h: Tensor) -> Tensor:
    """Weighted lower median of each neighbourhood, dimension by dimension.

    First order: the gradient in h goes to the entry that is the median (ties: see
    ``argmedian``); in the weights it is 0 almost everywhere, and taken as 0.

    Args:
        adj: Adjacency; merged first if it has loops, factors or candidate pairs.
        h: (cols, width).

    Returns:
        (rows, width); 0 for a node without neighbours.
    """
    merged = adj.merged()
    assert merged.weight is not None
    if merged.csr.nnz == 0:
        return h.new_zeros(adj.num_nodes, h.shape[1])
    with torch.no_grad():
        entry = argmedian(merged.csr, merged.weight, h)
    node = merged.csr.indices[entry.clamp(min=0)]
    return torch.where(entry >= 0, h.gather(0, node), 0.0)


class _SoftMedian(Function):
    """Fused Soft Median on CPU; first order."""

    @staticmethod
    def forward(ctx: Any, csr: CSR, w: Tensor, h: Tensor, scale: float) -> Tensor:
        kernels = kernels_for("median", w, h)
        assert kernels is not None
        arg = np.empty((csr.num_rows, h.shape[1]), np.int32 if csr.nnz < 2**31 else np.int64)
        out = h.new_empty(csr.num_rows, h.shape[1])
        ratio, distance = (array(torch.empty_like(w)) for _ in range(2))
        total = array(h.new_empty(csr.num_rows))
        wn, hn = array(w), array(h)
        base = (csr.indptr.numpy(), csr.indices.numpy(), wn, hn, wn.dtype.type(scale), arg)
        kernels.soft_median(*base, out.numpy(), ratio, distance, total)
        # A detached alias: an output kept on its own node would never be freed.
        ctx.saved = (kernels, base, array(out), ratio, distance, total)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor, Tensor, None]:
        kernels, base, out, ratio, distance, total = ctx.saved
        wn, hn = base[2:4]
        gw, gh = np.empty_like(wn), np.zeros_like(hn)
        kernels.soft_median_backward(*base, out, ratio, distance, total, array(g), gw, gh)
        return None, torch.from_numpy(gw), torch.from_numpy(gh), None


def soft_median(adj: Adj, h: Tensor, temperature: float = 1.0) -> Tensor:
    """Soft Median aggregation (Geisler et al. 2021, eq. 5–7).

    A neighbour counts by its weight times exp(−c/T), c its distance to the dimension-wise
    weighted median divided by √width; the result is rescaled to the row's total weight.
    T → ∞ is the plain weighted sum, T → 0 the neighbour nearest to the median.

    Args:
        adj: Adjacency or operator with weights ≥ 0, (E,) or (E, heads).
        h: (cols, width) or (cols, heads, width).
        temperature: T > 0; ``math.inf`` gives the sum itself.

    Returns:
        (rows, …) like h. First order in h and the weights.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if math.isinf(temperature):
        return propagate(adj, h)
    return by_head(lambda one, x: _one_head(one, x, temperature), adj, h)


def by_head(aggregate: Callable[[Adj, Tensor], Tensor], adj: Adj, h: Tensor) -> Tensor:
    """An aggregation of (cols, width), applied to each head with the weights of that head."""
    merged = adj.merged()
    assert merged.weight is not None
    weight = merged.weight.to(h.dtype)
    if h.dim() == 2:
        return aggregate(replace_weight(merged, weight), h)
    heads = h.shape[1]
    weight = (weight if weight.dim() == 2 else weight.unsqueeze(-1)).expand(-1, heads)
    parts = [aggregate(replace_weight(merged, weight[:, q]), h[:, q]) for q in range(heads)]
    return torch.stack(parts, dim=1)


def _one_head(adj: Adj, h: Tensor, temperature: float) -> Tensor:
    csr, weight = adj.csr, adj.weight
    assert weight is not None
    scale = 1 / (temperature * math.sqrt(h.shape[1]))
    weight = weight - (weight * (weight <= _ABSENT)).detach()  # gradients still reach them
    if kernels_for("median", weight, h) is not None:
        return _SoftMedian.apply(csr, weight, h, scale)
    adj = replace_weight(adj, weight)
    median = segment_median(adj, h)
    row, col = csr.coo
    square = (h[col] - median[row]).square().sum(1)
    # sqrt has no derivative at 0: an entry at the median has distance 0 and passes nothing on.
    distance = torch.where(square > 1e-24, square.clamp(min=1e-24).sqrt(), 0.0)
    share = edge_softmax(adj, -scale * distance.unsqueeze(-1))
    total = h.new_zeros(csr.num_rows).index_add(0, row, weight)
    return propagate(replace_weight(adj, share.squeeze(-1)), h) * total.unsqueeze(-1)


def replace_weight(adj: Adj, weight: Tensor) -> Adj:
    """The adjacency with another weight on each entry."""
    return Adj(csr=adj.csr, weight=weight, final=adj.final)
