"""Answers about whole graphs: how they are read off their nodes, and what training does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from graphsec.graph import Graph
from graphsec.models.base import GNN
from graphsec.ops import Adj, Features
from graphsec.rng import Rng

if TYPE_CHECKING:
    from graphsec.train import Training

Readout = Literal["mean", "sum"]


def pooled(logits: Tensor, graph_id: Tensor, how: Readout) -> Tensor:
    """(graphs, classes) mean or sum of the logits (n, classes) of each graph's nodes."""
    count = torch.bincount(graph_id)
    total = logits.new_zeros(len(count), logits.shape[1]).index_add(0, graph_id, logits)
    return total / count.unsqueeze(1).clamp(min=1) if how == "mean" else total


def graph_labels(graph: Graph) -> Tensor:
    """(graphs,) the label of each graph in a set."""
    assert graph.y is not None
    assert graph.graph_id is not None
    labels = graph.y.new_full((int(graph.graph_id.max()) + 1,), -1)
    return labels.index_copy(0, graph.graph_id, graph.y)


class Graphs:
    """The objective of graph classification: mean cross-entropy over whole graphs, all at once."""

    def __init__(
        self, model: GNN, graph: Graph, training: Training, x: Tensor | Features, adj: Adj
    ) -> None:
        for field in ("batch_size", "sampler"):
            value = getattr(training, field)
            if value is not None:
                raise ValueError(
                    f"training.{field} must be None for task 'graph': a step is on whole graphs, "
                    f"got {value!r}"
                )
        assert graph.graph_id is not None
        assert graph.split is not None
        self.model, self.training, self.x, self.adj = model, training, x, adj
        self.owner, self.y = graph.graph_id, graph_labels(graph)
        self.train = torch.unique(self.owner[graph.split.train])
        self.val = torch.unique(self.owner[graph.split.val])

    def _loss(self, graphs: Tensor) -> tuple[Tensor, Tensor]:
        logits = pooled(self.model(self.x, self.adj), self.owner, self.training.readout)[graphs]
        return logits, F.cross_entropy(logits, self.y[graphs], ignore_index=-1)

    def losses(self, rng: Rng) -> Iterator[tuple[int, Tensor]]:
        """(graphs, loss) of the one step of an epoch."""
        _, loss = self._loss(self.train)
        penalty = self.model.penalty(self.x, self.adj)
        yield len(self.train), loss if penalty is None else loss + penalty

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss and accuracy on the validation graphs; nothing without any."""
        if len(self.val) == 0:
            return {}
        self.model.eval()
        logits, loss = self._loss(self.val)
        right = (logits.argmax(1) == self.y[self.val]).float().mean()
        return {"val_loss": float(loss), "val_accuracy": float(right)}

    def settle(self) -> None:
        """Nothing is left open."""
