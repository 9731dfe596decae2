"""Answers and loss of a linear two-hop model after any single edge flip, without a pass over it."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.special import expit

from graphsec.ops.structure import kernels_for


class TwoHop:
    """z = Ã² s + b on an undirected graph of edges of weight 1, with Ã row-normalised with loops.

    One number a node stands for its features: s = X θ. A flip of (i, j) changes the means
    t = (A + I) s / d at i and j alone, and so z at i, at j and at their neighbours. What it does to
    the answers, 1 or 0, and to the logistic loss is found from these: a flip costs the degrees of
    its ends, whatever the number of nodes.

    Source: Zhang et al., Adversarial Attacks on Fairness of Graph Neural Networks, ICLR 2024, §4
    (the local update of the surrogate's answers); the counts by group are kept up here.

    Args:
        adjacency: (n, n) symmetric, entries 1, no loops.
        s: (n,) what each node sends.
        bias: b.
        y: (n,) labels 0 or 1, NaN for nodes that are not in training.
        group: (n,) group of the nodes whose answers count, −1 for others.
        threshold: An answer is 1 from this z on.
        temperature: Of answers between 0 and 1, σ((z − threshold) / temperature), which tell a flip
            that brings an answer nearer to changing from one that does nothing; 0: of 0 or 1.

    Attributes:
        z: (n,) answers now.
    """

    def __init__(
        self, adjacency: sp.csr_matrix, s: np.ndarray, bias: float, y: np.ndarray,
        group: np.ndarray, threshold: float = 0.0, temperature: float = 0.0,
    ) -> None:  # fmt: skip
        self._codes = _codes(adjacency.tocsr())
        self._s, self._bias, self._y = s.astype(np.float64), float(bias), y.astype(np.float64)
        self._group = group.astype(np.int64)
        self._threshold, self._temperature = float(threshold), float(temperature)
        self.groups = max(int(self._group.max()) + 1, 0)
        self._sizes = np.bincount(self._group[self._group >= 0], minlength=self.groups)
        self._trained = int((~np.isnan(self._y)).sum())
        self._refresh()

    def _refresh(self) -> None:
        n = len(self._s)
        self._indices = self._codes % n
        self._indptr = np.searchsorted(self._codes, np.arange(n + 1) * n)
        ones = np.ones(len(self._indices))
        rows = sp.csr_matrix((ones, self._indices, self._indptr), shape=(n, n))
        self._d = np.diff(self._indptr) + 1.0
        self._a = rows @ self._s + self._s
        means = self._a / self._d
        self._r = rows @ means + means
        self.z = self._r / self._d + self._bias
        self._said = self._answers(self._temperature)
        self._losses = np.nan_to_num(np.logaddexp(0, self.z) - self._y * self.z)

    def _answers(self, temperature: float) -> np.ndarray:
        away = self.z - self._threshold
        said: np.ndarray = expit(away / temperature) if temperature else (away >= 0).astype(float)
        return said

    @property
    def loss(self) -> float:
        """Mean logistic loss of the nodes in training."""
        return float(self._losses.sum() / max(self._trained, 1))

    def _rates(self, said: np.ndarray) -> np.ndarray:
        """(groups,) mean answer in each group."""
        count = self._group >= 0
        ones = np.bincount(self._group[count], said[count], minlength=self.groups)
        rates: np.ndarray = ones / self._sizes
        return rates

    @property
    def gap(self) -> float:
        """Largest less smallest mean answer over the groups."""
        return float(np.ptp(self._rates(self._said)))

    @property
    def hard_gap(self) -> float:
        """The same of answers 0 or 1: ΔSP."""
        return float(np.ptp(self._rates(self._answers(0.0))))

    def has(self, pairs: np.ndarray) -> np.ndarray:
        """(k,) whether pairs (2, k) are edges."""
        wanted = pairs[0] * len(self._s) + pairs[1]
        spot = np.searchsorted(self._codes, wanted).clip(max=max(len(self._codes) - 1, 0))
        if not len(self._codes):
            return np.zeros(len(wanted), bool)
        found: np.ndarray = self._codes[spot] == wanted
        return found

    def effects(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The gap (k,) and the loss (k,) after each flip of ``pairs`` (2, k), made alone."""
        gained = np.zeros((pairs.shape[1], self.groups))
        change = np.zeros(pairs.shape[1])
        kernels = kernels_for("flips")
        if kernels is None:
            self._one_by_one(pairs, gained, change)
        else:
            u, v = np.ascontiguousarray(pairs[0]), np.ascontiguousarray(pairs[1])
            kernels.flip_effects(
                self._indptr, self._indices, self._s, self._a, self._d, self._r, self._bias,
                self._threshold, self._temperature, self._said, self._losses, self._y,
                self._group, u, v, gained, change,
            )  # fmt: skip
        gaps = np.ptp(self._rates(self._said) + gained / self._sizes, axis=1)
        return gaps, self.loss + change / max(self._trained, 1)

    def _one_by_one(self, pairs: np.ndarray, gained: np.ndarray, change: np.ndarray) -> None:
        """The same by making each flip."""
        before, losses = self._said, self._losses.sum()
        count = self._group >= 0
        for k in range(pairs.shape[1]):
            self.flip(pairs[:, k])
            moved = self._said - before
            gained[k] = np.bincount(self._group[count], moved[count], minlength=self.groups)
            change[k] = self._losses.sum() - losses
            self.flip(pairs[:, k])

    def flip(self, pair: np.ndarray) -> None:
        """Make one flip (2,): costs a pass over the graph."""
        n = len(self._s)
        both = np.sort(np.array([pair[0] * n + pair[1], pair[1] * n + pair[0]]))
        spot = np.searchsorted(self._codes, both)
        if bool(self.has(pair.reshape(2, 1))[0]):
            self._codes = np.delete(self._codes, spot)
        else:
            self._codes = np.insert(self._codes, spot, both)
        self._refresh()

    def near_threshold(self) -> np.ndarray:
        """(n,) how near to the threshold z of each node and of its neighbours is, summed."""
        away = np.abs(self.z - self._threshold)
        near = away.max() - away
        sums = np.r_[0.0, np.cumsum(near[self._indices])]
        around: np.ndarray = near + sums[self._indptr[1:]] - sums[self._indptr[:-1]]
        return around


def _codes(adjacency: sp.csr_matrix) -> np.ndarray:
    adjacency.sort_indices()
    row = np.repeat(np.arange(adjacency.shape[0]), np.diff(adjacency.indptr))
    codes: np.ndarray = row.astype(np.int64) * adjacency.shape[0] + adjacency.indices
    return codes


def largest_sums(values: np.ndarray, count: int) -> np.ndarray:
    """(2, k) the pairs i < j of the largest values[i] + values[j]: about ``count`` of them.

    A threshold on the sum is bisected until at least ``count`` pairs reach it, and of those just as
    many are kept; memory is linear in ``count``, not in the number of pairs.
    """
    n = len(values)
    order = np.argsort(-values, kind="stable")
    sorted_ = values[order]
    if count >= n * (n - 1) // 2:
        return np.stack(np.triu_indices(n, 1))

    def partners(low: float) -> np.ndarray:
        """How many values behind each one reach ``low`` with it."""
        reach = np.searchsorted(-sorted_, sorted_ - low, side="right")
        many: np.ndarray = np.maximum(reach - np.arange(1, n + 1), 0)
        return many

    low, high = 2 * float(sorted_[-1]), 2 * float(sorted_[0])
    for _ in range(60):
        middle = (low + high) / 2
        if partners(middle).sum() >= count:
            low = middle
        else:
            high = middle
    many = partners(low)
    first = np.repeat(np.arange(n), many)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(many) - many, many)
    if len(first) > count:
        best = np.argpartition(-(sorted_[first] + sorted_[second]), count - 1)[:count]
        first, second = first[best], second[best]
    pairs = np.sort(np.stack([order[first], order[second]]), axis=0)
    return pairs[:, np.lexsort(pairs[::-1])]
