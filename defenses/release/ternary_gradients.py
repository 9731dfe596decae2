"""Ternary gradients: −s, 0 or s is what leaves the trainer of each entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.registry import DEFENSES, Range


@DEFENSES.register("ternary-gradients")
@dataclass(frozen=True, kw_only=True)
class TernaryGradients(Defense):
    """Releases s · sign(g) with probability |g| / s and 0 otherwise, s the largest |g|.

    So of each parameter in every step, after its entries were held to c standard deviations of
    them. What is released is right in expectation (up to the clipping): who averages over steps
    takes the rounding off again. The coins come from the training's own stream. No privacy is
    promised.

    Source: Wen et al., TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep
    Learning, NeurIPS 2017, eq. 1 to 3 and §3.3 (from memory; c = 2.5 there).

    Attributes:
        clip: c; infinity clips nothing.
    """

    clip: Annotated[float, Field(gt=0), Range(1, 10, log=True)] = 2.5

    def release(self, gradients: list[Tensor]) -> list[Tensor]:
        """Three values a parameter."""
        return [self._ternary(self._held(gradient)) for gradient in gradients]

    def expectation(
        self, gradients: dict[str, Tensor], seen: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The mean of what coins make of a gradient: the gradient, clipped."""
        return {name: self._held(gradient) for name, gradient in gradients.items()}

    def _held(self, gradient: Tensor) -> Tensor:
        limit = self.clip * (gradient.square().mean() - gradient.mean().square()).clamp(0).sqrt()
        if self.clip == float("inf") or not limit.detach() > 0:  # one entry has no deviation
            return gradient
        return gradient.clamp(-limit, limit)

    def _ternary(self, gradient: Tensor) -> Tensor:
        size = gradient.abs().max()
        if float(size) == 0:
            return gradient
        return size * gradient.sign() * torch.bernoulli(gradient.abs() / size)
