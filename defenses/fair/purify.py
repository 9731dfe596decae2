"""Edges within groups dropped, by what features say of the groups of their ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.fair._cleaning import Cleaner, CleaningDefense, weighed
from graphsec.graph import Graph
from graphsec.models.base import GNN, Sizes
from graphsec.ops import Adj, Features
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng


@DEFENSES.register("fair-purify")
@dataclass(frozen=True, kw_only=True)
class FairPurify(CleaningDefense):
    """Drops edges whose ends are most likely of one group.

    A logistic regression on the training nodes says with which probability p(v) a node is of the
    largest group, by its features. An edge is within one with p(u) p(v) + (1 − p(u)) (1 − p(v)):
    where this is above a threshold it is dropped. The threshold is set so that a share ``drop`` of
    the training graph's edges goes, and kept: attacked graphs meet the same rule, as behind
    ``jaccard``, with which it composes (``["jaccard", "fair-purify"]``).

    Source: the aim of Spinelli et al., FairDrop, IEEE TAI 2021, which drops edges within groups at
    random in training; that of a rule on features is of this project.

    Attributes:
        drop: Share of the edges to drop.
    """

    drop: Annotated[float, Field(ge=0, lt=1), Range(0.1, 0.9)] = 0.5

    def cleaner(self, base: GNN, sizes: Sizes) -> Cleaner:
        """The model behind the rule."""
        return Purified(base, self, sizes.features)


class Purified(Cleaner):
    """A model behind the rule; ``side`` (d + 1), bias last, and ``most`` () are what was learnt."""

    def __init__(self, base: GNN, defense: FairPurify, features: int) -> None:
        super().__init__(base)
        self._defense = defense
        self.side: Tensor
        self.most: Tensor
        self.register_buffer("side", torch.zeros(features + 1))
        self.register_buffer("most", torch.tensor(2.0))

    def learn(self, graph: Graph, group: Tensor, x: Tensor | Features, adj: Adj, rng: Rng) -> None:
        """Fit the regression, and find the threshold."""
        from sklearn.linear_model import LogisticRegression

        assert graph.split is not None
        dense = x.to_dense()
        train = graph.split.train[group[graph.split.train] >= 0]
        largest = torch.bincount(group[train]).argmax()
        fitted = LogisticRegression(max_iter=1000).fit(
            dense[train].cpu().numpy(), (group[train] == largest).cpu().numpy()
        )
        found = torch.tensor([*fitted.coef_[0], fitted.intercept_[0]], dtype=self.side.dtype)
        self.side.copy_(found)
        within = self._within(dense, *adj.csr.coo)
        if len(within) and self._defense.drop:
            order = within.sort().values
            self.most.copy_(order[round((1 - self._defense.drop) * (len(order) - 1))])

    def cleaned(self, x: Tensor | Features, adj: Adj) -> tuple[Tensor | Features, Adj]:
        """Weight 0 for edges within groups."""
        dense = x.to_dense()
        return x, weighed(
            adj, dense, lambda x, u, v: (self._within(x, u, v) <= self.most).to(x.dtype)
        )

    def _within(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        p = (x @ self.side[:-1] + self.side[-1]).sigmoid()
        return p[u] * p[v] + (1 - p[u]) * (1 - p[v])
