"""Pro-GNN: the graph's structure is learned together with the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.graph import Graph
from graphsec.models.base import GNN, Capabilities, Wrapper
from graphsec.ops import CSR, Adj, Features
from graphsec.ops.dense import dense, smoothness
from graphsec.ops.prox import SpectrumShrinker, shrink
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace, loss_of
from graphsec.train import fit as train_model

LARGEST = 5_000  # nodes: about ten dense matrices, 100 MB each
SPARSE = 0.25  # share of entries up to which products with the sparse matrix are faster


@DEFENSES.register("prognn", "pro-gnn")
@dataclass(frozen=True, kw_only=True)
class ProGNN(Defense):
    """Structure learned jointly with the model: sparse, of low rank, smooth, near the given one.

    S minimises ‖S − A‖² + α‖S‖₁ + β‖S‖_* + λ tr(Xᵀ L̂_S X) + γ · training loss over symmetric
    matrices with entries from 0 to 1 (or A's largest weight), by a gradient step, the proximal
    operators of both norms and a cut to that range, every few steps of the model. Dense: for
    undirected graphs of up to 5,000 nodes, without batches.

    A poisoned graph is where S starts and what it stays near, and answers are given on S. Under
    evasion nothing is learned again: the model is asked on S with the attacker's changes applied
    to it, so that a deleted edge is gone and an added one has full weight; what training did to
    all other pairs stays. (In Mujkanovic et al., NeurIPS 2022, a flipped pair gets 1 − S_uv, so
    that a deletion leaves what training had taken from the edge.)

    An attacker at evasion differentiates exactly through that: S + (A' − A) ∘ G is linear in the
    edge weights. ``relaxed`` and ``bypass`` are the same, as nothing is left to relax. No
    derivative through the learning of S is offered: poisoning transfers from other models.

    Source: Jin et al., Graph Structure Learning for Robust Graph Neural Networks, KDD 2020,
    algorithm 1. Their code has ‖S − A‖ unsquared, steps of .01 with momentum, and one step of S
    for two of the model. Here the step is the reciprocal of the curvature of the squared distance,
    without momentum, so that few steps are needed, and a step that would hardly move S is left out
    (``ops.prox``). The diagonal stays 0. The momentum .9 of Mujkanovic et al., who square the
    distance, makes α and β count a tenth of what they say: their .1 and 10 for Cora are .01 and 1
    here.

    Attributes:
        nuclear: β; where nothing else acts, eigenvalues shrink by β / 2.
        l1: α; where nothing else acts, entries shrink by α / 2. A shrunk spectrum has many tiny
            entries: with the published 5e-4 S is ten times as dense, and training slower.
        smooth: λ, against edges between different features.
        gamma: γ, the weight of the training loss.
        lr: Step of S; 0.5 goes all the way to where the distance pulls.
        every: Epochs of the model for one step of S.
    """

    nuclear: Annotated[float, Field(ge=0), Range(0.1, 10, log=True)] = 1.5
    l1: Annotated[float, Field(ge=0), Range(1e-4, 0.2, log=True)] = 0.01
    smooth: Annotated[float, Field(ge=0), Range(1e-4, 0.2, log=True)] = 1e-3
    gamma: Annotated[float, Field(ge=0), Range(0.1, 100, log=True)] = 1.0
    lr: Annotated[float, Field(gt=0, le=0.5), Range(0.01, 0.5, log=True)] = 0.5
    every: Annotated[int, Field(ge=1), Range(2, 20)] = 10

    def harden(self, model: GNN) -> GNN:
        """The model on a structure of its own."""
        return Structured(model)

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
        """Steps of the model, and before every few of them one of its structure.

        Raises:
            ValueError: The graph is directed or too large, or training is in batches.
        """
        self._check(graph, recipe)
        assert isinstance(model, Structured)
        adj = adj.pruned()
        learner = Learner(self, model, graph, x, adj)

        def world(part: str, epoch: int) -> tuple[Tensor | Features, Adj]:
            if part == "train" and epoch % self.every == 0:
                learner.step()
            return x, adj

        return train_model(
            model, graph, recipe.training, rng, x=x, adj=adj,
            release=(whole or self).release, on_epoch=on_epoch, world=world,
        )  # fmt: skip

    def _check(self, graph: Graph, recipe: Recipe) -> None:
        if graph.directed:
            raise ValueError(f"prognn needs an undirected graph, {graph.name!r} is directed")
        if graph.num_nodes > LARGEST:
            raise ValueError(
                f"prognn learns a dense matrix: num_nodes of {graph.name!r} must be at most "
                f"{LARGEST}, found {graph.num_nodes}"
            )
        if recipe.training.batch_size is not None:
            raise ValueError(
                f"prognn needs the whole graph: training.batch_size must be None, "
                f"got {recipe.training.batch_size}"
            )


class Structured(Wrapper):
    """A model that looks at a learned structure, and at what changed since it was learned.

    Attributes:
        given: (n, n) adjacency that it was trained with; (0, 0) before training.
        learned: (n, n) structure that took its place.
    """

    capabilities = Capabilities(sampled=False, per_sample=False, second_order=False)
    given: Tensor
    learned: Tensor

    def __init__(self, base: GNN) -> None:
        super().__init__(base)
        self.register_buffer("given", torch.zeros(0, 0))
        self.register_buffer("learned", torch.zeros(0, 0))
        self._made: tuple[Adj, Adj] | None = None

    def learn(self, given: Tensor, learned: Tensor) -> None:
        """Take another structure."""
        self.given, self.learned, self._made = given, learned, None

    def seen(self, adj: Adj) -> Adj:
        """What the base model sees of ``adj``, linear in its weights.

        A weight changed from a to a' turns the learned s into s · a' / a, and into s + a' (1 − s)
        where there was no edge.
        """
        if len(self.given) == 0:
            return adj
        if adj.num_nodes != len(self.given):
            raise ValueError(
                f"prognn answers about the {len(self.given)} nodes whose edges it learned, "
                f"got {adj.num_nodes} nodes"
            )
        if self._made is not None and self._made[0] is adj:
            return self._made[1]
        gain = torch.where(self.given > 0, self.learned / self.given, 1 - self.learned)
        made = operand(self.learned + (dense(adj) - self.given) * gain)
        if not adj.requires_grad:
            self._made = adj, made
        return made

    def forward(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """Logits of the base model on the structure."""
        out: Tensor = self.base(x, self.seen(adj))
        return out

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """Outputs of the base model's layers on the structure."""
        return self.base.hidden(x, self.seen(adj))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take structures of any size."""
        self.learn(*(torch.empty_like(state[prefix + name]) for name in ("given", "learned")))
        super()._load_from_state_dict(state, prefix, *rest)


class Learner:
    """Steps of a structure.

    Args:
        defense: Weights and step size.
        model: Whose structure it is.
        graph: Labels and split.
        x: Sanitised features.
        adj: Sanitised adjacency A, where the structure starts.
    """

    def __init__(
        self, defense: ProGNN, model: Structured, graph: Graph, x: Tensor | Features, adj: Adj
    ) -> None:
        assert graph.y is not None
        assert graph.split is not None
        self.defense, self.model, self.x, self.task = defense, model, x, graph.task
        self.train = graph.split.train
        self.y = graph.y[self.train]
        self.given = dense(adj)
        if not torch.allclose(self.given, self.given.T):
            raise ValueError("prognn needs a symmetric adjacency from the defenses before it")
        self.top = max(1.0, float(self.given.max()))
        rows = x.to_dense() if defense.smooth else self.given.new_zeros(len(self.given), 0)
        self.gram = rows @ rows.T
        self.shrink_spectrum = SpectrumShrinker()
        model.learn(self.given, self.given)

    def step(self) -> None:
        """One gradient step, both proximal operators, and the cut to the range of weights."""
        d, s = self.defense, self.model.learned
        moved = s - d.lr * (2 * (s - self.given) + self._gradient(s))
        moved = self.shrink_spectrum((moved + moved.T) / 2, d.lr * d.nuclear)
        moved = shrink(moved, d.lr * d.l1).clamp_(0, self.top).fill_diagonal_(0)
        self.model.learn(self.given, moved)

    def _gradient(self, s: Tensor) -> Tensor:
        """Derivative of the training loss and the smoothness, in their weights."""
        s = s.clone().requires_grad_()
        goal = self.defense.smooth * smoothness(s, self.gram)
        if self.defense.gamma:
            self.model.eval()
            logits = self.model.base(self.x, operand(s))[self.train]
            goal = goal + self.defense.gamma * loss_of(self.task, logits, self.y)
        (gradient,) = torch.autograd.grad(goal, s)
        return gradient


def operand(matrix: Tensor) -> Adj:
    """An adjacency of this matrix: sparse if it is and needs no gradient, else as a factor."""
    n = len(matrix)
    if not matrix.requires_grad and int(matrix.count_nonzero()) <= SPARSE * matrix.numel():
        row, col = matrix.nonzero().T
        indptr = torch.cat([row.new_zeros(1), torch.bincount(row, minlength=n).cumsum(0)])
        return Adj(csr=CSR(indptr, col.contiguous(), n), weight=matrix[row, col])
    return Adj.dense(matrix)
