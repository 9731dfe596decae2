"""Gradient pruning: only the largest entries leave the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.registry import DEFENSES, Range


@DEFENSES.register("prune-gradients")
@dataclass(frozen=True, kw_only=True)
class PruneGradients(Defense):
    """Sets all but the largest entries of each parameter's gradient to 0, in every step.

    What is left is exact, so that who knows of the pruning divides and matches by that alone. No
    privacy is promised.

    Source: Zhu et al., Deep Leakage from Gradients, NeurIPS 2019, §5.2 (pruning of more than 20 %
    defended there; against an attacker who did not allow for it).

    Attributes:
        keep: Share of the entries of each parameter that are kept, one at least.
    """

    tasks: ClassVar[tuple[str, ...]] = (*Defense.tasks, "graph")

    keep: Annotated[float, Field(gt=0, le=1), Range(0.01, 1.0, log=True)] = 0.1

    def release(self, gradients: list[Tensor]) -> list[Tensor]:
        """The largest entries, and zeros."""
        return [self._largest(gradient) for gradient in gradients]

    def _largest(self, gradient: Tensor) -> Tensor:
        flat = gradient.ravel()
        count = max(1, round(self.keep * len(flat)))
        top = flat.abs().topk(count).indices
        return torch.zeros_like(flat).index_copy(0, top, flat[top]).view_as(gradient)

    def expectation(
        self, gradients: dict[str, Tensor], seen: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The entries that were kept, and zeros."""
        return {name: g * (seen[name] != 0) for name, g in gradients.items()}
