"""Random pairs to add and edges to delete, within budgets: what random attacks share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphsec.graph import Graph

Fits = Callable[[np.ndarray, np.ndarray], np.ndarray]

_ROUNDS = 40
_ENUMERABLE = 20_000_000  # pairs that are listed one by one where random draws find too few


def _anything(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.ones(len(u), bool)


class Draw:
    """Draws flips of one graph without repetition, and keeps account of the node budgets.

    Within node budgets the choice is maximal: nothing can be added to it, though a cleverer
    pairing may hold more.

    Args:
        graph: The clean graph.
        per_node: (n,) most flips at each node, None without a limit.
        generator: Source of randomness.
    """

    def __init__(
        self, graph: Graph, per_node: np.ndarray | None, generator: np.random.Generator
    ) -> None:
        self.n, self.directed = graph.num_nodes, graph.directed
        self._edges = graph.pairs.numpy()
        self._edge_codes = np.sort(self._code(*self._edges))
        self._left = None if per_node is None else per_node.copy()
        self._generator = generator
        self._codes: list[np.ndarray] = [np.zeros(0, np.int64)]

    @property
    def flips(self) -> np.ndarray:
        """(2, k) everything drawn so far, in ascending order."""
        codes = np.sort(np.concatenate(self._codes))
        return np.vstack([codes // self.n, codes % self.n])

    def add(self, count: int, fits: Fits = _anything) -> int:
        """Draw up to ``count`` absent pairs uniformly; returns how many there were.

        Args:
            count: How many.
            fits: Which pairs (u, v) are wanted.
        """
        total = 0
        for _ in range(_ROUNDS):
            if total >= count:
                return total
            missing = count - total
            total += self._take(self._new(self._random(2 * missing + 64), fits), missing)
        nodes = np.arange(self.n) if self._left is None else np.nonzero(self._left > 0)[0]
        if total < count and len(nodes) ** 2 <= 2 * _ENUMERABLE:
            total += self._take(self._new(self._all(nodes), fits), count - total)
        return total

    def delete(self, count: int, fits: Fits = _anything) -> int:
        """Draw up to ``count`` edges uniformly; returns how many there were."""
        codes = self._code(*self._edges[:, fits(*self._edges)])
        fresh = ~np.isin(codes, np.concatenate(self._codes))
        return self._take(codes[fresh], count)

    def _code(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        code: np.ndarray = u * self.n + v
        return code

    def _random(self, count: int) -> np.ndarray:
        pairs = self._generator.integers(0, self.n, (2, count))
        pairs = pairs[:, pairs[0] != pairs[1]]
        codes: np.ndarray = np.unique(self._code(*self._ordered(pairs)))
        return codes

    def _ordered(self, pairs: np.ndarray) -> np.ndarray:
        ordered: np.ndarray = pairs if self.directed else np.sort(pairs, axis=0)
        return ordered

    def _all(self, nodes: np.ndarray) -> np.ndarray:
        i, j = np.triu_indices(len(nodes), 1)
        codes = self._code(nodes[i], nodes[j])
        return np.r_[codes, self._code(nodes[j], nodes[i])] if self.directed else codes

    def _new(self, codes: np.ndarray, fits: Fits) -> np.ndarray:
        """The codes that are no edges, not drawn yet, and wanted."""
        codes = codes[~np.isin(codes, self._edge_codes, assume_unique=True)]
        codes = codes[~np.isin(codes, np.concatenate(self._codes), assume_unique=True)]
        fitting: np.ndarray = codes[fits(codes // self.n, codes % self.n)]
        return fitting

    def _take(self, codes: np.ndarray, count: int) -> int:
        """Take ``count`` of the codes at random, as far as the node budgets allow."""
        codes = self._generator.permutation(codes)
        chosen = codes[:count] if self._left is None else self._within(codes, count, self._left)
        self._codes.append(chosen)
        return len(chosen)

    def _within(self, codes: np.ndarray, count: int, left: np.ndarray) -> np.ndarray:
        """Greedy choice in the given order; each round takes all that surely fit."""
        chosen = [np.zeros(0, np.int64)]
        missing = count
        while missing > 0:
            u, v = codes // self.n, codes % self.n
            alive = (left[u] > 0) & (left[v] > 0)
            codes, u, v = codes[alive], u[alive], v[alive]
            if len(codes) == 0:
                break
            rank = _occurrence(np.stack([u, v], axis=1).ravel()).reshape(-1, 2)
            fits = (rank[:, 0] < left[u]) & (rank[:, 1] < left[v])
            picked = np.nonzero(fits)[0][:missing]
            chosen.append(codes[picked])
            missing -= len(picked)
            left -= np.bincount(np.r_[u[picked], v[picked]], minlength=self.n)
            codes = np.delete(codes, picked)
        return np.concatenate(chosen)


def _occurrence(values: np.ndarray) -> np.ndarray:
    """How often each value has occurred before its place."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    first = np.r_[True, ranked[1:] != ranked[:-1]]
    start = np.maximum.accumulate(np.where(first, np.arange(len(values)), 0))
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values)) - start
    return rank
