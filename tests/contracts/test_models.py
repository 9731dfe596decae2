"""Every registered model keeps the contract of models."""

from __future__ import annotations

from typing import Any

from graphsec.registry import MODELS
from graphsec.testing import ModelContract, RankingContract, RatingContract

# The published 64 layers have so many ReLUs that a step of finite differences crosses a kink.
_SMALLER: dict[str, Any] = {
    "gcnii": {"name": "gcnii", "layers": 4, "hidden": 16},
    "grand-random": {"name": "grand-random", "hops": 2, "views": 2},
}

for _name in MODELS:
    _tasks = MODELS[_name].module.capabilities.tasks
    _suite = (
        RatingContract if "rating" in _tasks
        else RankingContract if "ranking" in _tasks
        else ModelContract
    )  # fmt: skip
    _spec = {"spec": _SMALLER.get(_name, _name)}
    globals()[f"Test_{_name}"] = type(f"Test_{_name}", (_suite,), _spec)
