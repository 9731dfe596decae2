"""Noise: updates without any sense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from graphsec.attacks.byzantine._base import ByzantineAttack
from graphsec.federated.byzantine import Forge, Noise
from graphsec.registry import ATTACKS, Range


@ATTACKS.register("byzantine-noise")
@dataclass(frozen=True, kw_only=True)
class ByzantineNoise(ByzantineAttack):
    """Each taken client sends Gaussian noise: the baseline of the attacks that have a plan.

    Source: Blanchard et al., Machine Learning with Adversaries, NeurIPS 2017, §5 (Gaussian
    attackers, whose deviation is 200 there; here it goes by the length of honest updates).

    Attributes:
        scale: Length of the noise in mean lengths of the honest updates.
    """

    scale: Annotated[float, Field(gt=0), Range(1, 100, log=True)] = 10.0

    def forge(self, adaptive: bool) -> Forge:
        """Noise."""
        return Noise(scale=self.scale)
