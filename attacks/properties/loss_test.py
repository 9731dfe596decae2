"""The loss test: a model fits the kind of graph best that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from graphsec.attacks.properties._worlds import PropertyAttack
from graphsec.models.base import inputs
from graphsec.outcome import PropertyGuess
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import View


@ATTACKS.register("property-loss-test")
@dataclass(frozen=True, kw_only=True)
class PropertyLossTest(PropertyAttack):
    """Asks the victim about a graph of each kind and says the one with the smaller loss.

    No model is trained. The score is the difference of the mean cross-entropies: its sign is the
    guess and its size ranks, but it is no calibrated log-odds.

    Source: the loss test of Suri and Evans, Formalizing and Estimating Distribution Inference
    Risks, PETS 2022, from memory; it compares accuracies, we compare losses.
    """

    def run(self, view: View, rng: Rng) -> PropertyGuess:
        """Loss at the first level minus loss at the second."""
        rules, asked, _ = self.own(view, rng)
        losses = []
        for bit in (0, 1):
            world = rules.world(asked, bit, rng["world"][bit])
            if world.y is None:
                raise ValueError(f"attack {self.name!r} needs labels of the nodes it asks about")
            every = torch.arange(world.num_nodes)
            logits = view.logits(every, inputs(world), world.adj).double()
            losses.append(float(F.cross_entropy(logits, world.y, ignore_index=-1)))
        return PropertyGuess(log_odds=losses[0] - losses[1])
