"""Graph attention network (Veličković et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from graphsec.models.base import GNN, ModelSpec, Sizes, glorot
from graphsec.ops import Adj, Features, dropout, edge_scores, edge_softmax, linear
from graphsec.registry import MODELS, Range


class GAT(GNN):
    """Heads of attention α = softmax(LeakyReLU(aᵀ[Wh_i ‖ Wh_j])) (Veličković et al., eq. 3).

    In a weighted graph attention is w·exp(e) / Σ w·exp(e): weight 0 means absent.
    """

    def __init__(
        self, sizes: Sizes, hidden: int, layers: int, heads: int, out_heads: int, p: float
    ) -> None:
        super().__init__(layers)
        self.p = p
        self.heads = [heads] * (layers - 1) + [out_heads]
        outs = [hidden] * (layers - 1) + [sizes.outputs]
        ins = [sizes.features, *[hidden * heads] * (layers - 1)]
        shapes = list(zip(ins, outs, self.heads, strict=True))
        self.weight = nn.ParameterList([glorot(a, b * q) for a, b, q in shapes])
        self.send = nn.ParameterList([_attention(q, b) for _, b, q in shapes])
        self.receive = nn.ParameterList([_attention(q, b) for _, b, q in shapes])
        sizes_of_bias = [b * q for _, b, q in shapes[:-1]] + [sizes.outputs]
        self.bias = nn.ParameterList([nn.Parameter(torch.zeros(b)) for b in sizes_of_bias])

    def operator(self, adj: Adj) -> Adj:
        """One explicit pattern with self-loops, since attention is nonlinear in the weights."""
        return adj.merged(self_loops=True)

    def scores(self, i: int, h: Tensor | Features, z: Tensor, adj: Adj) -> Tensor:
        """LeakyReLU(aᵀ[z_i ‖ z_j]) at each entry: (entries, heads)."""
        sent = (z * self.send[i]).sum(-1)
        received = (z[: adj.num_nodes] * self.receive[i]).sum(-1)
        return F.leaky_relu(edge_scores(adj.csr, received, sent), 0.2)

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """Dropout, linear, attention with dropout; ELU and concatenation, or the heads' mean."""
        heads, last = self.heads[i], i + 1 == len(self.weight)
        h = dropout(h, self.p, self.training)
        z = linear(h, self.weight[i])
        z = z.view(len(z), heads, -1)
        scores = self.scores(i, h, z, adj)
        attention = dropout(edge_softmax(adj, scores), self.p, self.training)
        assert isinstance(attention, Tensor)
        dropped = dropout(z, self.p, self.training)
        assert isinstance(dropped, Tensor)
        out: Tensor = self.aggregate(replace(adj, weight=attention), dropped)
        if last:
            mean: Tensor = out.mean(1) + self.bias[i]
            return mean
        activated: Tensor = F.elu(out.flatten(1) + self.bias[i])
        return activated


def _attention(heads: int, width: int) -> nn.Parameter:
    """Half of an attention vector for each head, initialised as one Glorot matrix."""
    half = torch.empty(heads, width)
    bound = (6 / (width + 1)) ** 0.5
    nn.init.uniform_(half, -bound, bound)
    return nn.Parameter(half)


@MODELS.register("gat")
@dataclass(frozen=True, kw_only=True)
class GATSpec(ModelSpec):
    """GAT; the defaults are the paper's for Cora and Citeseer.

    Source: Veličković et al., Graph Attention Networks, ICLR 2018, §3.3.
    """

    module: ClassVar[type[GNN]] = GAT
    training: ClassVar[Mapping[str, Any]] = {"lr": 5e-3, "weight_decay": 5e-4, "decay": "all"}

    hidden: Annotated[int, Field(ge=1, le=1024), Range(4, 32, log=True)] = 8
    layers: Annotated[int, Field(ge=1, le=16), Range(2, 3)] = 2
    heads: Annotated[int, Field(ge=1, le=64), Range(1, 8)] = 8
    out_heads: Annotated[int, Field(ge=1, le=64), Range(1, 8)] = 1
    dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.6

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised GAT."""
        made: Any = self.module
        fields = (self.hidden, self.layers, self.heads, self.out_heads, self.dropout)
        return made(sizes, *fields)  # type: ignore[no-any-return]
