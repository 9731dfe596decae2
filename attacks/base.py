"""What an attack is: frozen hyperparameters and one method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphsec.outcome import Outcome
from graphsec.registry import Component
from graphsec.rng import Rng
from graphsec.threat import Access, Timing, View


@dataclass(frozen=True, kw_only=True)
class Attack(Component):
    """Base of all attacks; fields are hyperparameters.

    Attributes:
        game: Name of the game it plays.
        timing: When it happens unless the threat says otherwise.
        uses_edges: Whether it differentiates through the edges, so that a model which ignores
            them can't serve it.
        federated: Whether it takes over clients of a federation.
        tasks: Tasks whose graphs it can attack.
    """

    kind: ClassVar[str] = "attack"
    game: ClassVar[str] = "open"
    timing: ClassVar[Timing] = "evasion"
    uses_edges: ClassVar[bool] = False
    federated: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...]] = ("classification",)

    @property
    def needs(self) -> Access:
        """The least access it requires."""
        return Access.NONE

    def run(self, view: View, rng: Rng) -> Outcome:
        """Attack through ``view`` only; all randomness from ``rng``."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class GradientAttack(Attack):
    """Base of structure attacks that differentiate through the victim's edges."""

    uses_edges: ClassVar[bool] = True

    @property
    def needs(self) -> Access:
        """The model, the graph, its labels, and a way to train the undefended twin."""
        return (
            Access.WEIGHTS | Access.RECIPE | Access.FEATURES | Access.EDGES
            | Access.TRUE_LABELS | Access.SPLIT
        )  # fmt: skip
