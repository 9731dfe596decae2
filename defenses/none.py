"""No defense."""

from __future__ import annotations

from dataclasses import dataclass

from graphsec.defenses.base import Defense
from graphsec.registry import DEFENSES


@DEFENSES.register("none")
@dataclass(frozen=True, kw_only=True)
class NoDefense(Defense):
    """Plain training, the row that every other defense is compared with.

    Source: the training recipe of the model itself.
    """

    tasks = ("classification", "regression", "ranking", "rating", "graph")
