"""Attacks that transfer from a linear surrogate and ask the victim nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from graphsec.attacks.adversarial._local import Changes, Row, change_each
from graphsec.attacks.base import Attack
from graphsec.graph import Graph
from graphsec.models.base import Sizes, inputs
from graphsec.models.sgc import SGC
from graphsec.ops import Adj, linear, propagate
from graphsec.outcome import Perturbation
from graphsec.rng import Rng
from graphsec.threat import Access, View
from graphsec.train import Recipe, fit


@dataclass(frozen=True, eq=False)
class Surrogate:
    """Z = Â² X W + b, in float64.

    Attributes:
        h: (n, classes) H = X W.
        weight: (d, classes) W.
        bias: (classes,) b.
    """

    h: Tensor
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, kw_only=True)
class SurrogateAttack(Attack):
    """Base of attacks on each target by Z = Â² X W + b (SGC), trained on the known graph."""

    @property
    def needs(self) -> Access:
        """The graph with its labels, and who is in training; nothing of the victim."""
        return Access.FEATURES | Access.EDGES | Access.TRUE_LABELS | Access.SPLIT

    def run(self, view: View, rng: Rng) -> Perturbation:
        """For each target, the changes that lower its margin on the surrogate.

        Raises:
            ValueError: The graph is directed.
        """
        graph = view.known
        if graph.directed:
            raise ValueError(f"{self.name} needs an undirected graph, {graph.name!r} is directed")
        # Trained only if some target has a budget.
        each = cache(lambda: self.each(view, surrogate(graph, rng["surrogate"])))
        return change_each(view, lambda row: each()(row), self.entries(view))

    def entries(self, view: View) -> int:
        """Most feature entries changed for a target."""
        return 0

    def each(self, view: View, linear: Surrogate) -> Callable[[Row], Changes]:
        """How a target is attacked."""
        raise NotImplementedError


def surrogate(graph: Graph, rng: Rng) -> Surrogate:
    """An SGC trained on the known graph."""
    recipe = Recipe.of("sgc")
    with rng["init"].scope():
        model = recipe.model.build(Sizes.of(graph))
    fit(model, graph, recipe.training, rng["train"])
    assert isinstance(model, SGC)
    weight = model.weight[0].detach()
    return Surrogate(
        linear(inputs(graph), weight).double(), weight.double(), model.bias.detach().double()
    )


class TargetRow:
    """The target's row of Â² H, as it is and after any single flip.

    With W the weights and their loops of 1, d their row sums, G = D^-½ H and U = W G, the row is
    d_t^-½ Σ_k a_k u_k, where a_k = w_tk / d_k. A flip at nodes p and v changes G there alone, and
    so every u_k by at most two known terms: three products with W serve all flips, and one more
    those at each p.

    Args:
        adj: Symmetric weighted adjacency without loops; a flip adds weight 1 or takes the weight
            away.
        h: (n, classes) H.
        target: Node t.

    Attributes:
        now: (classes,) the row.
    """

    def __init__(self, adj: Adj, h: Tensor, target: int) -> None:
        self._adj, self._h, self._target = adj, h, target
        self._d = 1 + adj.degrees().to(h.dtype).unsqueeze(1)
        self._g = h / self._d.sqrt()
        self._u = propagate(adj, self._g) + self._g
        self._w = self._weights(target)
        self._w[target] = 1
        self._a = self._w / self._d
        self._common = propagate(adj, self._a) + self._a  # Σ_k a_k w_kv
        self._sum = (self._a.T @ self._u)[0]
        self.now = self._sum / self._d[target].sqrt()

    def _weights(self, node: int) -> Tensor:
        """(n, 1) weights between a node and the others."""
        one = torch.zeros_like(self._d)
        one[node] = 1
        return propagate(self._adj, one)

    @property
    def reach(self) -> Tensor:
        """(n,) the target's row of Â²: how far an entry of H at each node moves its own."""
        return (self._common / (self._d * self._d[self._target]).sqrt()).squeeze(1)

    def flipped(self, at: int) -> Tensor:
        """(n, classes) the row after each single flip between a node p and the others.

        The row of v = p means nothing, nor does that of v = t where p is another node.
        """
        d, a, u, direct = self._d, self._a, self._u, at == self._target
        w = self._w if direct else self._weights(at)
        added = torch.where(w > 0, -w, 1.0)
        w_new, d_p, d_v = w + added, d[at] + added, d + added
        g_p, g_v = self._h[at] / d_p.sqrt(), self._h / d_v.sqrt()
        dg_p, dg_v = g_p - self._g[at], g_v - self._g
        u_p = u[at] + dg_p + w_new * g_v - w * self._g
        u_v = u + dg_v + w_new * g_p - w * self._g[at]
        a_p, a_v = (1 / d_p, w_new / d_v) if direct else (self._w[at] / d_p, self._w / d_v)
        others = (  # Σ over k ≠ p, v
            self._sum - a[at] * u[at] - a * u
            + (self._common[at] - a[at] - a * w) * dg_p + (self._common - a[at] * w - a) * dg_v
        )  # fmt: skip
        return (others + a_p * u_p + a_v * u_v) / (d_p if direct else d[self._target]).sqrt()
