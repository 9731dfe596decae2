"""Graph convolutional network (Kipf & Welling, ICLR 2017)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from graphsec.models.base import GNN, ModelSpec, Sizes, glorot, widths
from graphsec.ops import Adj, Features, dropout, linear
from graphsec.registry import MODELS, Range


class GCN(GNN):
    """H' = ReLU(Â H W + b) with Â = D̃^-½ (A + I) D̃^-½ (Kipf & Welling 2017, eq. 2)."""

    def __init__(self, sizes: Sizes, hidden: int, layers: int, p: float) -> None:
        super().__init__(layers)
        self.p = p
        width = widths(sizes, hidden, layers)
        pairs = list(itertools.pairwise(width))
        self.weight = nn.ParameterList([glorot(a, b) for a, b in pairs])
        self.bias = nn.ParameterList([nn.Parameter(torch.zeros(b)) for _, b in pairs])

    def operator(self, adj: Adj) -> Adj:
        """Â, with the degrees of the weighted graph."""
        return adj.normalized("sym", self_loops=True)

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """Dropout, linear, aggregate; ReLU except after the last layer."""
        z = linear(dropout(h, self.p, self.training), self.weight[i])
        out: Tensor = self.aggregate(adj, z) + self.bias[i]
        return torch.relu(out) if i + 1 < len(self.weight) else out


@MODELS.register("gcn")
@dataclass(frozen=True, kw_only=True)
class GCNSpec(ModelSpec):
    """GCN; the defaults are those of robustness studies (64 hidden units).

    Source: Kipf & Welling, Semi-Supervised Classification with Graph Convolutional Networks,
    ICLR 2017; 64 units as in Geisler et al., NeurIPS 2021.
    """

    module: ClassVar[type[GNN]] = GCN

    hidden: Annotated[int, Field(ge=1, le=8192), Range(8, 256, log=True)] = 64
    layers: Annotated[int, Field(ge=1, le=128), Range(2, 4)] = 2
    dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.5

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised GCN."""
        return GCN(sizes, self.hidden, self.layers, self.dropout)
