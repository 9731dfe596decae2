"""Graphs drawn from a graph so that a property of the whole holds: who is in it, and which edges.

Nodes are drawn without replacement and keep their features, labels and part of the split; a world
has the edges among them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from graphsec.graph import Graph


def divided(
    groups: np.ndarray, shares: Sequence[float], generator: np.random.Generator
) -> list[np.ndarray]:
    """Nodes in random parts of these sizes, in which every group has nearly the same share.

    Args:
        groups: (n,) group of each node.
        shares: Size of each part, as a share of n; they add up to 1.
        generator: Decides.

    Returns:
        Sorted indices of each part.
    """
    ends = np.cumsum(shares)[:-1]
    parts: list[list[np.ndarray]] = [[] for _ in shares]
    for value in np.unique(groups):
        order = generator.permutation(np.flatnonzero(groups == value))
        for part, found in zip(parts, np.split(order, np.round(ends * len(order)).astype(int)),
                               strict=True):  # fmt: skip
            part.append(found)
    return [np.sort(np.concatenate(part)) for part in parts]


def room(inside: int, outside: int, shares: Sequence[float]) -> int:
    """Most that can be drawn of so many inside and outside, whichever of the shares is inside."""
    limits = [inside / s for s in shares if s > 0] + [outside / (1 - s) for s in shares if s < 1]
    return int(min(limits, default=0) + 1e-9)


def with_share(
    graph: Graph, inside: np.ndarray, share: float, count: int, generator: np.random.Generator
) -> Graph:
    """``count`` random nodes of which a share is inside.

    Args:
        graph: Supplies the nodes.
        inside: (n,) bool, who is in the group.
        share: Share of the nodes drawn that are, rounded to whole nodes.
        count: Nodes drawn.
        generator: Decides.
    """
    return graph.subgraph(np.sort(_mixed(inside, share, count, generator)))


def with_edges(graph: Graph, share: float, generator: np.random.Generator) -> Graph:
    """All nodes, and a random share of the edges."""
    count = graph.num_edges
    kept = generator.permutation(count)[: round(share * count)]
    return _without(graph, np.setdiff1d(np.arange(count), kept))


def with_homophily(
    graph: Graph, alike: np.ndarray, share: float, count: int, generator: np.random.Generator
) -> Graph:
    """All nodes, and ``count`` random edges of which a share joins nodes that are alike.

    Args:
        graph: Supplies nodes and edges.
        alike: (num_edges,) bool, whether an edge of ``graph.pairs`` does.
        share: Share of the edges drawn that do, rounded to whole edges.
        count: Edges drawn.
        generator: Decides.
    """
    kept = _mixed(alike, share, count, generator)
    return _without(graph, np.setdiff1d(np.arange(graph.num_edges), kept))


def _mixed(
    inside: np.ndarray, share: float, count: int, generator: np.random.Generator
) -> np.ndarray:
    """``count`` indices, a share of them inside."""
    many = round(share * count)
    found = [
        generator.permutation(np.flatnonzero(side))[:wanted]
        for side, wanted in ((inside, many), (~inside, count - many))
    ]
    if len(found[0]) < many or len(found[1]) < count - many:
        raise ValueError(
            f"{many} inside and {count - many} outside are needed for a share of {share:g} of "
            f"{count}, found {int(inside.sum())} and {int((~inside).sum())}"
        )
    return np.concatenate(found)


def _without(graph: Graph, edges: np.ndarray) -> Graph:
    """The graph without the edges at these places of ``graph.pairs``."""
    return graph.flip(graph.pairs[:, torch.from_numpy(edges)])
