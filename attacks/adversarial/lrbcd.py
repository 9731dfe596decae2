"""LR-BCD: PR-BCD that keeps to a budget at each node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from graphsec.attacks.adversarial._search import Objective
from graphsec.attacks.adversarial.prbcd import PRBCD
from graphsec.registry import ATTACKS, Range
from graphsec.search import knapsack
from graphsec.threat import Budget, View


@ATTACKS.register("lrbcd", "lr-bcd")
@dataclass(frozen=True, kw_only=True)
class LRBCD(PRBCD):
    """PR-BCD whose weights hold a budget at each node at every step, beside the global one.

    PR-BCD under a budget per node projects onto the global budget alone and leaves the others
    to the final choice of flips; here the projection holds both, so that no weight is spent
    where it can't be used. Linear in edges and block.

    Source: Gosch et al., Adversarial Training for Graph Neural Networks: Pitfalls, Solutions,
    and New Directions, NeurIPS 2023, LR-BCD with its greedy projection.

    Attributes:
        delta: Budget of a node as a share of its degree, rounded down, unless the threat gives
            ``edges_per_node``.
    """

    delta: Annotated[float, Field(gt=0, le=1), Range(0.1, 1)] = 0.5

    def limits(self, view: View) -> Tensor | None:
        """(n,) most flips at each node."""
        given = view.node_budget
        own = Budget(edges_per_node=self.delta)
        return own.node_count(view.known) if given is None else given

    def project(self, objective: Objective, pairs: Tensor, p: Tensor) -> Tensor:
        """(B,) weights within the budgets of all nodes and the global one."""
        assert objective.per_node is not None
        return knapsack(pairs, p, objective.budget, objective.per_node)
