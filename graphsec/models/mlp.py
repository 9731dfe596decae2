"""Multilayer perceptron: the level below which looking at the graph does harm."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from graphsec.models.base import GNN, Capabilities, ModelSpec, Sizes, glorot, widths
from graphsec.ops import Adj, Features, dropout, linear
from graphsec.registry import MODELS, Range


class MLP(GNN):
    """H' = ReLU(H W + b); the edges are ignored."""

    capabilities = Capabilities(uses_edges=False)

    def __init__(self, sizes: Sizes, hidden: int, layers: int, p: float) -> None:
        super().__init__(layers)
        self.p = p
        width = widths(sizes, hidden, layers)
        pairs = list(itertools.pairwise(width))
        self.weight = nn.ParameterList([glorot(a, b) for a, b in pairs])
        self.bias = nn.ParameterList([nn.Parameter(torch.zeros(b)) for _, b in pairs])

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """Dropout, linear; ReLU except after the last layer. Rows are a prefix of the columns."""
        z: Tensor = linear(dropout(h, self.p, self.training), self.weight[i]) + self.bias[i]
        z = z[: adj.num_nodes]
        return torch.relu(z) if i + 1 < len(self.weight) else z


@MODELS.register("mlp")
@dataclass(frozen=True, kw_only=True)
class MLPSpec(ModelSpec):
    """MLP on the features alone, the reference line of every robustness figure.

    Source: the "structure-agnostic" baseline of Mujkanovic et al., Are Defenses for Graph Neural
    Networks Robust?, NeurIPS 2022, §5.
    """

    module: ClassVar[type[GNN]] = MLP

    hidden: Annotated[int, Field(ge=1, le=8192), Range(8, 256, log=True)] = 64
    layers: Annotated[int, Field(ge=1, le=128), Range(2, 4)] = 2
    dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.5

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised MLP."""
        return MLP(sizes, self.hidden, self.layers, self.dropout)
