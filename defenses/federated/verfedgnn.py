"""VerFedGNN (Mai & Pang, ICML 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from graphsec.defenses.federated._vertical import FederatedDefense
from graphsec.federated.protocol import Degrees
from graphsec.registry import DEFENSES, Range


@DEFENSES.register("verfedgnn")
@dataclass(frozen=True, kw_only=True)
class VerFedGNN(FederatedDefense):
    """Sums over neighbours leave under random projection, gradients quantised to {−r, 0, r}.

    Both mechanisms can be switched off. Neither gives a privacy statement: one quantised
    coordinate is (0, clip / r)-private, which composes to nothing over a table of users and
    hundreds of rounds, and a projection has no such bound at all. With two parties the "sum of
    the others" is the other party's.

    Unlike the published code, received sums are of the same round, not of the last one, and are
    scaled by the items of the other parties over those that took part.

    Source: Mai & Pang, Vertical Federated Graph Neural Network for Recommender System, ICML 2023;
    sizes and the projection as in its published code.

    Attributes:
        projection: Rows of the projection as a fraction of the users; 0 sends plain sums.
        redraw: Whether the projection is another one in each round.
        quantise: Whether gradients are quantised; if not, they leave as they are.
        clip: C, to whose range gradients are clamped before they are quantised.
        level: r.
        participation: Share of the parties in a round.
        degrees: "local": users' degrees are extrapolated from the own items; "shared": they are
            added up in the open, which tells the server how many items a user has where.
    """

    version: ClassVar[int] = 2  # parties have seeds that lead to nobody else's

    projection: Annotated[float, Field(ge=0, le=1), Range(0.05, 0.5, log=True)] = 0.2
    redraw: bool = False
    quantise: bool = True
    clip: Annotated[float, Field(gt=0), Range(0.1, 3, log=True)] = 0.5
    level: Annotated[float, Field(gt=0), Range(0.5, 10, log=True)] = 3.0
    participation: Annotated[float, Field(gt=0, le=1), Range(0.2, 1)] = 1.0
    degrees: Degrees = "local"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level < self.clip:
            from graphsec.registry import SpecError

            raise SpecError(
                f"defense {self.name!r}: level must be ≥ clip ({self.clip}), or probabilities "
                f"exceed 1, got {self.level}"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """As the fields say."""
        return {
            "noise": "ternary" if self.quantise else "none", "clip": self.clip,
            "level": self.level, "participation": self.participation, "degrees": self.degrees,
            "redraw": self.redraw,
        }  # fmt: skip

    def rows(self, users: int) -> int:
        """A fraction of the users, at least one."""
        return max(1, round(users * self.projection)) if self.projection else 0
