"""The zoo: one file a model, one interface (``base.GNN``)."""

from __future__ import annotations

from graphsec.models import gat, gcn, lightgcn, mlp, popularity, sage, sgc
from graphsec.models.base import GNN, Capabilities, ModelSpec, Sizes, build, inputs

__all__ = [
    "GNN",
    "Capabilities",
    "ModelSpec",
    "Sizes",
    "build",
    "gat",
    "gcn",
    "inputs",
    "lightgcn",
    "mlp",
    "popularity",
    "sage",
    "sgc",
]
