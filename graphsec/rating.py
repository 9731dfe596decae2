"""Learning to predict ratings: the squared error over batches of rated pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphsec.graph import Graph
from graphsec.metrics import rmse
from graphsec.models.base import GNN
from graphsec.ops import Adj, Features
from graphsec.rng import Rng

if TYPE_CHECKING:
    from graphsec.train import Training


def rated_pairs(graph: Graph) -> tuple[Tensor, Tensor]:
    """(2, m) training pairs of user and item node, and their ratings (m,).

    Raises:
        ValueError: The graph has none.
    """
    if graph.edge_y is None or graph.num_edges == 0:
        raise ValueError(f"edge_y is missing in {graph.name!r}: rating models need ratings")
    row, col = graph.edge_index
    once = row < col  # users come first
    return graph.edge_index[:, once], graph.edge_y[once].float()


def batch_loss(model: GNN, z: Tensor, pairs: Tensor, y: Tensor, weight_decay: float) -> Tensor:
    """Σ (ŷ − y)² + λ Σ ‖e‖² over a batch, the penalty on the initial rows of its users and items.

    A node is penalised as often as the batch holds it, so that the penalty, like the error, grows
    with its ratings (Koren, Bell & Volinsky, Computer 2009, eqs. 2 and 5).

    Args:
        model: Gives the scores of pairs, and the rows that are penalised.
        z: (n, width) embeddings.
        pairs: (2, B) users and items.
        y: (B,) ratings.
        weight_decay: λ.
    """
    loss = (model.decode(z, pairs) - y).square().sum()
    if weight_decay:
        count = torch.bincount(pairs.ravel(), minlength=len(z)).to(z.dtype)
        loss = loss + weight_decay * (model.embeddings().square().sum(1) @ count)
    return loss


class SquaredError:
    """The rating objective of one training: the sum of squares over batches of training pairs."""

    def __init__(
        self, model: GNN, graph: Graph, training: Training, x: Tensor | Features, adj: Adj
    ) -> None:
        self.model, self.graph, self.training, self.x, self.adj = model, graph, training, x, adj
        self.pairs, self.y = rated_pairs(graph)

    def losses(self, rng: Rng) -> Iterator[tuple[int, Tensor]]:
        """(ratings, loss) of each step of an epoch, in which each rating is taken once."""
        order = torch.randperm(len(self.y), generator=rng.torch()).to(self.y.device)
        for batch in torch.split(order, self.training.batch_size or len(order)):
            z = self.model(self.x, self.adj)
            decay = self.training.weight_decay
            yield len(batch), batch_loss(self.model, z, self.pairs[:, batch], self.y[batch], decay)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """RMSE on the held-out validation pairs; nothing without any."""
        holdout = self.graph.holdout
        if holdout is None or holdout.val_y is None or not len(holdout.val_y):
            return {}
        self.model.eval()
        predicted = self.model.decode(self.model(self.x, self.adj), holdout.val)
        return {"val_loss": rmse(predicted, holdout.val_y)}

    def settle(self) -> None:
        """Rating leaves nothing open."""
