"""Attacks on single nodes: every target has a world of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from graphsec.graph import Graph
from graphsec.models.base import inputs
from graphsec.outcome import Perturbation
from graphsec.predict import Predictor
from graphsec.search import LossName, attack_loss, margins
from graphsec.threat import View


@dataclass(frozen=True, eq=False)
class Row:
    """The pairs at one target, of which some may be flipped.

    Attributes:
        graph: The clean graph, with labels.
        target: The node.
        ends: (k,) the other ends, ascending: all nodes that have a budget of their own.
        budget: Most flips.
        entries: Most feature entries changed.
    """

    graph: Graph
    target: int
    ends: Tensor
    budget: int
    entries: int = 0

    @property
    def pairs(self) -> Tensor:
        """(2, k) the pairs, u < v; in a directed graph from the other end to the target."""
        pairs = torch.stack([self.ends, torch.full_like(self.ends, self.target)])
        return pairs if self.graph.directed else pairs.sort(dim=0).values

    @property
    def y(self) -> Tensor:
        """(1,) label of the target."""
        assert self.graph.y is not None
        return self.graph.y[self.target : self.target + 1]

    def logits(self, victim: Predictor, which: Tensor, weight: Tensor) -> Tensor:
        """(1, classes) logits of the target with the pairs ``which`` flipped by ``weight``."""
        symmetric = not self.graph.directed
        adj = self.graph.adj.with_block(self.pairs[:, which], weight, symmetric=symmetric)
        return victim.forward(inputs(self.graph), adj, torch.tensor([self.target]))

    def gradient(self, victim: Predictor, which: Tensor, p: Tensor, loss: LossName) -> Tensor:
        """(b,) derivative of the target's loss by the weights p of the pairs ``which``."""
        weight = p.clone().requires_grad_()
        value = attack_loss(loss, self.logits(victim, which, weight), self.y)
        (gradient,) = torch.autograd.grad(value, weight)
        return gradient.nan_to_num(0.0)

    @torch.no_grad()
    def margin(self, victim: Predictor, which: Tensor) -> float:
        """Margin of the target (logits) with the pairs ``which`` flipped; < 0 is broken."""
        return float(margins(self.logits(victim, which, torch.ones(len(which))), self.y))

    def best(self, victim: Predictor, found: Sequence[Tensor]) -> Tensor:
        """The choice of pairs that lowers the margin most; the first of equal ones."""
        return min(found, key=lambda which: self.margin(victim, which))


@dataclass(frozen=True, eq=False)
class Changes:
    """What an attack changes in the world of one target.

    Attributes:
        flips: (2, k) pairs.
        entries: (2, m) nodes and columns of binary features.
    """

    flips: Tensor
    entries: Tensor = field(default_factory=lambda: torch.zeros((2, 0), dtype=torch.int64))


def attack_each(view: View, attack: Callable[[Row], Tensor]) -> Perturbation:
    """Attack every labelled target by itself; those without a budget are left as they are.

    Args:
        view: The attacker's view.
        attack: Gives the pairs to flip, as indices into ``row.pairs``.

    Raises:
        ValueError: The threat is poisoning, where every world would need a training of its own.
    """
    return change_each(view, lambda row: Changes(row.pairs[:, attack(row)]))


def change_each(view: View, attack: Callable[[Row], Changes], entries: int = 0) -> Perturbation:
    """The same with an attack that gives what it changes, also at other nodes than the target.

    Args:
        view: The attacker's view.
        attack: Gives the changes.
        entries: Most feature entries changed for a target.

    Raises:
        ValueError: The threat is poisoning.
    """
    if view.threat.timing == "poisoning":
        raise ValueError("threat.timing must be 'evasion' for a local attack, got 'poisoning'")
    graph, each = view.known, view.node_budget
    assert graph.y is not None
    ends = torch.arange(graph.num_nodes) if each is None else (each > 0).nonzero().ravel()
    worlds = {}
    for target, budget in zip(view.targets.tolist(), view.target_budget.tolist(), strict=True):
        if graph.y[target] < 0:
            continue
        row = Row(graph, target, ends[ends != target], budget, entries)
        worlds[target] = attack(row) if budget or entries else Changes(row.pairs[:, :0])
    return Perturbation(
        per_target={target: made.flips for target, made in worlds.items()},
        features_per_target={t: made.entries for t, made in worlds.items() if made.entries.numel()},
    )
