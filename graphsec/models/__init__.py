"""The zoo: one file a model, one interface (``base.GNN``)."""

from __future__ import annotations

from graphsec.models import gat, gcn, grand, mlp, sage, sgc
from graphsec.models.base import GNN, Capabilities, ModelSpec, Sizes, build

__all__ = [
    "GNN",
    "Capabilities",
    "ModelSpec",
    "Sizes",
    "build",
    "gat",
    "gcn",
    "grand",
    "mlp",
    "sage",
    "sgc",
]
