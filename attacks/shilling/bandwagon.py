"""Bandwagon shilling: fake users that took what everybody takes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphsec.attacks.shilling._profiles import SelectedItems, popularity
from graphsec.graph import Graph
from graphsec.registry import ATTACKS


@ATTACKS.register("shilling-bandwagon")
@dataclass(frozen=True, kw_only=True)
class Bandwagon(SelectedItems):
    """Fake users take the promoted items, the most popular ones, and random others.

    The popular ones tie them to as many users as possible.

    Source: the bandwagon attack of Mobasher, Burke, Bhaumik & Williams, Toward Trustworthy
    Recommender Systems, ACM TOIT 2007, §3, without ratings.
    """

    def scores(self, graph: Graph, promoted: Tensor) -> Tensor:
        """Popularity."""
        return popularity(graph)
