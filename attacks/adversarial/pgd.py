"""PGD on edges: projected gradient ascent over all pairs, then random discretisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from graphsec.attacks.adversarial._search import Found, GlobalAttack, Objective
from graphsec.predict import Predictor
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.search import LossName, project


@ATTACKS.register("pgd")
@dataclass(frozen=True, kw_only=True)
class PGD(GlobalAttack):
    """Projected gradient ascent with every pair of nodes as a candidate.

    A dense baseline: time and memory are quadratic in the nodes, and graphs of more than 20
    million pairs (6,300 nodes) are refused. Of the last iterate, the largest weights are tried
    beside the random discretisations.

    Source: Xu et al., Topology Attack and Defense for Graph Neural Networks: An Optimization
    Perspective, IJCAI 2019, algorithm 1; step size in multiples of the budget as in Geisler et
    al., NeurIPS 2021 (their published code).

    Attributes:
        loss: What is maximised over the target nodes; cross-entropy is the paper's, the tanh margin
            is stronger.
        alpha: Share of the tanh margin in the mixed losses.
        steps: Gradient steps.
        base_lr: Step size of the first step over the budget; it falls with √(t + 1).
        samples: Random discretisations tried at the end.
    """

    loss: LossName = "ce"
    steps: Annotated[int, Field(ge=1), Range(25, 500, log=True)] = 200
    base_lr: Annotated[float, Field(gt=0), Range(1e-2, 1e1, log=True)] = 0.1
    samples: Annotated[int, Field(ge=0, le=1000)] = 20

    def search(self, objective: Objective, victim: Predictor, rng: Rng) -> Found:
        """Ascend from no flips at all."""
        candidates, codes = objective.every_pair(victim, rng)
        pairs = candidates.pairs(codes)
        p = torch.zeros(len(codes))
        for t in range(self.steps):
            gradient, _ = objective.gradient(victim, pairs, p)
            rate = objective.budget * self.base_lr / math.sqrt(t + 1)
            p = project(p + rate * gradient, objective.budget)
        tried = [objective.judge(victim, pairs[:, :0])]
        tried.append(objective.judge(victim, objective.discrete(pairs, p)))
        best = min(tried, key=lambda one: one.score)
        return objective.sample(victim, pairs, p, self.samples, best, rng["sample"])
