"""The contract of rating models: that of ranking models, with ratings to learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import ClassVar

import numpy as np
import torch

from graphsec.defenses import build as build_defense
from graphsec.graph import Graph, Holdout
from graphsec.metrics import rmse
from graphsec.rating import rated_pairs
from graphsec.rng import Rng
from graphsec.testing.ranking import RankingContract, tiny_rankings
from graphsec.train import Recipe


@cache
def tiny_ratings() -> dict[str, Graph]:
    """The tiny ranking graphs with ratings from 1 to 5: high where user and item share a taste."""
    return {name: _rated(graph, seed) for seed, (name, graph) in enumerate(tiny_rankings().items())}


def _rated(graph: Graph, seed: int) -> Graph:
    rng, users = np.random.default_rng(seed), graph.num_users
    mood = rng.normal(0, 0.5, graph.num_nodes)

    def ratings(pairs: torch.Tensor) -> np.ndarray:
        user, item = pairs.numpy().min(0), pairs.numpy().max(0)
        noise = np.random.default_rng([seed, 1]).normal(0, 0.3, (users, graph.num_nodes))
        liked = np.where(user % 3 == (item - users) % 3, 3.8, 2.2)
        exact = liked + mood[user] + mood[item] + noise[user, item]
        return np.asarray(np.clip(np.rint(exact), 1, 5), np.float32)

    held = graph.holdout
    assert held is not None
    return graph.replace(
        task="rating", edge_y=torch.from_numpy(ratings(graph.edge_index)),
        holdout=Holdout.of(held.val, held.test, ratings(held.val), ratings(held.test)),
    )  # fmt: skip


class RatingContract(RankingContract):
    """What every rating model must do; it ranks too, but that is not what it is for."""

    graphs: ClassVar[Callable[[], Mapping[str, Graph]]] = staticmethod(tiny_ratings)

    def test_learns(self, graph: Graph) -> None:
        """With its own recipe it rates the training items better than their mean does."""
        predictor = build_defense("none").fit(graph, Recipe.of(self.component), Rng(0)["fit"])
        pairs, y = rated_pairs(graph)
        assert rmse(predictor.rate(graph, pairs), y) < 0.9 * float(y.std())
