"""Hogwild: not the graph is disturbed, but the order and age of what nodes tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from graphsec.attacks.base import Attack
from graphsec.hogwild import Hogwild
from graphsec.outcome import Answers
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.threat import Access, Timing, View


@ATTACKS.register("hogwild")
@dataclass(frozen=True, kw_only=True)
class HogwildInference(Attack):
    """The victim is run asynchronously, by nodes that are late, fail, or see stale states.

    A condition rather than an adversary: the schedule is drawn at random, and no budget limits
    it. See ``graphsec.hogwild`` for what exactly is simulated.

    Source: Solodova et al., Graph Neural Networks Gone Hogwild, ICLR 2025, §3.

    Attributes:
        delay: B: every node updates at least once in B steps, on views less than B old.
        fail: Share of the nodes that stop for good.
        late: Share of the nodes that start late.
    """

    timing: ClassVar[Timing] = "inference"
    tasks = ("classification", "regression")

    delay: Annotated[int, Field(ge=1, le=1000), Range(1, 20)] = 20
    fail: Annotated[float, Field(ge=0, le=1), Range(0, 0.5)] = 0.0
    late: Annotated[float, Field(ge=0, le=1), Range(0, 0.5)] = 0.0

    @property
    def needs(self) -> Access:
        """The model and its input, in order to run it."""
        return Access.WEIGHTS | Access.FEATURES | Access.EDGES

    def run(self, view: View, rng: Rng) -> Answers:
        """What the nodes answer in the end."""
        graph = view.known
        assert graph.x is not None
        simulator = Hogwild(delay=self.delay, fail=self.fail, late=self.late)
        answer = simulator.run(view.model(), graph.x, graph.adj, rng)
        info = {"steps": answer.steps, "converged": answer.converged}
        return Answers(logits=answer.logits, info=info)
