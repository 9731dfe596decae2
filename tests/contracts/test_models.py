"""Every registered model keeps the contract of models."""

from __future__ import annotations

from graphsec.registry import MODELS
from graphsec.testing import ModelContract

for _name in MODELS:
    globals()[f"Test_{_name}"] = type(f"Test_{_name}", (ModelContract,), {"spec": _name})
