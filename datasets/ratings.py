"""Ratings drawn from a latent-factor model, in any size: for tests and for growth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from graphsec.datasets.base import About
from graphsec.datasets.ranking import Ranking, Share, held_out, ranking_graph
from graphsec.graph import Graph
from graphsec.registry import DATASETS, SpecError
from graphsec.rng import Rng

Count = Annotated[int, Field(ge=2, le=10**7)]


@DATASETS.register("rating/factors")
@dataclass(frozen=True, kw_only=True)
class FactorRatings(Ranking):
    """Ratings from 1 to 5: 3.5 + b_u + b_v + ⟨z_u, z_v⟩ + noise, rounded.

    The model behind matrix factorisation (Koren, Bell & Volinsky, Computer 2009), with normal
    biases (.4), products (.6) and noise (.5, standard deviations all); each user rates the same
    number of items, drawn uniformly. Three fifths are for training, as in ``rating/ml-100k``.

    Attributes:
        users: Number of users.
        items: Number of items.
        each: Ratings of a user.
        factors: Width of z.
    """

    about: ClassVar[About] = About(
        300, 2400, 0, 0, "", "generated", "Koren, Bell & Volinsky, IEEE Computer 42(8), 2009"
    )
    asks: ClassVar[Literal["ranking", "rating"]] = "rating"
    generated: ClassVar[bool] = True

    users: Count = 200
    items: Count = 100
    each: Annotated[int, Field(ge=1)] = 20
    factors: Annotated[int, Field(ge=1, le=1000)] = 3
    test: Share = 0.2
    val: Share = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.each > self.items:
            raise SpecError(
                f"dataset {self.name!r}: each must be ≤ items ({self.items}), got {self.each}"
            )

    def read(self, rng: Rng) -> Graph:
        """Draw who rates what and how, and hold some out."""
        draw = rng["graph"].numpy()
        user = np.repeat(np.arange(self.users), self.each)
        item = self._taken(draw)
        bias_u, bias_v = draw.normal(0, 0.4, self.users), draw.normal(0, 0.4, self.items)
        scale = np.sqrt(0.6) / self.factors**0.25
        z_u = draw.normal(0, scale, (self.users, self.factors))
        z_v = draw.normal(0, scale, (self.items, self.factors))
        product = np.einsum("ij,ij->i", z_u[user], z_v[item])
        exact = 3.5 + bias_u[user] + bias_v[item] + product + draw.normal(0, 0.5, len(user))
        pairs, rating = np.stack([user, item]), np.clip(np.rint(exact), 1, 5)
        part = held_out(user, self.val, self.test, rng["holdout"])
        return ranking_graph(pairs, part, self.users, self.items, self.name, rating, self.asks)

    def _taken(self, draw: np.random.Generator) -> np.ndarray:
        """(users · each,) items, distinct for each user: those of the smallest random numbers.

        In blocks of users, so that memory stays linear in the ratings.
        """
        size = max(1, 10**7 // self.items)
        blocks = [
            draw.random((min(size, self.users - start), self.items))
            .argpartition(self.each - 1, axis=1)[:, : self.each]
            for start in range(0, self.users, size)
        ]  # fmt: skip
        return np.concatenate(blocks).ravel().astype(np.int64)
