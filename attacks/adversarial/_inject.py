"""What injections share: the larger graph, and features that look like those that are there."""

from __future__ import annotations

import torch
from torch import Tensor

from graphsec.graph import Graph
from graphsec.graph.arrays import take_rows
from graphsec.ops import CSR, Adj, Features
from graphsec.threat.features import FeatureLimits


def stacked(x: Tensor, new: Tensor) -> Tensor | Features:
    """Clean features (n, d) and those of new nodes (m, d); sparse if the clean ones are.

    Differentiable in the new ones, which are spelled out entry by entry.
    """
    if x.layout == torch.strided:
        return torch.cat([x, new])
    clean, (m, d) = Features.of(x), new.shape
    indptr = torch.cat([clean.csr.indptr, clean.csr.nnz + d * torch.arange(1, m + 1)])
    indices = torch.cat([clean.csr.indices, torch.arange(d).repeat(m)])
    return Features(CSR(indptr, indices, d), torch.cat([clean.values, new.ravel()]))


def larger(graph: Graph, count: int, edges: Tensor) -> Adj:
    """Adjacency of the graph with ``count`` new nodes and their edges."""
    return graph.grow(torch.zeros(count, graph.num_features), edges).adj


def real_rows(graph: Graph, nodes: Tensor) -> Tensor:
    """(k, d) dense features of nodes."""
    assert graph.x is not None
    return take_rows(graph.x, nodes).to_dense()


def attached(count: int, each: int, first: int, ends: Tensor) -> Tensor:
    """(2, count · each) edges of new nodes first, first + 1, …: from them to ``ends``.

    The ends are dealt in their order, ``each`` to a node, from the start again where they run out.
    ``each`` is at most their number, so that no node gets one twice.
    """
    place = torch.arange(count * each) % len(ends)
    new = torch.arange(first, first + count).repeat_interleave(each)
    return torch.stack([new, ends[place]])


class Lookalike:
    """Features of new nodes as the limits want them, and a smooth way through their range.

    Real numbers θ stand for features low + (high − low) (1 + sin θ) / 2, which have a gradient up
    to the ends of the range, where a clamp has none.

    Args:
        limits: Range, whether features are binary, and how many may be other than 0.
    """

    def __init__(self, limits: FeatureLimits) -> None:
        self.limits = limits
        self.low, self.span = limits.low, limits.high - limits.low

    def start(self, x: Tensor) -> Tensor:
        """θ of features x (m, d), a little inside of the range: at its ends sin is flat."""
        inside = (x - self.low) / self.span.clamp(min=1e-12) * 2 - 1
        return (0.9 * inside.clamp(-1, 1)).asin()

    def features(self, theta: Tensor) -> Tensor:
        """(m, d) allowed features near θ's; their gradient is passed through to all of θ's."""
        smooth = self.low + self.span * (1 + theta.sin()) / 2
        return self.allowed(smooth.detach()) + (smooth - smooth.detach())  # exactly the former

    def allowed(self, x: Tensor) -> Tensor:
        """X in range, binary where all are, and only the largest entries of each row kept."""
        x = torch.minimum(torch.maximum(x, self.low), self.limits.high)
        if self.limits.nonzero < x.shape[1]:
            kept = x.abs().topk(self.limits.nonzero, 1).indices
            x = torch.zeros_like(x).scatter(1, kept, x.gather(1, kept))
        return (x > 0.5).to(x.dtype) if self.limits.binary else x
