"""What every model of the zoo is, and how one is built."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from graphsec.graph import Graph
from graphsec.ops import Adj, Features, propagate
from graphsec.registry import MODELS, Component

Aggregate = Callable[[Adj, Tensor], Tensor]


@dataclass(frozen=True)
class Sizes:
    """What a model must know of a graph: nodes, features, outputs, and how many nodes are users."""

    nodes: int
    features: int
    outputs: int
    users: int = 0

    @staticmethod
    def of(graph: Graph) -> Sizes:
        """Sizes of a graph; one output per class, or one for regression.

        Raises:
            ValueError: The graph has no features, and its task is not ranking or rating.
        """
        inputs(graph)
        outputs = max(graph.num_classes, 1)
        return Sizes(graph.num_nodes, graph.num_features, outputs, graph.num_users)


def inputs(graph: Graph) -> Tensor:
    """What a model takes as features: ``x``, or (n, 0) in ranking and rating graphs without any.

    Raises:
        ValueError: The graph has no features, and its task is not ranking or rating.
    """
    if graph.x is not None:
        return graph.x
    if graph.task in ("ranking", "rating"):
        return torch.zeros(graph.num_nodes, 0, device=graph.indptr.device)
    raise ValueError(
        f"x is missing in {graph.name!r}: this model needs features; "
        "degree or identity features can be set with graph.replace(x=…)"
    )


@dataclass(frozen=True)
class Capabilities:
    """What a model supports, as far as it matters before running.

    Attributes:
        tasks: Tasks of the graphs it can be trained on.
        uses_edges: Looks at the graph at all.
        edge_weight: Honours edge weights, with 0 meaning absent.
        sampled: Runs on sampled hops.
        alone: Answers about some nodes at less cost than about all (``at``), so that it trains in
            batches without sampled hops.
        batch_statistics: Mixes nodes through normalisation (excluded from private training).
        stochastic: Predicts at random even in evaluation mode.
        per_sample: Gives one gradient a node through ``torch.func.vmap(grad)``.
        second_order: Gradients can be differentiated again, in parameters and edge weights.
    """

    tasks: tuple[str, ...] = ("classification", "regression", "graph")
    uses_edges: bool = True
    edge_weight: bool = True
    sampled: bool = True
    alone: bool = False
    batch_statistics: bool = False
    stochastic: bool = False
    per_sample: bool = True
    second_order: bool = True

    def describe(self) -> str:
        """What is supported, and what to beware of, in one line."""
        words = {
            "ranking": "ranking" in self.tasks,
            "rating": "rating" in self.tasks,
            "edges": self.uses_edges,
            "edge weights": self.uses_edges and self.edge_weight,
            "sampling": self.sampled,
            "nodes alone": self.alone,
            "per-sample gradients": self.per_sample,
            "second order": self.second_order,
            "(batch statistics)": self.batch_statistics,
            "(stochastic)": self.stochastic,
        }
        return ", ".join(word for word, true in words.items() if true)


class GNN(nn.Module):
    """A layered graph neural network; holds parameters and never a graph.

    Attributes:
        layers: Number of hops; None where there is no fixed number.
        aggregate: How a layer gathers neighbours; replaceable, so that robust aggregation is
            not another model.
        capabilities: What the class supports.
        secrets: Names of buffers that only the trainer has, whoever has the parameters.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    secrets: ClassVar[tuple[str, ...]] = ()
    layers: int | None
    aggregate: Aggregate

    def __init__(self, layers: int | None) -> None:
        super().__init__()
        self.layers = layers
        self.aggregate = propagate

    def operator(self, adj: Adj) -> Adj:
        """The operator that the layers propagate with, made from the plain adjacency once."""
        return adj

    def encode(self, x: Tensor | Features) -> Tensor | Features:
        """What the layers start from and look back at: the features, or a first map of them."""
        return x

    def layer(self, i: int, h: Tensor | Features, adj: Adj, x: Tensor | Features) -> Tensor:
        """Output of layer i.

        Args:
            i: Layer, 0 … layers − 1.
            h: (cols, width) input of the layer; ``x`` itself for layer 0.
            adj: The layer's operator, from ``operator(adj).hop(i)``.
            x: ``encode`` of the features, for models that look back at it; the layer's receiving
                nodes are its first rows.

        Returns:
            (rows, width) of the next layer; logits for the last.
        """
        raise NotImplementedError

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """Outputs of all layers, the logits last."""
        if self.layers is None:
            raise NotImplementedError(f"{type(self).__name__} has no fixed layers")
        operator = self.operator(adj)
        h = x = self.encode(x)
        states: list[Tensor] = []
        for i in range(self.layers):
            h = self.layer(i, h, operator.hop(i), x)
            states.append(h)
        return states

    def forward(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """Logits (n, classes), or embeddings for ranking."""
        return self.hidden(x, adj)[-1]

    def at(self, x: Tensor | Features, adj: Adj, nodes: Tensor) -> Tensor:
        """Logits (k, classes) of ``nodes`` alone."""
        out: Tensor = self(x, adj)[nodes]
        return out

    def public(self) -> GNN:
        """This model without what its training drew in secret (noise that answers are under)."""
        return self

    def embeddings(self) -> Tensor:
        """(n, width) what the first layer of a ranking model starts from; ranking penalises it."""
        raise NotImplementedError(f"{type(self).__name__} starts from features")

    def decode(self, z: Tensor, pairs: Tensor) -> Tensor:
        """Scores of node pairs (2, k) from embeddings: inner products."""
        return (z[pairs[0]] * z[pairs[1]]).sum(-1)

    def first_parameters(self) -> list[nn.Parameter]:
        """Parameters of the first layer, for recipes that decay only those."""
        return [p for name, p in self.named_parameters() if ".0" in name]

    def groups(self, weight_decay: float, decay: str) -> list[dict[str, Any]]:
        """Parameter groups of the optimiser; a model overrides it where its paper has several.

        Args:
            weight_decay: L2 penalty.
            decay: "all" parameters, or the "first" layer's only.
        """
        if decay == "all":
            return [{"params": list(self.parameters()), "weight_decay": weight_decay}]
        first = {id(p) for p in self.first_parameters()}
        inner = [p for p in self.parameters() if id(p) in first]
        outer = [p for p in self.parameters() if id(p) not in first]
        return [
            {"params": inner, "weight_decay": weight_decay},
            {"params": outer, "weight_decay": 0.0},
        ]

    def penalty(self, x: Tensor | Features, adj: Adj) -> Tensor | None:
        """What training adds to its loss on a batch; None adds nothing."""
        return None

    def settle(self, x: Tensor | Features, adj: Adj, y: Tensor, nodes: Tensor) -> None:
        """Choose on validation nodes what training left open (when to stop integrating, say).

        Called in evaluation mode: whenever the validation nodes are looked at, and once after
        training. What is chosen belongs into a buffer, so that it is saved, and kept by early
        stopping, with the parameters.

        Args:
            x: Features that the model was trained on.
            adj: Adjacency that the model was trained on.
            y: (n,) labels.
            nodes: (k,) validation nodes: the only ones whose labels may be looked at.
        """


class Wrapper(GNN):
    """A model around another one, which it shows another graph: what a defense hardens it to.

    Attributes:
        base: The model inside.
    """

    def __init__(self, base: GNN, layers: int | None = None) -> None:
        super().__init__(layers)
        self.base = base

    def public(self) -> GNN:
        """This model around the base model without its secrets."""
        base = self.base.public()
        if base is self.base:
            return self
        other = copy.copy(self)
        other._modules = {**self._modules, "base": base}
        return other

    def seen(self, adj: Adj) -> Adj:
        """The adjacency that the base model settles on and is penalised for."""
        return adj

    @property
    def aggregate(self) -> Aggregate:
        """How the base model gathers neighbours."""
        return self.base.aggregate

    @aggregate.setter
    def aggregate(self, aggregate: Aggregate) -> None:
        if hasattr(self, "base"):  # the constructor of all models sets it first
            self.base.aggregate = aggregate

    def groups(self, weight_decay: float, decay: str) -> list[dict[str, Any]]:
        """The base model's parameter groups."""
        return self.base.groups(weight_decay, decay)

    def penalty(self, x: Tensor | Features, adj: Adj) -> Tensor | None:
        """The base model's penalty."""
        return self.base.penalty(x, self.seen(adj))

    def settle(self, x: Tensor | Features, adj: Adj, y: Tensor, nodes: Tensor) -> None:
        """What the base model chooses."""
        self.base.settle(x, self.seen(adj), y, nodes)


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Component):
    """Hyperparameters of a model; ``build`` makes the module.

    Attributes:
        module: The module's class, for its capabilities.
        training: Fields of ``train.Training`` in which the model's recipe differs.
    """

    kind: ClassVar[str] = "model"
    module: ClassVar[type[GNN]]
    training: ClassVar[Mapping[str, Any]] = {}

    def build(self, sizes: Sizes) -> GNN:
        """A freshly initialised module for a graph of these sizes."""
        raise NotImplementedError


def glorot(rows: int, cols: int) -> nn.Parameter:
    """Glorot-uniform weight matrix (Glorot & Bengio 2010, eq. 16)."""
    weight = torch.empty(rows, cols)
    nn.init.xavier_uniform_(weight)
    return nn.Parameter(weight)


def build(spec: str | Mapping[str, Any] | ModelSpec, graph: Graph) -> GNN:
    """A freshly initialised model for a graph, which shows its numbers of nodes and classes."""
    made: ModelSpec = MODELS.build(spec)
    return made.build(Sizes.of(graph))
