"""Graph-signal-denoising network: the smoothest signal near what the features say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from graphsec.models.base import GNN, Capabilities, ModelSpec, Sizes, glorot
from graphsec.models.implicit import Implicit
from graphsec.models.problems import (
    FixedPoint,
    Map,
    Problem,
    conjugate_gradients,
    transformed,
)
from graphsec.ops import CSR, Adj, Features, dropout, linear, propagate, spmm
from graphsec.registry import MODELS, Range


@dataclass(frozen=True, eq=False, kw_only=True)
class Denoised(FixedPoint):
    """F = (f(X) + λ Â F) / (1 + λ): where the gradient of the objective vanishes.

    Attributes:
        smoothness: λ.
        symmetric: Whether Â is, so that conjugate gradients may solve what is linear anyway.
    """

    smoothness: float
    symmetric: bool

    def local(self, own: Tensor, view: Tensor, *tensors: Tensor) -> tuple[Tensor, None]:
        """F_i less what its signal and its neighbours say; nothing is computed for others."""
        signal, operator = tensors
        near = self.entries.to_rows(view * operator.unsqueeze(1))
        return own - (signal + self.smoothness * near) / (1 + self.smoothness), None

    def residual(self, h: Tensor, *tensors: Tensor) -> Tensor:
        """The same without a copy of the states at every entry."""
        signal, operator = tensors
        near = propagate(Adj(csr=self.csr, weight=operator, final=True), h)
        return h - (signal + self.smoothness * near) / (1 + self.smoothness)

    def solve(self, tensors: Sequence[Tensor], start: Tensor | None = None) -> Tensor:
        """One linear solve; where Â is not symmetric, iteration."""
        if not self.symmetric:
            return super().solve(tensors, start)
        signal, operator = tensors
        still = torch.zeros_like(signal)

        def product(v: Tensor) -> Tensor:
            return self.residual(v, still, operator)

        h = still if start is None else start
        return h - self.invert(product, self.residual(h, signal, operator))

    def invert(self, product: Map, right: Tensor) -> Tensor:
        """By conjugate gradients or, where Â is not symmetric, iteration."""
        if not self.symmetric:
            return super().invert(product, right)
        return conjugate_gradients(product, right, self.tolerance * 1e-4)


class GSDGNN(Implicit):
    """argmin_F ‖F − f(X)‖² + λ tr(Fᵀ L F), L = I − Â, f a perceptron; F are the logits."""

    capabilities = Capabilities(sampled=False)

    def __init__(self, sizes: Sizes, spec: GSDGNNSpec) -> None:
        super().__init__()
        self.spec, self.outputs = spec, sizes.outputs
        shapes = [(sizes.features, spec.hidden), (spec.hidden, sizes.outputs)]
        self.weight = nn.ParameterList([glorot(a, b) for a, b in shapes])
        self.bias = nn.ParameterList([nn.Parameter(torch.zeros(b)) for _, b in shapes])

    def problem(self, x: Tensor | Features, adj: Adj) -> tuple[Problem, list[Tensor]]:
        """The optimality condition of a graph."""
        spec = self.spec
        operator = adj.normalized("sym", self_loops=True).merged()
        assert operator.weight is not None
        z = linear(dropout(x, spec.dropout, self.training), self.weight[0]) + self.bias[0]
        hidden = dropout(torch.relu(z), spec.dropout, self.training)
        signal = linear(hidden, self.weight[1]) + self.bias[1]
        problem = Denoised(
            csr=operator.csr, width=self.outputs, tolerance=spec.tolerance,
            iterations=spec.iterations, smoothness=spec.smoothness,
            symmetric=_symmetric(operator.csr, operator.weight),
        )  # fmt: skip
        return problem, [signal, operator.weight]

    def readout(self, h: Tensor) -> Tensor:
        """The signal itself."""
        return h.to(self.weight[0].dtype)


def _symmetric(csr: CSR, weight: Tensor) -> bool:
    """Whether a matrix and its transpose send a vector to the same place."""
    if transformed():  # numbers can't be looked at there
        return False
    w = weight.detach().double().unsqueeze(1)
    v = torch.arange(1.0, csr.num_cols + 1, dtype=w.dtype).cos().view(-1, 1, 1)
    return torch.allclose(spmm(csr, w, v), spmm(csr.T, w, v), rtol=1e-6, atol=1e-7)


@MODELS.register("gsdgnn")
@dataclass(frozen=True, kw_only=True)
class GSDGNNSpec(ModelSpec):
    """Graph-signal denoising, solved to convergence.

    Source: Ma et al., A Unified View on Graph Neural Networks as Graph Signal Denoising, CIKM
    2021, eq. 5; a baseline of Solodova et al., ICLR 2025.

    Attributes:
        hidden: Width of the perceptron.
        smoothness: λ.
        iterations: Most iterations, forward and backward.
        dropout: On features and hidden layer.
        tolerance: Norm of the change at which iterating stops, ``implicit.ROUGH`` in training.
    """

    module: ClassVar[type[GNN]] = GSDGNN
    training: ClassVar[Mapping[str, Any]] = {"epochs": 200, "weight_decay": 5e-4, "decay": "first"}

    hidden: Annotated[int, Field(ge=1, le=4096), Range(16, 256, log=True)] = 64
    smoothness: Annotated[float, Field(gt=0, le=1e3), Range(1, 30, log=True)] = 9.0
    iterations: Annotated[int, Field(ge=1)] = 300
    dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.5
    tolerance: Annotated[float, Field(gt=0, le=1e-5)] = 1e-7

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised network."""
        return GSDGNN(sizes, self)
