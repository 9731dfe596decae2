"""DICE: delete internally, connect externally."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from graphsec.attacks.adversarial._draw import Draw
from graphsec.attacks.base import Attack
from graphsec.outcome import Perturbation
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.threat import Access, View

log = logging.getLogger(__name__)


@ATTACKS.register("dice")
@dataclass(frozen=True, kw_only=True)
class DICE(Attack):
    """Adds edges between different labels and deletes edges within one; the model is not asked.

    Nodes whose label is unknown (−1) are left alone. Where one kind of flip runs out, the other
    fills in; where both do, fewer flips than the budget are returned, with a warning.

    Source: Waniek et al., Hiding Individuals and Communities in a Social Network, Nature Human
    Behaviour 2018; 60 % additions as in Geisler et al., NeurIPS 2021 (their published code).

    Attributes:
        add: Share of the flips that add an edge; the others delete one.
    """

    add: Annotated[float, Field(ge=0, le=1), Range(0, 1)] = 0.6

    @property
    def needs(self) -> Access:
        """The edges and the true labels."""
        return Access.EDGES | Access.TRUE_LABELS

    def run(self, view: View, rng: Rng) -> Perturbation:
        """Flips that mix the classes, as many as the budget allows."""
        graph, budget, limit = view.known, view.edge_budget, view.node_budget
        if graph.y is None:
            raise ValueError(f"attack 'dice' needs labels, y is missing in {graph.name!r}")
        y = graph.y.numpy()

        def between(u: np.ndarray, v: np.ndarray) -> np.ndarray:
            different: np.ndarray = (y[u] != y[v]) & (y[u] >= 0) & (y[v] >= 0)
            return different

        def within(u: np.ndarray, v: np.ndarray) -> np.ndarray:
            same: np.ndarray = (y[u] == y[v]) & (y[u] >= 0)
            return same

        draw = Draw(graph, None if limit is None else limit.numpy(), rng.numpy())
        added = draw.add(round(self.add * budget), between)
        deleted = draw.delete(budget - added, within)
        added += draw.add(budget - added - deleted, between)
        if added + deleted < budget:
            log.warning(
                "dice: %s has only %d fitting pairs within the budget of %d flips",
                graph.name, added + deleted, budget,
            )  # fmt: skip
        return Perturbation(
            flips=torch.from_numpy(draw.flips), info={"added": added, "deleted": deleted}
        )
