"""Random graphs with planted structure: block models, LFR, preferential attachment.

Each draws from ``rng["graph"]`` with array operations only: no Python loop runs over nodes or
edges, so that 10⁷ edges take seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field

from graphsec.datasets import sampling as draw
from graphsec.datasets.base import Dataset, Structural, structural
from graphsec.datasets.splits import Strategy, is_drawn
from graphsec.datasets.splits import draw as split
from graphsec.graph import Graph, features
from graphsec.registry import DATASETS, Range, SpecError
from graphsec.rng import Rng

Nodes = Annotated[int, Field(ge=2, le=10**8)]
Share = Annotated[float, Field(ge=0, le=1), Range(0, 1)]
# Edges (2, m), labels (n,), and features or the name of what stands in for them.
Drawn = tuple[np.ndarray, np.ndarray, np.ndarray | Structural]
Positive = Annotated[float, Field(gt=0), Range(0.1, 100, log=True)]


@dataclass(frozen=True, kw_only=True)
class Generated(Dataset):
    """Base of the generators."""

    default_split: ClassVar[Strategy] = {"fractions": [0.1, 0.1, 0.8]}
    generated: ClassVar[bool] = True

    def read(self, rng: Rng) -> Graph:
        """Draw the graph and its split (here, as every copy of a graph is validated anew)."""
        pairs, labels, x = self.generate(rng["graph"].numpy())
        indptr, indices = draw.undirected(pairs, len(labels))
        if isinstance(x, str):
            x = structural(x, indptr.diff().numpy())
        y = torch.from_numpy(labels)
        drawn = is_drawn(self.strategy)
        return Graph(
            indptr=indptr,
            indices=indices,
            x=None if x is None else features(x),
            y=y,
            split=split(y, self.strategy, rng["split"]) if drawn else None,
            name=self.name,
        )

    def generate(self, generator: np.random.Generator) -> Drawn:
        """Draw the graph from a generator."""
        raise NotImplementedError

    def _refuse(self, rule: str) -> SpecError:
        return SpecError(f"dataset {self.name!r}: {rule}")


@DATASETS.register("sbm")
@dataclass(frozen=True, kw_only=True)
class SBM(Generated):
    """Stochastic block model: classes of equal size, edges independent (Holland et al. 1983).

    Attributes:
        num_nodes: n.
        classes: Number of blocks.
        p_in: Probability of an edge inside a block.
        p_out: Probability of an edge between blocks.
        features: What stands in for features.
    """

    num_nodes: Nodes = 1000
    classes: Annotated[int, Field(ge=1, le=1000)] = 4
    p_in: Share = 0.03
    p_out: Share = 0.003
    features: Structural = "identity"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes > self.num_nodes:
            raise self._refuse(
                f"classes must be ≤ num_nodes ({self.num_nodes}), got {self.classes}"
            )

    def generate(self, generator: np.random.Generator) -> Drawn:
        """Draw how many edges each pair of blocks has, then which."""
        starts = np.arange(self.classes + 1) * self.num_nodes // self.classes
        pairs = draw.blocks(starts, self.p_in, self.p_out, generator)
        labels = np.repeat(np.arange(self.classes), np.diff(starts))
        return pairs, labels, self.features


@DATASETS.register("dc-sbm")
@dataclass(frozen=True, kw_only=True)
class DegreeCorrectedSBM(Generated):
    """Degree-corrected block model with Gaussian features (Karrer & Newman 2011).

    Every edge picks its blocks (the same twice with probability ``homophily``) and then its ends in
    them in proportion to their weights, which follow a power law. Self-loops and repeated edges
    are dropped, so that the mean degree falls somewhat short where the graph is dense.

    Attributes:
        num_nodes: n.
        classes: Number of blocks, of equal size.
        degree: Mean degree before loops and repetitions are dropped.
        homophily: Share of the edges that stay inside a block.
        exponent: Exponent of the power law of expected degrees; larger is more even.
        features: Width of the features.
        signal: Distance of the class means from the origin, in standard deviations of the noise.
    """

    num_nodes: Nodes = 1000
    classes: Annotated[int, Field(ge=1, le=1000)] = 4
    degree: Positive = 10.0
    homophily: Share = 0.8
    exponent: Annotated[float, Field(gt=2, le=100), Range(2.1, 5)] = 2.5
    features: Annotated[int, Field(ge=1, le=10**5)] = 32
    signal: Annotated[float, Field(ge=0), Range(0.1, 5, log=True)] = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes > self.num_nodes:
            raise self._refuse(
                f"classes must be ≤ num_nodes ({self.num_nodes}), got {self.classes}"
            )
        if self.degree > self.num_nodes - 1:
            raise self._refuse(f"degree must be ≤ num_nodes − 1, got {self.degree:g}")
        if self.classes == 1 and self.homophily < 1:
            object.__setattr__(self, "homophily", 1.0)

    def generate(self, generator: np.random.Generator) -> Drawn:
        """Draw weights, block pairs, ends and features."""
        n, classes = self.num_nodes, self.classes
        starts = np.arange(classes + 1) * n // classes
        labels = np.repeat(np.arange(classes), np.diff(starts))
        # The tail is cut at √(n·degree), beyond which repeated edges would eat the weights.
        top = max(math.sqrt(n * self.degree) / self.degree, 2.0)
        weight = draw.power_law(generator, n, self.exponent, 1.0, top)
        total = generator.poisson(n * self.degree / 2)
        mixing = np.full((classes, classes), (1 - self.homophily) / max(classes * (classes - 1), 1))
        np.fill_diagonal(mixing, self.homophily / classes)
        counts = generator.multinomial(total, mixing.ravel()).reshape(classes, classes)
        pairs = draw.block_ends(weight, starts, counts, generator)
        mean = generator.standard_normal((classes, self.features))
        mean *= self.signal / np.linalg.norm(mean, axis=1, keepdims=True)
        x = generator.standard_normal((n, self.features), np.float32)
        x += mean.astype(np.float32)[labels]
        return pairs, labels, x


@DATASETS.register("csbm")
@dataclass(frozen=True, kw_only=True)
class ContextualSBM(Generated):
    """Contextual block model: two classes in graph and features (Deshpande et al. 2018).

    With v ∈ {±1}ⁿ, nodes are joined with probability (d ± λ√d)/n, and features are
    √(μ/n)·vᵢ·u + z/√p with u ~ N(0, I/p) and z ~ N(0, I). Both signals together can be seen above
    λ² + μ²/γ = 1, γ = n/p.

    Attributes:
        num_nodes: n.
        degree: d, the mean degree.
        graph_signal: λ, at most √d in size; below zero the graph is heterophilous.
        feature_signal: μ.
        features: p.
    """

    num_nodes: Nodes = 1000
    degree: Positive = 10.0
    graph_signal: Annotated[float, Range(-3, 3)] = 2.0
    feature_signal: Annotated[float, Field(ge=0), Range(0.1, 100, log=True)] = 10.0
    features: Annotated[int, Field(ge=1, le=10**5)] = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        root = math.sqrt(self.degree)
        if not abs(self.graph_signal) <= root:
            raise self._refuse(f"graph_signal must lie within ±√degree ({root:.3g}), "
                               f"got {self.graph_signal:g}")  # fmt: skip
        if self.degree + abs(self.graph_signal) * root > self.num_nodes:
            raise self._refuse(f"degree + |graph_signal|·√degree must be ≤ num_nodes "
                               f"({self.num_nodes}), got degree {self.degree:g}")  # fmt: skip

    def generate(self, generator: np.random.Generator) -> Drawn:
        """Draw edges and features."""
        n, p = self.num_nodes, self.features
        starts = np.array([0, n // 2, n])
        lift = self.graph_signal * math.sqrt(self.degree)
        inside, outside = (self.degree + lift) / n, (self.degree - lift) / n
        pairs = draw.blocks(starts, inside, outside, generator)
        labels = np.repeat(np.arange(2), np.diff(starts))
        u = generator.standard_normal(p, np.float32) / np.float32(math.sqrt(p))
        x = generator.standard_normal((n, p), np.float32) / np.float32(math.sqrt(p))
        sign = (2 * labels - 1).astype(np.float32)
        x += np.float32(math.sqrt(self.feature_signal / n)) * sign[:, None] * u
        return pairs, labels, x


@DATASETS.register("csbm-pq")
@dataclass(frozen=True, kw_only=True)
class LabelledSBM(Generated):
    """Contextual block model whose parameters tell every node's best class in closed form.

    Labels are fair coins. Nodes are joined with probability p_in inside a class and p_out between
    classes; features are N((2y − 1) μ, I) where all entries of μ are equal and 2|μ| is
    ``distance``. ``graphsec.semantics`` has the Bayes classifier.

    Source: Gosch et al., Revisiting Robustness in Graph Machine Learning, ICLR 2023, the
    contextual block model of its experiments; defaults near its sparse graphs.

    Attributes:
        num_nodes: n.
        p_in: Probability of an edge inside a class.
        p_out: Probability of an edge between classes.
        distance: Distance of the class means, in standard deviations.
        features: Width of the features.
    """

    num_nodes: Nodes = 1000
    p_in: Share = 0.0063
    p_out: Share = 0.0015
    distance: Annotated[float, Field(ge=0, le=100), Range(0.1, 5, log=True)] = 1.5
    features: Annotated[int, Field(ge=1, le=10**5)] = 21

    def generate(self, generator: np.random.Generator) -> Drawn:
        """Draw labels, edges and features; numbers of nodes say nothing about their class."""
        n = self.num_nodes
        starts = np.array([0, n - int(generator.binomial(n, 0.5)), n])
        order = generator.permutation(n)
        pairs = order[draw.blocks(starts, self.p_in, self.p_out, generator)]
        labels = np.empty(n, np.int64)
        labels[order] = np.repeat(np.arange(2), np.diff(starts))
        x = generator.standard_normal((n, self.features), np.float32)
        mean = np.float32(self.distance / 2 / math.sqrt(self.features))
        x += mean * (2 * labels - 1).astype(np.float32)[:, None]
        return pairs, labels, x


@DATASETS.register("lfr")
@dataclass(frozen=True, kw_only=True)
class LFR(Generated):
    """Communities and degrees that both follow power laws, after Lancichinetti et al. (2008).

    Ours, not their program: nodes enter communities at random, a share ``mixing`` of each node's
    degree leaves its community, and both kinds of stubs are joined by a configuration model; stubs
    left over, self-loops and repeated edges are dropped, and a degree that finds no room in its
    community goes outside. The measured mixing is close to the one asked for, not equal to it.

    Attributes:
        num_nodes: n.
        degree: Mean degree.
        max_degree: Largest degree.
        degree_exponent: τ₁, exponent of the degrees.
        community_exponent: τ₂, exponent of the community sizes.
        min_community: Smallest community.
        max_community: Largest community.
        mixing: μ, the share of a node's edges that leave its community.
        features: What stands in for features.
    """

    num_nodes: Nodes = 1000
    degree: Positive = 15.0
    max_degree: Annotated[int, Field(ge=1)] = 50
    degree_exponent: Annotated[float, Field(gt=1, le=10)] = 2.5
    community_exponent: Annotated[float, Field(gt=1, le=10)] = 1.5
    min_community: Annotated[int, Field(ge=2)] = 40
    max_community: Annotated[int, Field(ge=2)] = 120
    mixing: Share = 0.1
    features: Structural = "identity"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.degree < self.max_degree < self.num_nodes:
            raise self._refuse(
                "1 ≤ degree < max_degree < num_nodes must hold, got "
                f"{self.degree:g}, {self.max_degree}, {self.num_nodes}"
            )
        if not self.min_community <= self.max_community <= self.num_nodes:
            raise self._refuse(
                "min_community ≤ max_community ≤ num_nodes must hold, got "
                f"{self.min_community}, {self.max_community}, {self.num_nodes}"
            )

    def generate(self, generator: np.random.Generator) -> Drawn:
        """Draw degrees and communities, then join stubs inside and outside."""
        n = self.num_nodes
        low = draw.power_law_start(self.degree_exponent, self.max_degree, self.degree)
        wish = draw.power_law(generator, n, self.degree_exponent, low, self.max_degree)
        degree = draw.rounded(wish, generator)
        sizes = draw.community_sizes(
            generator, n, self.community_exponent, self.min_community, self.max_community
        )
        labels = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
        inside = draw.rounded((1 - self.mixing) * degree, generator)
        inside = np.minimum(inside, sizes[labels] - 1)
        within = draw.joined_within(inside, labels, generator)
        across = draw.joined_across(degree - inside, labels, generator)
        pairs = np.concatenate([within, across], axis=1)
        return pairs, labels, self.features


@DATASETS.register("ba")
@dataclass(frozen=True, kw_only=True)
class BarabasiAlbert(Generated):
    """Preferential attachment (Barabási & Albert 1999), drawn as Batagelj & Brandes (2005) do.

    A star of m + 1 nodes grows by nodes that attach m edges to ends of earlier edges. Ends are
    drawn with replacement; repeated edges are dropped, so that there are somewhat fewer than
    m·(n − m) edges. Classes are eras of equal length: who came early has many edges.

    Attributes:
        num_nodes: n.
        degree: m, edges a new node brings.
        classes: Number of eras.
        features: What stands in for features.
    """

    num_nodes: Nodes = 1000
    degree: Annotated[int, Field(ge=1)] = 5
    classes: Annotated[int, Field(ge=1, le=1000)] = 2
    features: Structural = "degree"

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("degree", "classes"):
            value = getattr(self, field)
            if value >= self.num_nodes:
                raise self._refuse(f"{field} must be < num_nodes ({self.num_nodes}), got {value}")

    def generate(self, generator: np.random.Generator) -> Drawn:
        """Copy edge ends."""
        n = self.num_nodes
        labels = np.arange(n) * self.classes // n
        pairs = draw.preferential(n, self.degree, generator)
        return pairs, labels, self.features
