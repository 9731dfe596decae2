"""The graph container: frozen, canonical, validated."""

from __future__ import annotations

from graphsec.graph.arrays import GraphError, features
from graphsec.graph.container import Graph, Split

__all__ = ["Graph", "GraphError", "Split", "features"]
