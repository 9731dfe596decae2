"""DeeperGCN: generalised aggregation, message normalisation and pre-activation residuals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from graphsec.models.base import GNN, ModelSpec, Sizes
from graphsec.ops import Adj, Features, dropout, linear, propagate
from graphsec.registry import MODELS, Range

Aggregation = Literal["softmax", "softmax_sum", "power", "power_sum", "mean"]

_EPSILON = 1e-7  # messages stay positive
_LARGEST = 10.0  # of a message, in the power mean
_FAR = 80.0  # exp(-80) is about the smallest float32 that keeps its digits


class GENConv(nn.Module):
    """h_i + AGG_j m_j through an MLP, with m = ReLU(h) + ε (Li et al. 2020, eq. 1–7).

    A message depends on its sender only, and so does its share in the softmax: both aggregations
    are ratios of sums over neighbours, computed without a number for each edge and channel, and
    gradients flow through the shares.
    """

    def __init__(
        self, width: int, aggregation: Aggregation, temperature: float, learn: bool,
        message_norm: bool, mlp_layers: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.aggregation = aggregation
        self.temperature = nn.Parameter(torch.tensor(temperature), requires_grad=learn)
        self.degree_power = nn.Parameter(torch.tensor(0.0)) if aggregation.endswith("sum") else None
        self.scale = nn.Parameter(torch.tensor(1.0)) if message_norm else None
        parts: list[nn.Module] = []
        for _ in range(mlp_layers - 1):
            into = width if not parts else 2 * width
            parts += [nn.Linear(into, 2 * width), nn.LayerNorm(2 * width), nn.ReLU()]
        parts.append(nn.Linear(2 * width if parts else width, width))
        self.mlp = nn.Sequential(*parts)

    def forward(self, h: Tensor, adj: Adj, aggregate: Any) -> Tensor:
        """(cols, width) → (rows, width); ``aggregate`` other than the plain sum takes its place."""
        own, message = h[: adj.num_nodes], torch.relu(h) + _EPSILON
        if aggregate is propagate:
            gathered = self._generalised(adj, message)
        else:
            gathered = aggregate(adj, message)
        if self.scale is not None:
            length = (own.square().sum(1, keepdim=True) + 1e-12).sqrt()
            unit = gathered * (gathered.square().sum(1, keepdim=True) + 1e-12).rsqrt()
            gathered = self.scale * length * unit
        out: Tensor = self.mlp(own + gathered)
        return out

    def _generalised(self, adj: Adj, message: Tensor) -> Tensor:
        if self.aggregation.startswith("softmax"):
            score = self.temperature * message
            share = (score - score.amax(0, keepdim=True).detach()).clamp(min=-_FAR).exp()
            both = propagate(adj, torch.cat([share * message, share], dim=1))
            top, total = both.chunk(2, dim=1)
            out = top / torch.where(total > 0, total, torch.inf)
        elif self.aggregation.startswith("power"):
            mean = propagate(adj, message.clamp(_EPSILON, _LARGEST) ** self.temperature)
            present = mean > 0
            out = torch.where(
                present, torch.where(present, mean, 1.0) ** (1 / self.temperature), 0.0
            )
        else:
            out = propagate(adj, message)
        if self.degree_power is not None:
            degree = adj.degrees()[: adj.num_nodes, None]
            safe = torch.where(degree > 0, degree, 1.0)
            out = out * torch.where(degree > 0, safe ** self.degree_power.sigmoid(), 0.0)
        return out


class DeeperGCN(GNN):
    """Encoder, GENConv, then h ← h + GENConv(Dropout(ReLU(Norm h))), and a linear head.

    LayerNorm instead of the batch normalisation of some published recipes, so that every node's
    answer depends on its neighbourhood only.
    """

    def __init__(self, sizes: Sizes, spec: DeeperGCNSpec) -> None:
        super().__init__(spec.layers)
        width = spec.hidden
        self.p, self.checkpoint_from = spec.dropout, spec.checkpoint_from
        self.encoder = nn.ParameterList(
            [nn.init.xavier_uniform_(torch.empty(sizes.features, width)), torch.zeros(width)]
        )
        self.convolution = nn.ModuleList(
            GENConv(
                width, spec.aggregation, spec.temperature, spec.learn_temperature,
                spec.message_norm, spec.mlp_layers,
            )
            for _ in range(spec.layers)
        )  # fmt: skip
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(spec.layers))
        self.head = nn.Linear(width, sizes.outputs)

    def operator(self, adj: Adj) -> Adj:
        """D^-1 A: weighted means over neighbours; the ratio of sums in the softmax is the same."""
        return adj.normalized("row", self_loops=False)

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """The first layer encodes and convolves, the others add a residual; the last classifies."""
        if i == 0:
            h = linear(dropout(h, self.p, self.training), self.encoder[0]) + self.encoder[1]
            out: Tensor = self.convolution[0](h, adj, self.aggregate)
        else:
            assert isinstance(h, Tensor)
            out = h[: adj.num_nodes] + self._checkpointed(i, h, adj)
        if i + 1 == len(self.convolution):
            logits: Tensor = self.head(self._activated(0, out))
            return logits
        return out

    def _activated(self, i: int, h: Tensor) -> Tensor:
        """Dropout(ReLU(Norm h)); norm 0 stands before the head, norm i before convolution i."""
        active = dropout(torch.relu(self.norm[i](h)), self.p, self.training)
        assert isinstance(active, Tensor)
        return active

    def _checkpointed(self, i: int, h: Tensor, adj: Adj) -> Tensor:
        """One residual branch; deep models compute it twice in training, to save memory."""

        def branch(h: Tensor) -> Tensor:
            out: Tensor = self.convolution[i](self._activated(i, h), adj, self.aggregate)
            return out

        if len(self.convolution) < self.checkpoint_from or not self.training:
            return branch(h)
        again: Tensor = checkpoint(branch, h, use_reentrant=False)
        return again


@MODELS.register("deepergcn", "genconv")
@dataclass(frozen=True, kw_only=True)
class DeeperGCNSpec(ModelSpec):
    """DeeperGCN with generalised aggregation.

    Source: Li et al., DeeperGCN: All You Need to Train Deeper GCNs, arXiv 2006.07739, §3–4.

    Attributes:
        aggregation: Softmax-weighted mean, power mean, plain mean; "…_sum" multiplies by
            degree^σ(y) with y learned.
        temperature: t of the softmax, or p of the power mean.
        learn_temperature: Whether it is learned.
        message_norm: Whether what is gathered is scaled to the length of h, times a learned s.
        mlp_layers: Linear maps in each convolution.
        checkpoint_from: Number of layers from which training recomputes each layer in the
            backward pass: memory for one layer's inside instead of all, for a second forward.
    """

    module: ClassVar[type[GNN]] = DeeperGCN
    training: ClassVar[Mapping[str, Any]] = {"lr": 5e-3, "weight_decay": 5e-4}

    hidden: Annotated[int, Field(ge=1, le=8192), Range(16, 256, log=True)] = 64
    layers: Annotated[int, Field(ge=1, le=1024), Range(2, 32, log=True)] = 3
    dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.5
    aggregation: Aggregation = "softmax"
    temperature: Annotated[float, Field(gt=0, le=100), Range(0.01, 10, log=True)] = 1.0
    learn_temperature: bool = True
    message_norm: bool = False
    mlp_layers: Annotated[int, Field(ge=1, le=8), Range(1, 2)] = 1
    checkpoint_from: Annotated[int, Field(ge=2)] = 32

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised DeeperGCN."""
        return DeeperGCN(sizes, self)
