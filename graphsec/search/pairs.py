"""Budget projection, attack losses and random blocks of pairs: what structure attacks share.

Used by attacks and, with the same meaning, by adversarial training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graphsec.graph import Graph
from graphsec.ops.structure import array, kernels_for
from graphsec.predict import Predictor
from graphsec.rng import Rng

LossName = Literal[
    "ce", "mce", "nce", "margin", "cw", "lcw", "tanh_margin", "elu_margin", "prob_margin",
    "tanh_margin_cw", "tanh_margin_mce",
]  # fmt: skip


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """(k,) logit of the true class minus the best other one; negative where misclassified."""
    true = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    return true - _best_wrong(logits, y).values


def _best_wrong(logits: Tensor, y: Tensor) -> torch.return_types.max:
    return logits.scatter(1, y.unsqueeze(1), -torch.inf).max(1)


def _masked_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of the nodes that are still right; of all if none is."""
    right = margins(logits.detach(), y) > 0
    return F.cross_entropy(logits[right], y[right]) if right.any() else F.cross_entropy(logits, y)


_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": F.cross_entropy,
    "mce": _masked_cross_entropy,
    "nce": lambda z, y: -F.cross_entropy(z, _best_wrong(z, y).indices),
    "margin": lambda z, y: -margins(z, y).mean(),
    "cw": lambda z, y: -margins(z, y).clamp(min=0).mean(),
    "lcw": lambda z, y: -F.leaky_relu(margins(z, y), 0.1).mean(),
    "tanh_margin": lambda z, y: torch.tanh(-margins(z, y)).mean(),
    "elu_margin": lambda z, y: -F.elu(margins(z, y)).mean(),
    "prob_margin": lambda z, y: -margins(z.softmax(1), y).mean(),
}


def attack_loss(name: LossName, logits: Tensor, y: Tensor, alpha: float = 0.5) -> Tensor:
    """The loss that a structure attack maximises (Geisler et al. 2021, §3 and appendix B).

    Args:
        name: Which loss; the mixed ones are ``alpha`` · tanh margin + (1 − alpha) · the other.
        logits: (k, classes) of the attacked nodes.
        y: (k,) their labels.
        alpha: Share of the tanh margin in a mixed loss.
    """
    mixed = {"tanh_margin_cw": "cw", "tanh_margin_mce": "mce"}
    if name in mixed:
        first, second = _LOSSES["tanh_margin"], _LOSSES[mixed[name]]
        return alpha * first(logits, y) + (1 - alpha) * second(logits, y)
    return _LOSSES[name](logits, y)


def project(p: Tensor, budget: float) -> Tensor:
    """Euclidean projection onto {0 ≤ p ≤ 1, Σ p ≤ budget} (Geisler et al. 2021, eq. 4).

    Exact up to 1e-6 of the budget: bisection on the shift.
    """
    clipped = p.clamp(0, 1)
    if float(clipped.sum()) <= budget:
        return clipped
    kernels = kernels_for("projection", p)
    if kernels is not None:
        shift = float(kernels.budget_shift(array(p), float(budget)))
        return (p - shift).clamp_(0, 1)
    wide, low, high = p.double(), 0.0, float(p.max())
    for _ in range(100):
        shift = (low + high) / 2
        total = float((wide - shift).clamp_(0, 1).sum())
        if abs(total - budget) <= 1e-6 * max(budget, 1e-6):
            break
        low, high = (shift, high) if total > budget else (low, shift)
    return (p - shift).clamp_(0, 1)


def knapsack(pairs: Tensor, p: Tensor, budget: float, per_node: Tensor) -> Tensor:
    """Weights p cut to {0 ≤ p ≤ 1, Σ p ≤ budget, Σ p ≤ per_node at each end}, greedily.

    By falling weight each pair takes what it asks for or what is left, so that the budgets hold
    up to rounding; not the Euclidean projection, which has no closed form under limits at nodes
    (Gosch et al., Adversarial Training for GNNs, NeurIPS 2023, LR-BCD). Only positive weights
    are walked.

    Args:
        pairs: (2, B) pairs of nodes.
        p: (B,) weights.
        budget: Largest sum.
        per_node: (n,) largest sum at each node.
    """
    live = (p > 0).nonzero().ravel()
    order = live[torch.argsort(p[live], descending=True, stable=True)]
    left, total = per_node.tolist(), float(budget)
    taken: list[float] = []
    asked = p[order].clamp(max=1).tolist()
    for u, v, weight in zip(*pairs[:, order].tolist(), asked, strict=True):
        got = min(weight, left[u], left[v], total)
        left[u] -= got
        left[v] -= got
        total -= got
        taken.append(got)
        if total <= 0:
            break
    cut = torch.zeros_like(p)
    cut[order[: len(taken)]] = torch.tensor(taken, dtype=p.dtype)
    return cut


def strongest(pairs: Tensor, p: Tensor, budget: int, per_node: Tensor | None) -> Tensor:
    """Indices of the ``budget`` pairs of largest positive weight, within limits per node."""
    if per_node is None:
        return heaviest(p, budget)
    positive = (p > 0).nonzero().ravel()
    order = positive[torch.argsort(p[positive], descending=True, stable=True)]
    return within(pairs, order, budget, per_node)


def heaviest(p: Tensor, count: int) -> Tensor:
    """Rising indices of the ``count`` largest positive weights, or of all if there are fewer."""
    # numpy finds and partitions several times faster than torch here.
    positive = np.flatnonzero(array(p > 0))
    if len(positive) > count:
        split = np.argpartition(array(p)[positive], len(positive) - count - 1)
        positive = positive[np.sort(split[len(positive) - count :])]
    return torch.from_numpy(positive)


def within(pairs: Tensor, order: Tensor, budget: int, per_node: Tensor) -> Tensor:
    """Greedy choice in the given order under a global and a per-node budget."""
    left = per_node.tolist()
    chosen: list[int] = []
    ends = pairs[:, order].T.tolist()
    for index, (u, v) in zip(order.tolist(), ends, strict=True):
        if len(chosen) == budget:
            break
        if left[u] > 0 and left[v] > 0:
            left[u] -= 1
            left[v] -= 1
            chosen.append(index)
    return torch.tensor(chosen, dtype=torch.int64)


class Candidates:
    """Random pairs that an attack may flip.

    Args:
        graph: The clean graph.
        victim: Pairs that its defense would drop anyway are not worth a place, unless they are
            edges. None where nobody is asked.
        nodes: Nodes with a budget of their own (others can't be ends), None for all.
        rng: Stream to draw from.
    """

    def __init__(
        self, graph: Graph, victim: Predictor | None, nodes: Tensor | None, rng: Rng
    ) -> None:
        self.n = graph.num_nodes
        self.directed = graph.directed
        self._graph, self._victim = graph, victim
        self._nodes = None if nodes is None else nodes.numpy()
        self._generator = rng.numpy()

    @property
    def total(self) -> int:
        """Number of pairs there are."""
        n = self.n if self._nodes is None else len(self._nodes)
        return n * (n - 1) // (1 if self.directed else 2)

    def draw(self, count: int, taken: np.ndarray | None = None) -> np.ndarray:
        """About ``count`` distinct sorted codes u·n + v, without those in ``taken`` (sorted)."""
        allowed = self._codes(count)
        if taken is None or len(taken) == 0 or len(allowed) == 0:
            return allowed
        spot = np.searchsorted(allowed, taken)  # both are sorted: the shorter looks itself up
        spot = spot[allowed.take(spot, mode="clip") == taken]
        return np.delete(allowed, spot)

    def every(self) -> np.ndarray:
        """Sorted codes of all pairs, whether the defense would drop them or not."""
        nodes = np.arange(self.n) if self._nodes is None else self._nodes
        u, v = nodes[:, None], nodes[None, :]
        codes: np.ndarray = (u * self.n + v)[u != v if self.directed else u < v]
        return codes

    def _codes(self, count: int) -> np.ndarray:
        found = np.zeros(0, np.int64)
        for _ in range(8):
            # Twice what is missing, so that a filter which drops most pairs costs few rounds.
            wanted = count - len(found)
            codes = self._random(wanted if len(found) == 0 else 4 * wanted + 64)
            if self._victim is None or not self._victim.filters:
                return codes
            pairs = self.pairs(codes)
            keep = self._victim.allows(self._graph, pairs) | self._graph.has_edges(pairs)
            kept = codes[keep.numpy()]
            found = kept if len(found) == 0 else np.union1d(found, kept)
            if len(found) >= 0.9 * count or len(kept) == len(codes):
                break
        if len(found) > count:
            found = np.sort(self._generator.permutation(found)[:count])
        return found

    def _random(self, count: int) -> np.ndarray:
        """Sorted distinct codes of ``count`` uniform draws."""
        if self._nodes is None:
            u, v = self._generator.integers(0, self.n, (2, count))
        else:
            u, v = self._nodes[self._generator.integers(0, len(self._nodes), (2, count))]
        if not self.directed:
            u, v = np.minimum(u, v), np.maximum(u, v)
        codes = np.sort((u * self.n + v)[u != v])
        return codes[np.r_[True, codes[1:] != codes[:-1]]] if len(codes) else codes

    def pairs(self, codes: np.ndarray) -> Tensor:
        """(2, k) pairs of codes."""
        return torch.from_numpy(np.vstack([codes // self.n, codes % self.n]))

    def codes(self, pairs: Tensor) -> np.ndarray:
        """Sorted codes of pairs (2, k)."""
        u, v = pairs.numpy()
        if not self.directed:
            u, v = np.minimum(u, v), np.maximum(u, v)
        return np.sort(u * self.n + v)
