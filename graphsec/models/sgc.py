"""Simple graph convolution (Wu et al., ICML 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from graphsec.models.base import GNN, ModelSpec, Sizes, glorot
from graphsec.ops import Adj, Features, linear
from graphsec.registry import MODELS, Range


class SGC(GNN):
    """Â^K X W + b; the linear map goes first, which is the same and narrower to propagate."""

    def __init__(self, sizes: Sizes, hops: int) -> None:
        super().__init__(hops)
        self.weight = nn.ParameterList([glorot(sizes.features, sizes.outputs)])
        self.bias = nn.Parameter(torch.zeros(sizes.outputs))

    def operator(self, adj: Adj) -> Adj:
        """Â, with the degrees of the weighted graph."""
        return adj.normalized("sym", self_loops=True)

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """One propagation; the first follows the linear map, the last is followed by the bias."""
        z = linear(h, self.weight[0]) if i == 0 else h
        assert isinstance(z, Tensor)
        out = self.aggregate(adj, z)
        return out + self.bias if i + 1 == self.layers else out


@MODELS.register("sgc")
@dataclass(frozen=True, kw_only=True)
class SGCSpec(ModelSpec):
    """SGC with K propagations.

    Source: Wu et al., Simplifying Graph Convolutional Networks, ICML 2019, eq. 8.
    """

    module: ClassVar[type[GNN]] = SGC
    training: ClassVar[Mapping[str, Any]] = {"lr": 0.2, "weight_decay": 5e-5, "epochs": 100}

    hops: Annotated[int, Field(ge=1, le=64), Range(1, 4)] = 2

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised SGC."""
        return SGC(sizes, self.hops)
