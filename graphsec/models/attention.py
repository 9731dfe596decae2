"""Attention as an operator on states: what a diffusion equation has in place of a Laplacian."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphsec.models.stack import Linear
from graphsec.ops import CSR, Adj, edge_softmax, sddmm

Kernel = Literal["scaled-dot", "exponential", "cosine", "pearson"]
Normalizer = Literal["softmax", "squareplus"]
Shares = Literal["received", "sent"]


class Attention(Protocol):
    """X → A(X), an operator whose rows, or columns, add up to one."""

    def __call__(self, x: Tensor) -> Adj:
        """The operator at X."""
        ...

    def tensors(self) -> list[Tensor]:
        """What the operator is computed from."""
        ...


@dataclass(frozen=True, eq=False)
class Held:
    """An attention that stays what it was at the start."""

    operator: Adj

    def __call__(self, x: Tensor) -> Adj:
        """The operator, whatever X is."""
        return self.operator

    def tensors(self) -> list[Tensor]:
        """Its weights."""
        return self.operator.tensors()


class Scores(nn.Module):
    """Scores of edges in each head, from queries Q and keys K that are linear in the state.

    "scaled-dot" is QKᵀ/√d (Chamberlain et al., ICML 2021, eq. 10). The others are those of the
    published code: "exponential", v² exp(−‖q − k‖² / 2l²) with learned v and l; "cosine"; and
    "pearson", the correlation over the entries of q and k.

    Args:
        width: Width of the state.
        attention: Width of the queries of all heads together.
        heads: Number of heads.
        kernel: Which score.
    """

    def __init__(self, width: int, attention: int, heads: int, kernel: Kernel) -> None:
        super().__init__()
        self.heads, self.kernel = heads, kernel
        # All but equal scores: training starts with a plain random walk.
        self.query = Linear(width, attention, fill=1e-5)
        self.key = Linear(width, attention, fill=1e-5)
        if kernel == "exponential":
            self.variance = nn.Parameter(torch.ones(()))
            self.length = nn.Parameter(torch.ones(()))

    def forward(self, csr: CSR, x: Tensor) -> Tensor:
        """(entries, heads), from the state (n, width)."""
        q, k = (layer(x).view(len(x), self.heads, -1) for layer in (self.query, self.key))
        if self.kernel == "scaled-dot":
            return sddmm(csr, q / q.shape[-1] ** 0.5, k)
        if self.kernel == "exponential":
            return self.variance**2 * (_half_distance(csr, q, k) / -(self.length**2)).exp()
        if self.kernel == "pearson":
            q, k = (v - v.mean(-1, keepdim=True) for v in (q, k))
        return sddmm(csr, F.normalize(q, dim=-1, eps=1e-5), F.normalize(k, dim=-1, eps=1e-5))


def _half_distance(csr: CSR, q: Tensor, k: Tensor) -> Tensor:
    """‖q − k‖² / 2 at each entry, as one product: ‖q‖²/2 · 1 + 1 · ‖k‖²/2 − q · k."""
    one = torch.ones_like(q[..., :1])
    a = torch.cat([-q, q.square().sum(-1, keepdim=True) / 2, one], -1)
    b = torch.cat([k, one, k.square().sum(-1, keepdim=True) / 2], -1)
    return sddmm(csr, a, b)


@dataclass(frozen=True, eq=False)
class Attending:
    """The mean over heads of w·f(s) / Σ w·f(s).

    Attributes:
        pattern: Merged adjacency; its weights are w.
        scores: s of each entry.
        normalizer: f: exp, or squareplus, (s + √(s² + 4)) / 2, which grows linearly.
        shares: Whether the shares of what a node receives add up to one, or of what it sends.
    """

    pattern: Adj
    scores: Scores
    normalizer: Normalizer
    shares: Shares

    def __call__(self, x: Tensor) -> Adj:
        """The operator at X; weight 0 means absent."""
        csr = self.pattern.csr
        scores = self.scores(csr, x)
        if self.normalizer == "squareplus":
            scores = (scores / 2).asinh()  # whose exponential it is
        over = self.pattern if self.shares == "received" else replace(self.pattern, csr=csr.T)
        return replace(self.pattern, weight=edge_softmax(over, scores).mean(1))

    def tensors(self) -> list[Tensor]:
        """Weights of the pattern and parameters of the scores."""
        return [*self.pattern.tensors(), *self.scores.parameters()]
