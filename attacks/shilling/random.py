"""Random shilling: what fake users do without any knowledge."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphsec.attacks.shilling._profiles import ShillingAttack, draw
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import View


@ATTACKS.register("shilling-random")
@dataclass(frozen=True, kw_only=True)
class RandomShilling(ShillingAttack):
    """Fake users take the promoted items and uniformly drawn others.

    The baseline that any other shilling has to beat with as many users and interactions.

    Source: the random attack of Lam & Riedl, Shilling Recommender Systems for Fun and Profit, WWW
    2004, without ratings.
    """

    def fillers(self, view: View, promoted: Tensor, users: int, each: int, rng: Rng) -> Tensor:
        """Uniformly drawn."""
        weight = torch.ones(users, view.known.num_nodes - view.known.num_users)
        weight[:, promoted] = 0
        return draw(weight, each, rng)
