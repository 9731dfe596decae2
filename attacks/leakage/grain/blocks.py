"""Building blocks: a node of a kind with a multiset of neighbours, as far as gradients allow it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from math import comb

import numpy as np
from scipy.optimize import linprog

from graphsec.attacks.leakage.grain.alphabet import Kinds
from graphsec.attacks.leakage.grain.layers import Layers
from graphsec.attacks.leakage.grain.span import Span

CHUNK = 16_384
VERTICES = 6
SLACK = 1e-5


@dataclass(frozen=True, eq=False)
class Blocks:
    """Blocks that may be part of a private graph.

    Attributes:
        kinds: What their nodes may be.
        centre: (B,) kind of each centre.
        leaves: (B, K) how many neighbours of each kind.
        needed: Whether each of them is part of the graph for sure.
        outside: (B,) whether a block's state lies outside the span: it may be part of the graph
            all the same where the gradient's rank is short.
        state: (B, width) state of each centre after one layer, where no span was asked.
    """

    kinds: Kinds
    centre: np.ndarray
    leaves: np.ndarray
    needed: bool = False
    outside: np.ndarray | None = None
    state: np.ndarray | None = None

    def where(self, keep: np.ndarray) -> Blocks:
        """Some of the blocks."""
        outside = None if self.outside is None else self.outside[keep]
        return Blocks(self.kinds, self.centre[keep], self.leaves[keep], self.needed, outside)


def building_blocks(kinds: Kinds, layers: Layers, span: Span | None, most: int) -> Blocks:
    """All blocks, and which have a state that lies outside the span of the second layer's gradient.

    Each block is a centre with as many neighbours as its degree says.

    Raises:
        ValueError: There are more than ``most``.
    """
    k = len(kinds.degree)
    total = sum(comb(k + int(d) - 1, int(d)) for d in kinds.degree)
    if total > most:
        raise ValueError(
            f"attack 'grain': blocks must be at least {total:,} to try every neighbourhood of "
            f"{k} kinds of nodes, got {most:,}"
        )
    if k == 0:
        return Blocks(kinds, np.zeros(0, np.int64), np.zeros((0, 0), np.int64))
    centres, counts, outside, states = [], [], [], []
    for degree in np.unique(kinds.degree):
        leaves = np.array(list(combinations_with_replacement(range(k), int(degree))), np.int64)
        leaves = leaves.reshape(-1, int(degree))
        for centre in np.flatnonzero(kinds.degree == degree):
            for start in range(0, len(leaves), CHUNK):
                part = leaves[start : start + CHUNK]
                state = layers.stars(kinds, int(centre), part)
                inside = np.ones(len(part), bool) if span is None else span.holds(state)
                centres.append(np.full(len(part), centre))
                counts.append(_counted(part, k))
                outside.append(~inside)
                states.append(state[inside])
    rows, away = np.concatenate(states), np.concatenate(outside)
    found = Blocks(kinds, np.concatenate(centres), np.concatenate(counts))
    if span is None:
        return replace(found, state=rows)
    # As many as the span has dimensions, and independent: then each has a part in it.
    exact = len(rows) == span.rank and np.linalg.matrix_rank(rows, tol=1e-6) == span.rank
    found = replace(found, outside=away)
    return replace(found.where(~away), needed=True) if exact else found


def _counted(leaves: np.ndarray, k: int) -> np.ndarray:
    counts = np.zeros((len(leaves), k), np.int64)
    rows = np.repeat(np.arange(len(leaves)), leaves.shape[1])
    np.add.at(counts, (rows, leaves.ravel()), 1)
    return counts


def closed(blocks: Blocks) -> Blocks:
    """Without blocks one of whose neighbours has no block that has the centre for a neighbour."""
    centre, leaves = blocks.centre, blocks.leaves
    keep = np.ones(len(centre), bool)
    while True:
        has = np.zeros((leaves.shape[1],) * 2, bool)  # [u, t]: a block of u with a neighbour t
        np.logical_or.at(has, centre[keep], leaves[keep] > 0)
        fits = ((leaves == 0) | has[:, centre].T).all(1) & keep
        if fits.sum() == keep.sum():
            return blocks.where(keep)
        keep = fits


def weighed(blocks: Blocks, mean: np.ndarray, generator: np.random.Generator) -> Blocks:
    """The few blocks whose states make up the mean that the last map was given (two layers, GCN).

    The last map's input, summed over a graph, is Σ_v (Âᵀ1)_v H_v / n, where both depend on the
    block of v alone: non-negative shares of blocks that add up to one. Where units are in their
    linear range several sets of shares do, and the vertices that a few random costs find are put
    together.
    """
    kinds = blocks.kinds
    root = (kinds.degree + 1.0) ** -0.5
    own = root[blocks.centre]
    received = own * (own + blocks.leaves @ root)
    rows = blocks.state
    assert rows is not None
    scale = np.abs(mean).max()
    system = np.vstack([(received[:, None] * rows).T / scale, np.ones(len(rows))])
    wanted = np.append(mean / scale, 1.0)
    part = np.zeros(len(rows), bool)
    for _ in range(VERTICES):
        cost = generator.random(len(rows))
        found = linprog(
            cost, A_ub=np.vstack([system, -system]),
            b_ub=np.concatenate([wanted, -wanted]) + SLACK, method="highs",
        )  # fmt: skip
        if found.x is None:
            break
        part |= found.x > 1e-3
    return closed(Blocks(kinds, blocks.centre[part], blocks.leaves[part]))
