"""G-FairAttack: flips that widen the gap between groups and leave the loss where it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.fairness._groups import GroupAttack, groups_of, surrogate
from graphsec.graph import Graph
from graphsec.ops.flips import TwoHop, largest_sums
from graphsec.outcome import Perturbation
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.threat import View


@ATTACKS.register("g-fairattack")
@dataclass(frozen=True, kw_only=True)
class GFairAttack(GroupAttack):
    """Flips one edge after another: the one that widens a surrogate's gap most for its loss.

    The surrogate (``surrogate``) is linear, and what any flip does to its gap, ΔF, and to its
    training loss, ΔL, is exact and costs no pass over the graph (``TwoHop``). Each step makes the
    flip with the largest ΔF − |⟨ΔF, ΔL⟩ / ⟨ΔL, ΔL⟩ · ΔL|, the part of the gain that the loss does
    not tell of, among those that keep the loss within ``tolerance`` of where it began. No pair is
    flipped twice; the widest gap on the way counts. The victim is never asked: a defense is not
    adapted to.

    Exact scoring looks at every pair for every flip. Where there are more than ``candidates``
    pairs, those are looked at whose ends have most answers near 0 around them (pre-screening).

    Source: Zhang et al., Adversarial Attacks on Fairness of Graph Neural Networks, ICLR 2024,
    algorithm 1 (5 % of edges, 5 % of loss).

    Attributes:
        alpha: Weight of the surrogate's distance between groups; published with 1, under which ours
            hardly tells anything apart.
        epochs: Training steps of the surrogate.
        threshold: The surrogate answers 1 from logit "zero" on, as published, or from where on it
            does so as often as training labels are 1 ("rate"): trained to tell no groups apart it
            may answer always the same, and then no flip changes anything.
        temperature: Of the surrogate's answers, in standard deviations of its logits on the
            targets. 0 counts answers of 0 or 1, as published: then the search ends where no single
            flip turns one. Above, flips count that bring answers nearer to turning.
        tolerance: Largest change of the surrogate's training loss, as a share of it.
        candidates: Most pairs scored for each flip; None scores all.
    """

    alpha: Annotated[float, Field(ge=0), Range(0.01, 1, log=True)] = 0.1
    epochs: Annotated[int, Field(ge=1), Range(100, 2000, log=True)] = 2000
    threshold: Literal["zero", "rate"] = "rate"
    temperature: Annotated[float, Field(ge=0, le=10), Range(0.01, 1, log=True)] = 0.1
    tolerance: Annotated[float, Field(gt=0), Range(0.01, 0.2, log=True)] = 0.05
    candidates: Annotated[int, Field(ge=1)] | None = 100_000

    def run(self, view: View, rng: Rng) -> Perturbation:
        """The flips up to the widest gap.

        Raises:
            FairnessError: Gaps between groups can't be measured on this graph.
        """
        graph, budget, limit = view.known, view.edge_budget, view.node_budget
        group = groups_of(view, self.name)
        if budget == 0:
            return Perturbation()
        made = surrogate(graph, group, rng["surrogate"], epochs=self.epochs, alpha=self.alpha)
        y, counted = _trained(graph), _counted(group, view.targets)
        z, cut = made.answers(graph)[counted >= 0], 0.0
        if self.threshold == "rate":  # as many answers 1 as training labels are 1
            cut = float(np.quantile(z, 1 - np.nanmean(y)))
        heat = self.temperature * float(z.std())
        state = TwoHop(graph.to_scipy(), made.sent, made.bias, y, counted, cut, heat)
        left = np.full(graph.num_nodes, budget) if limit is None else limit.numpy().copy()
        return self._greedy(state, budget, left)

    def _greedy(self, state: TwoHop, budget: int, left: np.ndarray) -> Perturbation:
        start, gaps, flips, best = state.loss, [state.hard_gap], list[np.ndarray](), 0
        n, taken = len(left), np.zeros(0, np.int64)
        every = self.candidates is None or n * (n - 1) // 2 <= self.candidates
        pairs = np.stack(np.triu_indices(n, 1)) if every else None
        for _ in range(budget):
            among = pairs if pairs is not None else self._screened(state)
            codes = among[0] * n + among[1]
            fits = (left[among] > 0).all(0) & ~np.isin(codes, taken)
            among = among[:, fits]
            if among.shape[1] == 0:
                break
            gap, loss = state.effects(among)
            gain, change = gap - state.gap, loss - start
            square = float(change @ change)
            score = gain - np.abs((gain @ change) / square * change if square else 0.0)
            score[np.abs(change) > self.tolerance * start] = -np.inf
            chosen = int(score.argmax())
            if score[chosen] == -np.inf:
                break
            pair = among[:, chosen]
            state.flip(pair)
            left[pair] -= 1
            taken = np.append(taken, pair[0] * n + pair[1])
            flips.append(pair)
            gaps.append(state.hard_gap)
            if gaps[-1] > gaps[best]:
                best = len(flips)
        kept = np.stack(flips[:best], axis=1) if best else np.zeros((2, 0), np.int64)
        info: dict[str, Any] = {"gaps": gaps, "loss": [start, state.loss]}
        return Perturbation(flips=torch.from_numpy(kept), info=info)

    def _screened(self, state: TwoHop) -> np.ndarray:
        assert self.candidates is not None
        return largest_sums(state.near_threshold(), self.candidates)


def _trained(graph: Graph) -> np.ndarray:
    """(n,) labels of training nodes, NaN for others."""
    assert graph.y is not None
    assert graph.split is not None
    y = np.full(graph.num_nodes, np.nan)
    train = graph.split.train[graph.y[graph.split.train] >= 0].numpy()
    y[train] = graph.y.numpy()[train]
    return y


def _counted(group: Tensor, targets: Tensor) -> np.ndarray:
    """(n,) groups of the targets, −1 for others."""
    counted = torch.full_like(group, -1)
    counted[targets] = group[targets]
    return counted.numpy()
