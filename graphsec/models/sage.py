"""GraphSAGE with the mean aggregator (Hamilton et al., NeurIPS 2017)."""

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


class SAGE(GNN):
    """H' = ReLU(H W_self + mean over neighbours of (H W_near) + b) (Hamilton et al., alg. 1)."""

    def __init__(self, sizes: Sizes, hidden: int, layers: int, p: float) -> None:
        super().__init__(layers)
        self.p = p
        width = widths(sizes, hidden, layers)
        pairs = list(itertools.pairwise(width))
        self.own = nn.ParameterList([glorot(a, b) for a, b in pairs])
        self.near = nn.ParameterList([glorot(a, b) for a, b in pairs])
        self.bias = nn.ParameterList([nn.Parameter(torch.zeros(b)) for _, b in pairs])

    def operator(self, adj: Adj) -> Adj:
        """D^-1 A: the mean over neighbours, without self-loops."""
        return adj.normalized("row", self_loops=False)

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """Dropout, the node's own part plus its neighbours' mean; ReLU except at the end."""
        h = dropout(h, self.p, self.training)
        mean = self.aggregate(adj, linear(h, self.near[i]))
        out: Tensor = linear(h, self.own[i])[: adj.num_nodes] + mean + self.bias[i]
        return torch.relu(out) if i + 1 < len(self.own) else out


@MODELS.register("sage", "graphsage")
@dataclass(frozen=True, kw_only=True)
class SAGESpec(ModelSpec):
    """GraphSAGE, mean aggregator.

    Source: Hamilton et al., Inductive Representation Learning on Large Graphs, NeurIPS 2017,
    algorithm 1 (without the final normalisation to unit length, as in common practice).
    """

    module: ClassVar[type[GNN]] = SAGE

    hidden: Annotated[int, Field(ge=1, le=8192), Range(8, 256, log=True)] = 64
    layers: Annotated[int, Field(ge=1, le=128), Range(2, 4)] = 2
    dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.5

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised GraphSAGE."""
        return SAGE(sizes, self.hidden, self.layers, self.dropout)
