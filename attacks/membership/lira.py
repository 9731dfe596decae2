"""LiRA: is the victim's answer more like those of models that saw the node, or that did not?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from graphsec.attacks.membership._asking import ShadowAttack, logit_confidence
from graphsec.outcome import MemberScores
from graphsec.registry import ATTACKS, SpecError
from graphsec.rng import Rng
from graphsec.threat import View

_LEAST = 1e-9  # variance, of a node whose shadow models all agree


@ATTACKS.register("lira")
@dataclass(frozen=True, kw_only=True)
class LiRA(ShadowAttack):
    """Likelihood ratio of two Gaussians a node: confidence when trained on, and when not.

    The confidence is φ = log(p_y / (1 − p_y)), nearly Gaussian over trainings. The Gaussians are
    fitted to shadow models, of which the victim is never one: a fit that holds the answer which
    it judges leans towards it and overstates the attack.

    Source: Carlini et al., Membership Inference Attacks From First Principles, S&P 2022,
    algorithm 1 and §VI (offline form, one variance for all); the score is the logarithm of its Λ,
    offline the distance from the mean in standard deviations, which ranks alike.

    Attributes:
        online: Whether the in-models are used too; offline, how unlike an out-model's it is.
        fixed_variance: One variance for all nodes, pooled over nodes: steadier with few shadows.
    """

    online: bool = True
    fixed_variance: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shadows < 4 and not self.fixed_variance:
            raise SpecError(
                f"attack {self.name!r}: shadows must be ≥ 4 for a variance of each node, "
                f"got {self.shadows}; with fixed_variance 2 are enough"
            )

    def run(self, view: View, rng: Rng) -> MemberScores:
        """The log-likelihood ratio of each node."""
        nodes = self.nodes(view)
        mine, shadows, inside = self.compare(view, nodes, rng, logit_confidence)
        mean, variance = gaussians(shadows, ~inside, self.fixed_variance)
        scores = (mine - mean) / variance.sqrt()
        if self.online:
            trained = gaussians(shadows, inside, self.fixed_variance)
            scores = _log_density(mine, *trained) - _log_density(mine, mean, variance)
        return MemberScores(nodes=nodes, scores=scores)


def gaussians(values: Tensor, chosen: Tensor, fixed_variance: bool) -> tuple[Tensor, Tensor]:
    """(means, variances) (k,) of each node over the chosen models.

    Args:
        values: (s, k) float64, of s models.
        chosen: (s, k) which of them count; 2 a node or more, 1 with one variance for all.
        fixed_variance: Whether deviations of all nodes make one variance.
    """
    weight = chosen.double()
    count = weight.sum(0)
    mean = (values * weight).sum(0) / count
    square = ((values - mean).square() * weight).sum(0)
    if fixed_variance:
        # Degrees of freedom of the pooled estimate; with one model a node none is left.
        freedom = float((count - 1).sum())
        variance = square.sum() / freedom if freedom else values[chosen].var()
        return mean, variance.expand_as(mean).clamp(min=_LEAST)
    return mean, (square / (count - 1)).clamp(min=_LEAST)


def _log_density(value: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return -((value - mean).square() / variance + (2 * math.pi * variance).log()) / 2
