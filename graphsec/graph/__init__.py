"""The graph container: frozen, canonical, validated."""

from __future__ import annotations

from graphsec.graph.arrays import GraphError, features
from graphsec.graph.container import Graph, Split
from graphsec.graph.holdout import Holdout

__all__ = ["Graph", "GraphError", "Holdout", "Split", "features"]
