"""Edges with weights from 0 to 1, and the loss of a surrogate trained on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphsec.attacks.adversarial._search import Found, Objective
from graphsec.attacks.poisoning._meta import MetaAttack
from graphsec.graph import Graph
from graphsec.predict import Predictor
from graphsec.rng import Rng
from graphsec.search import Candidates
from graphsec.threat import View

NOBODY: Any = None  # searches are handed a victim: here none is asked


class MetaObjective(Objective):
    """Edges as what may be flipped, judged by the attack loss after training; no victim is asked.

    Every gradient is that of a training from other first weights, scaled so that the largest is
    1; flips are judged by the mean loss of a few trainings whose first weights are always the same.

    Args:
        attack: The surrogate, its training and the loss.
        view: The attacker's view.
        rng: Stream of labels and first weights.
        trainings: Trainings that judge flips.
        dense: Whether the pairs are all pairs, whose derivatives cost less at once than one by one.
    """

    def __init__(
        self, attack: MetaAttack, view: View, rng: Rng, trainings: int, *, dense: bool
    ) -> None:
        self.graph, self.budget, self.per_node = view.known, view.edge_budget, view.node_budget
        self._ends = None if self.per_node is None else (self.per_node > 0).nonzero().ravel()
        self._who, self._rng = f"attack {attack.name!r}", rng
        self._trainings, self._dense = trainings, dense
        self._losses: list[float] = []
        if self.possible:
            self._meta = attack.gradient(view, rng["labels"], dense=dense)
            self._weight = weight_of_edges(self.graph)

    @property
    def history(self) -> list[float]:
        """The loss at each gradient so far."""
        return self._losses

    def candidates(self, victim: Predictor | None, rng: Rng) -> Candidates:
        """Random pairs of nodes that have a budget."""
        return Candidates(self.graph, None, self._ends, rng)

    def gradient(self, victim: Predictor | None, pairs: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """Derivative of the loss by how far each pair is flipped, the largest at 1; no logits."""
        stream = self._rng["init"][len(self._losses)]
        if self._dense:
            live = (p > 0).nonzero().ravel()
            loss, every = self._meta(self.graph.adj.with_block(pairs[:, live], p[live]), stream)
            u, v = pairs
            gradient = every[u, v] * self._change(pairs)
        else:
            loss, gradient = self._meta.at_pairs(self.graph.adj, pairs, p, stream)
        self._losses.append(loss)
        largest = gradient.abs().max().clamp(min=torch.finfo(gradient.dtype).tiny)
        return gradient / largest, p.new_zeros(0)

    def judge(self, victim: Predictor | None, flips: Tensor) -> Found:
        """Minus the mean loss after training on flips (2, k)."""
        adj = self.graph.adj.with_block(flips, torch.ones(flips.shape[1]))
        streams = [self._rng["judge"][i] for i in range(self._trainings)]
        losses = [self._meta.loss(adj, stream) for stream in streams]
        return Found((-sum(losses) / len(losses), 0.0), flips)

    def _change(self, pairs: Tensor) -> Tensor:
        """(B,) what a whole flip adds to the weight of each pair."""
        entry = self.graph.adj.csr.find(pairs[0], pairs[1])
        return torch.where(entry >= 0, -self._weight[entry], 1.0)


def weight_of_edges(graph: Graph) -> Tensor:
    """(E + 1,) weights of the stored edges, and one more for those that are none."""
    ones = torch.ones(len(graph.indices)) if graph.edge_weight is None else graph.edge_weight
    return torch.cat([ones, ones.new_zeros(1)])
