"""EdgeRand and LapGraph: the model is trained on, and answers about, a noisy copy of the graph."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.graph import Graph
from graphsec.ops import Adj, Features
from graphsec.ops.noise import Keys, distinct_pairs, edge_keys, flipped
from graphsec.predict import How, PrivacyStatement
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng
from graphsec.train import Recipe, Trace


@dataclass(frozen=True, kw_only=True)
class NoisyGraph(Defense):
    """Base of defenses that release the training graph's edges with ε-differential privacy.

    The noise is a set of pairs that are flipped. It is drawn at ``fit``, for every fit afresh, and
    the same for training and for all answers: the training graph is never seen but through it.
    Graphs must be undirected; edge weights are dropped. Memory is linear in edges and noise.

    **What the guarantee is of.** Neighbours are graphs that differ in one undirected edge. Nodes,
    features, labels and split must not depend on the edges (features that are degrees do). Then all
    that the noisy edges are used for is post-processing of them: degrees and normalisation,
    training, early stopping on validation labels, released gradients, weights, scores and hidden
    states on the training graph, also under features of the asker's own. Each fit on the graph
    costs ε anew, and so do trials of hyperparameters.

    **What it is not of.** Questions about edges of the asker's own are answered under the same
    flips: an empty graph in the question shows the flips, and the flips undo the release. So would
    the noise in a file: predictors can't be saved. An attacker who does not see the edges gets the
    weights without the noise (``View.model``). A set of flips to the training graph is harmless,
    as the answer is that on the release with the same flips.

    Noise from a seed can be replayed by who knows the seed, which is part of every record: a
    statement is made only with ``secure``. It holds as far as numpy's generator can't be told from
    chance and its floating-point numbers from real ones.
    """

    draws: ClassVar[bool] = True
    source: ClassVar[str] = ""

    epsilon: Annotated[float, Field(gt=0), Range(1, 20)] = 8.0
    secure: bool = False
    _flips: Keys | None = field(init=False, default=None, repr=False, compare=False)

    def flips(self, edges: Keys, nodes: int, rng: Rng) -> Keys:
        """(k,) u · n + v, u < v, of the pairs to flip, for rising keys (m,) of the edges."""
        raise NotImplementedError

    def drawn(self, graph: Graph, rng: Rng) -> Defense:
        """With the flips of this training.

        Raises:
            ValueError: The graph is directed.
        """
        if graph.directed:
            raise ValueError(f"{self.name} needs an undirected graph, {graph.name!r} is directed")
        stream = Rng.fresh() if self.secure else rng
        made = copy.copy(self)
        flips = self.flips(edge_keys(graph.adj), graph.num_nodes, stream)
        object.__setattr__(made, "_flips", flips)
        return made

    def sanitise(
        self, x: Tensor | Features, adj: Adj, how: How = "exact"
    ) -> tuple[Tensor | Features, Adj]:
        """The flipped graph; the graph itself before flips are drawn, or bypassed."""
        if self._flips is None or how == "bypass":
            return x, adj
        return x, flipped(adj, self._flips)

    def statement(self, graph: Graph, recipe: Recipe, trace: Trace) -> PrivacyStatement | None:
        """ε for the edges, where the noise can't be replayed."""
        if not self.secure:
            return None
        return PrivacyStatement(
            epsilon=self.epsilon,
            delta=0.0,
            relation="add or remove one undirected edge",
            family="undirected graphs whose nodes, features, labels and split are public or do not "
            "depend on the edges",
            release="of one fit: weights, gradients, and answers and hidden states on the training "
            "graph, also under the asker's own features; not answers about the asker's own edges, "
            "not the noise",
            argument=self.source,
        )


@DEFENSES.register("edge-rand")
@dataclass(frozen=True, kw_only=True)
class EdgeRand(NoisyGraph):
    """Randomised response: every pair of nodes is flipped with probability 1 / (1 + e^ε).

    A pair's answer is e^ε times as likely for one truth as for the other. The noise adds about
    n² / (2 (1 + e^ε)) edges, more than there are unless ε is above the logarithm of one over the
    density; see ``NoisyGraph`` for what is promised.

    Source: Mülle, Clifton & Böhm, Privacy-Integrated Graph Clustering Through Differential Privacy,
    PAIS 2015; Wu et al., LinkTeller, S&P 2022, §5, which replaces a pair by a fair coin with
    probability s = 2 / (1 + e^ε): the same.

    Attributes:
        epsilon: ε.
        secure: Draw the noise from the operating system, not from the seed.
    """

    source: ClassVar[str] = (
        "randomised response on each pair (Warner 1965; Wu et al., S&P 2022, §5), post-processing"
    )

    def flips(self, edges: Keys, nodes: int, rng: Rng) -> Keys:
        """As many distinct pairs as a binomial draw says."""
        odds = math.exp(-self.epsilon)
        count = rng["count"].numpy().binomial(nodes * (nodes - 1) // 2, odds / (1 + odds))
        return distinct_pairs(nodes, count, rng["pairs"].numpy(), shuffle=False)


@DEFENSES.register("lap-graph")
@dataclass(frozen=True, kw_only=True)
class LapGraph(NoisyGraph):
    """Laplace noise on every cell of the adjacency; as many of the largest stay as there are edges.

    The number of edges gets Laplace noise of scale 1 / ε₁, every pair one of 1 / ε₂, and the pairs
    of largest value become the edges; ε = ε₁ + ε₂ by composition. See ``NoisyGraph`` for what is
    promised.

    Source: Wu et al., LinkTeller: Recovering Private Edges from Graph Neural Networks via Influence
    Analysis, S&P 2022, §5 and appendix. Ours: no matrix of all pairs is drawn. Of the absent pairs
    only the values that can be among the largest are, by their exact joint distribution, and where
    they lie is uniform. The published code gives the same seed to the draw of the count and to that
    of the cells, against which composition proves nothing; here they have streams of their own.

    Attributes:
        epsilon: ε.
        secure: Draw the noise from the operating system, not from the seed.
        count_share: ε₁ / ε.
    """

    source: ClassVar[str] = (
        "Laplace mechanism on the number of edges and on each pair, composed (Wu et al., S&P 2022, "
        "§5), post-processing"
    )

    count_share: Annotated[float, Field(gt=0, lt=1), Range(0.005, 0.1, log=True)] = 0.01

    def flips(self, edges: Keys, nodes: int, rng: Rng) -> Keys:
        """The edges that do not stay, and the pairs that take their places."""
        total, m = nodes * (nodes - 1) // 2, len(edges)
        noise = rng["count"].numpy().laplace(0, 1 / (self.count_share * self.epsilon))
        wanted = int(np.clip(np.rint(m + noise), 0, total))
        scale = 1 / ((1 - self.count_share) * self.epsilon)
        there = 1 + rng["edges"].numpy().laplace(0, scale, m)
        absent = scale * largest_laplace(total - m, min(wanted, total - m), rng["rest"].numpy())
        stays = np.zeros(m + len(absent), bool)
        stays[np.argsort(-np.concatenate([there, absent]))[:wanted]] = True
        new = int(stays[m:].sum())
        # Of so many pairs in random order at most m are edges, and the others are uniform.
        pairs = distinct_pairs(nodes, min(new + m, total), rng["pairs"].numpy())
        appear = pairs[~np.isin(pairs, edges)][:new]
        return np.concatenate([edges[~stays[:m]], appear])


def largest_laplace(count: int, k: int, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """(k,) the largest of ``count`` independent standard Laplace variables, the least first.

    The chance that a variable exceeds its own value is uniform. The k-th smallest of ``count``
    uniform variables is Beta(k, count + 1 − k), and those below it are uniform up to it.
    """
    if k == 0:
        return np.zeros(0)
    least = generator.beta(k, count + 1 - k)
    exceeds = least * np.concatenate([[1.0], 1 - generator.random(k - 1)])
    exceeds = np.maximum(exceeds, np.finfo(float).tiny)
    upper = -np.log(2 * exceeds)
    return np.where(exceeds < 0.5, upper, np.log(np.maximum(2 * (1 - exceeds), 1e-300)))
