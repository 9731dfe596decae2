"""Random injection: what new nodes do without any skill."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphsec.attacks.adversarial._inject import Lookalike, attached, real_rows
from graphsec.attacks.base import Attack
from graphsec.outcome import Injection, Perturbation
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import Access, View


@ATTACKS.register("random-injection")
@dataclass(frozen=True, kw_only=True)
class RandomInjection(Attack):
    """Injects copies of random nodes, each joined to uniformly drawn targets.

    The baseline that any other injection has to beat with as many nodes and edges.

    Source: the random injection of Zou et al., TDGIA, KDD 2021, with the features of real
    nodes.
    """

    @property
    def needs(self) -> Access:
        """The features, to copy some."""
        return Access.FEATURES

    def run(self, view: View, rng: Rng) -> Perturbation:
        """Random nodes, as many as the budget allows."""
        graph, targets, (count, each) = view.known, view.targets, view.injection_budget
        each = min(each, len(targets))
        if count == 0 or each == 0:
            return Perturbation()
        generator = rng.torch()
        copied = torch.randint(graph.num_nodes, (count,), generator=generator)
        x = Lookalike(view.feature_limits).allowed(real_rows(graph, copied))
        edges = [
            attached(
                1,
                each,
                graph.num_nodes + i,
                targets[torch.randperm(len(targets), generator=generator)],
            )
            for i in range(count)
        ]
        return Perturbation(injected=Injection(x, torch.cat(edges, 1)))
