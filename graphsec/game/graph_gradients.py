"""The gradient of a step on whole graphs leaves training: which graphs was it computed on?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from graphsec.game.base import Game, Secret
from graphsec.graph import Graph, Split
from graphsec.readout import graph_labels
from graphsec.registry import GAMES
from graphsec.rng import Rng


@GAMES.register("graph-gradients")
@dataclass(frozen=True, kw_only=True)
class GraphGradients(Game):
    """What does the gradient of one step of graph classification tell of the graphs it was on?

    The trainer is a client with a few drawn training graphs: each step is on all of them, and the
    gradients of its first ``training.expose`` steps leave it. Attackers know, of what they are
    granted, the set without these graphs. The question is how many nodes each has (−1 where that
    is private); the answer is a whole graph for each, and the scorer finds the true ones in the
    set that was trained on.

    Attributes:
        graphs: Number of graphs in a step.
        step: The step whose gradient is attacked; ``training.expose`` must be larger.
        smallest: Nodes of the smallest graph that may be drawn.
        largest: Nodes of the largest that may be; None: all may.
        sizes: Whether the numbers of nodes are private, or known.
    """

    keeps_graph: ClassVar[bool] = False

    graphs: Annotated[int, Field(ge=1)] = 1
    step: Annotated[int, Field(ge=0)] = 0
    smallest: Annotated[int, Field(ge=1)] = 1
    largest: Annotated[int, Field(ge=1)] | None = None
    sizes: Literal["private", "known"] = "private"

    def prepare(self, graph: Graph, rng: Rng) -> tuple[Graph, Secret]:
        """The set with the drawn graphs for training; attackers know the rest of it.

        Raises:
            ValueError: The graph is no set of labelled graphs with features and a split, or it has
                too few training graphs of the sizes asked for.
        """
        if graph.task != "graph" or graph.y is None or graph.split is None or graph.x is None:
            raise ValueError(
                f"game 'graph-gradients' needs a set of graphs with labels, features and a split, "
                f"found task {graph.task!r} in {graph.name!r}"
            )
        assert graph.graph_id is not None
        size, labels = torch.bincount(graph.graph_id), graph_labels(graph)
        train = torch.unique(graph.graph_id[graph.split.train])
        fits = (labels[train] >= 0) & (size[train] >= self.smallest)
        if self.largest is not None:
            fits &= size[train] <= self.largest
        train = train[fits]
        if self.graphs > len(train):
            raise ValueError(
                f"game 'graph-gradients': graphs must be at most the {len(train)} labelled "
                f"training graphs of {graph.name!r} with {self.smallest} to "
                f"{self.largest or 'any number of'} nodes, got {self.graphs}"
            )
        drawn = rng.numpy().choice(train.numpy(), self.graphs, replace=False)
        chosen = torch.from_numpy(drawn).sort().values
        mine = torch.isin(graph.graph_id, chosen)
        part = Split(mine.nonzero().ravel(), graph.split.val, graph.split.test)
        known = graph.replace(split=part)
        public = known.subgraph((~mine).nonzero().ravel())
        public = public.replace(graph_id=torch.unique(public.graph_id, return_inverse=True)[1])
        asked = size[chosen] if self.sizes == "known" else torch.full_like(chosen, -1)
        answer = torch.stack([chosen, labels[chosen]])
        return known, Secret("graph-gradients", asked, answer, public=public, rules=self)


def truth(known: Graph, secret: Secret) -> list[tuple[Tensor, Tensor]]:
    """(features (n, d), adjacency (n, n)) of each graph that a step was on."""
    assert known.graph_id is not None
    assert known.x is not None
    found = []
    for each in secret.answer[0]:
        alone = known.subgraph((known.graph_id == each).nonzero().ravel())
        assert alone.x is not None
        adj = torch.from_numpy(alone.to_scipy().toarray()) != 0
        found.append((alone.x.to_dense(), adj))
    return found
