"""The zoo: one file a model, one interface (``base.GNN``)."""

from __future__ import annotations

from graphsec.models import (
    appnp,
    chebnetii,
    deepergcn,
    gat,
    gatv2,
    gcn,
    gcnii,
    gin,
    gprgnn,
    grand,
    lightgcn,
    mlp,
    popularity,
    sage,
    sgc,
)
from graphsec.models.base import GNN, Capabilities, ModelSpec, Sizes, build, inputs

__all__ = [
    "GNN",
    "Capabilities",
    "ModelSpec",
    "Sizes",
    "appnp",
    "build",
    "chebnetii",
    "deepergcn",
    "gat",
    "gatv2",
    "gcn",
    "gcnii",
    "gin",
    "gprgnn",
    "grand",
    "inputs",
    "lightgcn",
    "mlp",
    "popularity",
    "sage",
    "sgc",
]
