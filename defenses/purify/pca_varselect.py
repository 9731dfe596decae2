"""PCA-VarSelect: users who vary with nobody are taken for fakes, and left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor

from graphsec.defenses.purify._fakes import FakeUsers
from graphsec.registry import DEFENSES, Range


@DEFENSES.register("pca-varselect")
@dataclass(frozen=True, kw_only=True)
class PCAVarSelect(FakeUsers):
    """Drops the users that say least in the first principal components.

    Users are the variables and items the observations: profiles are standardised, and a user's
    distance is the sum of squares of its entries in the first ``components`` eigenvectors of the
    users' correlation. It expects fakes that correlate little with the bulk of the users. A crowd
    of fakes that share half of their items is a principal component itself, and is then found
    last (docs/shilling.md). Memory is linear in interactions.

    Source: Mehta & Nejdl, Unsupervised Strategies for Shilling Detection and Robust Collaborative
    Filtering, User Modeling and User-Adapted Interaction 2009, algorithm 1 (from memory).

    Attributes:
        components: Principal components that count.
    """

    components: Annotated[int, Field(ge=1, le=50), Range(1, 10)] = 3

    def suspect(self, taken: sp.csr_matrix) -> Tensor:
        """(users,) minus the distance of each."""
        return -distances(taken, self.components)


def distances(taken: sp.csr_matrix, components: int) -> Tensor:
    """(users,) sum of squares of each user's entries in the first left singular vectors.

    Args:
        taken: (users, items) who took what.
        components: How many; as many as there are at most.
    """
    matrix = sp.csr_matrix(taken, dtype=np.float64)
    users, items = matrix.shape
    mean = np.asarray(matrix.mean(1)).ravel()
    square = np.asarray(matrix.multiply(matrix).mean(1)).ravel() - mean**2
    scale = 1 / np.sqrt(np.maximum(square, 1e-12))
    scale[square <= 1e-12] = 0  # users who took nothing, or everything, vary with nobody

    def right(v: np.ndarray) -> np.ndarray:
        out: np.ndarray = scale * (matrix @ v.ravel() - mean * v.sum())
        return out

    def left(u: np.ndarray) -> np.ndarray:
        scaled = scale * u.ravel()
        out: np.ndarray = matrix.T @ scaled - (mean @ scaled)
        return out

    operator = LinearOperator(matrix.shape, matvec=right, rmatvec=left, dtype=np.float64)
    count = min(components, users - 1, items - 1)
    vectors = svds(operator, k=count, v0=np.ones(min(users, items)))[0]
    return torch.from_numpy((vectors**2).sum(1))
