"""What all parties and the server agree on before training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from graphsec.federated.mechanisms import Sketch
from graphsec.models.base import GNN
from graphsec.rng import Rng
from graphsec.train import Recipe

Noise = Literal["none", "ternary", "laplace"]
Degrees = Literal["local", "shared"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The public settings of a federated training; plain values, so that they travel as JSON.

    Attributes:
        model: Spec of the backbone.
        training: Spec of its training.
        task: "rating" or "ranking".
        users: Number of users, which all parties share.
        items: Number of items of each party.
        steps: Rounds an epoch.
        exchange: Whether sums over neighbours are exchanged.
        rows: Rows of their random projection; 0 sends them as they are.
        redraw: Whether the projection is drawn anew in each round.
        degrees: How parties find a user's degree: "local" extrapolates the own one by the share
            of items, "shared" adds the degrees up in the open before training.
        noise: What is done to gradients of public parameters.
        clip: Largest entry of those gradients, where there is noise.
        level: Magnitude of a ternary gradient, or scale of the Laplace noise.
        participation: Share of the parties that is asked in a round, at least one.
        seed: Of the projection; everybody knows it.
    """

    model: Mapping[str, Any]
    training: Mapping[str, Any]
    task: str
    users: int
    items: tuple[int, ...]
    steps: int
    exchange: bool = True
    rows: int = 0
    redraw: bool = False
    degrees: Degrees = "local"
    noise: Noise = "ternary"
    clip: float = 0.5
    level: float = 3.0
    participation: float = 1.0
    seed: int = 0

    @cached_property
    def recipe(self) -> Recipe:
        """Backbone and training."""
        return Recipe.of(self.model, {k: v for k, v in self.training.items() if k != "name"})

    @property
    def parties(self) -> int:
        """Number of parties."""
        return len(self.items)

    @property
    def rounds(self) -> int:
        """Rounds of the whole training."""
        return self.recipe.training.epochs * self.steps

    def sketch(self, round: int) -> Sketch | None:
        """The projection of a round; None where sums travel as they are."""
        if not self.rows:
            return None
        stream = Rng(self.seed)["projection"]
        return Sketch.drawn(self.users, self.rows, stream[round] if self.redraw else stream)

    def spec(self) -> dict[str, Any]:
        """Plain form."""
        return dataclasses.asdict(self)

    @staticmethod
    def of(spec: Mapping[str, Any]) -> Protocol:
        """Protocol from ``spec()``, also after a way through JSON."""
        return Protocol(**{**spec, "items": tuple(spec["items"])})


PRIVATE = ("table", "bias")  # whose rows of items never leave their party


def public(model: GNN, users: int) -> dict[str, Tensor]:
    """The parameters that all share: weights, and the users' rows of the tables (views)."""
    return {
        name: p.detach()[:users] if name in PRIVATE else p.detach()
        for name, p in model.named_parameters()
    }
