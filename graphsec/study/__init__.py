"""Sweeps from a file: Optuna studies over the fields of a cell."""

from __future__ import annotations

from graphsec.study.search import CellFailed, Swept, Tested, chosen, run
from graphsec.study.spec import Attacker, Goal, Limit, Sweep

__all__ = ["Attacker", "CellFailed", "Goal", "Limit", "Sweep", "Swept", "Tested", "chosen", "run"]
