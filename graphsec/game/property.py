"""From which of two distributions was the training graph drawn?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from graphsec.game.base import Game, Secret
from graphsec.graph import Graph
from graphsec.registry import GAMES, SpecError
from graphsec.rng import Rng
from graphsec.sampling.worlds import divided, room, with_edges, with_homophily, with_share


@GAMES.register("property")
@dataclass(frozen=True, kw_only=True)
class Property(Game):
    """From which of two distributions was the graph drawn that the victim was trained on?

    The nodes are divided at random: the victim's graph is drawn from one part, the other is the
    attacker's own (``public``), and knows nothing of the victim's. A coin decides at which of two
    levels the property holds in the victim's graph; all else is drawn the same way. The rules are
    public, so that attackers can draw such graphs from their part (``world``). One game is one bit.

    Source: Suri and Evans, Formalizing and Estimating Distribution Inference Risks, PETS 2022, §3
    (its experiment, with a fair coin between two distributions).

    Attributes:
        what: What differs: the share of nodes of a "group" of the sensitive attribute, the
            share of the "edges" that are kept, or the "homophily": the share of the edges that
            join nodes of one label, among equally many edges.
        levels: The two shares.
        value: Value of the sensitive attribute that makes the group.
        nodes: Nodes of a graph drawn by group; None draws as many as both levels allow.
        auxiliary: Share of the nodes that are the attacker's.
    """

    keeps_graph: ClassVar[bool] = False

    what: Literal["group", "edges", "homophily"] = "group"
    levels: tuple[
        Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]
    ] = (0.3, 0.7)  # fmt: skip
    value: Annotated[int, Field(ge=0)] = 1
    nodes: Annotated[int, Field(ge=2)] | None = None
    auxiliary: Annotated[float, Field(gt=0, lt=1)] = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels[0] >= self.levels[1]:
            raise SpecError(f"game 'property': levels must rise, got {self.levels}")

    def prepare(self, graph: Graph, rng: Rng) -> tuple[Graph, Secret | None]:
        """The drawn graph for the trainer, the other part of the nodes for attackers."""
        generator = rng.numpy()
        theirs, mine = self.divided(graph, (1 - self.auxiliary, self.auxiliary), generator)
        holds = int(generator.integers(2))
        secret = Secret(
            "property", torch.tensor(self.levels), torch.tensor([holds]),
            public=mine, rules=self,
        )  # fmt: skip
        return self.world(theirs, holds, rng["world"]), secret

    def divided(
        self, graph: Graph, shares: tuple[float, ...], generator: np.random.Generator
    ) -> list[Graph]:
        """The graphs of random parts of the nodes, with the group's share in each that of all."""
        parts = divided(self._inside(graph), shares, generator)
        return [graph.subgraph(part) for part in parts]

    def world(self, graph: Graph, holds: int, rng: Rng) -> Graph:
        """A graph drawn from this one, with the property at the second level if ``holds``.

        Raises:
            ValueError: There is no such attribute, or not enough to draw from.
        """
        level, generator = self.levels[holds], rng.numpy()
        inside = self._inside(graph)
        if self.what == "edges":
            return with_edges(graph, level, generator)
        if self.what == "homophily":
            u, v = self._labels(graph)[graph.pairs.numpy()]
            alike = (u == v) & (u >= 0)
            count = room(int(alike.sum()), int((~alike).sum()), self.levels)
            return with_homophily(graph, alike, level, count, generator)
        count = self.nodes or room(int(inside.sum()), int((~inside).sum()), self.levels)
        return with_share(graph, inside, level, count, generator)

    def _inside(self, graph: Graph) -> np.ndarray:
        """(n,) who is in the group; nobody where it is not about one."""
        if self.what != "group":
            return np.zeros(graph.num_nodes, bool)
        if graph.sensitive is None:
            raise ValueError(
                f"game 'property' needs a sensitive attribute for what = 'group', found none "
                f"in {graph.name!r}"
            )
        return np.asarray(graph.sensitive.numpy() == self.value)

    def _labels(self, graph: Graph) -> np.ndarray:
        if graph.y is None or graph.task != "classification":
            raise ValueError(
                f"game 'property' needs classes for what = 'homophily', found none in "
                f"{graph.name!r}"
            )
        return graph.y.numpy()
