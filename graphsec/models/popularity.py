"""The most popular items for everybody: the line below which a recommender is useless."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graphsec.models.base import GNN, Capabilities, ModelSpec, Sizes
from graphsec.ops import Adj, Features
from graphsec.registry import MODELS


class Popularity(GNN):
    """One number a node, 1 + its degree: every user ranks items by the product, so by degree."""

    # It has no parameters, so there are no gradients a sample and nothing of second order.
    capabilities: ClassVar[Capabilities] = Capabilities(
        tasks=("ranking",), sampled=False, per_sample=False, second_order=False
    )

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """1 + weighted degree, (n, 1)."""
        return [1 + adj.degrees().unsqueeze(-1)]


@MODELS.register("popularity")
@dataclass(frozen=True, kw_only=True)
class PopularitySpec(ModelSpec):
    """Ranks items by how many users took them; nothing is trained.

    Source: "TopPop" of Cremonesi, Koren & Turrin, Performance of Recommender Algorithms on Top-N
    Recommendation Tasks, RecSys 2010.
    """

    module: ClassVar[type[GNN]] = Popularity

    def build(self, sizes: Sizes) -> GNN:
        """The same for every graph."""
        return Popularity(1)
