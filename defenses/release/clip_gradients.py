"""Clipped gradients: their length is bounded before they leave the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.registry import DEFENSES, Range


@DEFENSES.register("clip-gradients")
@dataclass(frozen=True, kw_only=True)
class ClipGradients(Defense):
    """Scales the gradient of a step, all parameters as one vector, to a length of at most C.

    Its direction is untouched, and with it all that a single root gives away. The mean of several
    roots is clipped, not each of them (``dp-gnn``), so that no privacy is promised.

    Source: Pascanu et al., On the Difficulty of Training Recurrent Neural Networks, ICML 2013,
    algorithm 1 (from memory); as a defense in Geyer et al., Differentially Private Federated
    Learning, 2017, without their noise.

    Attributes:
        norm: C, the greatest length.
    """

    norm: Annotated[float, Field(gt=0, lt=float("inf")), Range(1e-3, 10, log=True)] = 1.0

    def release(self, gradients: list[Tensor]) -> list[Tensor]:
        """Gradients at a joint length of at most C."""
        length = torch.stack([g.norm() for g in gradients]).norm()
        scale = (self.norm / length.clamp(min=1e-30)).clamp(max=1)
        return [g * scale for g in gradients]

    def expectation(
        self, gradients: dict[str, Tensor], seen: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Clipped: it is known and has a derivative."""
        return dict(zip(gradients, self.release(list(gradients.values())), strict=True))
