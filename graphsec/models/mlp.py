"""Multilayer perceptron: the level below which looking at the graph does harm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graphsec.models.base import GNN, Capabilities
from graphsec.models.stack import ActivatedSpec, Stack
from graphsec.ops import Adj, Features, dropout, linear
from graphsec.registry import MODELS


class MLP(Stack):
    """H' = ReLU(H W + b); the edges are ignored."""

    capabilities = Capabilities(uses_edges=False)

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """Dropout, linear; activated except at the end. Rows are a prefix of the columns."""
        z: Tensor = linear(dropout(h, self.p, self.training), self.weight[i]) + self.bias[i]
        return self.activate(i, z[: adj.num_nodes])


@MODELS.register("mlp")
@dataclass(frozen=True, kw_only=True)
class MLPSpec(ActivatedSpec):
    """MLP on the features alone, the reference line of every robustness figure.

    Source: the "structure-agnostic" baseline of Mujkanovic et al., Are Defenses for Graph Neural
    Networks Robust?, NeurIPS 2022, §5.
    """

    module: ClassVar[type[GNN]] = MLP
