"""EDITS: features and edges changed until groups look alike, before any training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.fair._cleaning import Cleaner, CleaningDefense, weighed
from graphsec.graph import Graph
from graphsec.models.base import GNN, Sizes
from graphsec.ops import Adj, Features, propagate
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng

QUANTILES = 64


@DEFENSES.register("edits")
@dataclass(frozen=True, kw_only=True)
class Edits(CleaningDefense):
    """Cleans the graph so that features, and what neighbours say of them, tell groups apart less.

    Each column j of the features gets a weight θ_j and each edge a weight
    σ(c + Σ_j b_j |x_uj − x_vj|), all from 0 to 1, chosen by Adam to minimise

        the mean over columns, and the sum over hops 0 … L, of the Wasserstein-1 distance between
        the groups' training nodes in P^h X diag(θ)
        + ``keep`` · mean (1 − θ_j)² + ``keep_edges`` · mean (1 − w_uv)²,

    P averaging over a node and its neighbours by weight. Columns with θ_j below ``cut`` become 0.
    Then the model is trained plainly on what it sees. Sparse features are made dense.

    Source: Dong et al., EDITS: Modeling and Mitigating Data Bias for Graph Neural Networks, WWW
    2022 (from notes). Ours: distances are exact, between quantiles, where they train a critic; an
    edge's weight is a function of its ends, so that cost is linear in edges, where they change the
    whole adjacency matrix, add edges and cut by a threshold; of several groups each is compared
    with all others; the epoch is chosen by the rule of all fair defenses.

    Attributes:
        keep: What it costs to weaken columns: one with distances that sum to D over the hops ends
            near θ = 1 − D / (2 keep).
        keep_edges: What it costs to weaken edges.
        cut: Below which weight a column is left out.
        hops: L.
        steps: Steps of Adam.
        lr: Its rate.
    """

    keep: Annotated[float, Field(gt=0), Range(0.05, 2, log=True)] = 0.3
    keep_edges: Annotated[float, Field(gt=0), Range(0.001, 1, log=True)] = 0.01
    cut: Annotated[float, Field(ge=0, le=1), Range(0.1, 0.9)] = 0.5
    hops: Annotated[int, Field(ge=0, le=8), Range(1, 3)] = 2
    steps: Annotated[int, Field(ge=1), Range(50, 300, log=True)] = 100
    lr: Annotated[float, Field(gt=0), Range(0.01, 0.2, log=True)] = 0.05

    def cleaner(self, base: GNN, sizes: Sizes) -> Cleaner:
        """The model behind weights of columns and edges."""
        return Debiased(base, self, sizes.features)


class Debiased(Cleaner):
    """A model behind EDITS; ``column`` (d,) and ``ends`` (d + 1,), c last, are what was learnt."""

    def __init__(self, base: GNN, defense: Edits, features: int) -> None:
        super().__init__(base)
        self._defense = defense
        self.column: Tensor
        self.ends: Tensor
        self.register_buffer("column", torch.ones(features))
        start = torch.zeros(features + 1)
        start[-1] = 3.0  # weights begin at .95, where the sigmoid still has a slope
        self.register_buffer("ends", start)

    def learn(self, graph: Graph, group: Tensor, x: Tensor | Features, adj: Adj, rng: Rng) -> None:
        """Adam on the distances between groups."""
        assert graph.split is not None
        defense, dense = self._defense, x.to_dense()
        train = graph.split.train[group[graph.split.train] >= 0]
        groups = group[train]
        plan = [(train[groups == g], train[groups != g]) for g in torch.unique(groups).tolist()]
        if len(plan) == 2:
            plan = plan[:1]
        logit = torch.full_like(self.column, 3.0).requires_grad_()
        ends = self.ends.clone().requires_grad_()
        optimizer = torch.optim.Adam([logit, ends], lr=defense.lr)
        for _ in range(defense.steps):
            theta = logit.sigmoid()
            seen = weighed(adj, dense, lambda x, u, v: edge_weight(x, u, v, ends))
            mean = seen.normalized("row", self_loops=True)
            h, apart = dense * theta, theta.new_zeros(())
            for hop in range(defense.hops + 1):
                h = propagate(mean, h) if hop else h
                apart = apart + sum(distance(h[a], h[b]).mean() for a, b in plan) / len(plan)
            weight = edge_weight(dense, *adj.csr.coo, ends)
            cost = defense.keep * (1 - theta).square().mean()
            loss = apart + cost + defense.keep_edges * (1 - weight).square().mean()
            found = torch.autograd.grad(loss, (logit, ends), allow_unused=True)
            logit.grad, ends.grad = found
            optimizer.step()
        theta = logit.detach().sigmoid()
        self.column.copy_(torch.where(theta < defense.cut, 0.0, theta))
        self.ends.copy_(ends.detach())

    def cleaned(self, x: Tensor | Features, adj: Adj) -> tuple[Tensor, Adj]:
        """Weighed columns and edges."""
        dense = x.to_dense()
        seen = weighed(adj, dense, lambda x, u, v: edge_weight(x, u, v, self.ends))
        return dense * self.column, seen


def edge_weight(x: Tensor, u: Tensor, v: Tensor, ends: Tensor) -> Tensor:
    """(k,) weight from 0 to 1 of the pairs (u, v), the same both ways."""
    return ((x[u] - x[v]).abs() @ ends[:-1] + ends[-1]).sigmoid()


def distance(a: Tensor, b: Tensor) -> Tensor:
    """(d,) Wasserstein-1 distance of each column of a (k, d) and b (m, d), between quantiles."""
    return (quantiles(a) - quantiles(b)).abs().mean(0)


def quantiles(a: Tensor) -> Tensor:
    """(QUANTILES, d) of each column, at the middles of equal steps, linear between order values."""
    values = a.sort(0).values
    at = (torch.arange(QUANTILES, device=a.device) + 0.5) / QUANTILES * len(a) - 0.5
    at = at.clamp(0, len(a) - 1)
    low = at.floor().long()
    high = (low + 1).clamp(max=len(a) - 1)
    share = (at - low).unsqueeze(1).to(a.dtype)
    return values[low] * (1 - share) + values[high] * share
