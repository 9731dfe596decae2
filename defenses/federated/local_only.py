"""Parties that share nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.defenses.federated._vertical import VerticalDefense
from graphsec.federated import Vertical, part_of
from graphsec.graph import Graph
from graphsec.models.base import GNN
from graphsec.ops import Adj, Features
from graphsec.registry import DEFENSES
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace
from graphsec.train import fit as train_model


@DEFENSES.register("local-only")
@dataclass(frozen=True, kw_only=True)
class LocalOnly(VerticalDefense):
    """Each party trains a model of its own on its own items, users' embeddings and all.

    What federation has to beat: nothing leaves a party, and nothing is learned from others.

    Source: a baseline of Mai & Pang, Vertical Federated Graph Neural Network for Recommender
    System, ICML 2023.
    """

    @property
    def settings(self) -> dict[str, Any]:
        """Nothing is exchanged."""
        return {"exchange": False, "noise": "none"}

    def train(
        self, model: GNN, graph: Graph, recipe: Recipe, rng: Rng, x: Tensor | Features, adj: Adj,
        on_epoch: OnEpoch | None = None, whole: Defense | None = None,
    ) -> Trace:  # fmt: skip
        """Train every party's model; a party's batch is its share of the whole one."""
        assert isinstance(model, Vertical)
        steps, trace = self.protocol(graph, recipe).steps, Trace()
        for index, part in enumerate(model.parts):
            own = part_of(graph, model.nodes(index))
            batch = max(1, -(-own.num_edges // steps))
            training = replace(self.training(recipe), batch_size=batch)
            assert isinstance(part, GNN)
            trace = train_model(part, own, training, rng["party"][index])
        return trace
