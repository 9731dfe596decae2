"""No attack."""

from __future__ import annotations

from dataclasses import dataclass

from graphsec.attacks.base import Attack
from graphsec.outcome import Perturbation
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import View


@ATTACKS.register("none")
@dataclass(frozen=True, kw_only=True)
class NoAttack(Attack):
    """Changes nothing: the clean row.

    Source: none needed; it scores the defense's price on clean data.
    """

    tasks = ("classification", "regression", "ranking", "rating", "graph")

    def run(self, view: View, rng: Rng) -> Perturbation:
        """An empty perturbation."""
        return Perturbation()
