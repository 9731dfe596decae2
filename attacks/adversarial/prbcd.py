"""PR-BCD: projected randomised block coordinate descent over edge flips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.base import Attack
from graphsec.graph import Graph
from graphsec.outcome import Perturbation
from graphsec.predict import Predictor
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.search import Candidates, LossName, attack_loss, margins, project, strongest
from graphsec.threat import Access, View


@dataclass(frozen=True, eq=False)
class _Best:
    """A discrete perturbation and how well the victim stands it (lower is a better attack)."""

    score: tuple[float, float]
    flips: Tensor
    codes: np.ndarray
    p: Tensor


@ATTACKS.register("prbcd", "pr-bcd")
@dataclass(frozen=True, kw_only=True)
class PRBCD(Attack):
    """Gradient ascent on a random block of candidate pairs, kept within the budget.

    The block is redrawn as the search goes on: pairs that stay at zero make room for fresh
    ones. Linear in edges and block. The victim itself is attacked; where it has a defense and
    the attacker knows it, the search also starts from the attack on an undefended twin, and the
    best of all is kept, so that an adaptive attack is never weaker than transfer.

    Source: Geisler et al., Robustness of Graph Neural Networks at Scale, NeurIPS 2021,
    algorithm 1; best iterate by discretised score as in torch_geometric's implementation.

    Attributes:
        loss: What is maximised over the target nodes.
        alpha: Share of the tanh margin in the mixed losses.
        steps: Gradient steps.
        fine_tune: Fraction of the steps at the end on the best block, without redrawing.
        block: Candidate pairs at a time.
        lr: Step size, in flips per node of the budget.
        check_every: Steps between two looks at the discretised iterate (each costs a forward pass).
        samples: Random discretisations tried at the end, beside the largest weights.
        restarts: Independent searches; the best counts.
        warm_start: Against a defended victim, also search from the transfer attack.
    """

    uses_edges = True

    loss: LossName = "tanh_margin"
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    steps: Annotated[int, Field(ge=1), Range(25, 500, log=True)] = 125
    fine_tune: Annotated[float, Field(ge=0, le=1), Range(0.1, 0.5)] = 0.2
    block: Annotated[int, Field(ge=1), Range(1e4, 1e6, log=True)] = 250_000
    lr: Annotated[float, Field(gt=0), Range(1e2, 1e4, log=True)] = 1_000.0
    check_every: Annotated[int, Field(ge=1)] = 1
    samples: Annotated[int, Field(ge=0, le=1000)] = 20
    restarts: Annotated[int, Field(ge=1, le=100)] = 1
    warm_start: bool = True

    @property
    def needs(self) -> Access:
        """The model, the graph, its labels, and a way to train the undefended twin."""
        return (
            Access.WEIGHTS | Access.RECIPE | Access.FEATURES | Access.EDGES
            | Access.TRUE_LABELS | Access.SPLIT
        )  # fmt: skip

    def run(self, view: View, rng: Rng) -> Perturbation:
        """Flips that lower the accuracy of the target nodes as far as the search gets."""
        budget = view.edge_budget
        if budget == 0:
            return Perturbation()
        victim = view.model()
        search = _Search(self, view, budget)
        found = [search.run(victim, rng["restart"][i]) for i in range(self.restarts)]
        if self.warm_start and view.defended:
            # The stream of an attacker who is not adaptive: this finds what that one finds.
            transfer = search.run(view.transfer(), rng["restart"][0])
            carried = search.judge(victim, transfer.codes, transfer.p, transfer.flips)
            found += [carried, search.run(victim, rng["warm"], start=transfer.flips)]
        best = min(found, key=lambda one: one.score)
        return Perturbation(
            flips=best.flips, info={"scores": [one.score for one in found], "loss": search.history}
        )


class _Search:
    """One victim after another on one graph, with one budget."""

    def __init__(self, attack: PRBCD, view: View, budget: int) -> None:
        self.attack, self.budget = attack, budget
        self.graph: Graph = view.known
        self.per_node = view.node_budget
        assert self.graph.y is not None
        assert self.graph.x is not None
        nodes = view.targets
        self.nodes = nodes[self.graph.y[nodes] >= 0]
        self.y = self.graph.y[self.nodes]
        self.x = self.graph.x
        self.history: list[float] = []

    def run(self, victim: Predictor, rng: Rng, start: Tensor | None = None) -> _Best:
        """Search against one victim, from nothing or from given flips."""
        attack = self.attack
        ends = None if self.per_node is None else (self.per_node > 0).nonzero().ravel()
        candidates = Candidates(self.graph, victim, ends, rng["block"])
        size = min(attack.block, candidates.total)
        codes, p = candidates.draw(size), None
        if start is not None:
            mine = candidates.codes(start)
            codes = np.union1d(mine, codes)
            p = torch.from_numpy(np.isin(codes, mine, assume_unique=True)).to(torch.float32)
        p = torch.zeros(len(codes)) if p is None else p
        best = self.judge(victim, codes, p, self._discrete(candidates.pairs(codes), p))
        explore = math.ceil(attack.steps * (1 - attack.fine_tune))
        for t in range(attack.steps):
            pairs = candidates.pairs(codes)
            p = self._step(victim, pairs, p, t - explore)
            flips = self._discrete(pairs, p)
            if t % attack.check_every == 0 or t in (explore - 1, attack.steps - 1):
                now = self.judge(victim, codes, p, flips)
                best = min(best, now, key=lambda one: one.score)
            if t < explore - 1:
                codes, p = self._redraw(candidates, codes, p, size)
            elif t == explore - 1:  # go back to the best block and refine it
                codes, p = best.codes, best.p
        return self._sample(victim, candidates, best, rng["sample"])

    def _step(self, victim: Predictor, pairs: Tensor, p: Tensor, since: int) -> Tensor:
        """One projected gradient step; the rate falls once the block stays."""
        attack, n = self.attack, self.graph.num_nodes
        weight = p.clone().requires_grad_()
        adj = self.graph.adj.with_block(pairs, weight, symmetric=not self.graph.directed)
        logits = victim.forward(self.x, adj)[self.nodes]
        loss = attack_loss(attack.loss, logits, self.y, attack.alpha)
        (gradient,) = torch.autograd.grad(loss, weight)
        self.history.append(float(loss.detach()))
        rate = self.budget / n * attack.lr / math.sqrt(max(0, since) + 1)
        return project(p + rate * gradient.nan_to_num(0.0), self.budget)

    def _discrete(self, pairs: Tensor, p: Tensor) -> Tensor:
        return pairs[:, strongest(pairs, p, self.budget, self.per_node)]

    @torch.no_grad()
    def judge(self, victim: Predictor, codes: np.ndarray, p: Tensor, flips: Tensor) -> _Best:
        """Accuracy of the targets on the flipped graph; ties are broken by the mean margin."""
        adj = self.graph.adj
        if flips.shape[1]:
            ones = torch.ones(flips.shape[1])
            adj = adj.with_block(flips, ones, symmetric=not self.graph.directed)
        margin = margins(victim.forward(self.x, adj)[self.nodes], self.y)
        score = (float((margin > 0).double().mean()), float(torch.tanh(margin).mean()))
        return _Best(score, flips, codes, p)

    def _redraw(
        self, candidates: Candidates, codes: np.ndarray, p: Tensor, size: int
    ) -> tuple[np.ndarray, Tensor]:
        """Keep the pairs that have weight (at most half of the block), refill with fresh ones."""
        keep = (p > 0).nonzero().ravel()
        if len(keep) > size // 2:
            keep = keep[torch.topk(p[keep], size // 2).indices].sort().values
        old = codes[keep.numpy()]
        fresh = candidates.draw(size - len(old), old)
        # Both lists are sorted: merge them by where the old ones fall among the fresh.
        place = np.searchsorted(fresh, old) + np.arange(len(old))
        merged = np.empty(len(old) + len(fresh), np.int64)
        weight = torch.zeros(len(merged))
        mine = np.zeros(len(merged), bool)
        mine[place] = True
        merged[mine], merged[~mine] = old, fresh
        weight[torch.from_numpy(place)] = p[keep]
        return merged, weight

    def _sample(self, victim: Predictor, candidates: Candidates, best: _Best, rng: Rng) -> _Best:
        """Random discretisations of the best weights; a draw beyond the budget is thrown away."""
        generator = rng.torch()
        pairs = candidates.pairs(best.codes)
        live = (best.p > 0).nonzero().ravel()
        for _ in range(self.attack.samples):
            drawn = live[torch.rand(len(live), generator=generator) < best.p[live]]
            if len(drawn) > self.budget:
                continue
            if self.per_node is not None:
                drawn = strongest(pairs[:, drawn], best.p[drawn], self.budget, self.per_node)
            now = self.judge(victim, best.codes, best.p, pairs[:, drawn])
            best = min(best, now, key=lambda one: one.score)
        return best
