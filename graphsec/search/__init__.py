"""Search for edge flips: what structure attacks and adversarial training share."""

from __future__ import annotations

from graphsec.search.ascent import Projection, ascend
from graphsec.search.objective import Found, Objective, Targets
from graphsec.search.pairs import (
    Candidates,
    LossName,
    attack_loss,
    knapsack,
    margins,
    project,
    strongest,
    within,
)

__all__ = [
    "Candidates",
    "Found",
    "LossName",
    "Objective",
    "Projection",
    "Targets",
    "ascend",
    "attack_loss",
    "knapsack",
    "margins",
    "project",
    "strongest",
    "within",
]
