"""GraphSAGE with the mean aggregator (Hamilton et al., NeurIPS 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graphsec.models.base import GNN, Sizes
from graphsec.models.stack import (
    ActivatedSpec,
    Activation,
    Init,
    activation,
    biases,
    weights,
    widths,
)
from graphsec.ops import Adj, Features, dropout, linear
from graphsec.registry import MODELS


class SAGE(GNN):
    """H' = ReLU(H W_self + mean over neighbours of (H W_near) + b) (Hamilton et al., alg. 1)."""

    def __init__(
        self, sizes: Sizes, hidden: int, layers: int, p: float, kind: Activation = "relu",
        init: Init = "glorot",
    ) -> None:  # fmt: skip
        super().__init__(layers)
        self.p, self.between = p, activation(kind)
        width = widths(sizes, hidden, layers)
        self.own = weights(width, init)
        self.near = weights(width, init)
        self.bias = biases(width[1:])

    def operator(self, adj: Adj) -> Adj:
        """D^-1 A: the mean over neighbours, without self-loops."""
        return adj.normalized("row", self_loops=False)

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """Dropout, the node's own part plus its neighbours' mean; activated except at the end."""
        h = dropout(h, self.p, self.training)
        mean = self.aggregate(adj, linear(h, self.near[i]))
        out: Tensor = linear(h, self.own[i])[: adj.num_nodes] + mean + self.bias[i]
        return self.between(out) if i + 1 < len(self.own) else out


@MODELS.register("sage", "graphsage")
@dataclass(frozen=True, kw_only=True)
class SAGESpec(ActivatedSpec):
    """GraphSAGE, mean aggregator.

    Source: Hamilton et al., Inductive Representation Learning on Large Graphs, NeurIPS 2017,
    algorithm 1 (without the final normalisation to unit length, as in common practice).
    """

    module: ClassVar[type[GNN]] = SAGE
