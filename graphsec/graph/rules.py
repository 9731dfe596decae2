"""The rules of ``Graph``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from graphsec.graph.arrays import GraphError
from graphsec.graph.holdout import check_ranking

if TYPE_CHECKING:
    from graphsec.graph.container import Graph


def check(g: Graph) -> None:
    """Check every rule of ``Graph``; the first broken one is raised."""
    _check_structure(g)
    n = g.num_nodes
    for field in ("x", "y", "sensitive", "node_type", "graph_id"):
        value = getattr(g, field)
        if value is not None and value.shape[0] != n:
            raise GraphError(f"{field} must have one row a node ({n}), found {value.shape[0]}")
    if g.x is not None:
        if g.x.dim() != 2:
            raise GraphError(f"x must have two dimensions, found shape {tuple(g.x.shape)}")
        if g.x.layout not in (torch.strided, torch.sparse_csr):
            raise GraphError(f"x must be dense or sparse CSR, found {g.x.layout}")
        values = g.x.values() if g.x.layout == torch.sparse_csr else g.x
        if not torch.isfinite(values).all():
            bad = int((~torch.isfinite(values)).sum())
            raise GraphError(f"x must be finite, found {bad} NaN or infinite values")
    if g.edge_weight is not None:
        if g.edge_weight.shape != g.indices.shape:
            raise GraphError(
                f"edge_weight must have shape {tuple(g.indices.shape)}, "
                f"found {tuple(g.edge_weight.shape)}"
            )
        if not torch.isfinite(g.edge_weight).all():
            raise GraphError("edge_weight must be finite, found NaN or infinity")
        if (g.edge_weight < 0).any():
            raise GraphError(f"edge_weight must be ≥ 0, found {float(g.edge_weight.min())}")
    if g.edge_y is not None and len(g.edge_y) != len(g.indices):
        raise GraphError(
            f"edge_y must have one row an entry ({len(g.indices)}), found {len(g.edge_y)}"
        )
    if g.edge_y is not None and g.task == "rating" and not torch.isfinite(g.edge_y).all():
        raise GraphError("edge_y must be finite for rating, found NaN or infinity")
    _check_labels(g)
    _check_split(g)
    _check_graphs(g)
    check_ranking(g)


def _check_structure(g: Graph) -> None:
    n = len(g.indptr) - 1
    if n <= 0:
        raise GraphError(f"num_nodes must be ≥ 1, got {n}: an empty graph has nothing to learn")
    if g.indptr.dtype != torch.int64 or g.indices.dtype != torch.int64:
        raise GraphError(
            f"indptr and indices must be int64, found {g.indptr.dtype} and {g.indices.dtype}"
        )
    counts = g.indptr.diff()
    if int(g.indptr[0]) != 0 or int(g.indptr[-1]) != len(g.indices) or (counts < 0).any():
        raise GraphError(f"indptr must rise from 0 to the number of indices ({len(g.indices)})")
    if len(g.indices) == 0:
        return
    low, high = int(g.indices.min()), int(g.indices.max())
    if low < 0 or high >= n:
        raise GraphError(f"edge_index must lie in 0…{n - 1}, found {low if low < 0 else high}")
    rows = torch.repeat_interleave(torch.arange(n, device=counts.device), counts)
    if (rows == g.indices).any():
        node = int(rows[rows == g.indices][0])
        raise GraphError(f"indices must hold no self-loops, found one at node {node}")
    key = rows * n + g.indices
    if (key.diff() <= 0).any():
        raise GraphError("indices must be sorted and distinct within each row")
    if not g.directed:
        mirrored, order = (g.indices * n + rows).sort()
        if not torch.equal(mirrored, key):
            raise GraphError("an undirected graph must hold both directions of every edge")
        if g.edge_weight is not None and len(g.edge_weight) == len(key) and not torch.equal(
            torch.nan_to_num(g.edge_weight[order]), torch.nan_to_num(g.edge_weight)
        ):  # fmt: skip
            raise GraphError("edge_weight of an undirected graph must agree in both directions")


def _check_labels(g: Graph) -> None:
    if g.y is None:
        return
    if g.task in ("classification", "graph"):
        if g.y.dtype != torch.int64 or g.y.dim() != 1:
            raise GraphError(
                f"y must be (n,) integers for {g.task}, found {g.y.dtype} {tuple(g.y.shape)}"
            )
        if int(g.y.min()) < -1:
            raise GraphError(f"y must be ≥ 0, or −1 where unknown, found {int(g.y.min())}")
    elif g.task == "regression" and not torch.isfinite(g.y).all():
        raise GraphError("y must be finite for regression, found NaN or infinity")


def _check_split(g: Graph) -> None:
    if g.split is None:
        return
    n = g.num_nodes
    seen = torch.zeros(n, dtype=torch.int64)
    for part, index in g.split.items():
        if len(index) and (int(index.min()) < 0 or int(index.max()) >= n):
            bad = int(index.min()) if int(index.min()) < 0 else int(index.max())
            raise GraphError(f"split.{part} must lie in 0…{n - 1}, found {bad}")
        seen += torch.bincount(index.cpu(), minlength=n)
    if (seen > 1).any():
        node = int((seen > 1).nonzero()[0])
        raise GraphError(f"split must be disjoint, found node {node} {int(seen[node])} times")


def _check_graphs(g: Graph) -> None:
    """In graph classification every node carries the label, and the part, of its graph."""
    if g.task != "graph" or g.y is None:
        return
    if g.graph_id is None:
        raise GraphError("graph_id is missing: task 'graph' needs to know whose each node is")
    count = int(g.graph_id.max()) + 1
    if int(g.graph_id.min()) < 0:
        raise GraphError(f"graph_id must be ≥ 0 for task 'graph', found {int(g.graph_id.min())}")
    part = torch.zeros_like(g.y)
    for i, (_, index) in enumerate(g.split.items() if g.split is not None else []):
        part[index] = i + 1
    for name, value in (("y", g.y), ("split", part)):
        first = value.new_zeros(count).index_copy(0, g.graph_id, value)
        if not torch.equal(first[g.graph_id], value):
            node = int((first[g.graph_id] != value).nonzero()[0])
            raise GraphError(
                f"{name} must be one for all nodes of a graph, it differs in graph "
                f"{int(g.graph_id[node])}"
            )
