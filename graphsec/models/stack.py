"""What several models are built of: stacks of linear maps, and a perceptron before propagation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from graphsec.models.base import GNN, ModelSpec, Sizes, glorot
from graphsec.ops import Adj, Features, dropout, linear
from graphsec.registry import Range

Activation = Literal["relu", "tanh"] | tuple[float, float, float]
Init = Literal["glorot", "glorot-normal", "kaiming", "kaiming-normal", "orthogonal"]


def widths(sizes: Sizes, hidden: int, layers: int) -> list[int]:
    """Widths from features over the hidden layers to outputs."""
    return [sizes.features, *[hidden] * (layers - 1), sizes.outputs]


def weights(width: Sequence[int], init: Init = "glorot") -> nn.ParameterList:
    """One matrix from each width to the next."""
    return nn.ParameterList([initial(a, b, init) for a, b in itertools.pairwise(width)])


def initial(rows: int, cols: int, init: Init) -> nn.Parameter:
    """(rows, cols) a weight matrix that maps rows to columns, as it is before training."""
    if init == "glorot":
        return glorot(rows, cols)
    weight = torch.empty(cols, rows)  # torch's initialisers take the fan-in from the second size
    fills: dict[str, Callable[[Tensor], Any]] = {
        "glorot-normal": nn.init.xavier_normal_,
        "kaiming": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
        "kaiming-normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
        "orthogonal": nn.init.orthogonal_,
    }
    fills[init](weight)
    return nn.Parameter(weight.T.contiguous())


def biases(width: Iterable[int]) -> nn.ParameterList:
    """One zero vector of each width."""
    return nn.ParameterList([nn.Parameter(torch.zeros(b)) for b in width])


class Linear(nn.Module):
    """X W + b for dense or sparse X, initialised like ``torch.nn.Linear``, or W with one value."""

    def __init__(self, rows: int, cols: int, fill: float | None = None) -> None:
        super().__init__()
        bound = rows**-0.5
        weight = torch.empty(rows, cols).uniform_(-bound, bound)
        self.weight = nn.Parameter(weight if fill is None else torch.full_like(weight, fill))
        self.bias = nn.Parameter(torch.empty(cols).uniform_(-bound, bound))

    def forward(self, x: Tensor | Features) -> Tensor:
        """(n, cols)."""
        return linear(x, self.weight) + self.bias


def tempered(h: Tensor, scale: float, temperature: float, offset: float) -> Tensor:
    """S · σ(T h) − o (Papernot et al., AAAI 2021, §3); (2, 2, 1) is tanh."""
    return scale * torch.sigmoid(temperature * h) - offset


def activation(kind: Activation) -> Callable[[Tensor], Tensor]:
    """The function between layers."""
    if isinstance(kind, str):
        return torch.relu if kind == "relu" else torch.tanh
    scale, temperature, offset = kind
    return partial(tempered, scale=scale, temperature=temperature, offset=offset)


class Stack(GNN):
    """Layers of one linear map each, with dropout before it."""

    def __init__(
        self, sizes: Sizes, hidden: int, layers: int, p: float, kind: Activation = "relu",
        init: Init = "glorot",
    ) -> None:  # fmt: skip
        super().__init__(layers)
        self.p, self.between = p, activation(kind)
        width = widths(sizes, hidden, layers)
        self.weight = weights(width, init)
        self.bias = biases(width[1:])

    def activate(self, i: int, h: Tensor) -> Tensor:
        """The activation, except after the last layer."""
        return self.between(h) if i + 1 < len(self.bias) else h


@dataclass(frozen=True, kw_only=True)
class StackSpec(ModelSpec):
    """Fields of models with one linear map a layer."""

    hidden: Annotated[int, Field(ge=1, le=8192), Range(8, 256, log=True)] = 64
    layers: Annotated[int, Field(ge=1, le=128), Range(2, 4)] = 2
    dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.5

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised model."""
        made: Any = self.module
        return made(sizes, self.hidden, self.layers, self.dropout)  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class ActivatedSpec(StackSpec):
    """Fields of such models whose activation can be chosen.

    Attributes:
        activation: "relu", "tanh", or (s, T, o) of a tempered sigmoid s · σ(T h) − o: bounded
            activations keep gradients small, which private training clips. Papernot et al.,
            Tempered Sigmoid Activations for Deep Learning with Differential Privacy, AAAI 2021.
        init: How weights begin: Glorot and Kaiming draw uniformly unless they say normal. Kaiming's
            scale is that of ReLUs (He et al., ICCV 2015), orthogonal ones have gain 1 (Saxe et al.,
            ICLR 2014). It decides what the first gradients give away: docs/leakage.md.
    """

    activation: Activation = "relu"
    init: Init = "glorot"

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised model."""
        made: Any = self.module
        fields = (self.hidden, self.layers, self.dropout, self.activation, self.init)
        return made(sizes, *fields)  # type: ignore[no-any-return]

    def spec(self) -> dict[str, Any]:
        """Without what is at its default: cells from before there was a choice keep keys."""
        fields = super().spec()
        for name, before in (("activation", "relu"), ("init", "glorot")):
            if fields[name] == before:
                del fields[name]
        return fields


class Decoupled(GNN):
    """A perceptron gives class scores H₀ of each node, then K layers only propagate them.

    The filter Σ_k c_k P_k(Â) H₀ is evaluated from its highest term inwards (Horner, Clenshaw),
    so that each layer needs H₀ and the layer before it: a layer over a sampled hop looks back at
    the first rows of H₀, which are its receiving nodes.

    Attributes:
        gamma: Trainable weights of the filter, for models that have them.
        filter_lr: Their learning rate, None for that of the training.
    """

    gamma: nn.Parameter | None
    filter_lr: float | None = None

    def __init__(self, sizes: Sizes, hidden: int, depth: int, hops: int, p: float) -> None:
        super().__init__(hops)
        self.p = p
        width = widths(sizes, hidden, depth)
        self.weight = weights(width)
        self.bias = biases(width[1:])
        self.register_parameter("gamma", None)

    def operator(self, adj: Adj) -> Adj:
        """Â, with the degrees of the weighted graph."""
        return adj.normalized("sym", self_loops=True)

    def encode(self, x: Tensor | Features) -> Tensor:
        """Class scores of each node from its own features."""
        h: Tensor | Features = x
        for i, (weight, bias) in enumerate(zip(self.weight, self.bias, strict=True)):
            z = linear(dropout(h, self.p, self.training), weight) + bias
            h = torch.relu(z) if i + 1 < len(self.weight) else z
        assert isinstance(h, Tensor)
        return h

    def groups(self, weight_decay: float, decay: str) -> list[dict[str, Any]]:
        """The filter's weights have no decay, and a learning rate of their own if one is set."""
        groups = super().groups(weight_decay, decay)
        if self.gamma is None:
            return groups
        for group in groups:
            group["params"] = [p for p in group["params"] if p is not self.gamma]
        mine: dict[str, Any] = {"params": [self.gamma], "weight_decay": 0.0}
        return [*groups, mine if self.filter_lr is None else {**mine, "lr": self.filter_lr}]


@dataclass(frozen=True, kw_only=True)
class DecoupledSpec(ModelSpec):
    """Fields of models that propagate what a perceptron says."""

    hidden: Annotated[int, Field(ge=1, le=8192), Range(8, 256, log=True)] = 64
    depth: Annotated[int, Field(ge=1, le=16), Range(1, 3)] = 2
    hops: Annotated[int, Field(ge=1, le=128), Range(2, 20)] = 10
    dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.5
