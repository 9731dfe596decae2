"""What attacks on properties share: graphs of the attacker's own, and how models are looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.base import Attack
from graphsec.game import Property
from graphsec.graph import Graph
from graphsec.models.base import inputs
from graphsec.predict import Predictor
from graphsec.registry import Range
from graphsec.rng import Rng
from graphsec.threat import Access, Timing, View

_ASKED = 1 / 3  # of the attacker's nodes: asked about, and never trained on


@dataclass(frozen=True, kw_only=True)
class PropertyAttack(Attack):
    """Base of attacks on a property: the attacker's nodes are divided once.

    A third of them makes the graph on which every model is asked; from the others graphs are
    drawn with the property at either level, by the rules of the game. No model that is looked at
    was trained on a node it is asked about, neither the victim nor a shadow.
    """

    game: ClassVar[str] = "property"
    timing: ClassVar[Timing] = "inference"

    @property
    def needs(self) -> Access:
        """A graph of one's own with the attribute that worlds are drawn by, and queries on it."""
        return (
            Access.SCORES | Access.QUERY_INPUT | Access.FEATURES | Access.EDGES
            | Access.TRUE_LABELS | Access.SENSITIVE
        )  # fmt: skip

    def own(self, view: View, rng: Rng) -> tuple[Property, Graph, Graph]:
        """(rules, graph to ask about, graph to draw from).

        Raises:
            TypeError: The rules are those of another game.
        """
        rules = view.rules
        if not isinstance(rules, Property):
            raise TypeError(f"attack {self.name!r} plays the game 'property', not {rules.name!r}")
        asked, pool = rules.divided(view.known, (_ASKED, 1 - _ASKED), rng["divide"].numpy())
        return rules, asked, pool


@dataclass(frozen=True, kw_only=True)
class ShadowWorlds(PropertyAttack):
    """Base of attacks that compare the victim with models trained on worlds of both kinds.

    Attributes:
        shadows: Number of shadow models; half of them, one more with an odd number, are trained
            with the property at its first level.
    """

    shadows: Annotated[int, Field(ge=4, le=10_000), Range(8, 128, log=True)] = 32

    @property
    def needs(self) -> Access:
        """Also the recipe, and who is in training, to follow it."""
        return super().needs | Access.RECIPE | Access.SPLIT

    def compare(
        self, view: View, rng: Rng, summary: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What a summary of posteriors (k, classes) is at the victim and at the shadow models.

        Returns:
            (victim (d,), shadows (s, d), holds (s,)): ``holds`` is 1 for the second level.
        """
        asked = self.own(view, rng)[1]
        every = torch.arange(asked.num_nodes)
        victim = summary(view.logits(every, inputs(asked), asked.adj).softmax(1))
        models, holds = self.models(view, rng)
        seen = [summary(model.logits(asked).softmax(1)) for model in models]
        return victim, torch.stack(seen), holds

    def models(self, view: View, rng: Rng) -> tuple[list[Predictor], Tensor]:
        """(shadow models, at which level the property holds in the training of each)."""
        rules, _, pool = self.own(view, rng)
        holds = torch.arange(self.shadows) % 2
        worlds = [
            rules.world(pool, int(bit), rng["world"][i]) for i, bit in enumerate(holds)
        ]  # fmt: skip
        return [view.train(world, rng["shadow"][i]) for i, world in enumerate(worlds)], holds
