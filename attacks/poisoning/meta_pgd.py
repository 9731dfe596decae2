"""Meta-PGD: projected gradient ascent on edges through the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.adversarial.pgd import PGD
from graphsec.attacks.poisoning._meta import MetaAttack
from graphsec.attacks.poisoning._relaxed import NOBODY, MetaObjective
from graphsec.outcome import Perturbation
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.search import margins
from graphsec.threat import View


@dataclass(frozen=True, kw_only=True)
class RelaxedMetaAttack(MetaAttack):
    """Base of poisoning on relaxed edge weights.

    Attributes:
        steps: Gradient steps, each of which differentiates through one training.
        step: First step: what the pair of largest gradient gains in weight.
        samples: Random discretisations tried at the end, beside the largest weights.
        trainings: Trainings whose mean loss judges a choice of flips.
    """

    steps: Annotated[int, Field(ge=1), Range(25, 200, log=True)] = 100
    step: Annotated[float, Field(gt=0), Range(0.05, 1, log=True)] = 0.2
    samples: Annotated[int, Field(ge=0, le=1000)] = 10
    trainings: Annotated[int, Field(ge=1, le=100)] = 3

    def by_node(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(k,) hyperbolic tangent of minus the margin, which counts nodes near the border most."""
        return torch.tanh(-margins(logits, labels))


@ATTACKS.register("meta-pgd")
@dataclass(frozen=True, kw_only=True)
class MetaPGD(RelaxedMetaAttack):
    """PGD over all pairs, by gradients through the training of a surrogate.

    Every step trains the surrogate on the weighted graph from fresh weights and follows the exact
    meta-gradient of all pairs. Of the last iterate the largest weights are tried beside random
    discretisations, and what raises the loss after training most is returned. In memory n² (up to
    10,000 nodes and 20 million pairs); undirected graphs only. As with Metattack, the victim is
    not asked: the flips transfer to it.

    Source: Mujkanovic et al., Are Defenses for Graph Neural Networks Robust?, NeurIPS 2022
    (Meta-PGD), with the tanh margin of Geisler et al., NeurIPS 2021; steps scaled by the largest
    gradient, in place of their optimiser, are ours.
    """

    def run(self, view: View, rng: Rng) -> Perturbation:
        """The flips, and in ``info`` the attack loss at each gradient."""
        objective = MetaObjective(self, view, rng, self.trainings, dense=True)
        if not objective.possible:
            return Perturbation()
        search = PGD(steps=self.steps, base_lr=self.step / objective.budget, samples=self.samples)
        best = search.search(objective, NOBODY, rng["search"])
        return Perturbation(flips=best.flips, info={"losses": objective.history})
