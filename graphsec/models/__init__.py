"""The zoo: one file a model, one interface (``base.GNN``)."""

from __future__ import annotations

from graphsec.models import energy, gat, gcn, gsdgnn, ignn, mlp, sage, sgc
from graphsec.models.base import GNN, Capabilities, ModelSpec, Sizes, build

__all__ = [
    "GNN", "Capabilities", "ModelSpec", "Sizes", "build", "energy", "gat", "gcn", "gsdgnn", "ignn",
    "mlp", "sage", "sgc",
]  # fmt: skip
