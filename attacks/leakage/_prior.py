"""What is known of private features without a gradient: neighbours, and how features vary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphsec.ops import Adj, Features, propagate


@dataclass(frozen=True, eq=False)
class Prior:
    """Features of some nodes as a normal distribution around the means of their neighbours.

    Attributes:
        mean: (k, d) mean of the neighbours whose features are known; of all nodes without any.
        whiten: (d, d) times which the distance to the mean has variance 1 in each column, as
            measured on nodes whose features are known.
    """

    mean: Tensor
    whiten: Tensor

    def distance(self, z: Tensor) -> Tensor:
        """Mean squared distance of features (k, d), in standard deviations."""
        return ((z - self.mean) @ self.whiten).square().mean()


def neighbour_means(x: Tensor, adj: Adj, shown: Tensor) -> Tensor:
    """(n, d) mean of each node's neighbours that are ``shown`` (n,), of all shown without any."""
    weight = shown.to(x.dtype).unsqueeze(1)
    total, count = propagate(adj, x * weight), propagate(adj, weight)
    return torch.where(count > 0, total / count.clamp(min=1e-12), x[shown].mean(0))


def prior(x: Tensor | Features, adj: Adj, hidden: Tensor) -> Prior:
    """The prior of the nodes ``hidden`` (k,), by all others.

    Args:
        x: (n, d) features, whatever is in the rows of the hidden.
        adj: The edges.
        hidden: Nodes whose features are private.
    """
    known = x.to_dense().double()
    shown = torch.ones(len(known), dtype=torch.bool)
    shown[hidden] = False
    around = neighbour_means(known, Adj(csr=adj.csr), shown)
    off = (known - around)[shown]
    varies = off.T @ off / len(off)
    # Columns that never vary get a little of the others' variance: they are known, not certain.
    varies += 1e-3 * varies.diagonal().mean().clamp(min=1e-12) * torch.eye(len(varies)).double()
    return Prior(around[hidden], torch.linalg.cholesky(torch.linalg.inv(varies)))
