"""Generalised PageRank with learned weights (Chien et al., ICLR 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from graphsec.models.base import GNN, Sizes
from graphsec.models.stack import Decoupled, DecoupledSpec
from graphsec.ops import Adj, Features, dropout
from graphsec.registry import MODELS, Range


class GPRGNN(Decoupled):
    """Z = Σ_k γ_k Â^k H₀ with trainable γ, H₀ a perceptron's scores (Chien et al., eq. 1).

    Computed from the highest power inwards: γ_K H₀, then H' = Â H + γ_k H₀.
    """

    def __init__(self, sizes: Sizes, spec: GPRGNNSpec) -> None:
        super().__init__(sizes, spec.hidden, spec.depth, spec.hops, spec.dropout)
        self.p_hop, self.filter_lr = spec.hop_dropout, spec.filter_lr
        walk = spec.teleport * (1 - spec.teleport) ** torch.arange(spec.hops + 1.0)
        walk[-1] = (1 - spec.teleport) ** spec.hops  # the weights of APPNP after K steps
        self.gamma = nn.Parameter(walk)

    def encode(self, x: Tensor | Features) -> Tensor:
        """Class scores, with dropout before they are propagated."""
        scores = dropout(super().encode(x), self.p_hop, self.training)
        assert isinstance(scores, Tensor)
        return scores

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """One power of Â more on what is there, and the next term."""
        assert isinstance(h, Tensor)
        assert isinstance(x, Tensor)
        assert self.gamma is not None
        h = self.gamma[-1] * h if i == 0 else h
        return self.aggregate(adj, h) + self.gamma[-2 - i] * x[: adj.num_nodes]


@MODELS.register("gprgnn", "gpr-gnn")
@dataclass(frozen=True, kw_only=True)
class GPRGNNSpec(DecoupledSpec):
    """GPR-GNN; γ starts as personalised PageRank, has no decay, and may be negative.

    Source: Chien, Peng, Li & Milenkovic, Adaptive Universal Generalized PageRank Graph Neural
    Network, ICLR 2021, eq. 1 and §5: K = 10, α from .1 to .9.
    """

    module: ClassVar[type[GNN]] = GPRGNN

    teleport: Annotated[float, Field(ge=0, le=1), Range(0.1, 0.9)] = 0.1
    hop_dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.5
    filter_lr: Annotated[float, Field(gt=0), Range(1e-3, 5e-2, log=True)] | None = None

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised GPR-GNN."""
        return GPRGNN(sizes, self)
