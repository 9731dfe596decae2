"""FA-GNN: random edges between a subgroup and another that differs in label or group."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from graphsec.attacks.adversarial._draw import Draw
from graphsec.attacks.fairness._groups import GroupAttack, groups_of, surrogate
from graphsec.outcome import Perturbation
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.threat import View

log = logging.getLogger(__name__)


@ATTACKS.register("fa-gnn")
@dataclass(frozen=True, kw_only=True)
class FAGNN(GroupAttack):
    """Joins a subgroup of one label and one group to the nodes that differ or agree in each.

    Labels are known of training nodes and predicted for others by a linear surrogate. Edges are
    only added. Where too few pairs fit, fewer than the budget are returned, with a warning.

    Source: Hussain et al., Adversarial Inter-Group Link Injection Degrades the Fairness of Graph
    Neural Networks, ICDM 2022 (from notes: four ways of linking, label 1 of group 1 by default).

    Attributes:
        links: First letter: the others' labels are Different or Equal; second: their groups.
        label: Label of the subgroup.
        group: Its group, as the sensitive attribute's sorted values count.
        epochs: Training steps of the surrogate.
    """

    links: Literal["DD", "DE", "ED", "EE"] = "DD"
    label: Literal[0, 1] = 1
    group: Annotated[int, Field(ge=0)] = 1
    epochs: Annotated[int, Field(ge=1), Range(100, 2000, log=True)] = 2000

    def run(self, view: View, rng: Rng) -> Perturbation:
        """Random edges of the kind, as many as the budget allows.

        Raises:
            FairnessError: The graph has no groups.
            ValueError: It has no group of that number.
        """
        graph, budget, limit = view.known, view.edge_budget, view.node_budget
        group = groups_of(view, self.name)
        if self.group > int(group.max()):
            raise ValueError(
                f"attack 'fa-gnn': group must be 0…{int(group.max())} in {graph.name!r}, got "
                f"{self.group}"
            )
        if budget == 0:
            return Perturbation()
        assert graph.y is not None
        made = surrogate(graph, group, rng["surrogate"], epochs=self.epochs, alpha=0.0)
        y, s = np.where(graph.y >= 0, graph.y, made.answers(graph) >= 0), group.numpy()
        ours = (y == self.label) & (s == self.group)
        labels = y != self.label if self.links[0] == "D" else y == self.label
        theirs = labels & (s != self.group if self.links[1] == "D" else s == self.group)

        def fits(u: np.ndarray, v: np.ndarray) -> np.ndarray:
            fitting: np.ndarray = (ours[u] & theirs[v]) | (ours[v] & theirs[u])
            return fitting

        draw = Draw(graph, None if limit is None else limit.numpy(), rng["links"].numpy())
        added = draw.add(budget, fits)
        if added < budget:
            log.warning(
                "fa-gnn: %s has only %d fitting pairs within the budget of %d flips",
                graph.name, added, budget,
            )  # fmt: skip
        return Perturbation(flips=torch.from_numpy(draw.flips), info={"added": added})
