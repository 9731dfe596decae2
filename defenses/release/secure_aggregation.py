"""Secure aggregation: the server sees the sum over clients, and no client's own gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.graph import Graph
from graphsec.models.base import GNN
from graphsec.ops import Adj, Features
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace
from graphsec.train import fit as train_model


@DEFENSES.register("secure-aggregation")
@dataclass(frozen=True, kw_only=True)
class SecureAggregation(Defense):
    """Deals the training nodes to k clients; what leaves is the mean of the clients' gradients.

    The protocol is simulated by its outcome: a view holds the sum alone, and who has which root is
    public (root i of the training nodes in order is client i mod k's). Other parts of a composition
    are done by each client before the sum. Without any the sum of all clients' gradients is that
    of a batch: the protection is that of a batch of as many roots, and the server still knows of
    the sum all that it says. Servers that deviate from the protocol are not looked at.

    Source: Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning,
    CCS 2017 (its outcome; from memory).

    Attributes:
        clients: k.
    """

    clients: Annotated[int, Field(ge=2), Range(2, 100, log=True)] = 4

    def own_steps(self) -> str | None:
        """None: together the clients' roots are all training nodes."""
        return None

    def apart(self, roots: Tensor) -> list[Tensor] | None:
        """The roots of each client.

        Raises:
            ValueError: There are more clients than roots.
        """
        if len(roots) < self.clients:
            raise ValueError(
                f"secure-aggregation: clients must be at most {len(roots)}, the number of training "
                f"nodes, got {self.clients}"
            )
        return [torch.arange(i, len(roots), self.clients) for i in range(self.clients)]

    def train(
        self, model: GNN, graph: Graph, recipe: Recipe, rng: Rng, x: Tensor | Features, adj: Adj,
        on_epoch: OnEpoch | None = None, whole: Defense | None = None,
    ) -> Trace:  # fmt: skip
        """Full-batch steps on sums of what the clients release.

        Raises:
            ValueError: There are more clients than training nodes, or steps are not on all of them.
        """
        assert graph.split is not None
        return train_model(
            model, graph, recipe.training, rng, x=x, adj=adj.pruned(), on_epoch=on_epoch,
            release=(whole or self).release, clients=self.apart(graph.split.train),
        )  # fmt: skip
