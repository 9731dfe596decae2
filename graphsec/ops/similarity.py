"""Similarity of the features of node pairs, in memory linear in the pairs."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from graphsec.ops.linear import Features
from graphsec.ops.structure import CSR, array, kernels_for

Measure = Literal["jaccard", "cosine"]


@torch.no_grad()
def pair_similarity(x: Tensor | Features, pairs: Tensor, measure: Measure) -> Tensor:
    """Similarity of the rows of each pair.

    Args:
        x: (n, d) dense or sparse features.
        pairs: (2, k); sorted by the first node they are fast.
        measure: "jaccard": common non-zeros over all non-zeros; "cosine": angle.

    Returns:
        (k,) float32; 0 where a row is empty.
    """
    if isinstance(x, Tensor) and x.layout != torch.strided:
        x = Features.of(x)
    common, dots, count, square = _sparse(x, pairs) if isinstance(x, Features) else _dense(x, pairs)
    u, v = pairs
    if measure == "jaccard":
        union = count[u] + count[v] - common
        return torch.where(union > 0, common / union.clamp(min=1), 0.0)
    norm = (square[u] * square[v]).sqrt()
    return torch.where(norm > 0, dots / norm.clamp(min=1e-30), 0.0)


def edge_similarity(x: Tensor | Features, csr: CSR, measure: Measure) -> Tensor:
    """(entries,) similarity of row and column of each entry; an edge is looked at once."""
    row, col = csr.coo
    if not csr.symmetric:
        return pair_similarity(x, torch.stack([row, col]), measure)
    mirror, once = csr.T.eid, row <= col
    assert mirror is not None
    similar = pair_similarity(x, torch.stack([row[once], col[once]]), measure)
    every = similar.new_zeros(csr.nnz).masked_scatter(once, similar)
    return torch.where(once, every, every[mirror])


def _sparse(x: Features, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count, square = x.row_counts, x.row_squares
    kernels = kernels_for("similarity", x.values)
    if kernels is None:
        common, dots, _, _ = _dense(x.to_dense(), pairs)
        return common, dots, count, square
    common, dots = torch.empty(pairs.shape[1]), torch.empty(pairs.shape[1])
    values, width = array(x.values), x.csr.num_cols
    kernels.overlap(
        x.csr.indptr.numpy(), x.csr.indices.numpy(), values,
        pairs[0].contiguous().numpy(), pairs[1].contiguous().numpy(),
        np.zeros(width, values.dtype), np.zeros(width, np.int64), common.numpy(), dots.numpy(),
    )  # fmt: skip
    return common, dots, count, square


def _dense(x: Tensor, pairs: Tensor, chunk: int = 65_536) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    present = (x != 0).to(x.dtype)
    common, dots = [], []
    for start in range(0, pairs.shape[1], chunk):
        u, v = pairs[:, start : start + chunk]
        common.append((present[u] * present[v]).sum(1))
        dots.append((x[u] * x[v]).sum(1))
    empty = x.new_zeros(0)
    counts, squares = present.sum(1), x.square().sum(1)
    return torch.cat([*common, empty]), torch.cat([*dots, empty]), counts, squares
