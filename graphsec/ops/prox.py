"""Proximal operators of dense matrices: soft thresholds of entries and of the spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SMALL = 512  # rows up to which a full decomposition is the fastest
ROUNDS = 12


def shrink(matrix: Tensor, tau: float) -> Tensor:
    """sign(m) (|m| − τ)₊ of every entry: the proximal operator of τ ‖·‖₁."""
    return matrix.sign() * (matrix.abs() - tau).clamp_(min=0)


def onto_l1_ball(rows: Tensor, radius: Tensor) -> Tensor:
    """The nearest points with ‖·‖₁ ≤ radius, of every row: exact, O(d log d).

    Inside the ball a row stays; otherwise it is shrunk by the θ that makes its norm the radius
    (Duchi et al., Efficient Projections onto the ℓ₁-Ball for Learning in High Dimensions, ICML
    2008, §3, figure 1).

    Args:
        rows: (k, d).
        radius: (k,) ≥ 0.
    """
    size = rows.abs()
    sorted_, _ = size.sort(dim=1, descending=True)
    excess = sorted_.cumsum(1) - radius.unsqueeze(1)
    count = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    # θ is what the largest entries have too much, over how many of them stay above it.
    last = (sorted_ * count > excess).sum(1).clamp(min=1)
    theta = excess.gather(1, (last - 1).unsqueeze(1)) / last.unsqueeze(1)
    shrunk = rows.sign() * (size - theta).clamp(min=0)
    return torch.where((size.sum(1) <= radius).unsqueeze(1), rows, shrunk)


@dataclass
class SpectrumShrinker:
    """The proximal operator of τ ‖·‖_* (the nuclear norm) for a run of similar symmetric matrices.

    Every eigenvalue moves towards 0 by τ, and those that reach it are gone (Cai, Candès & Shen,
    A Singular Value Thresholding Algorithm, SIAM J. Optim. 2010, §2.1). The operator never widens a
    distance, which saves most decompositions: a matrix that is almost the one decomposed last gets
    the same answer; and where few eigenvalues are left, their vectors are followed by subspace
    iteration from the last ones, as Ritz pairs of residual R are exact for a matrix no farther
    than √2 ‖R‖ away, and a missed eigenvalue counts only by how far it lies above τ.

    Attributes:
        tolerance: Change of the matrix, and ‖R‖, that are let pass, as a share of ‖matrix‖
            (Frobenius norms).
        extra: Eigenvectors followed beyond those above the threshold, as a share of them.
        basis: (n, k) eigenvectors decomposed last, None where there are too many to follow.
    """

    tolerance: float = 1e-3
    extra: float = 0.25
    basis: Tensor | None = None
    last: tuple[float, Tensor, Tensor] | None = None

    def __call__(self, matrix: Tensor, tau: float) -> Tensor:
        """The shrunk matrix.

        Args:
            matrix: (n, n) symmetric.
            tau: Threshold ≥ 0; 0 gives the matrix itself.
        """
        if tau == 0:
            return matrix
        if self.last is not None and self.last[0] == tau:
            _, before, answer = self.last
            if float((matrix - before).norm()) <= self.tolerance * float(matrix.norm()):
                return answer
        found = self._follow(matrix, tau) if self.basis is not None else None
        values, vectors = torch.linalg.eigh(matrix) if found is None else found
        order = values.abs().argsort(descending=True)
        live = int((values.abs() > tau).sum())
        count = min(len(order), int(live * (1 + self.extra)) + 8)
        worthwhile = len(matrix) > SMALL and count < len(matrix) // 3
        self.basis = vectors[:, order[:count]] if worthwhile else None
        kept = order[:live]
        made = (vectors[:, kept] * shrink(values[kept], tau)) @ vectors[:, kept].T
        made = (made + made.T) / 2  # symmetric up to rounding before
        self.last = tau, matrix, made
        return made

    def _follow(self, matrix: Tensor, tau: float) -> tuple[Tensor, Tensor] | None:
        """Ritz pairs of the followed subspace; None where it became too small or is too far off."""
        assert self.basis is not None
        limit = self.tolerance * float(matrix.norm())
        vectors = self.basis
        for _ in range(ROUNDS):
            vectors = torch.linalg.qr(matrix @ vectors).Q
            image = matrix @ vectors
            values, turn = torch.linalg.eigh(vectors.T @ image)
            vectors, image = vectors @ turn, image @ turn
            live = values.abs() > tau
            if bool(live.all()):
                return None
            if float((image - vectors * values)[:, live].norm()) <= limit:
                return values, vectors
        return None
