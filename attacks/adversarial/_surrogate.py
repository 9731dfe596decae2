"""Direct attacks that transfer from a linear surrogate and ask the victim nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from graphsec.attacks.adversarial._local import Row, attack_each
from graphsec.attacks.base import Attack
from graphsec.graph import Graph
from graphsec.models.base import Sizes, inputs
from graphsec.models.sgc import SGC
from graphsec.ops import linear
from graphsec.outcome import Perturbation
from graphsec.rng import Rng
from graphsec.threat import Access, View
from graphsec.train import Recipe, fit


@dataclass(frozen=True, kw_only=True)
class SurrogateAttack(Attack):
    """Base of attacks on each target by Z = Â² X W + b (SGC), trained on the known graph."""

    @property
    def needs(self) -> Access:
        """The graph with its labels, and who is in training; nothing of the victim."""
        return Access.FEATURES | Access.EDGES | Access.TRUE_LABELS | Access.SPLIT

    def run(self, view: View, rng: Rng) -> Perturbation:
        """For each target, the flips at it.

        Raises:
            ValueError: The graph is directed.
        """
        graph = view.known
        if graph.directed:
            raise ValueError(f"{self.name} needs an undirected graph, {graph.name!r} is directed")
        # Trained only if some target has a budget.
        each = cache(lambda: self.each(graph, *surrogate(graph, rng["surrogate"])))
        return attack_each(view, lambda row: each()(row))

    def each(self, graph: Graph, h: Tensor, bias: Tensor) -> Callable[[Row], Tensor]:
        """How a target is attacked: from its row to indices into ``row.pairs``.

        Args:
            graph: The known graph, undirected.
            h: (n, classes) H = X W, float64.
            bias: (classes,) b.
        """
        raise NotImplementedError


def surrogate(graph: Graph, rng: Rng) -> tuple[Tensor, Tensor]:
    """H = X W (n, classes) and b (classes,) of an SGC trained on the known graph, in float64."""
    recipe = Recipe.of("sgc")
    with rng["init"].scope():
        model = recipe.model.build(Sizes.of(graph))
    fit(model, graph, recipe.training, rng["train"])
    assert isinstance(model, SGC)
    with torch.no_grad():
        return linear(inputs(graph), model.weight[0]).double(), model.bias.double()
