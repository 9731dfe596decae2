"""What cleans features and edges before a model, learnt once and kept beside its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.defenses.fair._training import FairDefense, groups_of
from graphsec.graph import Graph
from graphsec.models.base import GNN, Capabilities, Sizes, Wrapper
from graphsec.ops import Adj, Features
from graphsec.registry import SpecError
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace

WeightOf = Callable[[Tensor, Tensor, Tensor], Tensor]


class Cleaner(Wrapper):
    """A model that sees a cleaned graph; what cleans it are buffers, found on the training graph.

    Cleaning depends on features and edges alone, never on groups, so that attacked graphs and new
    nodes are cleaned by the same rule, and structure attackers differentiate through it exactly.
    """

    capabilities = Capabilities(tasks=("classification",), sampled=False, per_sample=False)

    def __init__(self, base: GNN) -> None:
        super().__init__(base, base.layers)
        self._last: tuple[Any, Adj, tuple[Tensor | Features, Adj]] | None = None

    def _clean(self, x: Tensor | Features, adj: Adj) -> tuple[Tensor | Features, Adj]:
        """``cleaned``, once for the same inputs in a row: every step of training has the same."""
        if self._last is None or self._last[0] is not x or self._last[1] is not adj:
            made = self.cleaned(x, adj)
            needed = adj.requires_grad or (isinstance(x, Tensor) and x.requires_grad)
            self._last = None if needed else (x, adj, made)
            return made
        return self._last[2]

    def learn(self, graph: Graph, group: Tensor, x: Tensor | Features, adj: Adj, rng: Rng) -> None:
        """Find the buffers on the training nodes' groups."""
        raise NotImplementedError

    def cleaned(self, x: Tensor | Features, adj: Adj) -> tuple[Tensor | Features, Adj]:
        """What the model sees."""
        raise NotImplementedError

    def forward(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """Logits of the model on what it sees."""
        out: Tensor = self.base(*self._clean(x, adj))
        return out

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """Outputs of the model's layers on what it sees."""
        return self.base.hidden(*self._clean(x, adj))

    def penalty(self, x: Tensor | Features, adj: Adj) -> Tensor | None:
        """The model's penalty on what it sees."""
        return self.base.penalty(*self._clean(x, adj))

    def settle(self, x: Tensor | Features, adj: Adj, y: Tensor, nodes: Tensor) -> None:
        """What the model chooses on what it sees."""
        self.base.settle(*self._clean(x, adj), y, nodes)


@dataclass(frozen=True, kw_only=True)
class CleaningDefense(FairDefense):
    """Base of defenses that clean the graph for fairness, and then train plainly on it."""

    needs_whole = True

    def cleaner(self, base: GNN, sizes: Sizes) -> Cleaner:
        """The model behind what cleans, with buffers that change nothing yet."""
        raise NotImplementedError

    def build(self, recipe: Recipe, sizes: Sizes) -> GNN:
        """The recipe's model behind what cleans."""
        return self.cleaner(recipe.model.build(sizes), sizes)

    def refuses(self, recipe: Recipe) -> str | None:
        """Weights of edges must mean something to the model."""
        kind = recipe.model.module.capabilities
        if kind.uses_edges and not kind.edge_weight:
            return f"weighs edges, and model {recipe.model.name!r} takes no weights"
        return None

    def train(
        self, model: GNN, graph: Graph, recipe: Recipe, rng: Rng, x: Tensor | Features, adj: Adj,
        on_epoch: OnEpoch | None = None, whole: Defense | None = None,
    ) -> Trace:  # fmt: skip
        """Learn to clean, then train on what is seen then, chosen as all fair defenses choose.

        Raises:
            FairnessError: The groups are not what fairness needs.
            SpecError: Another part of a composition built around the model.
        """
        group = groups_of(graph, self.name)
        inner = model
        while isinstance(inner, Wrapper) and not isinstance(inner, Cleaner):
            inner = inner.base
        if not isinstance(inner, Cleaner):
            raise SpecError(f"defense {self.name!r} must build the model, got {type(model)}")
        inner._last = None
        inner.learn(graph, group, x, adj, rng["cleaning"])
        return super().train(model, graph, recipe, rng, x, adj, on_epoch, whole)


def edge_ends(adj: Adj) -> list[tuple[Tensor, Tensor]]:
    """(sources, targets) of the edges, and of the candidate pairs if there are any."""
    row, col = adj.csr.coo
    found = [(row, col)]
    if adj.block is not None:
        u, v = adj.block.pairs
        found.append((u, v))
    return found


def weighed(adj: Adj, x: Tensor, weight: WeightOf) -> Adj:
    """The adjacency with edges and candidate pairs scaled by a symmetric function of their ends."""
    made = [weight(x, u, v) for u, v in edge_ends(adj)]
    return adj.scaled(made[0], made[1] if len(made) > 1 else None)
