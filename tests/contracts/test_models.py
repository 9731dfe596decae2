"""Every registered model keeps the contract of models."""

from __future__ import annotations

from typing import Any

from graphsec.registry import MODELS
from graphsec.testing import ModelContract

# The published 64 layers have so many ReLUs that a step of finite differences crosses a kink.
_SMALLER: dict[str, Any] = {"gcnii": {"name": "gcnii", "layers": 4, "hidden": 16}}

for _name in MODELS:
    _spec = {"spec": _SMALLER.get(_name, _name)}
    globals()[f"Test_{_name}"] = type(f"Test_{_name}", (ModelContract,), _spec)
