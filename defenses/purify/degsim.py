"""DegSim: users who are too much like others are taken for fakes, and left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.purify._fakes import FakeUsers
from graphsec.registry import DEFENSES, Range

BLOCK = 512  # users whose likeness to all is held at a time


@DEFENSES.register("degsim")
@dataclass(frozen=True, kw_only=True)
class DegSim(FakeUsers):
    """Drops the users with the highest mean likeness to their nearest neighbours.

    Likeness is the cosine of profiles. Fakes made by one program are near each other.

    Source: Chirita, Nejdl & Zamfir, Preventing Shilling Attacks in Online Recommender Systems, WIDM
    2005 (degree of similarity with the top neighbours; correlations there, from memory).

    Attributes:
        neighbours: Number of nearest neighbours.
    """

    neighbours: Annotated[int, Field(ge=1), Range(5, 50, log=True)] = 25

    def suspect(self, taken: sp.csr_matrix) -> Tensor:
        """(users,) mean likeness to the nearest neighbours."""
        matrix = sp.csr_matrix(taken, dtype=np.float32)
        size = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).ravel())
        matrix = sp.diags_array(1 / np.maximum(size, 1e-12)) @ matrix
        users, found = matrix.shape[0], []
        near = min(self.neighbours, users - 1)
        for start in range(0, users, BLOCK):
            rows = torch.from_numpy((matrix[start : start + BLOCK] @ matrix.T).toarray())
            own = torch.arange(len(rows))
            rows[own, own + start] = -torch.inf  # nobody is a neighbour of itself
            found.append(rows.topk(near, 1).values.mean(1))
        return torch.cat(found)
