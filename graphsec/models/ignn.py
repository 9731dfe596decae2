"""Implicit graph neural network (Gu et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from graphsec.models.base import GNN, Capabilities, ModelSpec, Sizes, glorot
from graphsec.models.implicit import Implicit
from graphsec.models.problems import FixedPoint, Problem
from graphsec.ops import Adj, Features, dropout, linear, propagate
from graphsec.registry import MODELS, Range


@dataclass(frozen=True, eq=False, kw_only=True)
class Equilibrium(FixedPoint):
    """h = ReLU(Â h W + b), node by node (Gu et al., eq. 4, transposed)."""

    def local(self, own: Tensor, view: Tensor, *tensors: Tensor) -> tuple[Tensor, None]:
        """h_i − f_i; no node computes anything for another."""
        weight, bias, operator = tensors
        near = self.entries.to_rows(view * operator.unsqueeze(1))
        return own - torch.relu(near @ weight + bias), None

    def residual(self, h: Tensor, *tensors: Tensor) -> Tensor:
        """The same without a copy of the states at every entry."""
        weight, bias, operator = tensors
        adj = Adj(csr=self.csr, weight=operator, final=True)
        return h - torch.relu(propagate(adj, h @ weight) + bias)


class IGNN(Implicit):
    """X = φ(X Â W + b(U)), read out linearly, with Â = D̃^-½ (A + I) D̃^-½.

    W is projected, row by row of the paper's W, to ‖W‖∞ ≤ κ / λ_pf(Â) wherever it is used, so
    that the equation has one solution and iterating it converges. λ_pf(Â) is 1: Â is similar to
    D̃^-1 (A + I), whose rows sum to 1.
    """

    capabilities = Capabilities(sampled=False)

    def __init__(self, sizes: Sizes, spec: IGNNSpec) -> None:
        super().__init__()
        self.spec = spec
        self.weight = glorot(spec.hidden, spec.hidden)
        self.encoder = nn.ParameterList([glorot(sizes.features, spec.hidden)])
        self.readout_weight = glorot(spec.hidden, sizes.outputs)
        self.readout_bias = nn.Parameter(torch.zeros(sizes.outputs))

    def problem(self, x: Tensor | Features, adj: Adj) -> tuple[Problem, list[Tensor]]:
        """The equation of a graph; b(U) = Â U Ω is computed once."""
        spec = self.spec
        operator = adj.normalized("sym", self_loops=True).merged()
        assert operator.weight is not None
        encoded = linear(dropout(x, spec.dropout, self.training), self.encoder[0])
        problem = Equilibrium(
            csr=operator.csr, width=spec.hidden, tolerance=spec.tolerance,
            iterations=spec.iterations,
        )  # fmt: skip
        weight = within(self.weight.T, spec.kappa).T
        return problem, [weight, propagate(operator, encoded), operator.weight]

    def readout(self, h: Tensor) -> Tensor:
        """Dropout and a linear map."""
        dropped = dropout(h.to(self.readout_weight.dtype), self.spec.dropout, self.training)
        return linear(dropped, self.readout_weight) + self.readout_bias


def within(weight: Tensor, radius: float) -> Tensor:
    """The nearest matrix (k, k) whose rows have ‖row‖₁ ≤ radius, so that ‖·‖∞ ≤ radius.

    Rows beyond are shrunk by the threshold that puts them on the ball (Duchi et al. 2008).
    """
    size = weight.abs()
    falling = size.sort(dim=1, descending=True).values
    count = torch.arange(1, weight.shape[1] + 1, dtype=weight.dtype, device=weight.device)
    excess = (falling.cumsum(1) - radius) / count
    last = (falling > excess).sum(1, keepdim=True).clamp(min=1) - 1
    threshold = excess.gather(1, last).clamp(min=0)
    return weight.sign() * (size - threshold).clamp(min=0)


@MODELS.register("ignn")
@dataclass(frozen=True, kw_only=True)
class IGNNSpec(ModelSpec):
    """IGNN with one implicit layer.

    Source: Gu et al., Implicit Graph Neural Networks, NeurIPS 2020, eq. 4 and §4 (κ and the
    projection; here it is part of the model, so that any optimiser keeps to it).

    Attributes:
        hidden: Width of a node's state.
        kappa: Bound of ‖W‖∞: below 1.
        iterations: Most iterations, forward and backward.
        dropout: On features and state.
        tolerance: Norm of the change at which iterating stops, ``implicit.ROUGH`` in training.
    """

    module: ClassVar[type[GNN]] = IGNN
    training: ClassVar[Mapping[str, Any]] = {"epochs": 200, "weight_decay": 5e-4}

    hidden: Annotated[int, Field(ge=1, le=4096), Range(16, 256, log=True)] = 64
    kappa: Annotated[float, Field(gt=0, lt=1), Range(0.8, 0.99)] = 0.95
    iterations: Annotated[int, Field(ge=1)] = 300
    dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.5
    tolerance: Annotated[float, Field(gt=0, le=1e-5)] = 1e-7

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised IGNN."""
        return IGNN(sizes, self)
