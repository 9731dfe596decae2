"""The space that the columns of a weight's gradient span, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Span:
    """An orthonormal basis of the columns of ∇W, and how far from it counts as outside.

    Attributes:
        gradient: (width, outputs) ∇W = Hᵀ(Âᵀ G), so that columns are combinations of rows of H.
        basis: (width, rank).
        threshold: Largest relative residual of what is inside.
        cut: Singular values below this share of the largest are rounding.
    """

    gradient: np.ndarray
    basis: np.ndarray
    threshold: float
    cut: float

    @staticmethod
    def of(g: np.ndarray, threshold: float, cut: float) -> Span:
        """The span of a gradient (width, outputs)."""
        u, s, _ = np.linalg.svd(g, full_matrices=False)
        rank = int((s > cut * s.max(initial=0)).sum())
        return Span(g, u[:, :rank], threshold, cut)

    @property
    def rank(self) -> int:
        """Dimension of the span."""
        return int(self.basis.shape[1])

    @property
    def full(self) -> bool:
        """Whether it is the whole space, so that everything lies in it."""
        return self.rank >= len(self.basis)

    def of_rows(self, count: int) -> Span:
        """The span as the first ``count`` rows show it."""
        if count == len(self.gradient):
            return self
        return Span.of(self.gradient[:count], self.threshold, self.cut)

    def residual(self, rows: np.ndarray) -> np.ndarray:
        """(k,) relative distance of rows (k, width) from the span; 0 of zeros."""
        off = rows - (rows @ self.basis) @ self.basis.T
        size = np.linalg.norm(rows, axis=1)
        return np.asarray(np.linalg.norm(off, axis=1) / np.where(size > 0, size, 1))

    def holds(self, rows: np.ndarray) -> np.ndarray:
        """(k,) whether rows lie in the span."""
        return self.residual(rows) < self.threshold


def complete(g: np.ndarray) -> np.ndarray:
    """The columns of a gradient that have no 0 but in rows that are 0 throughout."""
    rows = (g != 0).any(1)
    kept: np.ndarray = g[:, (g[rows] != 0).all(0)]
    return kept if kept.shape[1] else g[:, :1] * 0
