"""PGD on features: every node moves a little, against all targets at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.adversarial._features import laid_out
from graphsec.attacks.adversarial._search import Found, GlobalAttack, Objective, Targets
from graphsec.outcome import Perturbation
from graphsec.predict import Predictor
from graphsec.registry import ATTACKS, Range, SpecError
from graphsec.rng import Rng
from graphsec.search import strongest
from graphsec.threat import View
from graphsec.threat.features import FeatureLimits


class MovedFeatures(Objective):
    """Features of one graph as what may move; ``Found.flips`` are then features (n, d).

    Raises:
        SpecError: The features are binary.
    """

    def __init__(self, attack: GlobalAttack, view: View) -> None:
        self.limits, self.graph = view.feature_limits, view.known
        if self.limits.binary:
            raise SpecError(
                f"attack {attack.name!r} moves real features: x of {self.graph.name!r} holds only "
                "0 and 1, and threat.budget.feature_range says no other; take 'feature-prbcd'"
            )
        assert self.graph.x is not None
        self.clean = self.graph.x.to_dense()
        self.targets = Targets(self.graph, view.targets, attack.loss, attack.alpha)

    @property
    def possible(self) -> bool:
        """Whether the budgets allow any change."""
        return min(self.limits.entries, self.limits.per_node, self.limits.change) > 0

    def outcome(self, best: Found, info: dict[str, Any]) -> Perturbation:
        """The moved features."""
        assert self.graph.x is not None
        return Perturbation(x=laid_out(best.flips, self.graph.x), info=info)

    def move(self, victim: Predictor, x: Tensor) -> tuple[Tensor, Found]:
        """(n, d) derivative of the loss by the features, and what these do to the targets."""
        leaf = x.clone().requires_grad_()
        logits = victim.forward(leaf, self.graph.adj)[self.targets.nodes]
        return self.targets.derivative(logits, leaf), Found(self.score(logits.detach()), x)

    @torch.no_grad()
    def judge(self, victim: Predictor, flips: Tensor) -> Found:
        """What features (n, d) do to the targets."""
        return Found(self.score(victim.forward(flips, self.graph.adj)[self.targets.nodes]), flips)

    def room(self, up: Tensor) -> Tensor:
        """(n, d) how far each entry can go from its clean value, up or down."""
        low, high = self.limits.low, self.limits.high
        free = torch.where(up, high - self.clean, self.clean - low)
        return free.clamp(0, self.limits.change)

    def within(self, x: Tensor) -> Tensor:
        """The nearest features within distance and range (both hold: clean ones are in range)."""
        return limited(self.clean, x, self.limits)


def limited(clean: Tensor, x: Tensor, limits: FeatureLimits) -> Tensor:
    """Features x (n, d) drawn back to their distance from the clean ones, and into range.

    An entry whose clean value lies outside of the range may stay where it is.
    """
    moved = x - clean
    if limits.norm == "linf":
        moved = moved.clamp(-limits.change, limits.change)
    elif math.isfinite(limits.change):
        length = moved.norm(dim=1, keepdim=True)
        moved = moved * (limits.change / length.clamp(min=1e-30)).clamp(max=1)
    low, high = (bound.expand_as(clean) for bound in (limits.low, limits.high))
    return torch.where(moved == 0, clean, torch.minimum(torch.maximum(clean + moved, low), high))


@ATTACKS.register("feature-pgd")
@dataclass(frozen=True, kw_only=True)
class FeaturePGD(GlobalAttack):
    """Projected gradient ascent on real features of all nodes, against all targets at once.

    Each node has its own ball: ``feature_change`` in ``feature_norm``, cut to the range of
    ``feature_range``. Steps follow the sign of the gradient under "linf" and the gradient of
    each node, at unit length, under "l2". Where the budget limits how many entries change
    (``features``, ``features_per_node``), those of largest gain to first order are chosen
    on the clean graph and only they move. The victim itself is attacked; where it has a defense
    and the attacker knows it, the features found against an undefended twin are tried too.
    What a defense decides by comparing features (Jaccard) is held fixed while differentiating.
    Features are held dense: n · d numbers.

    Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR
    2018, on all nodes of one graph.

    Attributes:
        loss: What is maximised over the target nodes.
        alpha: Share of the tanh margin in the mixed losses.
        steps: Gradient steps.
        rate: First step, in radii of the ball or, where smaller, ranges of the column; it falls
            with √(t + 1).
    """

    uses_edges: ClassVar[bool] = False

    steps: Annotated[int, Field(ge=1), Range(10, 200, log=True)] = 50
    rate: Annotated[float, Field(gt=0), Range(0.01, 1, log=True)] = 0.25

    def objective(self, view: View) -> MovedFeatures:
        """Features, within their budgets."""
        return MovedFeatures(self, view)

    def search(self, objective: Objective, victim: Predictor, rng: Rng) -> Found:
        """Ascend from the clean features; the best iterate counts."""
        assert isinstance(objective, MovedFeatures)
        x = objective.clean
        gradient, best = objective.move(victim, x)
        chosen = self._entries(objective, gradient)
        for t in range(self.steps):
            step = self._direction(objective, gradient * chosen)
            x = objective.within(x + self.rate / math.sqrt(t + 1) * step)
            gradient, now = objective.move(victim, x)
            best = min(best, now, key=lambda one: one.score)
        return best

    def _entries(self, objective: MovedFeatures, gradient: Tensor) -> Tensor:
        """(n, d) which entries move; () where all do."""
        limits, (n, d) = objective.limits, gradient.shape
        if limits.entries >= n * d and limits.per_node >= d:
            return torch.ones(())
        gain = (gradient.abs() * objective.room(gradient > 0)).ravel()
        live = gain.nonzero().ravel()
        pairs = torch.stack([live // d, live % d + n])
        each = None
        if limits.per_node < d:
            each = torch.cat([torch.full((n,), limits.per_node), torch.full((d,), limits.entries)])
        best = live[strongest(pairs, gain[live], limits.entries, each)]
        return torch.zeros(n * d).index_fill(0, best, 1).view(n, d)

    def _direction(self, objective: MovedFeatures, gradient: Tensor) -> Tensor:
        """(n, d) steepest ascent, one radius long."""
        limits = objective.limits
        if limits.norm == "l2" and math.isfinite(limits.change):
            length: Tensor = gradient.norm(dim=1, keepdim=True)
            return gradient * (limits.change / length.clamp(min=1e-30))
        return gradient.sign() * (limits.high - limits.low).clamp(max=limits.change)
