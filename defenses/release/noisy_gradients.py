"""Noisy gradients: Gaussian or Laplace noise on what leaves the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.registry import DEFENSES, Range


@DEFENSES.register("noisy-gradients")
@dataclass(frozen=True, kw_only=True)
class NoisyGradients(Defense):
    """Adds noise to every entry of every gradient, whatever its size, in every step.

    Without clipping there is no sensitivity, and so no promise of privacy: ``dp-gnn`` makes one.
    The noise comes from the training's own stream, so that runs can be repeated.

    Source: Zhu et al., Deep Leakage from Gradients, NeurIPS 2019, §5.1 (variances of 1e-4 to 1e-1
    of either distribution).

    Attributes:
        std: Standard deviation of the noise on each entry.
        distribution: "gaussian" or "laplace" (of scale std / √2).
    """

    tasks: ClassVar[tuple[str, ...]] = (*Defense.tasks, "graph")
    version: ClassVar[int] = 2

    std: Annotated[float, Field(gt=0, lt=float("inf")), Range(1e-4, 1e-1, log=True)] = 1e-3
    distribution: Literal["gaussian", "laplace"] = "gaussian"

    def release(self, gradients: list[Tensor]) -> list[Tensor]:
        """Gradients plus noise."""
        return [g + self.std * self._noise(g) for g in gradients]

    def _noise(self, like: Tensor) -> Tensor:
        """Noise of standard deviation 1; a Laplace variable is the difference of two waits."""
        if self.distribution == "gaussian":
            return torch.randn_like(like)
        waits = [torch.empty_like(like).exponential_() for _ in range(2)]
        return (waits[0] - waits[1]) / 2**0.5
