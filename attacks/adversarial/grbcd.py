"""GR-BCD: greedy randomised block coordinate descent over edge flips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field
from torch import Tensor

from graphsec.attacks.adversarial._search import Found, GlobalAttack, Objective
from graphsec.predict import Predictor
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.search import LossName


@ATTACKS.register("grbcd", "gr-bcd")
@dataclass(frozen=True, kw_only=True)
class GRBCD(GlobalAttack):
    """Greedy flips: in each step the strongest pairs of a fresh random block.

    One gradient a step at the currently flipped graph, no weights between 0 and 1, and so one
    forward and backward pass a step. Linear in edges and block. Where a budget of flips is not
    used up, the further steps found no pair that raises the loss, or an earlier step was better.

    Source: Geisler et al., Robustness of Graph Neural Networks at Scale, NeurIPS 2021,
    algorithm 2, with the masked cross-entropy of §3.

    Attributes:
        loss: What is maximised over the target nodes.
        alpha: Share of the tanh margin in the mixed losses.
        steps: Gradient steps; the budget is spread over them evenly, the first ones take the
            remainder, and a smaller budget takes as many steps.
        block: Fresh candidate pairs in each step.
        tabu: Whether a pair once flipped stays flipped; else it may be flipped back.
    """

    loss: LossName = "mce"
    steps: Annotated[int, Field(ge=1), Range(25, 500, log=True)] = 125
    block: Annotated[int, Field(ge=1), Range(1e4, 1e6, log=True)] = 250_000
    tabu: bool = True

    def search(self, objective: Objective, victim: Predictor, rng: Rng) -> Found:
        """Flip against one victim until the budget is spent."""
        candidates = objective.candidates(victim, rng["block"])
        size = min(self.block, candidates.total)

        def block(flipped: np.ndarray) -> tuple[np.ndarray, Tensor]:
            fresh = candidates.draw(size, flipped)
            codes = np.insert(fresh, np.searchsorted(fresh, flipped), flipped)
            return codes, candidates.pairs(codes)

        steps = min(self.steps, objective.budget)
        each, more = divmod(objective.budget, steps)
        counts = [each + (t < more) for t in range(steps)]
        return objective.greedy(victim, counts, block, self.tabu)
