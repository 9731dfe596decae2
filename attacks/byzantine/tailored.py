"""Lies made for the rule that they have to pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from graphsec.attacks.byzantine._base import ByzantineAttack
from graphsec.federated.byzantine import Forge, Tailored
from graphsec.registry import ATTACKS


@ATTACKS.register("byzantine-tailored")
@dataclass(frozen=True, kw_only=True)
class ByzantineTailored(ByzantineAttack):
    """All taken clients send what moves the server's aggregate furthest from the honest mean.

    An adaptive attacker runs the server's own rule on what it would send, round by round; one that
    is not stays as close to honest updates as they are to each other (Min-Max).

    Source: Shejwalkar & Houmansadr, Manipulating the Byzantine, NDSS 2021, §IV; what is ours is
    said at ``federated.byzantine.Tailored``.

    Attributes:
        steps: Lengths that are tried, from a hundredth to a hundred mean updates.
    """

    steps: Annotated[int, Field(ge=2, le=200)] = 16

    def forge(self, adaptive: bool) -> Forge:
        """The search, or Min-Max."""
        return Tailored(knows=adaptive, steps=self.steps)
