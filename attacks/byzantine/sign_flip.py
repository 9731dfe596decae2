"""Sign flip: updates that undo what was learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from graphsec.attacks.byzantine._base import ByzantineAttack
from graphsec.federated.byzantine import Forge, SignFlip
from graphsec.registry import ATTACKS, Range


@ATTACKS.register("byzantine-sign-flip")
@dataclass(frozen=True, kw_only=True)
class ByzantineSignFlip(ByzantineAttack):
    """Each taken client sends −scale times its honest update.

    Source: the simplest of the Byzantine behaviours of the literature (Li, Xu, Chen, Giannakis &
    Ling, RSA: Byzantine-Robust Stochastic Aggregation Methods, AAAI 2019, §5; from memory).

    Attributes:
        scale: How many times as long as the honest update.
    """

    scale: Annotated[float, Field(gt=0), Range(0.5, 10, log=True)] = 4.0

    def forge(self, adaptive: bool) -> Forge:
        """Flipped updates."""
        return SignFlip(scale=self.scale)
