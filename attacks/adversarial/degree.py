"""Degree collapse: push the degrees that a defense makes of the graph to 0."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.adversarial._search import Found, GlobalAttack, Objective
from graphsec.ops import Adj
from graphsec.predict import Predictor
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.threat import View


@ATTACKS.register("degree")
@dataclass(frozen=True, kw_only=True)
class DegreeCollapse(GlobalAttack):
    """Flips, one at a time, the pair that lowers the smallest sanitised degree most.

    A GCN divides by the square root of degrees. Where a defense replaces the adjacency by one
    whose entries can be negative (a low-rank one), a few flips elsewhere take a node's degree to
    0 and below, and what the normalisation makes of that is a weak spot that a loss over all
    nodes does not lead to: half of the way there nothing happens to the accuracy. Once a node's
    degree is not positive the next smallest one is aimed at; the best step counts. Against a
    plain graph it cuts nodes of few edges off.

    The victim is asked for its sanitised adjacency twice a step (one gradient, one answer).
    Source: ours; the normalisation that it exploits is that of Mujkanovic et al., Are Defenses
    for Graph Neural Networks Robust?, NeurIPS 2022, where SVD purification falls to 9 %.

    Attributes:
        steps: Most flips tried; more than a few dozen rarely pay.
        block: Random candidate pairs in each step, beside all pairs at the node aimed at.
    """

    steps: Annotated[int, Field(ge=1), Range(5, 200, log=True)] = 60
    block: Annotated[int, Field(ge=1), Range(1e4, 1e6, log=True)] = 250_000

    def objective(self, view: View) -> Objective:
        """The least positive degree, as a loss."""
        return _LeastDegree(self, view)

    def search(self, objective: Objective, victim: Predictor, rng: Rng) -> Found:
        """Flip against one victim until the budget or the steps are spent."""
        assert isinstance(objective, _LeastDegree)
        candidates = objective.candidates(victim, rng["block"])
        objective.start(victim)
        size = min(self.block, candidates.total)

        def block(flipped: np.ndarray) -> tuple[np.ndarray, Tensor]:
            fresh = candidates.draw(size, flipped)
            codes = np.union1d(np.union1d(fresh, flipped), candidates.codes(objective.pairs()))
            return codes, candidates.pairs(codes)

        return objective.greedy(victim, [1] * min(self.steps, objective.budget), block)


class _LeastDegree(Objective):
    """Differentiates the smallest positive degree of the sanitised graph, not a loss of targets.

    Attributes: ``node``, the one aimed at.
    """

    node: int

    def start(self, victim: Predictor) -> None:
        """Aim at the smallest positive degree of the clean graph."""
        self.node = self._least(self._degrees(victim, self.graph.adj))

    def pairs(self) -> Tensor:
        """(2, k) all pairs at the node aimed at."""
        ends = torch.arange(self.graph.num_nodes) if self._ends is None else self._ends
        ends = ends[ends != self.node]
        return torch.stack([torch.full_like(ends, self.node), ends])

    def gradient(self, victim: Predictor, pairs: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """How much each flip lowers the degree aimed at, and the targets' logits."""
        weight = p.clone().requires_grad_()
        adj = self.graph.adj.with_block(pairs, weight, symmetric=not self.graph.directed)
        degree = self._degrees(victim, adj)
        if degree[self.node] <= 0:
            self.node = self._least(degree)
        (gradient,) = torch.autograd.grad(-degree[self.node], weight)
        self.history.append(-float(degree[self.node].detach()))
        with torch.no_grad():
            logits = self._logits(victim, pairs, p)
        return gradient.nan_to_num(0.0), logits

    def _degrees(self, victim: Predictor, adj: Adj) -> Tensor:
        """(n,) degrees with the self-loop, as they are before the defense bounds them."""
        _, sanitised = victim.sanitise(self._x, adj, victim.how)
        return replace(sanitised, degree=None).degrees() + 1

    @staticmethod
    def _least(degree: Tensor) -> int:
        return int(degree.masked_fill(degree <= 0, torch.inf).argmin())
