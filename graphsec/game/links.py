"""Which pairs are edges?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphsec.game.base import Game, Secret
from graphsec.graph import Graph
from graphsec.registry import GAMES
from graphsec.rng import Rng


@GAMES.register("links")
@dataclass(frozen=True, kw_only=True)
class Links(Game):
    """Which pairs are edges?

    Attributes:
        ask: "balanced" asks about as many non-edges as edges (He et al. 2021, §3), which flatters
            an attacker; "all" asks about every pair, as whoever reconstructs a graph must answer.
        pairs: Most edges asked about ("balanced", default 10,000) or most pairs ("all", default
            20 million, of which a random sample is taken); all if there are fewer.
        reveal: Share of the edges that are examples, with as many non-edges: their answers are
            open to attackers who know a part of the graph, and they are not asked about.
    """

    ask: Literal["balanced", "all"] = "balanced"
    pairs: Annotated[int, Field(ge=1)] | None = None
    reveal: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def prepare(self, graph: Graph, rng: Rng) -> tuple[Graph, Secret | None]:
        """The whole graph for the trainer; attackers see it without its edges."""
        generator = rng.numpy()
        edges = graph.pairs.numpy()
        if edges.shape[1] == 0:
            raise ValueError(f"game 'links' needs edges, found none in {graph.name!r}")
        examples = self._examples(graph, rng["reveal"].numpy()) if self.reveal else None
        shown = np.zeros((2, 0), np.int64) if examples is None else examples[0].numpy()
        if self.ask == "all":
            every = _every_pair(graph, self.pairs or 20_000_000, generator)
            every = every[:, ~_among(every.numpy(), shown, graph.num_nodes)]
            return graph, Secret("links", every, graph.has_edges(every).to(torch.int64), examples)
        edges = edges[:, ~_among(edges, shown, graph.num_nodes)]
        question, answer = _balanced(graph, edges, self.pairs or 10_000, generator, shown)
        return graph, Secret("links", question, answer, examples)

    def _examples(self, graph: Graph, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Pairs (2, k) and whether they are edges: at least one edge is shown, and one is not."""
        count = max(1, round(self.reveal * graph.num_edges))
        if count >= graph.num_edges:
            raise ValueError(
                f"game 'links': reveal = {self.reveal:g} leaves none of the {graph.num_edges} "
                f"edges of {graph.name!r} to ask about"
            )
        return _balanced(graph, graph.pairs.numpy(), count, generator)


def _among(pairs: np.ndarray, others: np.ndarray, n: int) -> np.ndarray:
    """(k,) which of the pairs (2, k) are among others."""
    return np.isin(pairs[0] * n + pairs[1], others[0] * n + others[1])


def _balanced(
    graph: Graph,
    edges: np.ndarray,
    most: int,
    generator: np.random.Generator,
    without: np.ndarray | None = None,
) -> tuple[Tensor, Tensor]:
    """At most so many of the edges and as many non-edges, in random order, and which is which."""
    count = min(most, edges.shape[1])
    positive = edges[:, generator.permutation(edges.shape[1])[:count]]
    negative = _non_edges(graph, count, generator, without)
    order = generator.permutation(count + negative.shape[1])
    pairs = np.concatenate([positive, negative], axis=1)[:, order]
    answer = np.repeat([1, 0], [count, negative.shape[1]])[order]
    return torch.from_numpy(pairs), torch.from_numpy(answer)


def _every_pair(graph: Graph, most: int, generator: np.random.Generator) -> Tensor:
    """(2, k) all pairs of nodes in order, or a uniform sample of ``most`` of them."""
    n = graph.num_nodes
    total = n * (n - 1) // (1 if graph.directed else 2)
    if total <= most:
        if graph.directed:
            grid = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T
            return grid[:, grid[0] != grid[1]].contiguous()
        return torch.triu_indices(n, n, 1)
    found = np.zeros(0, np.int64)
    while len(found) < most:
        u, v = generator.integers(0, n, (2, most - len(found) + 64))
        if not graph.directed:
            u, v = np.minimum(u, v), np.maximum(u, v)
        found = np.union1d(found, (u * n + v)[u != v])
    found = np.sort(generator.permutation(found)[:most])
    return torch.from_numpy(np.stack([found // n, found % n]))


def _non_edges(
    graph: Graph, count: int, generator: np.random.Generator, without: np.ndarray | None = None
) -> np.ndarray:
    """Distinct pairs that are neither edges nor among others, at most ``count``."""
    n = graph.num_nodes
    row, col = graph.edge_index.numpy()
    taken = row * n + col
    if without is not None:
        taken = np.concatenate([taken, without[0] * n + without[1]])
    found = np.zeros(0, np.int64)
    for _ in range(64):
        drawn = generator.integers(0, n, (2, 2 * count + 16))
        drawn = drawn[:, drawn[0] != drawn[1]]
        if not graph.directed:
            drawn = np.sort(drawn, axis=0)
        keys = np.setdiff1d(drawn[0] * n + drawn[1], taken)
        found = np.union1d(found, keys)
        if len(found) >= count:
            found = generator.permutation(found)[:count]
            break
    return np.vstack([found // n, found % n])
