"""Sign gradients: one bit an entry leaves the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.registry import DEFENSES


@DEFENSES.register("sign-gradients")
@dataclass(frozen=True, kw_only=True)
class SignGradients(Defense):
    """Releases signs, at the mean absolute value of each parameter's gradient, in every step.

    Zeros stay zeros. The label of a single root is a sign, and stays to be seen. No privacy is
    promised.

    Source: Bernstein et al., signSGD, ICML 2018, algorithm 1; the scale of each parameter as in
    Karimireddy et al., Error Feedback Fixes SignSGD, ICML 2019 (both from memory).
    """

    tasks: ClassVar[tuple[str, ...]] = (*Defense.tasks, "graph")

    def release(self, gradients: list[Tensor]) -> list[Tensor]:
        """Signs times the mean size."""
        return [g.sign() * g.abs().mean() for g in gradients]

    def expectation(
        self, gradients: dict[str, Tensor], seen: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Signs softened by tanh, at the mean size: those have a derivative."""
        sizes = {name: g.abs().mean() + 1e-30 for name, g in gradients.items()}
        return {name: sizes[name] * (g / sizes[name]).tanh() for name, g in gradients.items()}
