"""Adversarial training: each step is taken on a graph attacked against the model of that moment."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.graph import Graph
from graphsec.graph.container import Split
from graphsec.models.base import GNN, inputs
from graphsec.ops import Adj, Features
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng
from graphsec.search import LossName, Objective, Projection, ascend, knapsack, project
from graphsec.threat import Budget
from graphsec.train import OnEpoch, Recipe, Trace
from graphsec.train import fit as train_model


@DEFENSES.register("adversarial-training")
@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(Defense):
    """The model learns the labels on graphs that PR-BCD or LR-BCD attacked a moment ago.

    Before each step the attack searches flips against the nodes that are trained on, from nothing,
    and through the sanitising of the defenses beside this one. Where training looks at validation
    nodes (``select``, ``patience``), these are attacked too. The weights are all that is left of
    it, so that attackers differentiate as through the plain model.

    With ``self_training``, a first model, trained plainly, labels all nodes outside of the
    training and validation part, and these are trained on too: few labels are soon fitted under
    any attack.

    **What an evaluation means.** In a transductive one the graph that is attacked, its clean
    edges and the features of its test nodes have been trained on. A model that memorises its
    (pseudo-)labels from features is robust there without having learned anything that carries
    over, and self-training makes memorising easy. Robustness to claim is inductive: fit on
    ``graph.subgraph`` of the nodes without the test part, attack and score the whole graph.

    Source: Gosch et al., Adversarial Training for Graph Neural Networks: Pitfalls, Solutions, and
    New Directions, NeurIPS 2023; before it Xu et al., IJCAI 2019. Differences: steps take the
    cross-entropy, where their code takes the tanh margin, and validation nodes get no
    pseudo-labels.

    Attributes:
        attack: "lrbcd" keeps to a budget at each node, "prbcd" to the global one alone.
        edges: Budget, as a share of the edges at the attacked nodes (half of their degrees).
        delta: LR-BCD's budget of a node, as a share of its degree.
        loss: What the attack maximises.
        steps: Gradient steps of each attack.
        block: Candidate pairs at a time.
        lr: Step size of the attack, in flips per node of the budget.
        warmup: First epochs, on the clean graph.
        self_training: Train on pseudo-labels too.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)

    attack: Literal["lrbcd", "prbcd"] = "lrbcd"
    edges: Annotated[float, Field(gt=0, le=1), Range(0.02, 0.3)] = 0.1
    delta: Annotated[float, Field(gt=0, le=1), Range(0.1, 1)] = 0.5
    loss: LossName = "tanh_margin"
    steps: Annotated[int, Field(ge=1), Range(5, 20)] = 10
    block: Annotated[int, Field(ge=1), Range(1e4, 1e6, log=True)] = 100_000
    lr: Annotated[float, Field(gt=0), Range(1e2, 1e4, log=True)] = 1_000.0
    warmup: Annotated[int, Field(ge=0), Range(0, 50)] = 10
    self_training: bool = True

    def train(
        self,
        model: GNN,
        graph: Graph,
        recipe: Recipe,
        rng: Rng,
        x: Tensor | Features,
        adj: Adj,
        on_epoch: OnEpoch | None = None,
        whole: Defense | None = None,
    ) -> Trace:
        """Plain epochs, then steps on attacked graphs.

        Raises:
            ValueError: The model looks at no edges, or training is on subgraphs.
        """
        whole = whole or self
        if not model.capabilities.uses_edges:
            raise ValueError(
                f"adversarial-training needs a model that looks at edges, got {recipe.model.name!r}"
            )
        adj = adj.pruned()
        if self.self_training:
            first = copy.deepcopy(model)
            train_model(first, graph, recipe.training, rng["first"], x=x, adj=adj)
            with torch.no_grad():
                graph = taught(graph, first(x, adj).argmax(1))
        victim = whole.around(model, recipe)

        def world(part: Literal["train", "val"], epoch: int) -> tuple[Tensor | Features, Adj]:
            if epoch < self.warmup:
                return x, adj
            assert graph.split is not None
            model.eval()
            objective = self._objective(graph, getattr(graph.split, part))
            if not objective.possible:
                return x, adj
            found = ascend(
                objective, victim, rng["attack"][part][epoch],
                _Effort(steps=self.steps, block=self.block, lr=self.lr), within(objective),
            )  # fmt: skip
            seen, flipped = whole.sanitise(inputs(graph), graph.flip(found.flips).adj, "exact")
            return seen, flipped.pruned()

        return train_model(
            model, graph, recipe.training, rng,
            x=x, adj=adj, release=whole.release, on_epoch=on_epoch, world=world,
        )  # fmt: skip

    def _objective(self, graph: Graph, nodes: Tensor) -> Objective:
        budget = round(self.edges * float(graph.degree[nodes].sum()) / 2)
        local = Budget(edges_per_node=self.delta) if self.attack == "lrbcd" else Budget()
        return Objective(graph, nodes, budget, local.node_count(graph), self.loss)


@dataclass(frozen=True)
class _Effort:
    """Few steps without fine-tuning; the last iterate is discretised by its largest weights."""

    steps: int
    block: int
    lr: float
    fine_tune: float = 0.0
    samples: int = 0

    @property
    def check_every(self) -> int:
        """Beside the last step only the first is looked at."""
        return self.steps


def within(objective: Objective) -> Projection:
    """The weights closest to those given that its budgets allow; greedily under node budgets."""
    if objective.per_node is None:
        return lambda pairs, p: project(p, objective.budget)
    per_node = objective.per_node
    return lambda pairs, p: knapsack(pairs, p, objective.budget, per_node)


def taught(graph: Graph, guess: Tensor) -> Graph:
    """The graph with guessed labels of all nodes outside of training and validation, to train on.

    Args:
        graph: With labels and split.
        guess: (n,) labels by a first model.
    """
    assert graph.y is not None
    assert graph.split is not None
    given = torch.cat([graph.split.train, graph.split.val])
    rest = torch.ones(graph.num_nodes, dtype=torch.bool).index_fill(0, given, False)
    y = torch.where(rest, guess, graph.y)
    train = torch.cat([graph.split.train, rest.nonzero().ravel()])
    return graph.replace(y=y, split=Split(train, graph.split.val, graph.split.test[:0]))
