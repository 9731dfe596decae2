"""Jaccard purification: edges between dissimilar nodes are dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.graph import Graph
from graphsec.ops import Adj, Features
from graphsec.ops.similarity import Measure, edge_similarity, pair_similarity
from graphsec.predict import How
from graphsec.registry import DEFENSES, Range


@DEFENSES.register("jaccard")
@dataclass(frozen=True, kw_only=True)
class Jaccard(Defense):
    """Drops every edge whose ends have a feature similarity of at most ``threshold``.

    The filter depends on features only, so a structure attacker differentiates through it
    exactly: a pair it would drop has no gradient. ``bypass`` leaves the filter out.

    Source: Wu et al., Adversarial Examples for Graph Data, IJCAI 2019, §4.

    Attributes:
        threshold: Edges of at most this similarity are dropped.
        measure: Jaccard for binary features, cosine for others; "auto" takes Jaccard where at
            least half of the entries are zero and none is negative.
    """

    filters: ClassVar[bool] = True

    threshold: Annotated[float, Field(ge=-1, le=1), Range(0.0, 0.1)] = 0.01
    measure: Literal["auto", "jaccard", "cosine"] = "auto"

    def sanitise(
        self, x: Tensor | Features, adj: Adj, how: How = "exact"
    ) -> tuple[Tensor | Features, Adj]:
        """Weight 0 for the dropped edges and candidate pairs, and no gradient through them."""
        if how == "bypass":
            return x, adj
        clean = self._similar(edge_similarity(x, adj.csr, self._measure(x)))
        pairs = None if adj.block is None else self._kept(x, adj.block.pairs)
        return x, adj.scaled(clean, pairs)

    def allows(self, graph: Graph, pairs: Tensor) -> Tensor | None:
        """Pairs that are similar enough to survive as edges."""
        assert graph.x is not None
        return self._kept(graph.x, pairs) > 0

    def _kept(self, x: Tensor | Features, pairs: Tensor) -> Tensor:
        return self._similar(pair_similarity(x, pairs, self._measure(x)))

    def _similar(self, similarity: Tensor) -> Tensor:
        return (similarity > self.threshold).to(torch.float32)

    def _measure(self, x: Tensor | Features) -> Measure:
        if self.measure != "auto":
            return self.measure
        if isinstance(x, Tensor) and x.layout != torch.strided:
            x = Features.of(x)
        values = x.values if isinstance(x, Features) else x
        total = x.shape[0] * x.shape[1]
        sparse = int((values != 0).sum()) <= total / 2
        return "jaccard" if sparse and not bool((values < 0).any()) else "cosine"
