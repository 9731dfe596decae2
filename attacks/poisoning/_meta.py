"""The gradient of an attack loss through the training of a linear GCN, by every pair of nodes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.attacks.base import Attack
from graphsec.graph import Graph
from graphsec.ops import Adj, linear, propagate
from graphsec.registry import Range
from graphsec.rng import Rng
from graphsec.threat import Access, Timing, View

_LARGEST = 10_000  # nodes: a few matrices of all pairs, 400 MB each


@dataclass(frozen=True, kw_only=True)
class MetaAttack(Attack):
    """What attacks by meta-gradient share: a surrogate, its training, and the loss to raise.

    The surrogate is the paper's linear GCN of two layers, Z = Â² X W₁ W₂, trained by gradient
    descent with momentum on the cross-entropy of the training nodes. Nothing of the victim is
    used, so what is found is transferred to it, whatever its model or defense.

    Attributes:
        inner_steps: Training steps of the surrogate that are differentiated.
        lr: Learning rate of the surrogate.
        momentum: Its momentum.
        hidden: Width of its hidden layer.
        share_train: λ, the weight of the training nodes in the attack loss; the others count with
            labels from self-training. 0 is Meta-Self, 1 Meta-Train, 0.5 Meta-Both.
        approximate: First order (A-Meta): the gradients at the weights of every step are added
            up, as if the weights did not depend on the graph. No faster here, as the exact
            gradient needs one product of all pairs and this one as many as steps.
    """

    timing: ClassVar[Timing] = "poisoning"

    inner_steps: Annotated[int, Field(ge=1), Range(20, 200, log=True)] = 100
    lr: Annotated[float, Field(gt=0), Range(1e-2, 1, log=True)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    hidden: Annotated[int, Field(ge=1)] = 16
    share_train: Annotated[float, Field(ge=0, le=1)] = 0.0
    approximate: bool = False

    @property
    def needs(self) -> Access:
        """The graph, who is trained on, and their labels."""
        return Access.FEATURES | Access.EDGES | Access.TRAIN_LABELS | Access.SPLIT

    def by_node(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(k,) the attack loss of nodes, from their logits (k, classes) and labels."""
        return F.cross_entropy(logits, labels, reduction="none")

    def gradient(self, view: View, rng: Rng, *, dense: bool = True) -> MetaGradient:
        """The meta-gradient on the view's graph.

        Args:
            view: The attacker's view.
            rng: Stream of the self-training labels.
            dense: Whether derivatives by all pairs are wanted.

        Raises:
            ValueError: The graph is directed, too large, lacks labels or training nodes, or the
                threat has no target outside of the training nodes though they count.
        """
        graph = view.known
        if graph.directed:
            raise ValueError(f"{self.name} needs an undirected graph, {graph.name!r} is directed")
        if dense and graph.num_nodes > _LARGEST:
            raise ValueError(
                f"{self.name} scores all pairs at once: num_nodes of {graph.name!r} must be at "
                f"most {_LARGEST}, found {graph.num_nodes}"
            )
        if graph.x is None or graph.y is None or graph.split is None:
            raise ValueError(f"{self.name} needs x, y and split, {graph.name!r} lacks one")
        train = graph.split.train[graph.y[graph.split.train] >= 0]
        others = view.targets[~torch.isin(view.targets, graph.split.train)]
        if len(train) == 0:
            raise ValueError(
                f"{self.name} needs labelled training nodes in {graph.name!r}, found 0"
            )
        if len(others) == 0 and self.share_train < 1:
            raise ValueError(
                f"{self.name} with share_train = {self.share_train} needs threat.targets outside "
                "of the training nodes, found 0"
            )
        return MetaGradient(self, graph, train, others, rng)


class MetaGradient:
    """Trains the surrogate on a graph and differentiates the attack loss by the graph, exactly.

    Training sees the graph only through the rows S = (Â² X)_L of the training nodes L. Every
    gradient by W₁ lies in their span, W₁ = W₁⁰ + Sᵀ a, so that the steps run on the |L| × |L|
    matrix S Sᵀ, and reverse mode through all of them costs as little. What comes back are the
    derivatives Z̄ by the logits Z = Â² (X W) and S̄ by S, and with them, for all n² entries,

        Q = Z̄ (X W)ᵀ + E_L S̄ Xᵀ,    ∂/∂Â = Q Â + Â Q,

    one product of width classes and two with a sparse matrix, whatever the number of steps.

    Args:
        attack: Hyperparameters.
        graph: The clean graph.
        train: (l,) training nodes with a label.
        others: (u,) the other nodes in the loss.
        rng: Stream of the surrogate that labels them.
        dtype: Precision.
    """

    def __init__(
        self, attack: MetaAttack, graph: Graph, train: Tensor, others: Tensor, rng: Rng,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        assert graph.x is not None
        assert graph.y is not None
        self.attack, self.train = attack, train
        self.x, self.dense = graph.x, graph.x.to_dense().to(dtype)
        if self.x.layout == torch.strided:
            self.x = self.dense
        self.classes = int(graph.y[train].max()) + 1
        self.known = F.one_hot(graph.y[train], self.classes).to(dtype)
        # λ and 1 − λ, each shared equally among its nodes.
        self.weight = self.dense.new_zeros(graph.num_nodes)
        self.weight[others] = (1 - attack.share_train) / max(1, len(others))
        self.weight[train] = attack.share_train / len(train)
        adj = graph.adj.normalized().merged()
        _, logits, _ = self._forward(adj, self._rows(adj), rng)
        self.labels = logits[:, -self.classes :].argmax(1)
        self.labels[train] = graph.y[train]

    def __call__(self, adj: Adj, rng: Rng) -> tuple[float, Tensor]:
        """Attack loss and its derivatives, with the surrogate's first weights from ``rng``.

        Args:
            adj: Symmetric adjacency, with or without weights and candidate pairs.
            rng: Stream.

        Returns:
            The loss after training, and the (n, n) symmetric derivatives by the weight of each
            undirected pair (the diagonal is meaningless).

        Raises:
            ValueError: The training diverges.
        """
        normal = adj.normalized()
        operator = normal.merged()
        inner, logits, rows = self._forward(operator, self._rows(operator), rng)
        losses = self._losses(logits)
        by_logits, by_rows = torch.autograd.grad(
            losses.sum(), [logits, rows], allow_unused=True, materialize_grads=True
        )
        return float(losses[-1].detach()), self._by_pair(normal, by_logits, inner.detach(), by_rows)

    def at_pairs(self, adj: Adj, pairs: Tensor, p: Tensor, rng: Rng) -> tuple[float, Tensor]:
        """Attack loss and its derivatives by the weights p (B,) of pairs (2, B) alone.

        Through propagation over edges and pairs, at the width of features or of training nodes,
        whichever are fewer: memory linear in edges, pairs and nodes times that width.
        """
        leaf = p.detach().to(self.dense.dtype, copy=True).requires_grad_()
        operator = adj.with_block(pairs, leaf).normalized()
        _, logits, _ = self._forward(operator, self._few_rows(operator), rng)
        losses = self._losses(logits)
        (by_pair,) = torch.autograd.grad(losses.sum(), leaf)
        return float(losses[-1].detach()), by_pair

    @torch.no_grad()
    def loss(self, adj: Adj, rng: Rng) -> float:
        """Attack loss after training on an adjacency."""
        operator = adj.normalized()
        _, logits, _ = self._forward(operator, self._few_rows(operator), rng)
        return float(self._losses(logits)[-1])

    def _losses(self, logits: Tensor) -> Tensor:
        """(steps,) attack loss at each step whose logits stand side by side, or at the last."""
        steps = logits.view(len(logits), -1, self.classes)
        labels = self.labels.repeat_interleave(steps.shape[1])
        by_node = self.attack.by_node(steps.reshape(-1, self.classes), labels)
        losses = self.weight @ by_node.view(steps.shape[:2])
        if not torch.isfinite(losses).all():
            raise ValueError(
                f"{self.attack.name}: lr must let the surrogate's training converge, with "
                f"lr = {self.attack.lr} its loss is {losses[-1].detach():g}"
            )
        return losses

    def _rows(self, operator: Adj) -> Tensor:
        """S = (Â² X)_L."""
        return propagate(operator, propagate(operator, self.dense))[self.train]

    def _few_rows(self, operator: Adj) -> Tensor:
        """S again, as (Â² E_L)ᵀ X where there are fewer training nodes than features."""
        if len(self.train) >= self.dense.shape[1]:
            return self._rows(operator)
        ones = self.dense.new_zeros(len(self.dense), len(self.train))
        ones[self.train, torch.arange(len(self.train))] = 1
        return propagate(operator, propagate(operator, ones)).T @ self.dense

    def _forward(self, operator: Adj, rows: Tensor, rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """X W, Â² X W and S after training; side by side for all steps if approximate."""
        approximate = self.attack.approximate
        w1, w2 = self._initial(rng)
        rows.requires_grad_()
        with torch.set_grad_enabled(not approximate):
            steps = list(self._training(rows @ rows.T, rows @ w1, w2))
            weights = [(w1 + rows.T @ a) @ w for a, w in (steps if approximate else steps[-1:])]
            inner = linear(self.x, torch.cat(weights, 1))
        logits = propagate(operator, propagate(operator, inner))
        return inner, logits.requires_grad_(), rows

    def _initial(self, rng: Rng) -> tuple[Tensor, Tensor]:
        """Glorot's uniform weights (d, hidden) and (hidden, classes)."""
        generator, made = rng.torch(), []
        sizes = (self.dense.shape[1], self.attack.hidden, self.classes)
        for fan_in, fan_out in itertools.pairwise(sizes):
            bound = (6 / (fan_in + fan_out)) ** 0.5
            draw = torch.rand(fan_in, fan_out, generator=generator)
            made.append((2 * draw.to(self.dense.dtype) - 1) * bound)
        return made[0], made[1]

    def _training(
        self, kernel: Tensor, start: Tensor, w2: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(a, W₂) after each step, from S Sᵀ (l, l), S W₁⁰ (l, hidden) and W₂⁰."""
        attack = self.attack
        a = v1 = torch.zeros_like(start)
        v2 = torch.zeros_like(w2)
        for _ in range(attack.inner_steps):
            hidden = start + kernel @ a
            residual = ((hidden @ w2).softmax(1) - self.known) / len(self.known)
            v1 = attack.momentum * v1 + residual @ w2.T
            v2 = attack.momentum * v2 + hidden.T @ residual
            a, w2 = a - attack.lr * v1, w2 - attack.lr * v2
            yield a, w2

    @torch.no_grad()
    def _by_pair(self, normal: Adj, by_logits: Tensor, inner: Tensor, by_rows: Tensor) -> Tensor:
        operator, train = normal.merged(), self.train
        # P = Q + Qᵀ, then by Â_uv and Â_vu together: Â P + P Â. In place: n² numbers are slow.
        p = torch.cat([by_logits, inner], 1) @ torch.cat([inner, by_logits], 1).T
        dense_rows = linear(self.x, by_rows.T)
        p[train] += dense_rows.T
        p[:, train] += dense_rows
        half = propagate(operator, p)
        both = torch.add(half, half.T, out=p)
        # Â = D^-½ (A + I) D^-½: a weight counts in its entry and in the degrees of both ends.
        assert normal.left is not None
        assert operator.weight is not None
        factor, (row, col) = normal.left.to(both.dtype), operator.csr.coo
        share = operator.weight.to(both.dtype) * both[row, col]
        by_degree = torch.zeros_like(factor).index_add(0, row, share).mul(-0.5 * factor.square())
        both.mul_(factor).mul_(factor[:, None])
        return both.add_(by_degree).add_(by_degree[:, None])
