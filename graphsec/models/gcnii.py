"""GCNII: deep graph convolutions (Chen et al., ICML 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from graphsec.models.base import GNN, ModelSpec, Sizes
from graphsec.models.stack import biases, weights
from graphsec.ops import Adj, Features, dropout, linear
from graphsec.registry import MODELS, Range


class GCNII(GNN):
    """H' = ReLU(M ((1 − β) I + β W)) with M = (1 − α) Â H + α H₀ (Chen et al., eq. 5).

    β = log(λ/l + 1) in layer l, counted from 1: the deeper, the closer to the identity. H₀ is a
    first linear map of the features, and another one follows the last layer.
    """

    def __init__(self, sizes: Sizes, spec: GCNIISpec) -> None:
        super().__init__(spec.layers)
        self.p, self.residual, self.conv_decay = spec.dropout, spec.residual, spec.conv_decay
        self.beta = [math.log(spec.identity / (i + 1) + 1) for i in range(spec.layers)]
        self.dense = nn.ParameterList(
            [*weights([sizes.features, spec.hidden]), *weights([spec.hidden, sizes.outputs])]
        )
        self.bias = biases([spec.hidden, sizes.outputs])
        self.weight = weights([spec.hidden] * (spec.layers + 1))

    def operator(self, adj: Adj) -> Adj:
        """Â, with the degrees of the weighted graph."""
        return adj.normalized("sym", self_loops=True)

    def encode(self, x: Tensor | Features) -> Tensor:
        """H₀: dropout, linear, ReLU."""
        dense = linear(dropout(x, self.p, self.training), self.dense[0])
        return torch.relu(dense + self.bias[0])

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """Dropout, aggregate, initial residual, identity map; the last gives the logits."""
        h = dropout(h, self.p, self.training)
        assert isinstance(h, Tensor)
        assert isinstance(x, Tensor)
        mixed = torch.lerp(self.aggregate(adj, h), x[: adj.num_nodes], self.residual)
        # One small matrix for both terms: passes over (n, hidden) are what costs.
        identity = torch.eye(mixed.shape[1], dtype=mixed.dtype, device=mixed.device)
        out = torch.relu(mixed @ torch.lerp(identity, self.weight[i], self.beta[i]))
        if i + 1 < len(self.weight):
            return out
        logits: Tensor = linear(dropout(out, self.p, self.training), self.dense[1]) + self.bias[1]
        return logits

    def first_parameters(self) -> list[nn.Parameter]:
        """The map of the features."""
        return [self.dense[0], self.bias[0]]

    def groups(self, weight_decay: float, decay: str) -> list[dict[str, Any]]:
        """Convolutions have their own decay, ``conv_decay``; the training's is for the rest."""
        convolutions = {id(p) for p in self.weight}
        groups = super().groups(weight_decay, decay)
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in convolutions]
        return [{"params": list(self.weight), "weight_decay": self.conv_decay}, *groups]


@MODELS.register("gcnii", "gcn2")
@dataclass(frozen=True, kw_only=True)
class GCNIISpec(ModelSpec):
    """GCNII; the defaults are the paper's for Cora.

    Source: Chen, Wei, Huang, Ding & Li, Simple and Deep Graph Convolutional Networks, ICML 2020,
    eq. 5 and table 6: 64 layers, α = .1, λ = .5, decay .01 on convolutions.

    Attributes:
        residual: α, the share of the first layer in each.
        identity: λ, how fast the layers approach the identity.
        conv_decay: L2 penalty on the convolutions; the training's is on the dense layers.
    """

    module: ClassVar[type[GNN]] = GCNII
    training: ClassVar[Mapping[str, Any]] = {"epochs": 1500, "patience": 100, "select": "loss"}

    hidden: Annotated[int, Field(ge=1, le=8192), Range(16, 256, log=True)] = 64
    layers: Annotated[int, Field(ge=1, le=512), Range(2, 64, log=True)] = 64
    dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.6
    residual: Annotated[float, Field(ge=0, le=1), Range(0.1, 0.5)] = 0.1
    identity: Annotated[float, Field(ge=0), Range(0.3, 1.5)] = 0.5
    conv_decay: Annotated[float, Field(ge=0), Range(1e-5, 1e-1, log=True)] = 0.01

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised GCNII."""
        return GCNII(sizes, self)
