"""Colours: what a node and its surroundings, k edges deep, may be as far as spans allow it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import comb

import numpy as np

from graphsec.attacks.leakage.grain.alphabet import Kinds
from graphsec.attacks.leakage.grain.layers import GCNLayers
from graphsec.attacks.leakage.grain.span import Span

CHUNK = 16_384


@dataclass(frozen=True, eq=False)
class Colours:
    """What may be found k edges deep around a node.

    Attributes:
        kind: (N,) kind of the node.
        own: (N,) its colour one level below.
        near: (N, D) those of its neighbours there, −1 beyond its degree; none at level 0.
        state: (N, width) what layer k makes of it.
    """

    kind: np.ndarray
    own: np.ndarray
    near: np.ndarray
    state: np.ndarray

    @staticmethod
    def of(kinds: Kinds) -> Colours:
        """Level 0: the kinds."""
        each = np.arange(len(kinds.x))
        return Colours(each, each, np.zeros((len(each), 0), np.int64), kinds.x)


def deeper(
    below: Colours, kinds: Kinds, layers: GCNLayers, level: int, span: Span, most: int
) -> Colours:
    """Colours of the next level whose input to the layer's map lies in the span of its gradient.

    A node keeps its colour of the level below and each of its neighbours gets one of those that
    continue the colour it had and have the node for a neighbour.

    Args:
        below: Of the level before.
        kinds: What nodes may be.
        layers: Of the model.
        level: Which layer's map, from 1.
        span: Of its gradient.
        most: Most colours that are tried.

    Raises:
        ValueError: There are more.
    """
    width = int(kinds.degree.max(initial=0))
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    left = most
    root = (kinds.degree[below.kind] + 1.0) ** -0.5
    sent = root[:, None] * below.state
    for own in range(len(below.kind)):
        groups = list(_groups(below, own, int(kinds.degree[below.kind[own]])))
        total = 1
        for options, count in groups:
            total *= comb(len(options) + count - 1, count)
        left -= total
        if left < 0:
            raise ValueError(
                f"attack 'grain-nodes': there is more to try {level} edges deep around a node than "
                f"colours = {most:,}"
            )
        rows = _product(groups)
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            given = root[own] * (sent[own] + sent[some].sum(1))
            inside = span.holds(given)
            padded = np.full((int(inside.sum()), width), -1)
            padded[:, : some.shape[1]] = some[inside]
            parts.append((np.full(len(padded), own), padded, given[inside]))
    if not parts:
        none = np.zeros(0, np.int64)
        return Colours(none, none, np.zeros((0, width), np.int64), np.zeros((0, 0)))
    own_, near, given = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Colours(below.kind[own_], own_, near, layers.after(level - 1, given))


def _groups(below: Colours, own: int, degree: int) -> Iterator[tuple[np.ndarray, int]]:
    """(colours, how many neighbours have one of them), so that all together are the neighbours."""
    if not below.near.shape[1]:  # kinds: any may be near any
        if degree:
            yield np.arange(len(below.kind)), degree
        return
    back = (below.near == below.own[own]).any(1)
    for old in np.unique(below.near[own][below.near[own] >= 0]):
        yield np.flatnonzero((below.own == old) & back), int((below.near[own] == old).sum())


def _product(groups: list[tuple[np.ndarray, int]]) -> np.ndarray:
    """(ways, neighbours) every choice of neighbours, group by group."""
    rows = np.zeros((1, 0), np.int64)
    for options, count in groups:
        some = np.array(list(combinations_with_replacement(options.tolist(), count)), np.int64)
        some = some.reshape(-1, count)
        rows = np.hstack([np.repeat(rows, len(some), 0), np.tile(some, (len(rows), 1))])
    return rows


def tree(levels: list[Colours], colour: int) -> tuple[np.ndarray, np.ndarray]:
    """Kinds (n,) and edges (n, n) of the tree that a colour of the last level says, root first."""
    kinds: list[int] = []
    edges: list[tuple[int, int]] = []

    def add(level: int, colour: int, back: int) -> int:
        """A node of a colour, without one neighbour of the colour ``back`` (−1: with all)."""
        here, me = levels[level], len(kinds)
        kinds.append(int(here.kind[colour]))
        others = [int(other) for other in here.near[colour] if other >= 0]
        if back >= 0 and level:
            others.remove(back)
        for other in others:
            # What its neighbour is, seen from one level further down.
            mine = int(here.own[colour])
            twice = int(levels[level - 1].own[mine]) if level > 1 else -1
            edges.append((me, add(level - 1, other, twice)))
        return me

    add(len(levels) - 1, colour, -1)
    adj = np.zeros((len(kinds),) * 2)
    for u, v in edges:
        adj[u, v] = adj[v, u] = 1
    return np.array(kinds), adj
