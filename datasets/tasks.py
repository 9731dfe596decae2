"""Small tasks that need messages from far away: labels along chains, counting, coordinates.

The tasks are named in Solodova et al. (ICLR 2025); chains go back to Gu et al. (NeurIPS 2020).
Sizes, features and splits are ours where those papers' details were not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from graphsec.datasets.base import About, Dataset
from graphsec.datasets.splits import Strategy, is_drawn
from graphsec.datasets.splits import draw as split
from graphsec.graph import Graph, Split
from graphsec.registry import DATASETS, Range
from graphsec.rng import Rng

_SOURCE = "Solodova et al., Graph Neural Networks Gone Hogwild, ICLR 2025"


@dataclass(frozen=True, kw_only=True)
class Task(Dataset):
    """Base of the tasks: a set of small graphs, drawn by the seed."""

    generated: ClassVar[bool] = True

    def read(self, rng: Rng) -> Graph:
        """Draw the graphs."""
        return self.generate(rng["graph"].numpy(), rng["split"])

    def generate(self, generator: np.random.Generator, rng: Rng) -> Graph:
        """Draw the graphs from a generator; whole graphs go into a part of the split."""
        raise NotImplementedError

    def _by_graph(self, graph_id: np.ndarray, rng: Rng) -> Split | None:
        """Whole graphs for training, validation and test; None leaves the split to ``load``."""
        if not is_drawn(self.strategy):
            return None
        members = torch.arange(int(graph_id.max()) + 1)
        parts = split(members, self.strategy, rng, regression=True)
        return Split.of(
            *(np.isin(graph_id, part.numpy()).nonzero()[0] for _, part in parts.items())
        )


def chains(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges (2, m) of chains of these lengths, and the chain of each node (n,)."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    node = np.arange(len(owner))
    inner = owner[:-1] == owner[1:]
    return np.stack([node[:-1][inner], node[1:][inner]]), owner


@DATASETS.register("chains")
@dataclass(frozen=True, kw_only=True)
class Chains(Task):
    """Every node has the label that the features of its chain's first node tell (Gu et al. 2020).

    All other nodes have zero features, so that the label must travel the whole chain.

    Attributes:
        classes: Number of classes.
        chains: Chains of each class.
        length: Nodes of a chain.
        features: Width of the features, at least the number of classes.
    """

    about: ClassVar[About] = About(source="Gu et al., NeurIPS 2020, §6.1")
    default_split: ClassVar[Strategy] = {"fractions": [0.1, 0.1, 0.8]}

    classes: Annotated[int, Field(ge=2, le=100)] = 2
    chains: Annotated[int, Field(ge=1, le=10_000)] = 20
    length: Annotated[int, Field(ge=2, le=10_000), Range(10, 100)] = 20
    features: Annotated[int, Field(ge=2, le=10_000)] = 100

    def generate(self, generator: np.random.Generator, rng: Rng) -> Graph:
        """Chains; nodes of all of them are in every part of the split."""
        if self.features < self.classes:
            raise ValueError(
                f"chains: features must be ≥ classes ({self.classes}), got {self.features}"
            )
        total = self.classes * self.chains
        pairs, owner = chains(np.full(total, self.length))
        y = owner % self.classes
        x = np.zeros((len(owner), self.features), np.float32)
        first = np.arange(total) * self.length
        x[first, y[first]] = 1
        return Graph.from_edges(pairs, len(owner), x=x, y=y, graph_id=owner, name=self.name)


@DATASETS.register("count")
@dataclass(frozen=True, kw_only=True)
class Count(Task):
    """Every node must say how many nodes its chain has, over ten (Solodova et al. 2025).

    Features are a one and whether the node is an end. Ours: chains, of lengths drawn uniformly,
    whole ones in a part of the split.

    Attributes:
        chains: Number of chains.
        shortest: Nodes of the shortest.
        longest: Nodes of the longest.
    """

    about: ClassVar[About] = About(source=_SOURCE)
    default_split: ClassVar[Strategy] = {"fractions": [0.4, 0.2, 0.4]}

    chains: Annotated[int, Field(ge=5, le=10_000)] = 100
    shortest: Annotated[int, Field(ge=2, le=1000)] = 2
    longest: Annotated[int, Field(ge=2, le=1000)] = 10

    @property
    def task(self) -> str:
        """Targets are numbers."""
        return "regression"

    def generate(self, generator: np.random.Generator, rng: Rng) -> Graph:
        """Chains and their lengths."""
        if self.longest < self.shortest:
            raise ValueError(f"count: longest must be ≥ {self.shortest}, got {self.longest}")
        lengths = generator.integers(self.shortest, self.longest + 1, self.chains)
        pairs, owner = chains(lengths)
        degree = np.bincount(pairs.ravel(), minlength=len(owner))
        x = np.stack([np.ones(len(owner)), degree == 1], axis=1).astype(np.float32)
        y = (lengths[owner] / 10).astype(np.float32)
        return _regression(pairs, x, y, owner, self._by_graph(owner, rng), self.name)


@DATASETS.register("coordinates")
@dataclass(frozen=True, kw_only=True)
class Coordinates(Task):
    """Every node of a point cloud must say where it is (Solodova et al. 2025).

    Ours: points in the unit square, joined where nearer than the radius with weight
    exp(−(distance / radius)²), so that weights tell relative distances. Anchors know where they
    are; the target is the first coordinate. Features are (1, anchor or not, an anchor's
    coordinate).

    Attributes:
        clouds: Number of point clouds.
        points: Points of a cloud.
        radius: Distance up to which points are joined.
        anchors: Share of the points that know where they are.
    """

    about: ClassVar[About] = About(source=_SOURCE)
    default_split: ClassVar[Strategy] = {"fractions": [0.4, 0.2, 0.4]}

    clouds: Annotated[int, Field(ge=5, le=10_000)] = 40
    points: Annotated[int, Field(ge=2, le=1000)] = 30
    radius: Annotated[float, Field(gt=0, le=2), Range(0.1, 0.5)] = 0.3
    anchors: Annotated[float, Field(ge=0, le=1), Range(0.05, 0.5)] = 0.2

    @property
    def task(self) -> str:
        """Targets are numbers."""
        return "regression"

    def generate(self, generator: np.random.Generator, rng: Rng) -> Graph:
        """Clouds of points."""
        place = generator.random((self.clouds, self.points, 2))
        gap = np.linalg.norm(place[:, :, None] - place[:, None], axis=3)
        near = (gap < self.radius) & np.triu(np.ones((self.points,) * 2, bool), 1)
        cloud, u, v = near.nonzero()
        weight = np.exp(-((gap[near] / self.radius) ** 2))
        pairs = np.stack([u, v]) + cloud * self.points
        owner = np.repeat(np.arange(self.clouds), self.points)
        y = place[:, :, 0].ravel().astype(np.float32)
        known = generator.random(len(y)) < self.anchors
        x = np.stack([np.ones(len(y)), known, known * y], axis=1).astype(np.float32)
        part = self._by_graph(owner, rng)
        return _regression(pairs, x, y, owner, part, self.name, edge_weight=weight)


def _regression(
    pairs: np.ndarray, x: np.ndarray, y: np.ndarray, owner: np.ndarray, part: Split | None,
    name: str, **fields: Any,
) -> Graph:  # fmt: skip
    return Graph.from_edges(
        pairs, len(y), x=x, y=y, graph_id=owner, split=part, task="regression", name=name, **fields
    )
