"""PR-BCD: projected randomised block coordinate descent over edge flips."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from pydantic import Field
from torch import Tensor

from graphsec.attacks.adversarial._search import Found, GlobalAttack, Objective
from graphsec.predict import Predictor
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.search import ascend, project
from graphsec.threat import View


@ATTACKS.register("prbcd", "pr-bcd")
@dataclass(frozen=True, kw_only=True)
class PRBCD(GlobalAttack):
    """Gradient ascent on a random block of candidate pairs, kept within the budget.

    The block is redrawn as the search goes on: pairs that stay at zero make room for fresh
    ones. Linear in edges and block. The victim itself is attacked; where it has a defense and
    the attacker knows it, the search also starts from the attack on an undefended twin, and the
    best of all is kept, so that an adaptive attack is never weaker than transfer.

    Source: Geisler et al., Robustness of Graph Neural Networks at Scale, NeurIPS 2021,
    algorithm 1; best iterate by discretised score as in torch_geometric's implementation.

    Attributes:
        loss: What is maximised over the target nodes.
        alpha: Share of the tanh margin in the mixed losses.
        steps: Gradient steps.
        fine_tune: Fraction of the steps at the end on the best block, without redrawing.
        block: Candidate pairs at a time.
        lr: Step size, in flips per node of the budget.
        check_every: Steps between two looks at the discretised iterate (each costs a forward pass).
        samples: Random discretisations tried at the end, beside the largest weights.
        restarts: Independent searches; the best counts.
        warm_start: Against a defended victim, also search from the transfer attack.
    """

    version = 2  # samples under node budgets were drawn from the wrong pairs

    steps: Annotated[int, Field(ge=1), Range(25, 500, log=True)] = 125
    fine_tune: Annotated[float, Field(ge=0, le=1), Range(0.1, 0.5)] = 0.2
    block: Annotated[int, Field(ge=1), Range(1e4, 1e6, log=True)] = 250_000
    lr: Annotated[float, Field(gt=0), Range(1e2, 1e4, log=True)] = 1_000.0
    check_every: Annotated[int, Field(ge=1)] = 1
    samples: Annotated[int, Field(ge=0, le=1000)] = 20
    restarts: Annotated[int, Field(ge=1, le=100)] = 1
    warm_start: bool = True

    def attempts(self, objective: Objective, view: View, rng: Rng) -> list[Found]:
        """All restarts, and against a known defense the transfer attack and what it leads to."""
        victim = view.model()
        streams = [rng["restart"][i] for i in range(self.restarts)]
        found = [self.search(objective, victim, stream) for stream in streams]
        if self.warm_start and view.defended:
            # The stream of an attacker who is not adaptive: this finds what that one finds.
            transfer = self.search(objective, view.transfer(), rng["restart"][0])
            found.append(objective.judge(victim, transfer.flips))
            found.append(self.search(objective, victim, rng["warm"], start=transfer.flips))
        return found

    def search(
        self, objective: Objective, victim: Predictor, rng: Rng, start: Tensor | None = None
    ) -> Found:
        """Search against one victim, from nothing or from given flips."""
        return ascend(objective, victim, rng, self, partial(self.project, objective), start)

    def project(self, objective: Objective, pairs: Tensor, p: Tensor) -> Tensor:
        """(B,) weights within the budget that the search keeps to between its looks."""
        return project(p, objective.budget)
