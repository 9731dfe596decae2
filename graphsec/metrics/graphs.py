"""How close recovered whole graphs are to the true ones, whatever the order of their nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from graphsec.metrics.base import Metric

if TYPE_CHECKING:
    import networkx

Small = tuple[Tensor, Tensor]  # features (n, d), adjacency (n, n)


def same_graph(a: Small, b: Small) -> bool:
    """Whether two graphs are isomorphic, features included: to two digits, as edges beyond 1/2."""
    if len(a[0]) != len(b[0]) or _nodes(a) != _nodes(b) or _edges(a) != _edges(b):
        return False
    import networkx as nx

    one, two = (_networkx(graph) for graph in (a, b))
    return bool(nx.vf2pp_is_isomorphic(one, two, node_label="x"))


def _links(graph: Small) -> Tensor:
    links = graph[1].double() > 0.5
    return (links | links.T).fill_diagonal_(False)


def _features(graph: Small) -> list[Hashable]:
    return [tuple(row) for row in (graph[0].double() * 100).round().long().tolist()]


def _networkx(graph: Small) -> networkx.Graph:
    import networkx as nx

    made = nx.Graph()
    made.add_nodes_from((i, {"x": x}) for i, x in enumerate(_features(graph)))
    made.add_edges_from(_links(graph).nonzero().tolist())
    return made


def _nodes(graph: Small) -> Counter[Hashable]:
    degree = _links(graph).sum(1).tolist()
    return Counter(zip(_features(graph), degree, strict=True))


def _neighbourhoods(graph: Small) -> Counter[Hashable]:
    x, links = _features(graph), _links(graph)
    return Counter(
        (x[i], frozenset(Counter(x[j] for j in links[i].nonzero().ravel().tolist()).items()))
        for i in range(len(x))
    )


def _edges(graph: Small) -> Counter[Hashable]:
    x = _features(graph)
    return Counter(
        frozenset(Counter((x[i], x[j])).items()) for i, j in _links(graph).triu().nonzero().tolist()
    )


def _common(a: Counter[Hashable], b: Counter[Hashable]) -> float:
    """Share in common of the larger of two multisets; 1 of two empty ones."""
    most = max(a.total(), b.total())
    return (a & b).total() / most if most else 1.0


def _f1(a: Counter[Hashable], b: Counter[Hashable]) -> float:
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if total else 1.0


def graph_metrics(found: Sequence[Small], truth: Sequence[Small]) -> dict[str, Metric]:
    """How many graphs are found exactly, and what share of each is.

    Found graphs are matched with true ones so that most nodes are placed; a true graph without a
    found one counts as not found at all. Nothing depends on the order of nodes: they are told
    apart by their features, and edges by the features of their ends.

    Args:
        found: Features (n, d) and edge scores (n, n) of each recovered graph; scores over 1/2 are
            edges.
        truth: The same of the true ones.
    """
    placed = np.array([[_common(_nodes(f), _nodes(t)) for f in found] for t in truth])
    pairs = dict(zip(*linear_sum_assignment(-placed), strict=True)) if found else {}

    def mean(values: list[float]) -> float:
        return sum(values) / len(truth)

    both = [(found[f], truth[t]) for t, f in pairs.items()]
    exact = mean([float(same_graph(*each)) for each in both])
    nodes = mean([_common(_nodes(f), _nodes(t)) for f, t in both])
    near = mean([_common(_neighbourhoods(f), _neighbourhoods(t)) for f, t in both])
    edges = mean([_f1(_edges(f), _edges(t)) for f, t in both])
    return {
        "exact_share": Metric(exact, False, 0, 1, "share of graphs found exactly"),
        "placed_share": Metric(nodes, False, 0, 1, "nodes placed: features and degree right"),
        "neighbourhood_share": Metric(near, False, 0, 1, "nodes whose neighbours are right"),
        "edge_f1": Metric(edges, False, 0, 1, "F1 of edges, by the features of their ends"),
    }


def split_by(owner: Tensor, x: Tensor, adj: Tensor) -> list[Small]:
    """The graphs of which ``owner`` (k,) says whose each node is, with features and edges."""
    parts = [(owner == each).nonzero().ravel() for each in torch.unique(owner)]
    return [(x[part], adj[part][:, part]) for part in parts]
