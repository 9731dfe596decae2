"""The simple baseline of property inference: one number, one threshold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphsec.attacks.properties._worlds import ShadowWorlds
from graphsec.outcome import PropertyGuess
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import View

_LEAST = 1e-6  # standard deviation, of shadow models that all agree


@ATTACKS.register("property-threshold")
@dataclass(frozen=True, kw_only=True)
class PropertyThreshold(ShadowWorlds):
    """The mean posterior of one class, against a threshold that shadow models give.

    The class is the one whose mean tells the two kinds of shadow models apart best; the threshold
    lies between the means of the two kinds, which are taken for Gaussians of one variance. What a
    classifier over more than one number is worth is what it gains over this.

    Source: the threshold test of Suri and Evans, Formalizing and Estimating Distribution Inference
    Risks, PETS 2022, from memory; it compares accuracies, we compare posteriors.
    """

    def run(self, view: View, rng: Rng) -> PropertyGuess:
        """The log-odds of the two Gaussians."""
        victim, shadows, holds = self.compare(view, rng, lambda p: p.double().mean(0))
        return PropertyGuess(log_odds=gaussian_odds(victim, shadows, holds))


def gaussian_odds(victim: Tensor, shadows: Tensor, holds: Tensor) -> float:
    """Log-odds of the second kind, by the number (of d) that tells the kinds apart best.

    Args:
        victim: (d,).
        shadows: (s, d), two of each kind or more.
        holds: (s,) kind of each, 0 or 1.
    """
    first, second = (shadows[holds == bit].mean(0) for bit in (0, 1))
    centre = torch.stack([first, second])[holds]
    square = (shadows - centre).square().sum(0) / (len(shadows) - 2)
    spread = square.sqrt().clamp(min=_LEAST)
    gap = (second - first) / spread
    best = int(gap.abs().argmax())
    return float(((victim - (first + second) / 2) / spread * gap)[best])
