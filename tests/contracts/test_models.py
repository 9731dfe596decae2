"""Every registered model keeps the contract of models."""

from __future__ import annotations

from graphsec.registry import MODELS
from graphsec.testing import ModelContract, RankingContract

for _name in MODELS:
    _ranks = "ranking" in MODELS[_name].module.capabilities.tasks
    _suite = RankingContract if _ranks else ModelContract
    globals()[f"Test_{_name}"] = type(f"Test_{_name}", (_suite,), {"spec": _name})
