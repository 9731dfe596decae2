"""Graph convolutional network (Kipf & Welling, ICLR 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graphsec.models.base import GNN
from graphsec.models.stack import ActivatedSpec, Stack
from graphsec.ops import Adj, Features, dropout, linear
from graphsec.registry import MODELS


class GCN(Stack):
    """H' = ReLU(Â H W + b) with Â = D̃^-½ (A + I) D̃^-½ (Kipf & Welling 2017, eq. 2)."""

    def operator(self, adj: Adj) -> Adj:
        """Â, with the degrees of the weighted graph."""
        return adj.normalized("sym", self_loops=True)

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """Dropout, linear, aggregate; activated except after the last layer."""
        z = linear(dropout(h, self.p, self.training), self.weight[i])
        return self.activate(i, self.aggregate(adj, z) + self.bias[i])


@MODELS.register("gcn")
@dataclass(frozen=True, kw_only=True)
class GCNSpec(ActivatedSpec):
    """GCN; the defaults are those of robustness studies (64 hidden units).

    Source: Kipf & Welling, Semi-Supervised Classification with Graph Convolutional Networks,
    ICLR 2017; 64 units as in Geisler et al., NeurIPS 2021.
    """

    module: ClassVar[type[GNN]] = GCN
