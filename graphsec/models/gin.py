"""Graph isomorphism network (Xu et al., ICLR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphsec.models.base import GNN, Sizes, glorot
from graphsec.models.stack import StackSpec, biases, widths
from graphsec.ops import Adj, Features, dropout, linear
from graphsec.registry import MODELS


class GIN(GNN):
    """H' = MLP((1 + ε) H + A H), the MLP of two maps (Xu et al., eq. 4.1); A without loops.

    The MLP's first map is linear, so it goes before the sum, which is the same and narrower.
    LayerNorm stands where the paper has BatchNorm: a node's answer then depends on its own
    neighbourhood only, as private training needs.
    """

    def __init__(self, sizes: Sizes, spec: GINSpec) -> None:
        super().__init__(spec.layers)
        self.p, self.norm = spec.dropout, spec.norm
        outs = widths(sizes, spec.hidden, spec.layers)
        self.inner = nn.ParameterList([glorot(a, spec.hidden) for a in outs[:-1]])
        self.outer = nn.ParameterList([glorot(spec.hidden, b) for b in outs[1:]])
        self.inner_bias = biases([spec.hidden] * spec.layers)
        self.bias = biases(outs[1:])
        self.epsilon = nn.Parameter(torch.zeros(spec.layers), requires_grad=spec.learn_epsilon)

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """Dropout, sum with the node's own part, two maps; ReLU except after the last layer."""
        z = linear(dropout(h, self.p, self.training), self.inner[i])
        own = (1 + self.epsilon[i]) * z[: adj.num_nodes]
        mixed = own + self.aggregate(adj, z) + self.inner_bias[i]
        if self.norm == "layer":
            mixed = F.layer_norm(mixed, mixed.shape[1:])
        out = torch.relu(mixed) @ self.outer[i] + self.bias[i]
        return torch.relu(out) if i + 1 < len(self.bias) else out


@MODELS.register("gin")
@dataclass(frozen=True, kw_only=True)
class GINSpec(StackSpec):
    """GIN for nodes: sums over neighbours, ε learned.

    Source: Xu, Hu, Leskovec & Jegelka, How Powerful are Graph Neural Networks?, ICLR 2019, eq. 4.1.

    Attributes:
        norm: "layer" normalises each node's hidden units (without scale and shift, which the next
            map has), "none" does not.
        learn_epsilon: Whether ε is trained; it starts at 0.
    """

    module: ClassVar[type[GNN]] = GIN

    norm: Literal["layer", "none"] = "layer"
    learn_epsilon: bool = True

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised GIN."""
        return GIN(sizes, self)
