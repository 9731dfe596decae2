"""Local PR-BCD: projected gradient ascent over the flips at one target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor

from graphsec.attacks.adversarial._local import Row, attack_each
from graphsec.attacks.base import GradientAttack
from graphsec.outcome import Perturbation
from graphsec.predict import Predictor
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.search import LossName, project, strongest
from graphsec.threat import View


@ATTACKS.register("local-prbcd", "local-pr-bcd")
@dataclass(frozen=True, kw_only=True)
class LocalPRBCD(GradientAttack):
    """PR-BCD on the row of each target: candidates are the pairs at the target alone.

    Every target has a world of its own and the whole budget in it. The row is searched at once
    where it fits into the block, otherwise in random blocks that keep the pairs of positive
    weight. Of all iterates, the one whose strongest pairs lower the target's margin most is
    returned. The victim itself is attacked; where it has a defense and the attacker knows it,
    the flips found against an undefended twin are tried too, as they are and as a start. A step
    is a forward and a backward pass over the whole graph, linear in edges and block.

    Source: Geisler et al., Robustness of Graph Neural Networks at Scale, NeurIPS 2021, §4; the
    best iterate by its discrete flips, in place of a final sampling.

    Attributes:
        loss: What is maximised at the target.
        steps: Gradient steps.
        fine_tune: Fraction of the steps at the end, from the best iterate, on one block and at a
            falling rate.
        block: Candidate pairs at a time.
        lr: Step size, in flips of the budget.
    """

    loss: LossName = "prob_margin"
    steps: Annotated[int, Field(ge=1), Range(25, 500, log=True)] = 150
    fine_tune: Annotated[float, Field(ge=0, le=1), Range(0.1, 0.5)] = 1 / 3
    block: Annotated[int, Field(ge=2), Range(1e3, 1e5, log=True)] = 10_000
    lr: Annotated[float, Field(gt=0), Range(1e-2, 1e1, log=True)] = 1.0

    def run(self, view: View, rng: Rng) -> Perturbation:
        """For each target, the flips at it that lower its margin as far as the search gets."""
        victim = view.model()
        twin = view.transfer() if view.defended else None

        def attack(row: Row) -> Tensor:
            stream = rng[row.target]
            found = [self._search(row, victim, stream["scratch"].torch())]
            if twin is not None:
                # The stream of an attacker who is not adaptive: this finds what that one finds.
                carried = self._search(row, twin, stream["scratch"].torch())
                warm = self._search(row, victim, stream["warm"].torch(), start=carried)
                found += [carried, warm]
            return row.best(victim, found)

        return attack_each(view, attack)

    def _search(
        self, row: Row, victim: Predictor, generator: Generator, start: Tensor | None = None
    ) -> Tensor:
        """Search against one victim, from nothing or from given flips."""
        p = torch.zeros(len(row.ends))
        flips = p.new_zeros(0, dtype=torch.int64) if start is None else start
        p[flips] = 1
        best_p, best, lowest = p, flips, row.margin(victim, flips)
        explore = math.ceil(self.steps * (1 - self.fine_tune))
        block = self._block(p, generator)
        for t in range(self.steps):
            if t == explore:
                p = best_p
            if t <= explore:
                block = self._block(p, generator)
            rate = self.lr * row.budget / math.sqrt(max(0, t - explore) + 1)
            moved = p[block] + rate * row.gradient(victim, block, p[block], self.loss)
            p = torch.zeros_like(p).index_put((block,), project(moved, row.budget))
            before, flips = flips, strongest(row.pairs, p, row.budget, None)
            if not torch.equal(flips, before):
                margin = row.margin(victim, flips)
                if margin < lowest:
                    best_p, best, lowest = p, flips, margin
        return best

    def _block(self, p: Tensor, generator: Generator) -> Tensor:
        """All pairs; or those of positive weight, at most half a block, and random others."""
        if len(p) <= self.block:
            return torch.arange(len(p))
        kept = torch.topk(p, self.block // 2).indices
        order = torch.rand(len(p), generator=generator)
        order[kept[p[kept] > 0]] = 1  # above all random ones
        return torch.topk(order, self.block).indices.sort().values
