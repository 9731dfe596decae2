"""The zoo: one file a model, one interface (``base.GNN``)."""

from __future__ import annotations

from graphsec.models import (
    appnp,
    chebnetii,
    deepergcn,
    energy,
    gat,
    gatv2,
    gcn,
    gcnii,
    gin,
    gprgnn,
    grand,
    gsdgnn,
    ignn,
    lightgcn,
    mlp,
    popularity,
    rgcn,
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
    "energy",
    "gat",
    "gatv2",
    "gcn",
    "gcnii",
    "gin",
    "gprgnn",
    "grand",
    "gsdgnn",
    "ignn",
    "inputs",
    "lightgcn",
    "mlp",
    "popularity",
    "rgcn",
    "sage",
    "sgc",
]
