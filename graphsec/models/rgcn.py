"""Robust graph convolutional network: hidden states are Gaussians (Zhu et al., KDD 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.models.base import GNN, Sizes
from graphsec.models.stack import StackSpec, weights, widths
from graphsec.ops import Adj, Features, dropout, linear
from graphsec.registry import MODELS, Range


class RGCN(GNN):
    """Means M' = Â (M ∘ α) and variances V' = D̃^-1 Ã D̃^-1 (V ∘ α²), α = exp(−γ V).

    M = ELU(H_M W) and V = ReLU(H_V U) of the layer's input (Zhu et al. 2019, eq. 5–8). A hidden
    state is (n, 2 · width): means, then variances. In training the logits are drawn from the
    last Gaussians, in evaluation they are its means. Training adds ``kl`` times the divergence of
    the first layer's Gaussians from N(0, 1), before attention, as known implementations have it:
    without its constant, the mean over units, summed over nodes.
    """

    def __init__(self, sizes: Sizes, spec: RGCNSpec) -> None:
        super().__init__(spec.layers)
        self.p, self.gamma, self.kl = spec.dropout, spec.gamma, spec.kl
        width = widths(sizes, spec.hidden, spec.layers)
        self.mean = weights(width)
        self.variance = weights(width)

    def operator(self, adj: Adj) -> Adj:
        """Â, with the degrees of the weighted graph."""
        return adj.normalized("sym", self_loops=True)

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """Dropout, a map of means and one of variances, attention to the certain, aggregate."""
        first: tuple[Tensor | Features, ...] = (h, h)
        known = first if i == 0 or isinstance(h, Features) else h.chunk(2, dim=1)
        sent = [dropout(part, self.p, self.training) for part in known]
        mean = F.elu(linear(sent[0], self.mean[i]))
        variance = F.relu(linear(sent[1], self.variance[i]))
        alpha = torch.exp(-self.gamma * variance)
        mean = self.aggregate(adj, mean * alpha)
        variance = self.aggregate(_squared(adj), variance * alpha.square())
        if i + 1 < len(self.mean):
            return torch.cat([mean, variance], dim=1)
        if not self.training:
            return mean
        # A low-rank adjacency has negative entries, and so may the variances.
        return mean + torch.randn_like(mean) * (variance.clamp(min=0) + 1e-8).sqrt()

    def penalty(self, x: Tensor | Features, adj: Adj) -> Tensor | None:
        """The weighted divergence, without dropout; of all nodes that the batch reads."""
        if not self.kl:
            return None
        mean, variance = F.elu(linear(x, self.mean[0])), F.relu(linear(x, self.variance[0]))
        divergence = (mean.square() + variance - (variance + 1e-8).log()) / 2
        return self.kl * divergence.mean(1).sum()


def _squared(adj: Adj) -> Adj:
    """D̃^-1 Ã D̃^-1, linear in the weights as Â is; of a finished operator its squared entries."""
    if adj.left is not None and adj.right is not None:
        return replace(adj, left=adj.left.square(), right=adj.right.square())
    merged = adj.merged()
    assert merged.weight is not None
    return replace(merged, weight=merged.weight.square())


@MODELS.register("rgcn")
@dataclass(frozen=True, kw_only=True)
class RGCNSpec(StackSpec):
    """RGCN; the defaults are the paper's.

    Source: Zhu et al., Robust Graph Convolutional Networks Against Adversarial Attacks, KDD 2019,
    §4 and §5.1.

    Attributes:
        gamma: γ, how little uncertain neighbours count.
        kl: β₁, weight of the divergence of the first Gaussians from N(0, 1); 0 leaves it out.
    """

    version = 2  # the penalty

    module: ClassVar[type[GNN]] = RGCN
    training: ClassVar[Mapping[str, Any]] = {"weight_decay": 5e-4, "decay": "first"}

    hidden: Annotated[int, Field(ge=1, le=8192), Range(8, 256, log=True)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.6
    gamma: Annotated[float, Field(ge=0), Range(0.1, 10, log=True)] = 1.0
    kl: Annotated[float, Field(ge=0), Range(1e-5, 1e-2, log=True)] = 5e-4

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised RGCN."""
        return RGCN(sizes, self)
