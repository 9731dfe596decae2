"""The gradient of a step on nodes leaves training: what do they and their neighbours look like?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from scipy.sparse.csgraph import connected_components

from graphsec.game.base import Game, Secret
from graphsec.game.gradients import labelled, trained_on
from graphsec.graph import Graph
from graphsec.metrics.trees import Tree, unrolled
from graphsec.registry import GAMES
from graphsec.rng import Rng


@GAMES.register("neighbourhood-gradients")
@dataclass(frozen=True, kw_only=True)
class NeighbourhoodGradients(Game):
    """What does the gradient of one step on nodes tell of what surrounds them?

    As the game "gradients", but features and edges are private: attackers know, of what they are
    granted, the graph without the whole connected components of the roots, and nothing of these.
    So it is for graphs of many parts, such as sets of molecules. The question is as many unknown
    nodes as there are roots; the answer is the tree that each root's neighbourhood unrolls to, for
    more than that no message passing shows: the same neighbour at the end of two paths counts
    twice.

    Attributes:
        roots: Number of roots.
        step: The step whose gradient is attacked; ``training.expose`` must be larger.
        hops: Depth of the trees that are asked about; a model shows as many as it has layers.
        degree: Number of neighbours of the roots that may be drawn; None: any but 0.
    """

    keeps_graph: ClassVar[bool] = False

    roots: Annotated[int, Field(ge=1)] = 1
    step: Annotated[int, Field(ge=0)] = 0
    hops: Annotated[int, Field(ge=1, le=8)] = 2
    degree: Annotated[int, Field(ge=1)] | None = None

    def prepare(self, graph: Graph, rng: Rng) -> tuple[Graph, Secret]:
        """The graph with the roots for training nodes; attackers know the other components.

        Raises:
            ValueError: The graph is no undirected classification with features and a split, it has
                too few training nodes of the degree, or all of it would be private.
        """
        y, split = labelled(graph, self.name)
        if graph.x is None or graph.directed:
            raise ValueError(
                f"game {self.name!r} needs features and undirected edges, found x "
                f"{'missing' if graph.x is None else 'present'} and directed {graph.directed} in "
                f"{graph.name!r}"
            )
        train, degree = split.train, graph.degree
        fits = degree[train] > 0 if self.degree is None else degree[train] == self.degree
        train = train[fits & (y[train] >= 0)]
        if self.roots > len(train):
            raise ValueError(
                f"game {self.name!r}: roots must be at most the {len(train)} labelled training "
                f"nodes of {graph.name!r} with {self.degree or 'any'} neighbours, got {self.roots}"
            )
        roots, known = trained_on(graph, train, self.roots, rng)
        part = torch.from_numpy(connected_components(graph.to_scipy())[1])
        mine = torch.isin(part, part[roots])
        if bool(mine.all()):
            raise ValueError(
                f"game {self.name!r}: the connected components of the roots are all of "
                f"{graph.name!r}; nothing is left to know"
            )
        public = known.subgraph((~mine).nonzero().ravel())
        answer = torch.stack([roots, y[roots]])
        asked = torch.full((self.roots,), -1)
        return known, Secret(self.name, asked, answer, public=public, rules=self)


def true_trees(known: Graph, secret: Secret) -> list[Tree]:
    """What the neighbourhood of each root unrolls to."""
    rules = secret.rules
    assert isinstance(rules, NeighbourhoodGradients)
    assert known.x is not None
    x, found = known.x.to_dense(), []
    adj = known.to_scipy()
    for root in secret.answer[0].tolist():
        near = {root}
        for _ in range(rules.hops):
            near |= {int(v) for u in near for v in adj.indices[adj.indptr[u] : adj.indptr[u + 1]]}
        nodes = sorted(near)
        small = torch.from_numpy(adj[nodes][:, nodes].toarray())
        found.append(unrolled(x[nodes], small, nodes.index(root), rules.hops))
    return found
