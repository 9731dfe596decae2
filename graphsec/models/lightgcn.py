"""LightGCN, a recommender (He et al., SIGIR 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from graphsec.models.base import GNN, Capabilities, ModelSpec, Sizes
from graphsec.ops import Adj, Features
from graphsec.registry import MODELS, Range


class TableGNN(GNN):
    """Base of models of embeddings, a table with one row a node: they answer of these nodes alone.

    Attributes:
        table: (n, width) initial embeddings.
    """

    table: nn.Parameter

    def embeddings(self) -> Tensor:
        """(n, width) E⁽⁰⁾: what is penalised."""
        return self.table

    def operator(self, adj: Adj) -> Adj:
        """D^-½ A D^-½, with the degrees of the weighted graph, or ``adj.degree`` where it is set.

        Raises:
            ValueError: The graph has another number of nodes than the table.
        """
        if adj.num_nodes != len(self.table):
            raise ValueError(
                f"{type(self).__name__} has embeddings of {len(self.table)} nodes, "
                f"the graph has {adj.num_nodes}"
            )
        return adj.normalized("sym", self_loops=False)


class LightGCN(TableGNN):
    """E⁽ᵏ⁺¹⁾ = D^-½ A D^-½ E⁽ᵏ⁾, and the mean of E⁽⁰⁾ … E⁽ᴷ⁾ (He et al. 2020, eqs. 7 and 4).

    E⁽⁰⁾ is a table with one row a node, so the model answers about graphs of these nodes only,
    and cannot run on samples, which renumber the nodes.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(tasks=("ranking",), sampled=False)

    def __init__(self, sizes: Sizes, width: int, layers: int) -> None:
        super().__init__(layers)
        self.hops = layers
        self.table = nn.Parameter(torch.randn(sizes.nodes, width) * 0.1)

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """One propagation."""
        assert isinstance(h, Tensor)
        return self.aggregate(adj, h)

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """E⁽¹⁾ … E⁽ᴷ⁾, then their mean with E⁽⁰⁾."""
        operator = self.operator(adj)
        h: Tensor = self.table
        total, states = h, []
        for i in range(self.hops):
            h = self.layer(i, h, operator, x)
            total = total + h  # a sum as it grows: stacking the tables costs more than the products
            states.append(h)
        return [*states, total / (self.hops + 1)]


@MODELS.register("lightgcn")
@dataclass(frozen=True, kw_only=True)
class LightGCNSpec(ModelSpec):
    """LightGCN with embeddings of its own instead of features; trained by BPR.

    Source: He et al., LightGCN: Simplifying and Powering Graph Convolution Network for
    Recommendation, SIGIR 2020, §3.1; E⁽⁰⁾ ~ N(0, .1²) as in the authors' PyTorch code.
    """

    module: ClassVar[type[GNN]] = LightGCN
    training: ClassVar[Mapping[str, Any]] = {
        "epochs": 1000, "lr": 1e-3, "weight_decay": 1e-4, "batch_size": 2048,
        "select": "ndcg", "patience": 50, "validate_every": 5,
    }  # fmt: skip

    width: Annotated[int, Field(ge=1, le=8192), Range(16, 256, log=True)] = 64
    layers: Annotated[int, Field(ge=0, le=64), Range(1, 4)] = 3

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised LightGCN."""
        return LightGCN(sizes, self.width, self.layers)
