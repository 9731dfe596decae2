"""The gradient of one training step leaves training: which edges do the nodes it was on have?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from graphsec.game.base import Game, Secret
from graphsec.game.gradients import labelled, trained_on
from graphsec.graph import Graph
from graphsec.registry import GAMES
from graphsec.rng import Rng


@GAMES.register("edge-gradients")
@dataclass(frozen=True, kw_only=True)
class EdgeGradients(Game):
    """What does the gradient of one training step tell of the edges at the nodes it was on?

    As the game "gradients", but what is private of the roots is their edges: attackers know, of
    what they are granted, all features and the graph without the roots' edges. The question is all
    pairs of a root and another node; the answer is which are edges. Only roots with edges are
    drawn.

    Attributes:
        roots: Number of roots.
        step: The step whose gradient is attacked; ``training.expose`` must be larger.
        labels: Whether the labels of the roots are private too, or known.
    """

    keeps_graph = False

    roots: Annotated[int, Field(ge=1)] = 1
    step: Annotated[int, Field(ge=0)] = 0
    labels: Literal["private", "known"] = "private"

    def prepare(self, graph: Graph, rng: Rng) -> tuple[Graph, Secret]:
        """The graph with the roots for training nodes; attackers know it without their edges.

        Raises:
            ValueError: The graph is no undirected classification with features and a split, or it
                has too few training nodes with edges.
        """
        y, split = labelled(graph, self.name)
        if graph.x is None or graph.directed:
            raise ValueError(
                f"game 'edge-gradients' needs features and undirected edges, found x "
                f"{'missing' if graph.x is None else 'present'} and directed {graph.directed} in "
                f"{graph.name!r}"
            )
        train = split.train
        train = train[(y[train] >= 0) & (graph.degree[train] > 0)]
        if self.roots > len(train):
            raise ValueError(
                f"game 'edge-gradients': roots must be at most the {len(train)} labelled training "
                f"nodes of {graph.name!r} with edges, got {self.roots}"
            )
        roots, known = trained_on(graph, train, self.roots, rng)
        asked = pairs_at(roots, graph.num_nodes)
        answer = graph.has_edges(asked)
        seen = y.clone()
        if self.labels == "private":
            seen[roots] = -1
        public = known.flip(asked[:, answer]).replace(y=seen)
        return known, Secret(
            "edge-gradients", asked, answer.to(torch.int64), public=public, rules=self
        )


def pairs_at(roots: Tensor, num_nodes: int) -> Tensor:
    """(2, k) all pairs u < v of which one is a root, in order, each once."""
    every = torch.cartesian_prod(roots, torch.arange(num_nodes)).T
    low, high = every.min(0).values, every.max(0).values
    code = torch.unique((low * num_nodes + high)[low != high])
    return torch.stack([code // num_nodes, code % num_nodes])


def roots_of(pairs: Tensor, num_nodes: int) -> Tensor:
    """(r,) the roots of ``pairs_at``: those that are in a pair with every other node."""
    return (torch.bincount(pairs.ravel(), minlength=num_nodes) == num_nodes - 1).nonzero().ravel()
