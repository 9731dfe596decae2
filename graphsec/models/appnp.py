"""Personalised propagation of neural predictions (Gasteiger et al., ICLR 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from graphsec.models.base import GNN, Sizes
from graphsec.models.stack import Decoupled, DecoupledSpec
from graphsec.ops import Adj, Features, dropout
from graphsec.registry import MODELS, Range


class APPNP(Decoupled):
    """H' = (1 − α) Â H + α H₀, K times, H₀ a perceptron's scores (Gasteiger et al., eq. 5)."""

    def __init__(self, sizes: Sizes, spec: APPNPSpec) -> None:
        super().__init__(sizes, spec.hidden, spec.depth, spec.hops, spec.dropout)
        self.teleport = spec.teleport
        self.p_edge = spec.edge_dropout

    def operator(self, adj: Adj) -> Adj:
        """Â; with one weight an entry where entries are to be dropped."""
        operator = super().operator(adj)
        return operator.merged() if self.training and self.p_edge else operator

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """A step of the random walk with restart at the node's own scores."""
        assert isinstance(h, Tensor)
        assert isinstance(x, Tensor)
        if self.training and self.p_edge:
            assert adj.weight is not None
            kept = dropout(adj.weight, self.p_edge, True)
            assert isinstance(kept, Tensor)
            adj = replace(adj, weight=kept)
        walked = self.aggregate(adj, h)
        return (1 - self.teleport) * walked + self.teleport * x[: adj.num_nodes]


@MODELS.register("appnp")
@dataclass(frozen=True, kw_only=True)
class APPNPSpec(DecoupledSpec):
    """APPNP; the defaults are the paper's for citation networks.

    Source: Gasteiger, Bojchevski & Günnemann, Predict then Propagate, ICLR 2019, eq. 5 and §5:
    K = 10, α = .1, dropout on the propagation matrix too, L2 on the first layer only.
    """

    module: ClassVar[type[GNN]] = APPNP
    training: ClassVar[Mapping[str, Any]] = {"weight_decay": 5e-3, "decay": "first"}

    teleport: Annotated[float, Field(ge=0, le=1), Range(0.05, 0.3)] = 0.1
    edge_dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.5

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised APPNP."""
        return APPNP(sizes, self)
