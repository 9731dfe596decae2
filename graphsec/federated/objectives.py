"""What a party minimises in a round: squared errors, or the ranking loss, of a batch of its own."""

from __future__ import annotations

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


def batch_of(count: int, round: int, steps: int, rng: Rng) -> Tensor:
    """Which of ``count`` things a round takes; each is in one of an epoch's rounds."""
    order = rng["epoch"][round // steps].numpy().permutation(count)
    return torch.from_numpy(np.array_split(order, steps)[round % steps])


class Errors:
    """Σ (ŷ − y)² + λ Σ ‖e‖² over a batch of ratings."""

    def __init__(self, graph: Graph, protocol: Protocol, rng: Rng) -> None:
        self.pairs, self.y = rated_pairs(graph)
        self.protocol, self.rng = protocol, rng

    def loss(self, model: GNN, z: Tensor, round: int) -> Tensor:
        """Of the batch of this round."""
        batch = batch_of(len(self.y), round, self.protocol.steps, self.rng)
        decay = self.protocol.recipe.training.weight_decay
        return batch_loss(model, z, self.pairs[:, batch], self.y[batch], decay)


class Ranks:
    """Σ −ln σ(⟨user, taken⟩ − ⟨user, other⟩) + λ/2 Σ ‖e‖² over a batch of triples.

    Other items are the party's own: nobody knows what users took elsewhere.
    """

    def __init__(self, graph: Graph, protocol: Protocol, rng: Rng) -> None:
        self.triples = Triples(graph, protocol.recipe.training.triples)
        self.protocol, self.rng = protocol, rng

    def loss(self, model: GNN, z: Tensor, round: int) -> Tensor:
        """Of the batch of this round."""
        steps = self.protocol.steps
        drawn = self.triples.epoch(self.rng["triples"][round // steps].numpy())
        user, taken, other = torch.tensor_split(drawn, steps, dim=1)[round % steps]
        loss = F.softplus(model.decode(z, torch.stack([user, other]))
                          - model.decode(z, torch.stack([user, taken]))).sum()  # fmt: skip
        decay = self.protocol.recipe.training.weight_decay
        rows = model.embeddings()[torch.cat([user, taken, other])]
        return loss + decay / 2 * rows.square().sum()
