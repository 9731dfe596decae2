"""Random search by queries: the victim is only asked, and a change that helps is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.base import Attack
from graphsec.graph import Graph
from graphsec.outcome import Perturbation
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.search import margins, within
from graphsec.threat import Access, View


@ATTACKS.register("query-search")
@dataclass(frozen=True, kw_only=True)
class QuerySearch(Attack):
    """Exchanges some of the flips at random, asks the victim, and keeps what is no worse.

    Black box: the attacker sees answers about the targets, under edges of its own, and neither
    weights nor gradients nor features. A question asks about every target and counts as that many
    queries; the search ends after ``steps`` questions or when ``budget.queries`` allows no other.
    Without a single one nothing is flipped. Every flip is at a target; the number exchanged falls
    to one. What is asked is the victim with its defense, so that the attack adapts to any.

    Source: the random search of Andriushchenko et al., Square Attack, ECCV 2020, algorithm 1, on
    flips of edges; the setting is the practical black box of Dai et al., Adversarial Attack on
    Graph Structured Data, ICML 2018, §3, whose genetic algorithm is its kin.

    Attributes:
        feedback: What is seen of an answer: "scores" (logits; the mean tanh of margins is lowered)
            or "labels" (predicted classes; fewer right ones, and drift among equals).
        steps: Questions at most.
        exchange: Share of the flips that the first proposals exchange.
        delete: Share of the proposed flips that delete an edge of a target.
    """

    feedback: Literal["scores", "labels"] = "scores"
    steps: Annotated[int, Field(ge=1), Range(100, 10_000, log=True)] = 1_000
    exchange: Annotated[float, Field(gt=0, le=1), Range(0.05, 1)] = 0.5
    delete: Annotated[float, Field(ge=0, le=1), Range(0, 0.5)] = 0.1

    @property
    def needs(self) -> Access:
        """Answers on own edges, the edges, and the labels that shall be missed."""
        answers = Access.SCORES if self.feedback == "scores" else Access.LABELS
        return answers | Access.QUERY_INPUT | Access.EDGES | Access.TRUE_LABELS

    def run(self, view: View, rng: Rng) -> Perturbation:
        """The best flips that were asked about, and in ``info`` what each question found."""
        graph, budget = view.known, view.edge_budget
        assert graph.y is not None
        targets = view.targets[graph.y[view.targets] >= 0]
        left = view.queries_left
        questions = self.steps if left is None or len(targets) == 0 else left // len(targets)
        questions = min(questions, self.steps)
        if budget == 0 or len(targets) == 0 or questions < 2:  # one says only where one stands
            return Perturbation()
        proposals = Proposals(graph, targets, budget, view.node_budget, self.delete, rng)
        flips = torch.zeros((2, 0), dtype=torch.int64)
        lowest = self._ask(view, graph, targets)
        history = [lowest]
        for t in range(1, questions):
            count = max(1, round(self.exchange * budget * (1 - t / questions) ** 2))
            other = proposals.exchanged(flips, count)
            score = self._ask(view, graph.flip(other), targets)
            if score <= lowest:
                flips, lowest = other, score
            history.append(lowest)
        return Perturbation(flips=flips, info={"scores": history})

    def _ask(self, view: View, world: Graph, targets: Tensor) -> float:
        """How well the targets of a graph stand: lower is a better attack."""
        assert world.y is not None
        y = world.y[targets]
        if self.feedback == "labels":
            return float((view.labels(targets, adj=world.adj) == y).double().mean())
        return float(torch.tanh(margins(view.logits(targets, adj=world.adj), y)).mean())


class Proposals:
    """Draws flips at the targets within the budgets.

    Args:
        graph: The clean graph.
        targets: (k,) target nodes.
        budget: Most flips.
        per_node: (n,) most flips at each node, None without a limit.
        delete: Share of the draws that are edges of the targets.
        rng: Stream.
    """

    def __init__(
        self, graph: Graph, targets: Tensor, budget: int, per_node: Tensor | None, delete: float,
        rng: Rng,
    ) -> None:  # fmt: skip
        self._n, self._directed, self._budget = graph.num_nodes, graph.directed, budget
        self._targets, self._delete, self._generator = targets.numpy(), delete, rng.numpy()
        free = torch.full((self._n,), budget)
        self._per_node = free if per_node is None else per_node
        pairs = graph.pairs
        self._edges = pairs[:, torch.isin(pairs, targets).any(0)].numpy()

    def exchanged(self, flips: Tensor, count: int) -> Tensor:
        """(2, k) the flips without ``count`` random ones, filled up with fresh ones."""
        kept = self._generator.permutation(flips.shape[1])[: max(0, flips.shape[1] - count)]
        missing = self._budget - len(kept)
        pairs = np.concatenate([flips.numpy()[:, kept], self._fresh(2 * missing + 8)], axis=1)
        _, first = np.unique(pairs[0] * self._n + pairs[1], return_index=True)
        order = torch.from_numpy(np.sort(first))
        drawn = torch.from_numpy(pairs)
        return drawn[:, within(drawn, order, self._budget, self._per_node)]

    def _fresh(self, count: int) -> np.ndarray:
        """(2, ≤ count) pairs at random targets, some of them edges."""
        u = self._generator.choice(self._targets, count)
        drawn = np.stack([self._generator.integers(0, self._n, count), u])
        if self._edges.shape[1]:
            edges = self._edges[:, self._generator.integers(0, self._edges.shape[1], count)]
            drawn = np.where(self._generator.random(count) < self._delete, edges, drawn)
        drawn = drawn[:, drawn[0] != drawn[1]]
        return drawn if self._directed else np.sort(drawn, axis=0)
