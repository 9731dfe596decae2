"""What shilling attacks share: profiles of promoted items, and of others that fill them up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.base import Attack
from graphsec.graph import Graph
from graphsec.outcome import Injection, Perturbation
from graphsec.registry import Range
from graphsec.rng import Rng
from graphsec.threat import Access, Timing, View

Share = Annotated[float, Field(ge=0, le=1), Range(0, 1)]


@dataclass(frozen=True, kw_only=True)
class ShillingAttack(Attack):
    """Base of attacks by fake users, each of whom takes the promoted items and some fillers.

    As many users are injected as ``budget.nodes`` allows, with as many interactions each as
    ``budget.edges_per_injected`` does. Where the promoted items alone are more than that, they are
    dealt out. With implicit feedback an interaction has no rating, so what profiles differ in is
    which items fill them.
    """

    game: ClassVar[str] = "promotion"
    timing: ClassVar[Timing] = "poisoning"
    tasks: ClassVar[tuple[str, ...]] = ("ranking",)

    def fillers(self, view: View, promoted: Tensor, users: int, each: int, rng: Rng) -> Tensor:
        """(users, each) items that are not promoted, numbered from 0; each row's are different.

        Args:
            view: Of the attacker.
            promoted: (t,) promoted items, numbered from 0.
            users: Fake users.
            each: Fillers of one.
            rng: Stream of the attack.
        """
        raise NotImplementedError

    def run(self, view: View, rng: Rng) -> Perturbation:
        """The fake users.

        Raises:
            ValueError: There are no items to promote (game "promotion").
        """
        graph, items = view.known, view.question
        if items is None:
            raise ValueError(f"attack {self.name!r}: pass question=secret.question, the items")
        (count, each), users = view.injection_budget, graph.num_users
        each = min(each, graph.num_nodes - users)
        blank = torch.zeros(count, graph.num_features)
        if count == 0 or each == 0:
            return Perturbation()
        own = torch.arange(count * min(each, len(items))) % len(items)
        taken = items[own].reshape(count, -1)
        more = each - len(items)
        if more > 0:
            found = self.fillers(view, items - users, count, more, rng) + users
            taken = torch.cat([taken, found], 1)
        new = torch.arange(count).repeat_interleave(taken.shape[1]) + graph.num_nodes
        return Perturbation(injected=Injection(blank, torch.stack([new, taken.reshape(-1)])))


@dataclass(frozen=True, kw_only=True)
class SelectedItems(ShillingAttack):
    """Base of attacks some of whose fillers are the same for all fake users, the rest random.

    Attributes:
        selected: Share of the fillers that are the same for all.
    """

    selected: Share = 0.5

    @property
    def needs(self) -> Access:
        """The interactions, to select by."""
        return Access.EDGES

    def scores(self, graph: Graph, promoted: Tensor) -> Tensor:
        """(items,) by which the selected items are those of the highest."""
        raise NotImplementedError

    def fillers(self, view: View, promoted: Tensor, users: int, each: int, rng: Rng) -> Tensor:
        """The best by score, and random others."""
        score = self.scores(view.known, promoted).double()
        score[promoted] = -torch.inf
        same = score.argsort(descending=True, stable=True)[: round(self.selected * each)]
        weight = torch.ones(users, len(score))
        weight[:, promoted] = 0
        weight[:, same] = 0
        rest = draw(weight, each - len(same), rng)
        return torch.cat([same.expand(users, -1), rest], 1)


def draw(weight: Tensor, count: int, rng: Rng) -> Tensor:
    """(users, count) different items for each row of weights, drawn in their proportion.

    Without replacement: the largest of ln(weight) + Gumbel noise (Efraimidis & Spirakis 2006).
    """
    noise = -torch.empty_like(weight).exponential_(generator=rng.torch()).log()
    return (weight.log() + noise).topk(count, 1).indices


def popularity(graph: Graph) -> Tensor:
    """(items,) users who took each."""
    return graph.degree[graph.num_users :].double()
