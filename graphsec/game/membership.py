"""Which nodes were trained on?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from graphsec.game.base import Game, Secret
from graphsec.graph import Graph, Split
from graphsec.registry import GAMES
from graphsec.rng import Rng


@GAMES.register("membership")
@dataclass(frozen=True, kw_only=True)
class Membership(Game):
    """Which nodes were trained on? As many members as others are drawn from train and test.

    Every node stays in the graph, features and edges and all: what is secret is whether its label
    was trained on. The nodes are asked about in the order of their numbers, which tells nothing.

    Attributes:
        members: Number of members; None keeps the size of the training set (at most half of
            the nodes in question).
        draw: "half" of the nodes in question are members, or each by a fair "coin" of its own,
            as audits in one run assume (``members`` is then the expected number).
    """

    version: ClassVar[int] = 2
    keeps_graph: ClassVar[bool] = False

    members: Annotated[int, Field(ge=1)] | None = None
    draw: Literal["half", "coin"] = "half"

    def prepare(self, graph: Graph, rng: Rng) -> tuple[Graph, Secret | None]:
        """The graph with a freshly drawn training set, and who is in it."""
        if graph.split is None:
            raise ValueError(f"game 'membership' needs a split, found none in {graph.name!r}")
        pool = torch.cat([graph.split.train, graph.split.test])
        if graph.y is not None and graph.task == "classification":
            pool = pool[graph.y[pool] >= 0]  # nobody trains on a node without a label
        count = min(self.members or len(graph.split.train), len(pool) // 2)
        if count < 1:
            raise ValueError("game 'membership' needs at least 2 nodes in train and test, "
                             f"found {len(pool)}")  # fmt: skip
        generator = rng.numpy()
        order = generator.permutation(pool.numpy())
        question = np.sort(order[: 2 * count])
        answer = np.isin(question, order[:count])
        if self.draw == "coin":
            answer = generator.random(2 * count) < 0.5
        members = question[answer]
        others = np.setdiff1d(order, members)
        split = Split.of(members, graph.split.val, others)
        return (
            graph.replace(split=split),
            Secret("membership", torch.from_numpy(question), torch.from_numpy(answer).long()),
        )
