"""RMIA: does the victim prefer a node, beside other nodes, more than models in general do?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.membership._asking import ShadowAttack, confidence
from graphsec.outcome import MemberScores
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.threat import View

_LEAST = 1e-30


@ATTACKS.register("rmia")
@dataclass(frozen=True, kw_only=True)
class RMIA(ShadowAttack):
    """Pairwise likelihood ratios: the share of nodes z over which node x stands out γ-fold.

    LR(x, z) = (p(x|θ) / p(x)) / (p(z|θ) / p(z)), where p(·|θ) is the victim's posterior of the
    true label and p(·) its mean over reference models in and out. Few reference models do. The
    population z is all nodes with a label. Where no model was trained on a node, or ``online`` is
    off, its mean over in-models is guessed as a · p_out + (1 − a). With one population for all
    nodes the share rises with p(x|θ) / p(x), so that a γ above 1 changes no order but makes ties.

    Source: Zarifzadeh, Liu and Shokri, Low-Cost High-Power Membership Inference Attacks, ICML
    2024, algorithm 1 and its offline approximation; from memory, as is the default of a.

    Attributes:
        online: Whether in-models are used.
        a: How far posteriors out of training are from those in it: 1 not at all, 0 all the way
            to 1.
        gamma: γ, how many times likelier x must have become than z.
    """

    shadows: Annotated[int, Field(ge=2, le=10_000), Range(2, 64, log=True)] = 4
    online: bool = True
    a: Annotated[float, Field(ge=0, le=1), Range(0, 1)] = 0.3
    gamma: Annotated[float, Field(ge=1), Range(1, 4)] = 1.0

    def run(self, view: View, rng: Rng) -> MemberScores:
        """The share of the population that each node dominates."""
        nodes, y = self.nodes(view), view.known.y
        population = torch.ones(view.known.num_nodes, dtype=torch.bool)
        if y is not None:
            population[y < 0] = False
        population[nodes] = False
        everyone = torch.cat([nodes, population.nonzero().ravel()])
        mine, shadows, inside = self.compare(view, everyone, rng, confidence)
        outside = _mean(shadows, ~inside)
        guess = self.a * outside + (1 - self.a)
        trained = torch.where(inside.any(0), _mean(shadows, inside), guess)
        ratio = mine / ((outside + (trained if self.online else guess)) / 2).clamp(min=_LEAST)
        return MemberScores(nodes=nodes, scores=dominated(ratio, self.gamma)[: len(nodes)])


def dominated(ratio: Tensor, gamma: float) -> Tensor:
    """(k,) for how large a share of all z ratio(x) / ratio(z) ≥ γ; x is among them at γ = 1."""
    ranked = ratio.sort().values
    return torch.searchsorted(ranked, ratio / gamma, right=True).double() / len(ranked)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """(k,) mean over the chosen models (s, k) of each node; 0 where there are none."""
    return (values * chosen).sum(0) / chosen.sum(0).clamp(min=1)
