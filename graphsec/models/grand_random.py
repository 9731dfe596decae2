"""Graph random neural network (Feng et al., NeurIPS 2020); not graph neural diffusion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.models.base import GNN, Capabilities, ModelSpec, Sizes
from graphsec.models.stack import biases, weights
from graphsec.ops import Adj, Features, dropout, linear
from graphsec.registry import MODELS, Range


class GRANDRandom(GNN):
    """A perceptron on X̄ = 1 / (K + 1) · Σ_k Â^k X, trained to say one thing under many X.

    A step of training draws several views, in each of which whole nodes lose their features
    (DropNode) before the propagation. The logits that it returns are the mean log-probabilities of
    the views, and ``penalty`` asks the views to agree with their sharpened mean on all nodes. In
    evaluation the first linear map goes before the propagation: the same numbers, and cheap.
    """

    # Only the mean over views is one logit a class and node, and the views need all nodes.
    capabilities = Capabilities(tasks=("classification",), sampled=False, per_sample=False)

    def __init__(self, sizes: Sizes, spec: GRANDRandomSpec) -> None:
        super().__init__(None)
        self.spec = spec
        width = [sizes.features, spec.hidden, sizes.outputs]
        self.weight = weights(width)
        self.bias = biases(width[1:])
        self._views: Tensor | None = None

    def operator(self, adj: Adj) -> Adj:
        """Â, with the degrees of the weighted graph."""
        return adj.normalized("sym", self_loops=True)

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """(n, hidden) of the perceptron, and the logits (n, classes)."""
        h = torch.relu(self._mixed(linear(x, self.weight[0]), self.operator(adj)) + self.bias[0])
        return [h, h @ self.weight[1] + self.bias[1]]

    def forward(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """Logits (n, classes); in training mean log-probabilities over the views."""
        if not self.training:
            return self.hidden(x, adj)[-1]
        operator = self.operator(adj)
        dense = x if isinstance(x, Tensor) and x.layout == torch.strided else x.to_dense()
        views = torch.stack([self._view(dense, operator) for _ in range(self.spec.views)])
        self._views = views.log_softmax(-1)
        return self._views.mean(0)

    def penalty(self, x: Tensor | Features, adj: Adj) -> Tensor | None:
        """λ · mean squared distance of the views' answers from their sharpened mean."""
        if self._views is None:
            return None
        answers, self._views = self._views.exp(), None
        sharp = answers.detach().mean(0).pow(1 / self.spec.temperature)
        sharp = sharp / sharp.sum(-1, keepdim=True)
        return (answers - sharp).square().sum(-1).mean().mul(self.spec.consistency)

    def _view(self, x: Tensor, operator: Adj) -> Tensor:
        """Logits with other nodes left out each time."""
        spec = self.spec
        kept = F.dropout(x.new_ones(len(x), 1), spec.drop_nodes, self.training)
        mixed = dropout(self._mixed(x * kept, operator), spec.input_dropout, self.training)
        h = torch.relu(linear(mixed, self.weight[0]) + self.bias[0])
        answer: Tensor = linear(dropout(h, spec.dropout, self.training), self.weight[1])
        return answer.add(self.bias[1])

    def _mixed(self, h: Tensor, operator: Adj) -> Tensor:
        """Mean of h and of what K steps of propagation make of it."""
        total = h
        for _ in range(self.spec.hops):
            h = self.aggregate(operator, h)
            total = total + h
        return total / (self.spec.hops + 1)


@MODELS.register("grand-random")
@dataclass(frozen=True, kw_only=True)
class GRANDRandomSpec(ModelSpec):
    """GRAND, the graph random neural network; the defaults are the paper's for Cora.

    A step takes views · hops products of the whole dense feature matrix: some ten times a GCN's.

    Source: Feng et al., Graph Random Neural Networks for Semi-Supervised Learning on Graphs,
    NeurIPS 2020, §3 and its appendix on hyperparameters. Theirs has the mean of the views'
    cross-entropies; here it is the cross-entropy of their geometric mean, which is at most that.

    Attributes:
        hidden: Width of the perceptron's one hidden layer.
        hops: K, the highest power of the propagation.
        views: S, draws of left-out nodes in a step.
        drop_nodes: δ, probability that a node loses its features.
        temperature: T of the sharpening; smaller is sharper.
        consistency: λ, weight of the views' agreement.
        input_dropout: Dropout on the propagated features.
        dropout: Dropout on the hidden layer.
    """

    module: ClassVar[type[GNN]] = GRANDRandom
    training: ClassVar[Mapping[str, Any]] = {
        "epochs": 1000, "weight_decay": 5e-4, "patience": 200, "select": "loss",
    }  # fmt: skip

    hidden: Annotated[int, Field(ge=1, le=8192), Range(8, 256, log=True)] = 32
    hops: Annotated[int, Field(ge=0, le=64), Range(2, 10)] = 8
    views: Annotated[int, Field(ge=1, le=32), Range(2, 6)] = 4
    drop_nodes: Annotated[float, Field(ge=0, lt=1), Range(0, 0.8)] = 0.5
    temperature: Annotated[float, Field(gt=0, le=1), Range(0.1, 1)] = 0.5
    consistency: Annotated[float, Field(ge=0), Range(0.1, 2)] = 1.0
    input_dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.5
    dropout: Annotated[float, Field(ge=0, lt=1), Range(0, 0.9)] = 0.5

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised model."""
        return GRANDRandom(sizes, self)
