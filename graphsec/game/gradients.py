"""What does the gradient of one training step tell of the nodes that it was computed on?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from graphsec.game.base import Game, Secret
from graphsec.graph import Graph, Split
from graphsec.graph.arrays import as_scipy, features
from graphsec.registry import GAMES
from graphsec.rng import Rng


@GAMES.register("gradients")
@dataclass(frozen=True, kw_only=True)
class Gradients(Game):
    """What does the gradient of one training step tell of the nodes that it was computed on?

    The trainer is a client whose labelled nodes are a few drawn training nodes, the roots: each
    step is on all of them, and the gradients of its first ``training.expose`` steps leave it. The
    question is the roots; the answer is their labels, and the scorer finds their features in the
    graph that was trained on. Attackers know, of what they are granted, a graph without the
    features and labels that are private.

    Attributes:
        roots: Number of roots.
        step: The step whose gradient is attacked: 0 is of the initial weights, k of those after k
            steps. ``training.expose`` must be larger.
        private: Features are private of all nodes within so many edges of a root; 0 is of the
            roots themselves.
        labels: Whether the labels of the roots are private too, or known.
    """

    keeps_graph: ClassVar[bool] = False

    roots: Annotated[int, Field(ge=1)] = 1
    step: Annotated[int, Field(ge=0)] = 0
    private: Annotated[int, Field(ge=0, le=16)] = 0
    labels: Literal["private", "known"] = "private"

    def prepare(self, graph: Graph, rng: Rng) -> tuple[Graph, Secret]:
        """The graph with the roots for training nodes; attackers know it with gaps.

        Raises:
            ValueError: The graph has no classes, features or training nodes, or too few of them.
        """
        y, split = labelled(graph, self.name)
        if graph.x is None:
            raise ValueError(f"game 'gradients' needs features, found none in {graph.name!r}")
        train = split.train[y[split.train] >= 0]
        if self.roots > len(train):
            raise ValueError(
                f"game 'gradients': roots must be at most the {len(train)} labelled training nodes "
                f"of {graph.name!r}, got {self.roots}"
            )
        roots, known = trained_on(graph, train, self.roots, rng)
        seen = y.clone()
        if self.labels == "private":
            seen[roots] = -1
        public = known.replace(x=_without_rows(graph.x, self.hidden(graph, roots)), y=seen)
        return known, Secret("gradients", roots, y[roots], public=public, rules=self)

    def hidden(self, graph: Graph, roots: Tensor) -> Tensor:
        """Nodes (k,) in order whose features are private, as far as the graph shows its edges."""
        found = torch.zeros(graph.num_nodes, dtype=torch.bool)
        found[roots] = True
        u, v = graph.edge_index
        for _ in range(self.private):
            near = torch.cat([v[found[u]], u[found[v]]])
            found[near] = True
        return found.nonzero().ravel()


def labelled(graph: Graph, game: str) -> tuple[Tensor, Split]:
    """Labels and split of a graph whose trainer's gradients are asked about.

    Raises:
        ValueError: It is no classification with a split.
    """
    if graph.task != "classification" or graph.y is None or graph.split is None:
        raise ValueError(
            f"game {game!r} needs a classification with a split, found task "
            f"{graph.task!r} in {graph.name!r}"
        )
    return graph.y, graph.split


def trained_on(graph: Graph, among: Tensor, count: int, rng: Rng) -> tuple[Tensor, Graph]:
    """(count,) nodes drawn from ``among``, in order, and the graph with them for training nodes."""
    assert graph.split is not None
    drawn = rng.numpy().choice(among.numpy(), count, replace=False)
    roots = torch.from_numpy(drawn).sort().values
    return roots, graph.replace(split=Split(roots, graph.split.val, graph.split.test))


def _without_rows(x: Tensor, nodes: Tensor) -> Tensor:
    """Features with zeros in the rows of some nodes; sparse ones stay sparse."""
    keep = torch.ones(len(x))
    keep[nodes] = 0
    if x.layout == torch.strided:
        return x * keep.unsqueeze(1)
    return features(sp.diags(keep.numpy()) @ as_scipy(x))
