"""SGA: gradients of a linear surrogate on the part of the graph around each target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.adversarial._local import Changes, Row
from graphsec.attacks.adversarial._surrogate import Surrogate, SurrogateAttack
from graphsec.graph import Graph
from graphsec.ops import propagate
from graphsec.registry import ATTACKS, Range
from graphsec.threat import View


@ATTACKS.register("sga")
@dataclass(frozen=True, kw_only=True)
class SGA(SurrogateAttack):
    """Flips at each target by the gradient of a linear surrogate, on a small subgraph.

    The surrogate is Z = Â² X W + b (SGC), trained by the attacker on the known graph. In stages:
    the class that a target is taken for most easily, z; among the nodes labelled so, a few whose
    edge to the target has the largest gradient; the subgraph of these, the target and its
    neighbours, with all their edges; there, one flip after another, the steepest that raises
    logit z over that of the label, to first order. No flip is taken back, and it ends early
    where none helps. The gradients are those of the whole graph: what the subgraph leaves out
    can't change.

    A target costs a pass over the nodes of one class and over the edges of its subgraph, none over
    the edges of the graph. The flips transfer to the victim, which is never asked, so that a
    defense is not adapted to.

    Source: Li et al., Adversarial Attack on Large Scale Graph, IEEE TKDE 2021. With z fixed,
    its difference of cross-entropies at any temperature is the difference of logits here. Direct
    attack only.

    Attributes:
        candidates: Nodes of class z in the subgraph, for every flip of the budget.
    """

    candidates: Annotated[int, Field(ge=1), Range(1, 100, log=True)] = 10

    def each(self, view: View, linear: Surrogate) -> Callable[[Row], Changes]:
        """Greedy flips at a target, on its subgraph."""
        return partial(self._greedy, linear=Linear(view.known, linear.h, linear.bias))

    def _greedy(self, row: Row, linear: Linear) -> Changes:
        near = linear.around(row, self.candidates * row.budget)
        p = torch.zeros(len(near.ends), dtype=torch.float64)
        for _ in range(row.budget):
            leaf = p.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(near.gain(leaf), leaf)
            gradient[(p > 0) | ~near.free] = -torch.inf
            if len(p) == 0 or gradient.max() <= 0:
                break
            p[gradient.argmax()] = 1
        return Changes(row.pairs[:, torch.searchsorted(row.ends, near.ends[p > 0])])


class Linear:
    """The surrogate on the whole graph: what every target starts from.

    Args:
        graph: The clean graph, undirected.
        h: H = X W (n, classes), float64.
        bias: (classes,).
    """

    def __init__(self, graph: Graph, h: Tensor, bias: Tensor) -> None:
        self.graph, self.h = graph, h
        self.d = 1 + graph.adj.degrees().to(h.dtype)
        self.g = h / self.d.sqrt().unsqueeze(1)
        self.u = propagate(graph.adj, self.g) + self.g
        around = propagate(graph.adj, self.u / self.d.unsqueeze(1)) + self.u / self.d.unsqueeze(1)
        self.logits = around / self.d.sqrt().unsqueeze(1) + bias
        assert graph.y is not None
        self.members = [(graph.y == c).nonzero().ravel() for c in range(h.shape[1])]

    def around(self, row: Row, count: int) -> Around:
        """The subgraph of a target with ``count`` candidates of the class it is mistaken for."""
        t, y, graph = row.target, int(row.y), self.graph
        wrong = self.logits[t].index_fill(0, row.y, -torch.inf)
        z = int(wrong.argmax())
        neighbours = graph.indices[graph.indptr[t] : graph.indptr[t + 1]]
        members = self.members[z]
        members = members[listed(members, row.ends) & ~listed(members, neighbours)]
        slope = self.g[members] / self.d[t] + self.u[members] / self.d[members].unsqueeze(1)
        slope = slope[:, z] - slope[:, y]
        best = members[slope.topk(min(count, len(members))).indices]
        ends = torch.cat([neighbours, best]).sort().values
        up = self.h.new_zeros(self.h.shape[1])
        up[z], up[y] = 1, -1
        return Around(graph, t, ends, listed(ends, row.ends), self.h, up, self.d)


def listed(nodes: Tensor, among: Tensor) -> Tensor:
    """(k,) whether each node (k,) is among others, which ascend."""
    if len(among) == 0:
        return torch.zeros(len(nodes), dtype=torch.bool)
    spot = torch.searchsorted(among, nodes).clamp(max=len(among) - 1)
    return among[spot] == nodes


class Around:
    """Row t of Â² h, h = H up, as a function of the flips between node t and a few others.

    With w the weights to the ends, d degrees plus 1 and g = d^-½ h, the row is
    d_t^-½ ((g_t + Σ w_k g_k) / d_t + Σ w_k u_k / d_k), where u_k = g_k + w_k g_t + Σ_j w_kj g_j.
    A flip at k changes w_k, d_k and d_t, and through d_k what other ends receive from k.

    Args:
        graph: The clean graph, undirected.
        target: Node t.
        ends: (k,) other nodes, ascending, all neighbours of t among them.
        free: (k,) whether the pair with t may be flipped.
        h: (n, classes) H.
        up: (classes,) the direction that counts.
        d: (n,) degrees of the clean graph plus 1.
    """

    def __init__(
        self, graph: Graph, target: int, ends: Tensor, free: Tensor, h: Tensor, up: Tensor,
        d: Tensor,
    ) -> None:  # fmt: skip
        self.ends, self.free = ends, free
        self._h, self._d, self._h_t, self._d_t = h[ends] @ up, d[ends], h[target] @ up, d[target]
        counts = graph.degree[ends]
        owner = torch.repeat_interleave(torch.arange(len(ends)), counts)
        first = graph.indptr[ends] - (counts.cumsum(0) - counts)
        entry = torch.arange(len(owner)) + first[owner]
        other = graph.indices[entry]
        weight = h.new_ones(len(entry))
        if graph.edge_weight is not None:
            weight = graph.edge_weight[entry].to(h.dtype)
        to_target = other == target
        self._w = h.new_zeros(len(ends)).index_put((owner[to_target],), weight[to_target])
        self._edge = torch.zeros(len(ends), dtype=torch.bool).index_fill(0, owner[to_target], True)
        among = listed(other, ends)
        place = torch.searchsorted(ends, other[among])
        self._inner = owner[among], place, weight[among]
        out = ~among & ~to_target
        sent = weight[out] * (h[other[out]] @ up) / d[other[out]].sqrt()
        self._outer = h.new_zeros(len(ends)).index_add(0, owner[out], sent)

    def gain(self, p: Tensor) -> Tensor:
        """() the row with each pair flipped as far as p (k,) says, 0 to 1."""
        w = torch.where(self._edge, self._w * (1 - p), p)
        d = self._d + w - self._w
        d_t = self._d_t + (w - self._w).sum()
        g, g_t = self._h / d.sqrt(), self._h_t / d_t.sqrt()
        owner, place, weight = self._inner
        u = (self._outer + g + w * g_t).index_add(0, owner, weight * g[place])
        return ((g_t + (w * g).sum()) / d_t + (w * u / d).sum()) / d_t.sqrt()
