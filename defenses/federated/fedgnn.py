"""FedGNN's way with vertical parties: no sums, and gradients under Laplace noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from graphsec.defenses.federated._vertical import FederatedDefense
from graphsec.registry import DEFENSES, Range


@DEFENSES.register("fedgnn")
@dataclass(frozen=True, kw_only=True)
class FedGNN(FederatedDefense):
    """Parties learn on their own neighbours; public gradients are clipped and get Laplace noise.

    FedGNN's clients are users, these are holders of items, so this is its mechanism in the
    setting of VerFedGNN: the baseline of that paper. Items here never leave, so that pseudo-items
    would hide nothing. It makes no privacy statement: 2 clip / scale is the ε of one number in
    one round, and a training sends millions.

    Source: Wu, Wu, Cao, Huang & Xie, FedGNN: Federated Graph Neural Network for Privacy-Preserving
    Recommendation, arXiv 2102.04925 (clip and scale in its ratio of 1 to 2, from memory), as a
    baseline of Mai & Pang, ICML 2023.

    Attributes:
        clip: Range to which gradients are clamped.
        scale: Scale of the noise.
        participation: Share of the parties in a round.
    """

    version: ClassVar[int] = 2  # parties have seeds that lead to nobody else's

    clip: Annotated[float, Field(gt=0), Range(0.1, 3, log=True)] = 0.5
    scale: Annotated[float, Field(gt=0), Range(0.1, 3, log=True)] = 1.0
    participation: Annotated[float, Field(gt=0, le=1), Range(0.2, 1)] = 1.0

    @property
    def settings(self) -> dict[str, Any]:
        """No exchange, and noise."""
        return {
            "exchange": False, "noise": "laplace", "clip": self.clip, "level": self.scale,
            "participation": self.participation,
        }  # fmt: skip
