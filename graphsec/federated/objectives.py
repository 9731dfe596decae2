"""What a party minimises in a round: squared errors, or the ranking loss, of a batch of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol as Interface

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graphsec.federated.protocol import Protocol
from graphsec.graph import Graph
from graphsec.models.base import GNN
from graphsec.ranking import Triples
from graphsec.rating import batch_loss, rated_pairs
from graphsec.rng import Rng


class Objective(Interface):
    """The loss of one round."""

    def loss(self, model: GNN, z: Tensor, round: int) -> Tensor:
        """A sum over the batch of the round, of embeddings (n, width)."""
        ...


def objective_of(graph: Graph, protocol: Protocol, rng: Rng) -> Objective:
    """What a party minimises on its graph."""
    return (Errors if protocol.task == "rating" else Ranks)(graph, protocol, rng)


class _Epoch:
    """What an epoch draws, drawn once: rounds come in order, and take a part each."""

    def __init__(self, protocol: Protocol, rng: Rng) -> None:
        self.steps, self.rng = protocol.steps, rng
        self.drawn: tuple[int, Tensor] | None = None

    def part(self, round: int, draw: Callable[[np.random.Generator], Tensor]) -> Tensor:
        """The part of a round, along the last dimension."""
        epoch, step = divmod(round, self.steps)
        if self.drawn is None or self.drawn[0] != epoch:
            self.drawn = epoch, draw(self.rng["epoch"][epoch].numpy())
        return torch.tensor_split(self.drawn[1], self.steps, dim=-1)[step]


class Errors:
    """Σ (ŷ − y)² + λ Σ ‖e‖² over a batch of ratings."""

    def __init__(self, graph: Graph, protocol: Protocol, rng: Rng) -> None:
        self.pairs, self.y = rated_pairs(graph)
        self.decay = protocol.recipe.training.weight_decay
        self.epoch = _Epoch(protocol, rng)

    def loss(self, model: GNN, z: Tensor, round: int) -> Tensor:
        """Of the batch of this round."""
        count = len(self.y)
        batch = self.epoch.part(round, lambda drawn: torch.from_numpy(drawn.permutation(count)))
        return batch_loss(model, z, self.pairs[:, batch], self.y[batch], self.decay)


class Ranks:
    """Σ −ln σ(⟨user, taken⟩ − ⟨user, other⟩) + λ/2 Σ ‖e‖² over a batch of triples.

    Other items are the party's own: nobody knows what users took elsewhere.
    """

    def __init__(self, graph: Graph, protocol: Protocol, rng: Rng) -> None:
        self.triples = Triples(graph, protocol.recipe.training.triples)
        self.decay = protocol.recipe.training.weight_decay
        self.epoch = _Epoch(protocol, rng)

    def loss(self, model: GNN, z: Tensor, round: int) -> Tensor:
        """Of the batch of this round."""
        user, taken, other = self.epoch.part(round, self.triples.epoch)
        loss = F.softplus(model.decode(z, torch.stack([user, other]))
                          - model.decode(z, torch.stack([user, taken]))).sum()  # fmt: skip
        rows = model.embeddings()[torch.cat([user, taken, other])]
        return loss + self.decay / 2 * rows.square().sum()
