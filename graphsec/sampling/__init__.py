"""Parts of a graph for batches: hops, subtrees of each root, subgraphs around each root."""

from __future__ import annotations

from graphsec.sampling.hops import batches, sample, subtrees, take
from graphsec.sampling.shadow import Scopes, Shadow, read

__all__ = ["Scopes", "Shadow", "batches", "read", "sample", "subtrees", "take"]
