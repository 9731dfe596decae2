"""Segment shilling: fake users that look like those who would like the item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphsec.attacks.shilling._profiles import SelectedItems
from graphsec.graph import Graph
from graphsec.registry import ATTACKS


@ATTACKS.register("shilling-segment")
@dataclass(frozen=True, kw_only=True)
class Segment(SelectedItems):
    """Fake users take the promoted items, those most like them, and random others.

    Likeness is the cosine between the users of two items, summed over the promoted ones.

    Source: the segment attack of Mobasher, Burke, Bhaumik & Williams, Toward Trustworthy
    Recommender Systems, ACM TOIT 2007, §3, without ratings; likeness in the place of a known
    segment is ours.
    """

    def scores(self, graph: Graph, promoted: Tensor) -> Tensor:
        """Likeness to the promoted items."""
        users = graph.num_users
        taken = graph.to_scipy()[:users, users:]
        size = np.sqrt(np.maximum(np.asarray((taken != 0).sum(0)).ravel(), 1))
        near = (taken.T @ taken[:, promoted.numpy()]).toarray()
        like = (near / size[promoted.numpy()]).sum(1) / size
        return torch.from_numpy(like.astype(np.float64))
