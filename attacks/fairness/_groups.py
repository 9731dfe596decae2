"""What attacks on fairness share: whom they count, and the surrogate that knows groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graphsec.attacks.base import Attack
from graphsec.graph import Graph
from graphsec.metrics import FairnessError
from graphsec.models.base import inputs
from graphsec.ops import dropout, linear, propagate
from graphsec.rng import Rng
from graphsec.threat import Access, View


@dataclass(frozen=True, kw_only=True)
class GroupAttack(Attack):
    """Base of attacks that widen the gap between groups, knowing the graph and not the victim."""

    tasks: ClassVar[tuple[str, ...]] = ("classification",)

    @property
    def needs(self) -> Access:
        """The graph with its groups, and what it is trained on; nothing of the victim."""
        return (
            Access.FEATURES | Access.EDGES | Access.TRAIN_LABELS | Access.SPLIT | Access.SENSITIVE
        )


def groups_of(view: View, who: str) -> Tensor:
    """(n,) group of each node, counted from 0.

    Raises:
        FairnessError: The graph has no groups, or one; labels other than 0 and 1, or none; a group
            has no target; or the graph is directed.
    """
    graph = view.known
    if graph.sensitive is None:
        raise FairnessError(
            f"attack {who!r} needs a sensitive attribute, found none in {graph.name!r}"
        )
    if graph.directed:
        raise FairnessError(f"attack {who!r} needs an undirected graph, {graph.name!r} is directed")
    found = [] if graph.y is None else torch.unique(graph.y[graph.y >= 0]).tolist()
    if found != [0, 1]:
        raise FairnessError(f"attack {who!r} needs labels 0 and 1, {graph.name!r} has {found}")
    group: Tensor
    values, group = torch.unique(graph.sensitive, return_inverse=True)
    counted = torch.unique(group[view.targets])
    if len(values) < 2 or len(counted) < len(values):
        raise FairnessError(
            f"attack {who!r} needs two groups or more, each with a target: {graph.name!r} has "
            f"{len(values)}, of which {len(counted)} are among the targets"
        )
    return group


@dataclass(frozen=True, eq=False)
class GroupSurrogate:
    """z = Ã² X θ + b with Ã row-normalised, trained on labels and on telling groups apart.

    Attributes:
        sent: (n,) X θ, float64.
        bias: b.
    """

    sent: np.ndarray
    bias: float

    def answers(self, graph: Graph) -> np.ndarray:
        """(n,) z on a graph."""
        adj = graph.adj.normalized("row", self_loops=True)
        h = torch.from_numpy(self.sent).unsqueeze(1)
        z: np.ndarray = propagate(adj, propagate(adj, h)).squeeze(1).numpy() + self.bias
        return z


def surrogate(
    graph: Graph, group: Tensor, rng: Rng, *, epochs: int, alpha: float, width: float = 0.1
) -> GroupSurrogate:
    """The linear surrogate of G-FairAttack.

    The loss is cross-entropy on training nodes plus α times the distance between the densities of
    the groups' answers: kernel estimates (Epanechnikov) on a grid in 0…1. Of more than two groups
    it is the distance between the largest and the smallest density at each point.

    Source: Zhang et al., Adversarial Attacks on Fairness of Graph Neural Networks, ICLR 2024, §3.2;
    dropout, step size and decay as published; a grid of 100 points, not 10,000.

    Args:
        graph: The known graph; labels −1 are not known.
        group: (n,) group of each node.
        rng: Stream of the start and of dropout.
        epochs: Steps of Adam.
        alpha: Weight of the distance.
        width: Width of the kernels.
    """
    assert graph.y is not None
    assert graph.split is not None
    x, adj = inputs(graph), graph.adj.normalized("row", self_loops=True)
    train = graph.split.train[graph.y[graph.split.train] >= 0]
    y, grid = graph.y[train].float(), torch.linspace(0, 1, 100)
    members = [group == value for value in range(int(group.max()) + 1)]
    with rng.scope():
        theta = torch.nn.init.xavier_uniform_(torch.empty(graph.num_features, 1)).requires_grad_()
        bias = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.Adam([theta, bias], lr=1e-3, weight_decay=1e-5)
        for _ in range(epochs):
            sent = linear(dropout(x, 0.5, training=True), theta)
            z = (propagate(adj, propagate(adj, sent)) + bias).squeeze(1)
            loss = F.binary_cross_entropy_with_logits(z[train], y)
            if alpha:
                densities = torch.stack([_density(z[m].sigmoid(), grid, width) for m in members])
                loss = loss + alpha * (densities.amax(0) - densities.amin(0)).mean()
            for leaf, gradient in zip(
                (theta, bias), torch.autograd.grad(loss, (theta, bias)), strict=True
            ):
                leaf.grad = gradient
            optimizer.step()
    learnt = linear(x, theta.detach()).double().squeeze(1)
    return GroupSurrogate(learnt.numpy(), float(bias.detach()))


def _density(p: Tensor, grid: Tensor, width: float) -> Tensor:
    """(points,) kernel estimate of the density of p (k,)."""
    away = (grid.unsqueeze(1) - p) / width
    return 0.75 * (1 - away.square()).clamp(min=0).mean(1) / width
