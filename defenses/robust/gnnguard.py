"""GNNGuard: every layer weighs its edges anew, by how similar the ends look to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.models.base import GNN
from graphsec.ops import CSR, Adj, Features, edge_sum, sddmm
from graphsec.ops.similarity import edge_similarity
from graphsec.registry import DEFENSES, Range

Layer = Callable[[int, Tensor | Features, Adj, Tensor | Features], Tensor]


@DEFENSES.register("gnnguard")
@dataclass(frozen=True, kw_only=True)
class GNNGuard(Defense):
    """Edges between dissimilar ends are pruned, the others weighed by cosine, in every layer.

    Similarity is that of the layer's inputs: the features, then the hidden states. A layer shows
    them to no aggregation (it maps them first), so that the guard stands in front of ``layer``:
    it takes the plain adjacency and hands over the finished operator in the place of the model's
    own. The model must therefore have layers and see the whole graph.

    Attackers differentiate through all layers exactly, in values and weights, up to the
    threshold, which has no derivative: a candidate pair below it in every layer has no gradient.
    The guard has no layer memory, whose effect the reference implementation loses too.

    Source: Zhang & Zitnik, GNNGuard: Defending Graph Neural Networks against Adversarial
    Attacks, NeurIPS 2020, eq. 3–5; threshold, exponential and the weight of the node itself,
    1/(N + 1), as in its reference implementation.

    Attributes:
        threshold: Edges whose ends have a smaller cosine are pruned.
    """

    threshold: Annotated[float, Field(ge=0, lt=1), Range(0.01, 0.3)] = 0.1

    def harden(self, model: GNN) -> GNN:
        """The model with the guard before each of its layers.

        Raises:
            TypeError: The model has no fixed layers.
        """
        if model.layers is None:
            raise TypeError(f"gnnguard needs a model with layers, got {type(model).__name__}")
        model.layer = partial(self._layer, model.layer, model.operator)  # type: ignore[method-assign]
        model.operator = _plain  # type: ignore[method-assign]
        return model

    def _layer(
        self,
        layer: Layer,
        operator: Callable[[Adj], Adj],
        i: int,
        h: Tensor | Features,
        adj: Adj,
        x: Tensor | Features,
    ) -> Tensor:
        return layer(i, h, operator(guarded(adj, h, self.threshold)), x)


def _plain(adj: Adj) -> Adj:
    if adj.hops:
        raise ValueError(
            "gnnguard needs the whole graph, got sampled hops: training.batch_size must be None"
        )
    return adj


def guarded(adj: Adj, h: Tensor | Features, threshold: float) -> Adj:
    """The operator D^-½ (Ω + S) D^-½ of one layer, with D the row sums of Ω + S.

    Ω_uv = w_uv exp(α_uv) where cos(h_u, h_v) ≥ threshold and 0 elsewhere, with α_uv the share of
    w_uv cos(h_u, h_v) in its row; S_uu = exp(1/(N_u + 1)) with N_u the weight of the edges that
    the row keeps. So weight 0 means absent, and 0 and 1 give the formulas of the paper.

    Args:
        adj: Plain adjacency.
        h: (n, width) input of the layer.
        threshold: Least cosine of an edge.
    """
    merged = adj.merged(self_loops=True)
    csr, weight = merged.csr, merged.weight
    assert weight is not None
    row, col = csr.coo
    loop = row == col
    cosine = _cosine(h, csr)
    kept = weight * ((cosine >= threshold) & (cosine > 0) & ~loop)
    similar = kept * cosine
    total, number = edge_sum(csr, torch.stack([similar, kept], dim=1)).unbind(1)
    alpha = similar / torch.where(total > 0, total, 1.0)[row]
    own = 1 / (number + 1)
    omega = torch.where(loop, own[row].exp(), kept * alpha.exp())
    degree = edge_sum(csr, omega.unsqueeze(-1)).squeeze(-1)
    factor = torch.where(degree > 0, torch.where(degree > 0, degree, 1.0).rsqrt(), 0.0)
    return Adj(csr=csr, weight=omega * factor[row] * factor[col], final=True)


def _cosine(h: Tensor | Features, csr: CSR) -> Tensor:
    """(E,) cosine of the ends of each entry, 0 if one is zero; no gradient in sparse features."""
    if isinstance(h, Features) or h.layout != torch.strided:
        return edge_similarity(h, csr, "cosine")
    square = h.square().sum(1, keepdim=True)
    present = square > 1e-24
    unit = (h * torch.where(present, torch.where(present, square, 1.0).rsqrt(), 0.0)).unsqueeze(1)
    return sddmm(csr, unit, unit).squeeze(-1)
