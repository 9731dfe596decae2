"""What global searches for edge flips share: the loss, the budgets, and which find counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from graphsec import search
from graphsec.attacks.base import GradientAttack
from graphsec.outcome import Perturbation
from graphsec.predict import Predictor
from graphsec.rng import Rng
from graphsec.search import Found, LossName, Targets
from graphsec.threat import View

__all__ = ["Found", "GlobalAttack", "Objective", "Targets"]


@dataclass(frozen=True, kw_only=True)
class GlobalAttack(GradientAttack):
    """Base of attacks that follow the gradient of one loss over all targets at once.

    The victim itself is attacked; where it has a defense and the attacker knows it, the flips
    found against an undefended twin are tried on it too and the best is kept, so that an
    adaptive attack is never weaker than transfer.

    Attributes:
        loss: What is maximised over the target nodes.
        alpha: Share of the tanh margin in the mixed losses.
    """

    loss: LossName = "tanh_margin"
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5

    def run(self, view: View, rng: Rng) -> Perturbation:
        """What lowers the accuracy of the target nodes as far as the search gets."""
        objective = self.objective(view)
        if not objective.possible:
            return Perturbation()
        found = self.attempts(objective, view, rng)
        best = min(found, key=lambda one: one.score)
        info = {"scores": [one.score for one in found], "loss": objective.history}
        return objective.outcome(best, info)

    def objective(self, view: View) -> Objective:
        """What is attacked and within which budgets."""
        return Objective(self, view)

    def limits(self, view: View) -> Tensor | None:
        """(n,) most flips at each node, None without a limit."""
        return view.node_budget

    def attempts(self, objective: Objective, view: View, rng: Rng) -> list[Found]:
        """All that was found against the victim; the best of it counts."""
        victim = view.model()
        found = [self.search(objective, victim, rng)]
        if view.defended:
            # The stream of an attacker who is not adaptive: this finds what that one finds.
            transfer = self.search(objective, view.transfer(), rng)
            found.append(objective.judge(victim, transfer.flips))
        return found

    def search(self, objective: Objective, victim: Predictor, rng: Rng) -> Found:
        """The best flips against one victim."""
        raise NotImplementedError


class Objective(search.Objective):
    """The loss over the targets of a view, within its budgets and the attack's own."""

    def __init__(self, attack: GlobalAttack, view: View) -> None:
        super().__init__(
            view.known, view.targets, view.edge_budget, attack.limits(view),
            attack.loss, attack.alpha, f"attack {attack.name!r}",
        )  # fmt: skip

    def outcome(self, best: Found, info: dict[str, Any]) -> Perturbation:
        """The evidence to hand over."""
        return Perturbation(flips=best.flips, info=info)
