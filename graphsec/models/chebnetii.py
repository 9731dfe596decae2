"""Chebyshev interpolation of a graph filter (He et al., NeurIPS 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from graphsec.models.base import GNN, Sizes
from graphsec.models.stack import Decoupled, DecoupledSpec
from graphsec.ops import Adj, Features, dropout
from graphsec.registry import MODELS, Range


class ChebNetII(Decoupled):
    """Z = Σ_k c_k T_k(L̂) H₀, the filter's values at the Chebyshev nodes trained (He et al., eq. 8).

    L̂ = L − I = −D^-½ A D^-½, without self-loops. c_k = 2/(K+1) Σ_j γ_j T_k(x_j), halved for
    k = 0, at x_j = cos((j + ½)π/(K + 1)); γ_j ≥ 0. The sum is Clenshaw's recursion, which keeps
    two states: a layer's output holds both, side by side.
    """

    basis: Tensor

    def __init__(self, sizes: Sizes, spec: ChebNetIISpec) -> None:
        super().__init__(sizes, spec.hidden, spec.depth, spec.hops, spec.dropout)
        self.p_hop, self.filter_lr = spec.hop_dropout, spec.filter_lr
        count = spec.hops + 1
        angle = (torch.arange(count) + 0.5) * math.pi / count
        basis = 2 / count * torch.cos(torch.arange(count).unsqueeze(1) * angle)
        basis[0] /= 2
        self.register_buffer("basis", basis, persistent=False)
        self.gamma = nn.Parameter(torch.ones(count))

    def operator(self, adj: Adj) -> Adj:
        """−L̂: the symmetric normalisation without self-loops."""
        return adj.normalized("sym", self_loops=False)

    def encode(self, x: Tensor | Features) -> Tensor:
        """Class scores, with dropout before they are propagated."""
        scores = dropout(super().encode(x), self.p_hop, self.training)
        assert isinstance(scores, Tensor)
        return scores

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """b_k = c_k H₀ + 2 L̂ b_{k+1} − b_{k+2}; the last is c_0 H₀ + L̂ b_1 − b_2."""
        assert isinstance(h, Tensor)
        assert isinstance(x, Tensor)
        assert self.gamma is not None
        c = self.basis @ self.gamma.relu()
        k, n = len(c) - 2 - i, adj.num_nodes
        if i == 0:
            near, far = c[-1] * x, torch.zeros_like(x)
        else:
            near, far = h.chunk(2, 1)
        step = c[k] * x[:n] - far[:n]
        shifted = self.aggregate(adj, near)
        if k == 0:
            return step - shifted
        return torch.cat([step - 2 * shifted, near[:n]], 1)


@MODELS.register("chebnetii", "chebnet2")
@dataclass(frozen=True, kw_only=True)
class ChebNetIISpec(DecoupledSpec):
    """ChebNetII: any filter up to degree K, without the wiggles of free Chebyshev coefficients.

    Source: He, Wei & Wen, Convolutional Neural Networks on Graphs with Chebyshev Approximation,
    Revisited, NeurIPS 2022, eq. 8 and §5: K = 10.
    """

    module: ClassVar[type[GNN]] = ChebNetII

    hop_dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.5
    filter_lr: Annotated[float, Field(gt=0), Range(1e-3, 5e-2, log=True)] | None = None

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised ChebNetII."""
        return ChebNetII(sizes, self)
