"""Which roots a step draws, what it sees of the graph, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from graphsec.dp.accountant import FixedSizeTermsDpEvent, step_event
from graphsec.ops import Adj


class Roots(Protocol):
    """A way to draw roots, of which the accountant knows the event.

    Attributes:
        adj: The graph that subtrees are taken from.
        hops: Steps that a subtree reaches from its root.
        batch: Public number that a sum is divided by.
        sensitivity: Noise of one multiplier and clip norm 1 has this standard deviation.
    """

    @property
    def adj(self) -> Adj: ...  # noqa: D102
    @property
    def hops(self) -> int: ...  # noqa: D102
    @property
    def batch(self) -> float: ...  # noqa: D102
    @property
    def sensitivity(self) -> float: ...  # noqa: D102

    def draw(self, generator: np.random.Generator) -> Tensor:
        """Roots of one step."""
        ...

    def event(self, noise_multiplier: float) -> Any:
        """What one step costs."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class BoundedRoots:
    """Every training node is a root with probability ``rate``, and sees all its neighbours.

    For graphs that keep a public bound on degrees; docs/privacy.md, "Per-root training", has the
    proof of what is claimed.

    Attributes:
        adj: Edges among training nodes, none of which has more than the bound.
        nodes: (n,) training nodes.
        rate: q.
        hops: r.
        changed: Most roots other than a node's own that see it within r steps.
        batch: q times the public number of training nodes.
    """

    adj: Adj
    nodes: Tensor
    rate: float
    hops: int
    changed: int
    batch: float
    sensitivity: float = 1.0

    @staticmethod
    def of(
        adj: Adj, nodes: Tensor, *, rate: float, hops: int, max_degree: int, public: int
    ) -> BoundedRoots:
        """Roots on the edges among ``nodes``.

        Args:
            adj: The whole undirected graph.
            nodes: (n,) training nodes.
            rate: q.
            hops: r.
            max_degree: D, the public bound on degrees among training nodes.
            public: Public number of training nodes.

        Raises:
            ValueError: A training node has more than D neighbours among training nodes.
        """
        inner = induced(adj, nodes)
        found = int(inner.csr.indptr.diff().max()) if hops and inner.num_nodes else 0
        if found > max_degree:
            raise ValueError(
                f"max_degree must be ≥ {found}, the largest degree among training nodes, got "
                f"{max_degree}: it is a promise about all graphs that could have been, so fix it "
                "by what is publicly known, not by this graph"
            )
        changed = reach(max_degree, hops)
        return BoundedRoots(
            adj=inner, nodes=nodes, rate=rate, hops=hops, changed=changed, batch=rate * public
        )

    def draw(self, generator: np.random.Generator) -> Tensor:
        """A Poisson sample: each node by a coin of its own; often more or fewer than ``batch``."""
        return self.nodes[torch.from_numpy(generator.random(len(self.nodes)) < self.rate)]

    def event(self, noise_multiplier: float) -> Any:
        """A step on roots drawn independently, with up to ``changed`` changed terms."""
        return step_event(noise_multiplier, self.rate, self.changed)


@dataclass(frozen=True, eq=False, kw_only=True)
class PublishedRoots:
    """Daigavane et al.: a fixed number of roots without replacement, on a graph thinned once.

    A node is in at most N(K, r) = 1 + K + … + K^r of the roots' subtrees, and noise is in
    proportion to 2 N C. Nothing is claimed: the thinning depends on degrees, so that without some
    node other edges stay, of roots that never saw it (docs/privacy.md has an example).

    Attributes:
        adj: The thinned graph: row = root, column = what it sees.
        nodes: (n,) training nodes.
        size: Roots of a step.
        hops: r.
        terms: N(K, r), or n where that is less.
    """

    adj: Adj
    nodes: Tensor
    size: int
    hops: int
    terms: int

    @staticmethod
    def of(
        adj: Adj, nodes: Tensor, *, size: int, hops: int, max_degree: int,
        generator: np.random.Generator,
    ) -> PublishedRoots:  # fmt: skip
        """Roots on a graph thinned to ``max_degree`` = K."""
        seen = thinned(induced(adj, nodes), max_degree, generator)
        terms = min(sum(max_degree**i for i in range(hops + 1)), len(nodes))
        return PublishedRoots(adj=seen, nodes=nodes, size=size, hops=hops, terms=terms)

    @property
    def batch(self) -> float:
        """Roots of a step."""
        return self.size

    @property
    def sensitivity(self) -> float:
        """2 N, for N terms that change by 2 C."""
        return 2 * self.terms

    def draw(self, generator: np.random.Generator) -> Tensor:
        """As many distinct nodes, uniformly."""
        place = generator.choice(len(self.nodes), self.size, replace=False)
        return self.nodes[torch.from_numpy(place)]

    def event(self, noise_multiplier: float) -> Any:
        """The published event."""
        return FixedSizeTermsDpEvent(noise_multiplier, len(self.nodes), self.size, self.terms)


def reach(max_degree: int, hops: int) -> int:
    """Σ_{i=1…r} D (D − 1)^{i−1}, most nodes within r steps of a node where degrees are at most D.

    Raises:
        ValueError: They are more than any noise could hide (over ten million).
    """
    found = sum(max_degree * int((max_degree - 1) ** i) for i in range(hops))
    if found > 10_000_000:
        raise ValueError(
            f"max_degree {max_degree} at {hops} hops lets a node change {found:.1e} roots: more "
            "than any noise hides; take fewer layers or promise a lower degree"
        )
    return found


def induced(adj: Adj, nodes: Tensor) -> Adj:
    """The adjacency with the edges among ``nodes`` alone, numbered as before."""
    inside = torch.zeros(adj.num_nodes, dtype=torch.bool)
    inside[nodes] = True
    row, col = adj.csr.coo
    return adj.scaled((inside[row] & inside[col]).to(torch.float32), None).pruned()


def thinned(adj: Adj, k: int, generator: np.random.Generator) -> Adj:
    """At most k entries in each column: kept with probability min(1, k / (2 · in-degree)).

    If more than k of a column stay, they all go.

    Source: Daigavane et al., Node-Level Differentially Private Graph Neural Networks, 2021, §5.1,
    algorithm 1, and its code.
    """
    _, col = adj.csr.coo
    seen = col.bincount(minlength=adj.csr.num_cols)
    chance = (k / (2 * seen.clamp(min=1))).clamp(max=1)[col]
    stays = torch.from_numpy(generator.random(len(col))) < chance
    many = col[stays].bincount(minlength=adj.csr.num_cols) > k
    return adj.scaled((stays & ~many[col]).to(torch.float32), None).pruned()
