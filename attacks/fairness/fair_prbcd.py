"""PR-BCD on the gap between groups: what an attacker does who has the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.attacks.adversarial._search import Found, Objective
from graphsec.attacks.adversarial.prbcd import PRBCD
from graphsec.attacks.fairness._groups import groups_of
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.search import Targets
from graphsec.threat import Access, View


@ATTACKS.register("fair-prbcd")
@dataclass(frozen=True, kw_only=True)
class FairPRBCD(PRBCD):
    """Gradient ascent on the gap between groups, on random blocks of pairs, within the budget.

    PR-BCD with another loss: the difference between two groups' mean probability of answer 1, once
    in either direction, less ``keep`` times the targets' cross-entropy, so that what is said is not
    simply made worse. The victim itself is attacked, and a defense that the attacker knows with
    it, as in ``prbcd``. Linear in edges and block. ``loss`` and ``alpha`` are not used.

    Source: of this project; the search is that of Geisler et al., NeurIPS 2021.

    Attributes:
        keep: Weight of the targets' cross-entropy, which is to stay low.
        floor: Accuracy of the targets below which flips do not count, as a share of the clean one.
        pair: The two groups, as the sensitive attribute's sorted values count.
    """

    keep: Annotated[float, Field(ge=0), Range(0.01, 10, log=True)] = 0.5
    floor: Annotated[float, Field(ge=0, le=1), Range(0.9, 1)] = 0.95
    pair: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = (0, 1)

    @property
    def needs(self) -> Access:
        """What PR-BCD needs, and the groups."""
        return super().needs | Access.SENSITIVE

    def attempts(self, objective: Objective, view: View, rng: Rng) -> list[Found]:
        """All searches in both directions."""
        assert isinstance(objective, GapObjective)
        found = []
        for sign in (1.0, -1.0):
            objective.aim(sign)
            found += super().attempts(objective, view, rng)
        return found

    def objective(self, view: View) -> Objective:
        """The gap between the groups of the targets.

        Raises:
            FairnessError: Gaps between groups can't be measured on this graph.
            ValueError: There is no such pair of groups.
        """
        group = groups_of(view, self.name)
        first, second = self.pair
        if first == second or max(self.pair) > int(group.max()):
            raise ValueError(
                f"attack {self.name!r}: pair must be two of the groups 0…{int(group.max())} of "
                f"{view.known.name!r}, got {list(self.pair)}"
            )
        return GapObjective(self, view, group)


class GapTargets(Targets):
    """Targets whose loss is a gap between groups."""

    def __init__(self, targets: Targets, group: Tensor, attack: FairPRBCD, least: float) -> None:
        super().__init__(targets.graph, targets.nodes, attack.loss, attack.alpha)
        self._group, self._attack, self._least, self.sign = group[self.nodes], attack, least, 1.0

    def _gap(self, ones: Tensor) -> Tensor:
        first, second = self._attack.pair
        return ones[self._group == first].mean() - ones[self._group == second].mean()

    def derivative(self, logits: Tensor, by: Tensor) -> Tensor:
        """The gap, less what the answers lose, differentiated."""
        gap = self.sign * self._gap(logits.softmax(1)[:, 1])
        loss = gap - self._attack.keep * F.cross_entropy(logits, self.y)
        (gradient,) = torch.autograd.grad(loss, by)
        self.history.append(float(loss.detach()))
        return gradient.nan_to_num(0.0)

    def score(self, logits: Tensor) -> tuple[float, float]:
        """Less is more unfair: the gap of answers, then that of probabilities, with a minus.

        Answers that are right too seldom count as those without a gap.
        """
        if float((logits.argmax(1) == self.y).double().mean()) < self._least:
            return (0.0, 0.0)
        hard = float(self._gap(logits.argmax(1).double()).abs())
        return (-hard, -float(self._gap(logits.softmax(1)[:, 1].double()).abs()))


class GapObjective(Objective):
    """The gap between groups over the targets of a view, within its budgets."""

    def __init__(self, attack: FairPRBCD, view: View, group: Tensor) -> None:
        super().__init__(attack, view)
        if not self.possible:
            return
        with torch.no_grad():
            logits = view.model().forward(self._x, self.graph.adj, self.targets.nodes)
        right = float((logits.argmax(1) == self.targets.y).double().mean())
        self.targets: GapTargets = GapTargets(self.targets, group, attack, attack.floor * right)

    def aim(self, sign: float) -> None:
        """Which group's answers are to rise."""
        self.targets.sign = sign
