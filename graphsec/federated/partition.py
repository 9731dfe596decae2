"""Which client holds which nodes of a graph."""

from __future__ import annotations

from typing import Literal

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from graphsec.graph import Graph
from graphsec.rng import Rng

Partition = Literal["uniform", "labels", "communities"]


def partition(graph: Graph, how: Partition, clients: int, skew: float, rng: Rng) -> Tensor:
    """(n,) the client of each node, 0 … clients − 1.

    Args:
        graph: With labels where they are dealt by.
        how: "uniform" draws parts of equal size. "labels" deals each label's nodes by shares from
            a Dirichlet distribution (Hsu, Qi & Brown, arXiv 1909.06335; from memory); nodes
            without a label are drawn uniformly. "communities" deals those that Louvain's method
            finds (Blondel et al. 2008), the largest first, each to the client with the fewest
            nodes: few edges join clients.
        clients: Their number.
        skew: Parameter of the Dirichlet distribution: the smaller, the more uneven.
        rng: Stream of the draw.

    Raises:
        ValueError: There are more clients than nodes, or the labels are missing.
    """
    n = graph.num_nodes
    if clients > n:
        raise ValueError(f"clients must be ≤ {n}, the number of nodes, got {clients}")
    if how == "communities":
        return _communities(graph, clients, rng)
    generator = rng.numpy()
    owner = generator.permutation(np.arange(n) % clients)
    if how == "labels":
        if graph.y is None:
            raise ValueError(f"partition 'labels' needs labels, {graph.name!r} has none")
        y = graph.y.numpy()
        for label in range(graph.num_classes):
            nodes = generator.permutation(np.flatnonzero(y == label))
            shares = generator.dirichlet(np.full(clients, skew))
            ends = np.round(shares.cumsum()[:-1] * len(nodes)).astype(np.int64)
            for client, part in enumerate(np.split(nodes, ends)):
                owner[part] = client
    return torch.from_numpy(owner)


def _communities(graph: Graph, clients: int, rng: Rng) -> Tensor:
    net = nx.Graph()
    net.add_nodes_from(range(graph.num_nodes))
    net.add_edges_from(graph.edge_index.T.tolist())
    found = nx.community.louvain_communities(net, seed=int(rng.numpy().integers(2**31)))
    owner, size = torch.zeros(graph.num_nodes, dtype=torch.int64), np.zeros(clients)
    for part in sorted(map(sorted, found), key=lambda part: (-len(part), part)):
        client = int(size.argmin())
        owner[part] = client
        size[client] += len(part)
    return owner
