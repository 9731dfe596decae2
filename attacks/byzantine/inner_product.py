"""Inner-product manipulation: a small step the wrong way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from graphsec.attacks.byzantine._base import ByzantineAttack
from graphsec.federated.byzantine import Forge, InnerProduct
from graphsec.registry import ATTACKS, Range


@ATTACKS.register("inner-product")
@dataclass(frozen=True, kw_only=True)
class InnerProductManipulation(ByzantineAttack):
    """All taken clients send −scale times the mean of the honest updates.

    Source: Xie, Koyejo & Gupta, Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
    Manipulation, UAI 2019, §4.

    Attributes:
        scale: ε, how long the step is.
    """

    scale: Annotated[float, Field(gt=0), Range(0.1, 10, log=True)] = 0.5

    def forge(self, adaptive: bool) -> Forge:
        """The honest mean, turned round."""
        return InnerProduct(scale=self.scale)
