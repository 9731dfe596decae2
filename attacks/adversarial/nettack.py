"""Nettack: greedy flips at a target, exactly scored on a linear surrogate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from graphsec.attacks.adversarial._local import Row
from graphsec.attacks.adversarial._surrogate import SurrogateAttack
from graphsec.graph import Graph
from graphsec.ops import Adj, propagate
from graphsec.registry import ATTACKS
from graphsec.search import margins

D_MIN = 2  # the power law is fitted to degrees from here on
THRESHOLD = 0.004  # of the likelihood ratio, which is χ² with one degree of freedom


@ATTACKS.register("nettack")
@dataclass(frozen=True, kw_only=True)
class Nettack(SurrogateAttack):
    """Flips, one at a time, the pair at the target that lowers its surrogate margin most.

    The surrogate is Z = Â² X W + b (SGC), trained by the attacker on the known graph; the flips
    transfer to the victim, which is never asked, so that a defense is not adapted to. Margins
    after each single flip are exact, for all candidates from three sparse products. No flip leaves
    a node without edges or is taken back; the attack ends early where none lowers the margin.
    Structure only, direct: features and other nodes' pairs are left alone.

    Source: Zügner et al., Adversarial Attacks on Neural Networks for Graph Data, KDD 2018, §4,
    algorithm 1 with the true label as the class to be left; undirected graphs.

    Attributes:
        unnoticeable: Whether the degrees must stay within a likelihood-ratio test of following
            the same power law as before (§4.1: d_min = 2, threshold 0.004).
    """

    unnoticeable: bool = True

    def each(self, graph: Graph, h: Tensor, bias: Tensor) -> Callable[[Row], Tensor]:
        """Greedy flips at a target."""
        return partial(self._greedy, h=h, bias=bias)

    def _greedy(self, row: Row, h: Tensor, bias: Tensor) -> Tensor:
        graph, target, ends = row.graph, row.target, row.ends
        change = torch.where(graph.has_edges(row.pairs), -1, 1)
        degree = graph.degree.clone()
        chosen: list[int] = []
        for _ in range(row.budget):
            adj = graph.adj.with_block(row.pairs[:, chosen], torch.ones(len(chosen)))
            now, flipped = flipped_rows(adj, h, target)
            lowest = float(margins(now.unsqueeze(0) + bias, row.y))
            margin = margins(flipped[ends] + bias, row.y.expand(len(ends)))
            allowed = (degree[ends] + change > 0) & (degree[target] + change > 0)
            if self.unnoticeable:
                allowed &= likelihood_ratio(graph.degree, degree, target, ends, change) < THRESHOLD
            allowed[chosen] = False
            margin[~allowed] = torch.inf
            best = int(margin.argmin())
            if not margin[best] < lowest:
                break
            chosen.append(best)
            degree[[target, int(ends[best])]] += change[best]
        return torch.tensor(chosen, dtype=torch.int64)


def flipped_rows(adj: Adj, h: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """The target's row of Â² H, as it is and after each single flip at the target.

    With W the weights without loops, d = 1 + their row sums, G = D^-½ H and u = (W + I) G, the
    row is d_t^-½ (u_t / d_t + Σ_k w_tk u_k / d_k). A flip at v changes G at t and v alone, and so
    every u_k by at most two known terms: three products with W serve all n flips.

    Args:
        adj: Symmetric weighted adjacency; a flip adds weight 1 or takes the weight away.
        h: (n, classes).
        target: Node t.

    Returns:
        (classes,), and (n, classes) by the other end v; the row of v = t means nothing.
    """
    d = 1 + adj.degrees().to(h.dtype)
    g = h / d.sqrt().unsqueeze(1)
    u = propagate(adj, g) + g
    one = torch.zeros(len(h), 1, dtype=h.dtype)
    one[target] = 1
    w = propagate(adj, one)  # (n, 1) the target's weights
    d = d.unsqueeze(1)
    share = w / d
    near, back, common = share.T @ u, share.T @ w, propagate(adj, share)
    now = (u[target] / d[target] + near[0]) / d[target].sqrt()

    added = torch.where(w > 0, -w, 1.0)
    w_new, d_t, d_v = w + added, d[target] + added, d + added
    g_t, g_v = h[target] / d_t.sqrt(), h / d_v.sqrt()
    dg_t, dg_v = g_t - g[target], g_v - g
    u_t = u[target] + dg_t + w_new * g_v - w * g
    u_v = u + dg_v + w_new * g_t - w * g[target]
    others = near - share * u + (back - share * w) * dg_t + common * dg_v  # Σ over k ≠ t, v
    return now, (u_t / d_t + w_new * u_v / d_v + others) / d_t.sqrt()


def likelihood_ratio(
    clean: Tensor, degree: Tensor, target: int, ends: Tensor, change: Tensor
) -> Tensor:
    """How much worse one power law fits clean and flipped degrees than one each (§4.1).

    Args:
        clean: (n,) degrees before the attack.
        degree: (n,) degrees now.
        target: One end of the next flip.
        ends: (k,) the other end.
        change: (k,) +1 for an addition, −1 for a deletion.

    Returns:
        (k,) −2 log of the ratio of likelihoods after each flip; the smaller the less noticeable.
    """

    def statistics(degrees: Tensor) -> Tensor:
        """(2, …) whether each degree counts, and its logarithm if it does."""
        counts = degrees >= D_MIN
        return torch.stack([counts.double(), degrees.clamp(min=1).double().log() * counts])

    before, now = statistics(clean).sum(1, keepdim=True), statistics(degree).sum(1, keepdim=True)
    both = torch.stack([degree[ends], degree[target].expand(len(ends))])
    after = now + (statistics(both + change) - statistics(both)).sum(1)
    return 2 * (_fit(before) + _fit(after) - _fit(before + after))


def _fit(statistics: Tensor) -> Tensor:
    """Log-likelihood of the power law of largest likelihood, from count and sum of logarithms."""
    count, logs = statistics
    alpha = 1 + count / (logs - count * math.log(D_MIN - 0.5))
    value = count * (alpha.log() + alpha * math.log(D_MIN)) - (alpha + 1) * logs
    return torch.where(count > 0, value, 0.0)
