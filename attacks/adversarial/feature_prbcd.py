"""PR-BCD on binary features: words are added to nodes and taken from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graphsec.attacks.adversarial._features import EntryObjective
from graphsec.attacks.adversarial._search import Objective
from graphsec.attacks.adversarial.prbcd import PRBCD
from graphsec.registry import ATTACKS
from graphsec.search import knapsack, project
from graphsec.threat import View


@ATTACKS.register("feature-prbcd")
@dataclass(frozen=True, kw_only=True)
class FeaturePRBCD(PRBCD):
    """PR-BCD whose candidates are entries of binary features, of any node, in place of edges.

    The budget is ``features`` entries in all and ``features_per_node`` at each node; columns that
    no node has are left alone. Beyond that it is PR-BCD: a random block of entries with weights
    from 0 to 1 that is redrawn as the search goes on, against the victim itself. Linear in edges,
    features and block. Where a defense compares features (Jaccard), what it decides by them is
    held fixed while differentiating, and asked anew for every discrete choice.

    Source: the search is Geisler et al., Robustness of Graph Neural Networks at Scale, NeurIPS
    2021, algorithm 1; flips of binary features as a budget of their own are those of Zügner et
    al., KDD 2018, §3, here relaxed, and against all targets at once.
    """

    uses_edges: ClassVar[bool] = False
    version = 1

    def objective(self, view: View) -> EntryObjective:
        """Entries of features, within their budgets."""
        return EntryObjective(self, view)

    def project(self, objective: Objective, pairs: Tensor, p: Tensor) -> Tensor:
        """(B,) weights within the budgets; greedily where nodes have one of their own (LR-BCD)."""
        if objective.per_node is None:
            return project(p, objective.budget)
        return knapsack(pairs, p, objective.budget, objective.per_node)
