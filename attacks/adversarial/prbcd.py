"""PR-BCD: projected randomised block coordinate descent over edge flips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.adversarial._search import Found, GlobalAttack, Objective
from graphsec.predict import Predictor
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.search import Candidates, project
from graphsec.threat import View


@dataclass(frozen=True, eq=False)
class _Iterate(Found):
    """A block, by its codes, and the weights whose discretisation was tried."""

    codes: np.ndarray
    p: Tensor


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
        candidates = objective.candidates(victim, rng["block"])
        size = min(self.block, candidates.total)
        codes = candidates.draw(size)
        p = torch.zeros(len(codes))
        if start is not None:
            mine = candidates.codes(start)
            codes = np.union1d(mine, codes)
            p = torch.from_numpy(np.isin(codes, mine, assume_unique=True)).to(torch.float32)

        def look(pairs: Tensor) -> _Iterate:
            found = objective.judge(victim, objective.discrete(pairs, p))
            return _Iterate(found.score, found.flips, codes, p)

        best = look(candidates.pairs(codes))
        explore = math.ceil(self.steps * (1 - self.fine_tune))
        n = objective.graph.num_nodes
        for t in range(self.steps):
            pairs = candidates.pairs(codes)
            gradient, _ = objective.gradient(victim, pairs, p)
            # The rate falls once the block stays.
            rate = objective.budget / n * self.lr / math.sqrt(max(0, t - explore) + 1)
            p = self.project(objective, pairs, p + rate * gradient)
            if t % self.check_every == 0 or t in (explore - 1, self.steps - 1):
                best = min(best, look(pairs), key=lambda one: one.score)
            if t < explore - 1:
                codes, p = _redraw(candidates, codes, p, size)
            elif t == explore - 1:  # go back to the best block and refine it
                codes, p = best.codes, best.p
        pairs = candidates.pairs(best.codes)
        return objective.sample(victim, pairs, best.p, self.samples, best, rng["sample"])

    def project(self, objective: Objective, pairs: Tensor, p: Tensor) -> Tensor:
        """(B,) weights within the budget that the search keeps to between its looks."""
        return project(p, objective.budget)


def _redraw(
    candidates: Candidates, codes: np.ndarray, p: Tensor, size: int
) -> tuple[np.ndarray, Tensor]:
    """Keep the pairs that have weight (at most half of the block), refill with fresh ones."""
    keep = (p > 0).nonzero().ravel()
    if len(keep) > size // 2:
        keep = keep[torch.topk(p[keep], size // 2).indices].sort().values
    old = codes[keep.numpy()]
    fresh = candidates.draw(size - len(old), old)
    # Both lists are sorted: merge them by where the old ones fall among the fresh.
    place = np.searchsorted(fresh, old) + np.arange(len(old))
    merged = np.empty(len(old) + len(fresh), np.int64)
    weight = torch.zeros(len(merged))
    mine = np.zeros(len(merged), bool)
    mine[place] = True
    merged[mine], merged[~mine] = old, fresh
    weight[torch.from_numpy(place)] = p[keep]
    return merged, weight
