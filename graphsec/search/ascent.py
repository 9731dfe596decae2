"""Projected randomised block coordinate ascent over edge flips (PR-BCD)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from graphsec.predict import Predictor
from graphsec.rng import Rng
from graphsec.search.objective import Found, Objective
from graphsec.search.pairs import Candidates, heaviest

Projection = Callable[[Tensor, Tensor], Tensor]


class Effort(Protocol):
    """How long and how finely to search; the attack ``prbcd`` says what each is."""

    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def fine_tune(self) -> float: ...  # noqa: D102
    @property
    def block(self) -> int: ...  # noqa: D102
    @property
    def lr(self) -> float: ...  # noqa: D102
    @property
    def check_every(self) -> int: ...  # noqa: D102
    @property
    def samples(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class _Iterate(Found):
    """A block, by its codes, and the weights whose discretisation was tried."""

    codes: np.ndarray
    p: Tensor


def ascend(
    objective: Objective,
    victim: Predictor,
    rng: Rng,
    effort: Effort,
    project: Projection,
    start: Tensor | None = None,
) -> Found:
    """The best flips that gradient ascent on redrawn blocks of pairs finds against one victim.

    Source: Geisler et al., Robustness of Graph Neural Networks at Scale, NeurIPS 2021,
    algorithm 1.

    Args:
        objective: What is maximised, within which budgets.
        victim: Who is attacked.
        rng: Stream of blocks and samples.
        effort: How long to search.
        project: From pairs (2, B) and weights (B,) to the weights within the budgets that the
            search keeps to between its looks at discrete flips.
        start: (2, k) flips to start from; None starts from none.
    """
    candidates = objective.candidates(victim, rng["block"])
    size = min(effort.block, candidates.total)
    codes = candidates.draw(size)
    p = torch.zeros(len(codes))
    if start is not None:
        mine = candidates.codes(start)
        codes = np.union1d(mine, codes)
        p = torch.from_numpy(np.isin(codes, mine, assume_unique=True)).to(torch.float32)

    def look(pairs: Tensor) -> _Iterate:
        found = objective.judge(victim, objective.discrete(pairs, p))
        return _Iterate(found.score, found.flips, codes, p)

    best = look(candidates.pairs(codes))
    explore = math.ceil(effort.steps * (1 - effort.fine_tune))
    n = objective.graph.num_nodes
    for t in range(effort.steps):
        pairs = candidates.pairs(codes)
        gradient, _ = objective.gradient(victim, pairs, p)
        # The rate falls once the block stays.
        rate = objective.budget / n * effort.lr / math.sqrt(max(0, t - explore) + 1)
        p = project(pairs, p + rate * gradient)
        if t % effort.check_every == 0 or t in (explore - 1, effort.steps - 1):
            best = min(best, look(pairs), key=lambda one: one.score)
        if t < explore - 1:
            codes, p = _redraw(candidates, codes, p, size)
        elif t == explore - 1:  # go back to the best block and refine it
            codes, p = best.codes, best.p
    pairs = candidates.pairs(best.codes)
    return objective.sample(victim, pairs, best.p, effort.samples, best, rng["sample"])


def _redraw(
    candidates: Candidates, codes: np.ndarray, p: Tensor, size: int
) -> tuple[np.ndarray, Tensor]:
    """Keep the pairs that have weight (at most half of the block), refill with fresh ones."""
    keep = heaviest(p, size // 2)
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
