"""ALIE: lies within the spread of honest updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from graphsec.attacks.byzantine._base import ByzantineAttack
from graphsec.federated.byzantine import ALittle, Forge
from graphsec.registry import ATTACKS, Range


@ATTACKS.register("alie")
@dataclass(frozen=True, kw_only=True)
class ALIE(ByzantineAttack):
    """All taken clients send μ − z σ of the honest updates: each coordinate a little off.

    Source: Baruch, Baruch & Goldberg, A Little Is Enough: Circumventing Defenses For Distributed
    Learning, NeurIPS 2019, algorithm 3.

    Attributes:
        z: Standard deviations; None takes the paper's, which grows with the share of liars.
    """

    z: Annotated[float, Field(ge=0), Range(0.3, 3)] | None = None

    def forge(self, adaptive: bool) -> Forge:
        """The same little lie from all."""
        return ALittle(z=self.z)
