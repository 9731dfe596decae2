"""Noisy gradients: Gaussian noise on what leaves the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.registry import DEFENSES, Range


@DEFENSES.register("noisy-gradients")
@dataclass(frozen=True, kw_only=True)
class NoisyGradients(Defense):
    """Adds Gaussian noise to every gradient, whatever its size, in every step.

    Without clipping there is no sensitivity, and so no promise of privacy: ``dp-gnn`` makes one.
    The noise comes from the training's own stream, so that runs can be repeated.

    Source: Zhu et al., Deep Leakage from Gradients, NeurIPS 2019, §5.1 (variances of 1e-4 to 1e-1).

    Attributes:
        std: Standard deviation of the noise on each entry.
    """

    std: Annotated[float, Field(gt=0, lt=float("inf")), Range(1e-4, 1e-1, log=True)] = 1e-3

    def release(self, gradients: list[Tensor]) -> list[Tensor]:
        """Gradients plus noise."""
        return [g + self.std * torch.randn_like(g) for g in gradients]
