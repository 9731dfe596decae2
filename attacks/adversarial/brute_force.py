"""Brute force: every flip at a target is tried."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, combinations
from typing import Literal

import torch
from torch import Tensor

from graphsec.attacks.adversarial._local import Row, attack_each
from graphsec.attacks.base import GradientAttack
from graphsec.outcome import Perturbation
from graphsec.predict import Predictor
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import View


@ATTACKS.register("brute-force")
@dataclass(frozen=True, kw_only=True)
class BruteForce(GradientAttack):
    """Tries every set of up to ``depth`` flips at the target, and takes the best.

    Exact where the budget is at most ``depth``: no other direct attack leaves the target a smaller
    margin, which makes it the reference line of local attacks. A larger budget is spent
    greedily, ``depth`` flips at a time, each time the best of all sets; it ends early where none
    lowers the margin. The victim itself is asked: one forward pass over the whole graph a set, n
    sets a target at depth 1 and n² / 2 at depth 2.

    Source: the brute-force attack among those of Mujkanovic et al., Are Defenses for Graph Neural
    Networks Robust?, NeurIPS 2022.

    Attributes:
        depth: Flips that are tried together.
        stop: Whether a target that is misclassified is left at that, whatever budget is left.
    """

    depth: Literal[1, 2] = 1
    stop: bool = False

    def run(self, view: View, rng: Rng) -> Perturbation:
        """For each target, the best flips at it; nothing is random."""
        victim = view.model()
        return attack_each(view, lambda row: self._search(row, victim))

    def _search(self, row: Row, victim: Predictor) -> Tensor:
        chosen: tuple[int, ...] = ()
        lowest = row.margin(victim, torch.tensor(chosen, dtype=torch.int64))
        while len(chosen) < row.budget and not (self.stop and lowest < 0):
            left = [i for i in range(len(row.ends)) if i not in chosen]
            most = min(self.depth, row.budget - len(chosen))
            sets = chain.from_iterable(combinations(left, k) for k in range(1, most + 1))
            tried = ((row.margin(victim, torch.tensor(chosen + more)), more) for more in sets)
            margin, more = min(tried, default=(lowest, ()))
            if not margin < lowest:
                break
            chosen, lowest = chosen + more, margin
        return torch.tensor(sorted(chosen), dtype=torch.int64)
