"""What a game is, and the one in which nothing is secret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from graphsec.graph import Graph
from graphsec.registry import GAMES, Component
from graphsec.rng import Rng


@dataclass(frozen=True, eq=False)
class Secret:
    """What only scorers see.

    Attributes:
        game: Name of the game.
        question: What attackers are asked about, and may know: pairs (2, k) or nodes (k,), or
            the levels (2,) of a property.
        answer: The truth about each, never shown to an attacker.
        examples: (items, answers) that are not asked about and that attackers may be shown
            (``view.examples``); None where the game reveals nothing.
        public: The graph of which attackers may know what they are granted; None: the one that
            is trained on.
        rules: The game itself, where attackers must know how worlds are drawn.
    """

    game: str
    question: Tensor
    answer: Tensor
    examples: tuple[Tensor, Tensor] | None = None
    public: Graph | None = None
    rules: Game | None = None

    @property
    def shown(self) -> dict[str, Any]:
        """What attackers get of it, as arguments of ``attack`` and ``Threat.open``."""
        return {
            "question": self.question, "examples": self.examples, "public": self.public,
            "rules": self.rules,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Game(Component):
    """Draws a secret. ``prepare`` gives the graph to train on, and the secret if there is one.

    Attributes:
        keeps_graph: Whether the known graph is the graph itself, so that predictors trained for
            one such game serve all of them.
    """

    kind: ClassVar[str] = "game"
    keeps_graph: ClassVar[bool] = True

    def prepare(self, graph: Graph, rng: Rng) -> tuple[Graph, Secret | None]:
        """(known graph, secret): the known graph goes to the trainer and, restricted by the
        threat's access, to the attacker; the secret goes to the scorer only."""  # noqa: D205, D209
        raise NotImplementedError


@GAMES.register("open")
@dataclass(frozen=True, kw_only=True)
class Open(Game):
    """Nothing is secret before training: evasion and poisoning."""

    def prepare(self, graph: Graph, rng: Rng) -> tuple[Graph, Secret | None]:
        """The graph itself, and no secret."""
        return graph, None
