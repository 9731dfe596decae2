"""FGA: the fast gradient attack, one flip a gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphsec.attacks.adversarial._local import Row, attack_each
from graphsec.attacks.base import GradientAttack
from graphsec.outcome import Perturbation
from graphsec.predict import Predictor
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.search import LossName
from graphsec.threat import View


@ATTACKS.register("fga")
@dataclass(frozen=True, kw_only=True)
class FGA(GradientAttack):
    """Flips, one at a time, the pair at the target along which its loss rises fastest.

    Every target has a world of its own and the whole budget in it. A flip is never taken back;
    the attack ends early where no flip raises the loss to first order. The victim itself is
    attacked; where it has a defense and the attacker knows it, the flips found against an
    undefended twin are tried too. A flip costs a forward and a backward pass over the whole
    graph, linear in edges and nodes.

    Source: Chen et al., Fast Gradient Attack on Network Embedding, arXiv 1809.02797, 2018, §3,
    direct attack.

    Attributes:
        loss: What is maximised at the target; the paper takes cross-entropy ("ce"), whose gradient
            vanishes where the victim is sure.
    """

    loss: LossName = "margin"

    def run(self, view: View, rng: Rng) -> Perturbation:
        """For each target, the greedy flips at it; nothing is random."""
        victim = view.model()
        models = [victim, view.transfer()] if view.defended else [victim]
        return attack_each(
            view, lambda row: row.best(victim, [self._greedy(row, model) for model in models])
        )

    def _greedy(self, row: Row, model: Predictor) -> Tensor:
        every = torch.arange(len(row.ends))
        flipped = torch.zeros(len(every))
        for _ in range(row.budget):
            gradient = row.gradient(model, every, flipped, self.loss)
            gradient[flipped > 0] = -torch.inf
            steepest = gradient.argmax()
            if gradient[steepest] <= 0:
                break
            flipped[steepest] = 1
        return flipped.nonzero().ravel()
