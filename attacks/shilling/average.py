"""Average shilling: fake users that take items as often as all do."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphsec.attacks.shilling._profiles import ShillingAttack, draw, popularity
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import Access, View


@ATTACKS.register("shilling-average")
@dataclass(frozen=True, kw_only=True)
class AverageShilling(ShillingAttack):
    """Fake users take the promoted items, and others in proportion to how many users took them.

    The original gives each filler its mean rating; the mean of an interaction that is there or not
    is the item's popularity.

    Source: the average attack of Lam & Riedl, Shilling Recommender Systems for Fun and Profit, WWW
    2004; what stands for the mean is ours.
    """

    @property
    def needs(self) -> Access:
        """The interactions, to count."""
        return Access.EDGES

    def fillers(self, view: View, promoted: Tensor, users: int, each: int, rng: Rng) -> Tensor:
        """Drawn by popularity; items that nobody took are as a last resort."""
        weight = (popularity(view.known) + 1e-9).repeat(users, 1)
        weight[:, promoted] = 0
        return draw(weight, each, rng)
