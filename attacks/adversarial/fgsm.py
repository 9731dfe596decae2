"""FGSM on edges: one flip at a time, the one of the largest gradient among all pairs."""

from __future__ import annotations

from dataclasses import dataclass

from graphsec.attacks.adversarial._search import Found, GlobalAttack, Objective
from graphsec.predict import Predictor
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.search import LossName


@ATTACKS.register("fgsm")
@dataclass(frozen=True, kw_only=True)
class FGSM(GlobalAttack):
    """Greedy flips with every pair of nodes as a candidate; no flip is taken back.

    A dense baseline: time and memory are quadratic in the nodes, with one gradient for each
    flip of the budget, and graphs of more than 20 million pairs (6,300 nodes) are refused.

    Source: Goodfellow et al., Explaining and Harnessing Adversarial Examples, ICLR 2015, §4, on
    the adjacency matrix and flip by flip as in Geisler et al., NeurIPS 2021, §2.

    Attributes:
        loss: What is maximised over the target nodes.
        alpha: Share of the tanh margin in the mixed losses.
    """

    loss: LossName = "mce"

    def search(self, objective: Objective, victim: Predictor, rng: Rng) -> Found:
        """As many steps of one flip as the budget has."""
        candidates, codes = objective.every_pair(victim, rng)
        pairs = candidates.pairs(codes)
        return objective.greedy(victim, [1] * objective.budget, lambda _: (codes, pairs))
