"""Recommenders whose layers fall into what a user gathers and what becomes of it.

The same modules are trained in one place, and by parties that hold disjoint items
(``graphsec.federated``): sums over neighbours add up over the parties.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from graphsec.models.base import GNN, Capabilities, ModelSpec, Sizes, glorot
from graphsec.models.lightgcn import TableGNN
from graphsec.ops import Adj, Features, edge_scores, edge_softmax
from graphsec.registry import MODELS, Range

SCALE_MIDDLE = 3.0  # where the offset of ratings starts: that of the scale 1 … 5 is public


class Rater(TableGNN):
    """Embeddings and biases of users and items: ŷ = μ + b_u + b_v + ⟨z_u, z_v⟩.

    A layer is ``gather``, the normalised sums over neighbours, and ``update``, the next state.
    Embeddings end in two columns that carry the biases, so that ŷ is their inner product.
    z is a mean of the states of all layers, whose weights are learned in VerFedGNN's code.
    Embeddings are penalised, biases are not.

    The biases are not in VerFedGNN: a model without them is no match for them alone (Koren, Bell
    & Volinsky, Computer 2009), so that its errors would say little.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        tasks=("rating", "ranking"), sampled=False
    )  # fmt: skip

    def __init__(self, sizes: Sizes, width: int, layers: int) -> None:
        super().__init__(layers)
        self.hops, self.users = layers, sizes.users
        self.table = nn.Parameter(torch.randn(sizes.nodes, width) * 0.1)
        self.bias = nn.Parameter(torch.zeros(sizes.nodes, 1))
        self.offset = nn.Parameter(torch.tensor([SCALE_MIDDLE]))

    def gather(self, i: int, h: Tensor, adj: Adj) -> Tensor:
        """(n, width) normalised sums over the neighbours' states."""
        return self.aggregate(adj, h)

    def update(self, i: int, h: Tensor, sums: Tensor) -> Tensor:
        """(n, width) the next states."""
        return sums

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """Gather, then update."""
        assert isinstance(h, Tensor)
        return self.update(i, h, self.gather(i, h, adj))

    def mixing(self) -> Tensor:
        """(layers + 1,) weight of each state in z."""
        return self.table.new_full((self.hops + 1,), 1 / (self.hops + 1))

    def read(self, states: list[Tensor]) -> Tensor:
        """(n, width + 2) embeddings from the initial and all later states."""
        weight = self.mixing()
        z = states[0] * weight[0]
        for i, state in enumerate(states[1:]):
            z = z + state * weight[i + 1]
        item = (torch.arange(len(z), device=z.device) >= self.users).unsqueeze(1)
        one = torch.ones_like(self.bias)
        mine = torch.where(item, self.bias, self.bias + self.offset)
        return torch.cat([z, torch.where(item, one, mine), torch.where(item, mine, one)], 1)

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """The states of all layers, then the embeddings."""
        operator = self.operator(adj)
        states: list[Tensor] = [self.table]
        for i in range(self.hops):
            states.append(self.layer(i, states[-1], operator, x))
        return [*states[1:], self.read(states)]


class Mixed(Rater):
    """A rater with a square weight a layer and learned weights of the layers."""

    def __init__(self, sizes: Sizes, width: int, layers: int) -> None:
        super().__init__(sizes, width, layers)
        self.weight = nn.ParameterList([glorot(width, width) for _ in range(layers)])
        self.mix = nn.Parameter(torch.full((layers + 1,), 1 / (layers + 1)))

    def mixing(self) -> Tensor:
        """Learned, from equal weights on."""
        return self.mix

    def update(self, i: int, h: Tensor, sums: Tensor) -> Tensor:
        """LeakyReLU((h + sums) W)."""
        return F.leaky_relu((h + sums) @ self.weight[i])


class RatingGAT(Mixed):
    """Attention over neighbours, softmax of LeakyReLU(a · [Wh_u ‖ Wh_v]), without self-loops.

    Where a graph is part of a larger one, its node's attention weighs as much as the part's share
    of the degree.
    """

    def __init__(self, sizes: Sizes, width: int, layers: int) -> None:
        super().__init__(sizes, width, layers)
        self.send = nn.Parameter(torch.randn(layers, width) * 0.1)
        self.receive = nn.Parameter(torch.randn(layers, width) * 0.1)

    def operator(self, adj: Adj) -> Adj:
        """One explicit pattern, and the part's share of each degree as a factor of the rows."""
        super().operator(adj)
        merged = adj.merged()
        if adj.degree is None:
            return merged
        mine = replace(adj, degree=None).degrees()
        share = torch.where(adj.degree > 0, mine / adj.degree.clamp(min=1e-12), 0.0)
        return replace(merged, left=share)

    def gather(self, i: int, h: Tensor, adj: Adj) -> Tensor:
        """Means over neighbours, weighted by attention."""
        z = h @ self.weight[i]
        sent, received = z @ self.send[i], z @ self.receive[i]
        scores = F.leaky_relu(edge_scores(adj.csr, received.unsqueeze(1), sent.unsqueeze(1)), 0.2)
        attention = edge_softmax(adj, scores).squeeze(-1)
        return self.aggregate(replace(adj, weight=attention), h)


class RatingGGNN(Rater):
    """A gated recurrent unit takes the sums (Li et al., ICLR 2016), the same at every layer."""

    def __init__(self, sizes: Sizes, width: int, layers: int) -> None:
        super().__init__(sizes, width, layers)
        self.into = nn.ParameterList([glorot(width, width) for _ in range(3)])
        self.back = nn.ParameterList([glorot(width, width) for _ in range(3)])

    def mixing(self) -> Tensor:
        """The last state alone."""
        return self.table.new_tensor([0.0] * self.hops + [1.0])

    def update(self, i: int, h: Tensor, sums: Tensor) -> Tensor:
        """(1 − u) h + u tanh(sums W + r (h U)), with gates u and r."""
        keep, reset, new = (sums @ weight for weight in self.into)
        keep = torch.sigmoid(keep + h @ self.back[0])
        reset = torch.sigmoid(reset + h @ self.back[1])
        fresh: Tensor = torch.tanh(new + reset * (h @ self.back[2]))
        return (1 - keep) * h + keep * fresh


_TRAINING = {"epochs": 50, "optimizer": "adagrad", "lr": 0.05, "batch_size": 5000}


@dataclass(frozen=True, kw_only=True)
class RaterSpec(ModelSpec):
    """Base of the backbones; sizes and training are VerFedGNN's, but for the penalty.

    Each backbone's penalty was chosen by the validation ratings of ml-100k, trained in one place.
    """

    training: ClassVar[Mapping[str, Any]] = {**_TRAINING, "weight_decay": 0.002}

    width: Annotated[int, Field(ge=1, le=8192), Range(4, 64, log=True)] = 6
    layers: Annotated[int, Field(ge=0, le=64), Range(1, 3)] = 2

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised module."""
        made: Any = self.module
        return made(sizes, self.width, self.layers)  # type: ignore[no-any-return]


@MODELS.register("rating-gcn")
@dataclass(frozen=True, kw_only=True)
class RatingGCNSpec(RaterSpec):
    """GCN as a recommender: LeakyReLU((h + sums) W), layers weighted by learning.

    Source: Mai & Pang, Vertical Federated Graph Neural Network for Recommender System, ICML 2023,
    and its published code; with biases (``Rater``).
    """

    module: ClassVar[type[GNN]] = Mixed
    training: ClassVar[Mapping[str, Any]] = {**_TRAINING, "weight_decay": 0.5}


@MODELS.register("rating-gat")
@dataclass(frozen=True, kw_only=True)
class RatingGATSpec(RaterSpec):
    """GAT as a recommender.

    Source: Mai & Pang, Vertical Federated Graph Neural Network for Recommender System, ICML 2023,
    and its published code, where a node attends to itself too; with biases (``Rater``).
    """

    module: ClassVar[type[GNN]] = RatingGAT
    training: ClassVar[Mapping[str, Any]] = {**_TRAINING, "weight_decay": 1.0}


@MODELS.register("rating-ggnn")
@dataclass(frozen=True, kw_only=True)
class RatingGGNNSpec(RaterSpec):
    """GGNN as a recommender: gates decide what a node takes of its neighbours.

    Source: Mai & Pang, Vertical Federated Graph Neural Network for Recommender System, ICML 2023,
    and its published code; with biases (``Rater``).
    """

    module: ClassVar[type[GNN]] = RatingGGNN
    training: ClassVar[Mapping[str, Any]] = {**_TRAINING, "weight_decay": 4.0}


@MODELS.register("rating-lightgcn")
@dataclass(frozen=True, kw_only=True)
class RatingLightGCNSpec(RaterSpec):
    """LightGCN with biases, for ratings: the mean of E⁽⁰⁾ … E⁽ᴷ⁾.

    Source: He et al., LightGCN: Simplifying and Powering Graph Convolution Network for
    Recommendation, SIGIR 2020; as a rater in the code of Mai & Pang, ICML 2023.
    """

    module: ClassVar[type[GNN]] = Rater


@MODELS.register("rating-bias")
@dataclass(frozen=True, kw_only=True)
class RatingBiasSpec(ModelSpec):
    """μ + b_u + b_v and nothing else: the line below which a rating model is useless.

    Source: Koren, Bell & Volinsky, Matrix Factorization Techniques for Recommender Systems,
    Computer 2009, eq. 3.
    """

    module: ClassVar[type[GNN]] = Rater
    training: ClassVar[Mapping[str, Any]] = RaterSpec.training

    def build(self, sizes: Sizes) -> GNN:
        """A rater without embeddings and layers."""
        return Rater(sizes, 0, 0)
