"""A graph with more nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from graphsec.graph.arrays import GraphError, as_scipy, edge_array, features

if TYPE_CHECKING:
    from graphsec.graph.container import Graph


def grown(graph: Graph, x: Any, edges: Any) -> Graph:
    """What ``Graph.grow`` gives."""
    from graphsec.graph.container import Graph

    if graph.task == "ranking":
        return _more_users(graph, features(x), edge_array(edges))
    if graph.task != "classification":
        raise GraphError(
            f"task must be 'classification' or 'ranking' to grow a graph, found {graph.task!r}"
        )
    new, pairs = features(x), edge_array(edges)
    if graph.x is None or new.dim() != 2 or new.shape[1] != graph.num_features:
        raise GraphError(
            f"x of new nodes must have shape (m, {graph.num_features}), found {tuple(new.shape)}"
        )
    _check(graph, len(new), pairs)
    old = graph.pairs.numpy()
    weight = None
    if graph.edge_weight is not None:
        row, col = graph.edge_index
        kept = graph.edge_weight if graph.directed else graph.edge_weight[row < col]
        weight = np.concatenate([kept.numpy(), np.ones(pairs.shape[1], np.float32)])
    more = {
        name: None if value is None else torch.cat([value, value.new_full((len(new),), -1)])
        for name in ("y", "sensitive", "node_type", "graph_id")
        for value in [getattr(graph, name)]
    }
    return Graph.from_edges(
        np.concatenate([old, pairs], axis=1), graph.num_nodes + len(new), edge_weight=weight,
        directed=graph.directed, x=_stacked(graph.x, new), split=graph.split, task=graph.task,
        name=graph.name, **more,
    )  # fmt: skip


def _more_users(graph: Graph, x: Tensor, pairs: np.ndarray) -> Graph:
    """The ranking graph with new users behind those that are there, and the items moved up."""
    from graphsec.graph.container import Graph

    count, users, n = len(x), graph.num_users, graph.num_nodes
    if x.dim() != 2 or x.shape[1] != graph.num_features:
        raise GraphError(
            f"x of new users must have shape (m, {graph.num_features}), found {tuple(x.shape)}"
        )
    _check(graph, count, pairs)
    if pairs.size and not ((pairs.min(0) >= users) & (pairs.min(0) < n)).all():
        raise GraphError(f"edges of new users must lead to items ({users}…{n - 1})")
    place = torch.arange(n + count)
    place[users:n] += count
    place[n:] -= n - users
    old = place[graph.pairs].numpy()
    weight = None
    if graph.edge_weight is not None:
        row, col = graph.edge_index
        weight = np.concatenate([
            graph.edge_weight[row < col].numpy(), np.ones(pairs.shape[1], np.float32)
        ])  # fmt: skip
    moved = place[torch.from_numpy(pairs)].numpy()
    kept: dict[str, Any] = {
        name: None if value is None else torch.cat([
            value[:users], value.new_full((count,), -1), value[users:]
        ])
        for name in ("y", "sensitive")
        for value in [getattr(graph, name)]
    }  # fmt: skip
    return Graph.from_edges(
        np.concatenate([old, moved], axis=1), n + count, edge_weight=weight, task="ranking",
        x=None if graph.x is None else _between(graph.x, x, users), name=graph.name,
        node_type=np.repeat([0, 1], [users + count, n - users]),
        holdout=graph.holdout and graph.holdout.renumbered(place), **kept,
    )  # fmt: skip


def _between(x: Tensor, new: Tensor, users: int) -> Tensor:
    """Features of users, new users and items."""
    if x.layout == torch.strided:
        return torch.cat([x[:users], new.to_dense(), x[users:]])
    old = as_scipy(x)
    return features(sp.vstack([old[:users], as_scipy(new.to_dense()), old[users:]]))


def _check(graph: Graph, count: int, pairs: np.ndarray) -> None:
    """The edges are new, distinct, and each has a new end."""
    n = graph.num_nodes
    if pairs.size == 0:
        return
    if pairs.min() < 0 or pairs.max() >= n + count:
        raise GraphError(
            f"edges of new nodes must lie in 0…{n + count - 1}, found {pairs.min()}…{pairs.max()}"
        )
    if (pairs[0] == pairs[1]).any():
        node = pairs[0][pairs[0] == pairs[1]][0]
        raise GraphError(f"edges of new nodes must not be self-loops, found one at node {node}")
    if (pairs.max(0) < n).any():
        u, v = pairs[:, pairs.max(0) < n][:, 0]
        raise GraphError(f"edges of new nodes must have a new end (≥ {n}), found {u}–{v}")
    ordered = pairs if graph.directed else np.sort(pairs, axis=0)
    if np.unique(ordered, axis=1).shape[1] != pairs.shape[1]:
        raise GraphError("edges of new nodes must be distinct pairs, found one listed twice")


def _stacked(x: Tensor, new: Tensor) -> Tensor:
    """The rows of both; sparse if the old ones are."""
    if x.layout == torch.strided:
        return torch.cat([x, new.to_dense()])
    return features(sp.vstack([as_scipy(x), as_scipy(new.to_dense())]))
