"""Random flips: what a budget does without any skill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from graphsec.attacks.adversarial._draw import Draw
from graphsec.attacks.base import Attack
from graphsec.outcome import Perturbation
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.threat import Access, View


@ATTACKS.register("random")
@dataclass(frozen=True, kw_only=True)
class RandomFlips(Attack):
    """Adds uniformly drawn pairs and deletes uniformly drawn edges.

    The budget is used up whenever the graph has enough pairs: where one kind runs out, the
    other fills in. The baseline that any other attack of the same budget has to beat.

    Source: the random baseline of Zügner et al., Adversarial Attacks on Neural Networks for
    Graph Data, KDD 2018, §5, over the whole graph.

    Attributes:
        add: Share of the flips that add an edge; the others delete one. 1 is, in a sparse
            graph, as good as flipping uniformly drawn pairs.
    """

    tasks = ("classification", "regression")

    add: Annotated[float, Field(ge=0, le=1), Range(0, 1)] = 1.0

    @property
    def needs(self) -> Access:
        """The edges, in order to know what a flip does."""
        return Access.EDGES

    def run(self, view: View, rng: Rng) -> Perturbation:
        """Random flips, as many as the budget allows."""
        budget, limit = view.edge_budget, view.node_budget
        draw = Draw(view.known, None if limit is None else limit.numpy(), rng.numpy())
        added = draw.add(round(self.add * budget))
        deleted = draw.delete(budget - added)
        added += draw.add(budget - added - deleted)
        return Perturbation(
            flips=torch.from_numpy(draw.flips), info={"added": added, "deleted": deleted}
        )
