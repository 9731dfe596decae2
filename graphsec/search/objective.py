"""What a search for edge flips works on: nodes, budgets, a loss, its gradient by pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphsec.graph import Graph
from graphsec.predict import Predictor
from graphsec.rng import Rng
from graphsec.search.pairs import Candidates, LossName, attack_loss, margins, strongest

# At that many pairs a dense attack on a GCN takes 2 GB (measured: up to 97 bytes a pair) and 4 s a
# gradient on one core.
DENSE_PAIRS = 20_000_000


@dataclass(frozen=True, eq=False)
class Found:
    """Flips, and how well a victim stands them.

    Attributes:
        score: (accuracy, mean tanh margin) of the targets; lower is a better attack.
        flips: (2, k), or whatever else the objective judges.
    """

    score: tuple[float, float]
    flips: Tensor


class Targets:
    """The attacked nodes of one graph, and the loss over them that is maximised.

    Attributes: ``graph``, ``nodes`` (those targets that have a label), ``y`` (their labels) and
    ``history``, the loss at each gradient so far.

    Args:
        graph: The clean graph, with labels.
        nodes: Target nodes.
        loss: What is maximised.
        alpha: Share of the tanh margin in the mixed losses.
    """

    def __init__(self, graph: Graph, nodes: Tensor, loss: LossName, alpha: float = 0.5) -> None:
        assert graph.y is not None
        self.graph, self.nodes = graph, nodes[graph.y[nodes] >= 0]
        self.y, self.history = graph.y[self.nodes], list[float]()
        self._loss, self._alpha = loss, alpha

    def derivative(self, logits: Tensor, by: Tensor) -> Tensor:
        """The loss of the targets' logits, differentiated; its value is noted in ``history``."""
        loss = attack_loss(self._loss, logits, self.y, self._alpha)
        (gradient,) = torch.autograd.grad(loss, by)
        self.history.append(float(loss.detach()))
        return gradient.nan_to_num(0.0)

    def score(self, logits: Tensor) -> tuple[float, float]:
        """Accuracy, and the mean tanh margin to break ties."""
        margin = margins(logits, self.y)
        return float((margin > 0).double().mean()), float(torch.tanh(margin).mean())


class Objective:
    """Edges of one graph as what may be flipped, with the budgets and the targets.

    Attributes: ``graph``, ``budget``, ``per_node`` ((n,) or None) and ``targets``.

    Args:
        graph: The clean graph, with features and labels.
        nodes: (k,) attacked nodes; those without a label don't count.
        budget: Most flips.
        per_node: (n,) most flips at each node, None without a limit.
        loss: What is maximised.
        alpha: Share of the tanh margin in a mixed loss.
        who: Who searches, for error messages.
    """

    def __init__(
        self, graph: Graph, nodes: Tensor, budget: int, per_node: Tensor | None = None,
        loss: LossName = "tanh_margin", alpha: float = 0.5, who: str = "search",
    ) -> None:  # fmt: skip
        self.graph, self.budget, self.per_node = graph, budget, per_node
        self._ends = None if per_node is None else (per_node > 0).nonzero().ravel()
        self._who = who
        if not self.possible:
            return
        assert graph.x is not None
        self._x = graph.x
        self.targets = Targets(graph, nodes, loss, alpha)

    @property
    def possible(self) -> bool:
        """Whether the budgets allow any flip."""
        return self.budget > 0 and (self._ends is None or len(self._ends) > 1)

    @property
    def history(self) -> list[float]:
        """The loss at each gradient so far."""
        return self.targets.history

    def score(self, logits: Tensor) -> tuple[float, float]:
        """Accuracy of the targets, and their mean tanh margin to break ties."""
        return self.targets.score(logits)

    def candidates(self, victim: Predictor, rng: Rng) -> Candidates:
        """Random pairs of nodes that have a budget."""
        return Candidates(self.graph, victim, self._ends, rng)

    def every_pair(self, victim: Predictor, rng: Rng) -> tuple[Candidates, np.ndarray]:
        """The sorted codes of all pairs that the node budgets allow, for dense attacks.

        Raises:
            ValueError: There are more than ``DENSE_PAIRS``.
        """
        candidates = self.candidates(victim, rng)
        if candidates.total > DENSE_PAIRS:
            raise ValueError(
                f"{self._who} holds every pair of nodes: num_nodes of "
                f"{self.graph.name!r} must give at most {DENSE_PAIRS:,} pairs, found "
                f"{self.graph.num_nodes:,} nodes with {candidates.total:,}; take 'prbcd' or 'grbcd'"
            )
        return candidates, candidates.every()

    def _logits(self, victim: Predictor, pairs: Tensor, weight: Tensor) -> Tensor:
        adj = self.graph.adj.with_block(pairs, weight, symmetric=not self.graph.directed)
        return victim.forward(self._x, adj, self.targets.nodes)

    def gradient(self, victim: Predictor, pairs: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """Derivative of the loss by how far each pair is flipped, and the targets' logits.

        Args:
            victim: Who is attacked.
            pairs: (2, B) candidate pairs.
            p: (B,) how far each is flipped now, 0 to 1.
        """
        weight = p.clone().requires_grad_()
        logits = self._logits(victim, pairs, weight)
        return self.targets.derivative(logits, weight), logits.detach()

    @torch.no_grad()
    def judge(self, victim: Predictor, flips: Tensor) -> Found:
        """What flips (2, k) do to the targets."""
        if flips.shape[1]:
            logits = self._logits(victim, flips, torch.ones(flips.shape[1]))
        else:
            logits = victim.forward(self._x, self.graph.adj, self.targets.nodes)
        return Found(self.score(logits), flips)

    def discrete(self, pairs: Tensor, p: Tensor) -> Tensor:
        """(2, k) the pairs of largest weight, as many as the budgets allow."""
        return pairs[:, strongest(pairs, p, self.budget, self.per_node)]

    def sample(
        self, victim: Predictor, pairs: Tensor, p: Tensor, count: int, best: Found, rng: Rng
    ) -> Found:
        """The best of ``count`` random discretisations; a draw beyond the budget is dropped."""
        generator = rng.torch()
        live = (p > 0).nonzero().ravel()
        for _ in range(count):
            drawn = live[torch.rand(len(live), generator=generator) < p[live]]
            if len(drawn) > self.budget:
                continue
            if self.per_node is not None:
                fitting = strongest(pairs[:, drawn], p[drawn], self.budget, self.per_node)
                drawn = drawn[fitting]
            best = min(best, self.judge(victim, pairs[:, drawn]), key=lambda one: one.score)
        return best

    def greedy(
        self,
        victim: Predictor,
        counts: Iterable[int],
        block: Callable[[np.ndarray], tuple[np.ndarray, Tensor]],
        tabu: bool = True,
    ) -> Found:
        """Flip the pairs of largest gradient, a few in each step; the best step counts.

        Flips made so far stand in the block at weight 1 and fresh pairs at 0, so that each step
        differentiates at the currently flipped graph, whose score comes with the gradient.
        A pair whose gradient is not positive is left alone.

        Args:
            victim: Who is attacked.
            counts: Flips in each step.
            block: From the sorted codes of all flips so far to sorted codes, these among them,
                and their pairs.
            tabu: Whether flips stay. If not, undoing one counts like a flip in its step.
        """
        flipped, flips = np.zeros(0, np.int64), torch.zeros((2, 0), dtype=torch.int64)
        best: Found | None = None
        for count in counts:
            codes, pairs = block(flipped)
            on = torch.zeros(len(codes), dtype=torch.bool)
            on[torch.from_numpy(np.searchsorted(codes, flipped))] = True
            gradient, logits = self.gradient(victim, pairs, on.to(torch.float32))
            now = Found(self.score(logits), flips)
            best = now if best is None else min(best, now, key=lambda one: one.score)
            gain = gradient.masked_fill(on, 0.0) if tabu else torch.where(on, -gradient, gradient)
            on[strongest(pairs, gain, count, self._left(flips))] ^= True
            flipped, flips = codes[on.numpy()], pairs[:, on]
        last = self.judge(victim, flips)
        return last if best is None else min(best, last, key=lambda one: one.score)

    def _left(self, flips: Tensor) -> Tensor | None:
        """(n,) what is left of the node budgets."""
        if self.per_node is None:
            return None
        return self.per_node - torch.bincount(flips.ravel(), minlength=self.graph.num_nodes)
