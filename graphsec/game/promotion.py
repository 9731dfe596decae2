"""Which items shall be shown to more users?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from graphsec.game.base import Game, Secret
from graphsec.graph import Graph
from graphsec.registry import GAMES
from graphsec.rng import Rng


@GAMES.register("promotion")
@dataclass(frozen=True, kw_only=True)
class Promotion(Game):
    """Which items shall be shown to more users? A few are drawn, and nothing is secret.

    The attacker is asked to promote them: they are ``view.question``. Scored is how many of the
    genuine users who have not taken an item find it among their first 20.

    Attributes:
        items: Number of items to promote.
        most: They are drawn uniformly from the items with at most so many interactions, and at
            least one.
    """

    keeps_graph: ClassVar[bool] = True

    items: Annotated[int, Field(ge=1)] = 5
    most: Annotated[int, Field(ge=1)] = 10

    def prepare(self, graph: Graph, rng: Rng) -> tuple[Graph, Secret]:
        """The graph itself, and the items (``question``, ``answer``: their interactions).

        Raises:
            ValueError: It is no ranking graph, or has too few such items.
        """
        if graph.task != "ranking":
            raise ValueError(
                f"game 'promotion' needs a ranking graph, found task {graph.task!r} in "
                f"{graph.name!r}"
            )
        degree = graph.degree.clone()
        degree[: graph.num_users] = 0
        fitting = ((degree >= 1) & (degree <= self.most)).nonzero().ravel()
        if len(fitting) < self.items:
            raise ValueError(
                f"game 'promotion': items must be ≤ {len(fitting)}, the items of {graph.name!r} "
                f"with 1…{self.most} interactions, got {self.items}"
            )
        drawn = rng.numpy().choice(fitting.numpy(), self.items, replace=False)
        items = torch.from_numpy(drawn).sort().values
        return graph, Secret("promotion", items, degree[items])
