"""Personalised PageRank: every node linked to those that walks from it reach most."""

# mypy: disable-error-code="no-untyped-call, override, no-any-return"
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from graphsec.ops.adj import Adj
from graphsec.ops.structure import CSR

LARGEST = 12_000


def personalized_pagerank(adj: Adj, alpha: float, k: int) -> Adj:
    """The ``k`` largest entries of each row of P = α (I − (1 − α) Â)^-1, rows adding up to one.

    P is computed exactly, by a dense factorisation. The result is differentiable, once, in edge
    weights and candidate pairs, up to the choice of the k entries, which has no derivative. Of an
    adjacency without gradients it is computed once and kept with it.

    Args:
        adj: Plain adjacency; Â is its symmetric normalisation with self-loops.
        alpha: Teleport probability in (0, 1).
        k: Entries a row; all if there are fewer.

    Raises:
        ValueError: There are more than 12,000 nodes.
    """
    if adj.num_nodes > LARGEST:
        raise ValueError(
            f"personalised PageRank needs at most {LARGEST} nodes (it is dense), "
            f"got {adj.num_nodes}"
        )
    if adj.requires_grad:
        return _pagerank(adj, alpha, k)
    cache: dict[tuple[float, int], Adj] = adj.__dict__.setdefault("_pagerank", {})
    if (alpha, k) not in cache:
        cache[alpha, k] = _pagerank(adj, alpha, k)
    return cache[alpha, k]


def _pagerank(adj: Adj, alpha: float, k: int) -> Adj:
    merged = adj.normalized("sym", self_loops=True).merged()
    k = min(k, adj.num_nodes)
    column, value, _ = _PageRank.apply(merged.csr, merged.weight, alpha, k)
    value = value / value.sum(1, keepdim=True)
    csr = CSR(torch.arange(adj.num_nodes + 1) * k, column.reshape(-1), adj.num_nodes)
    return Adj(csr=csr, weight=value.reshape(-1), final=True)


class _PageRank(Function):
    """(pattern and weights of an operator) → columns and values (n, k) of P's rows, P."""

    @staticmethod
    def forward(csr: CSR, weight: Tensor, alpha: float, k: int) -> tuple[Tensor, Tensor, Tensor]:
        n = csr.num_rows
        entry = weight.nonzero().ravel()  # most candidate pairs have weight 0
        row, col = csr.coo[0][entry], csr.coo[1][entry]
        matrix = torch.zeros(n, n, dtype=weight.dtype)
        matrix.index_put_((row, col), (alpha - 1) * weight[entry], accumulate=True)
        matrix.diagonal().add_(1)
        p = alpha * _inverse(matrix, row, col)
        value, column = p.topk(k, dim=1)
        column, order = column.sort(dim=1)
        return column, value.gather(1, order).clamp(min=0), p

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.csr, _, ctx.alpha, _ = inputs
        column, _, p = output
        ctx.mark_non_differentiable(column, p)
        ctx.save_for_backward(column, p)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, g: Tensor, __: Tensor) -> tuple[None, Tensor, None, None]:
        csr, alpha = ctx.csr, ctx.alpha
        column, p = ctx.saved_tensors
        n, k = column.shape
        # dP = (1 − α)/α · P dÂ P, so dÂ gets (1 − α)/α · Pᵀ G Pᵀ.
        flipped = p.T.contiguous()
        chosen = CSR(torch.arange(n + 1) * k, column.reshape(-1), n)
        right = chosen.multiply(g.reshape(-1, 1), flipped.unsqueeze(1)).squeeze(1)
        row, col = csr.coo
        if csr.nnz > n * n / 4:
            full = flipped @ right
            return None, (1 - alpha) / alpha * full[row, col], None, None
        dots = csr.dots(flipped.unsqueeze(1), right.T.contiguous().unsqueeze(1)).squeeze(1)
        return None, (1 - alpha) / alpha * dots, None, None


def _inverse(matrix: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """The inverse of I − (1 − α) Â, whose entries off the diagonal are at (row, col).

    It is positive definite where the graph is undirected, so that Â is symmetric up to rounding.
    """
    rounding = 8 * torch.finfo(matrix.dtype).eps
    if torch.allclose(matrix[row, col], matrix[col, row], rtol=0, atol=rounding):
        return torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    return torch.linalg.inv(matrix)
