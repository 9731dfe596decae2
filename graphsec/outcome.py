"""What an attack returns: evidence, never metrics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graphsec.federated.byzantine import Forge
from graphsec.graph import Graph
from graphsec.graph.arrays import flip_entries


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """Base of all evidence.

    Attributes:
        info: What the attack reports about its own run (losses by step, …); never scored.
    """

    info: dict[str, Any] = field(default_factory=dict)

    def apply(self, graph: Graph) -> Graph:
        """The graph after the attack; unchanged unless the attack changes graphs."""
        return graph


def _no_flips() -> Tensor:
    return torch.zeros((2, 0), dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class Injection:
    """Nodes that were not there: n, n + 1, … in a graph of n nodes; users in a ranking graph.

    Attributes:
        x: (m, d) their features.
        edges: (2, k) their edges, each once; at least one end of each is a new node.
    """

    x: Tensor
    edges: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Perturbation(Outcome):
    """A changed graph.

    Attributes:
        flips: (2, k) pairs whose edge is added if absent, removed if present.
        x: Features after the attack, None where they are untouched.
        injected: New nodes, None without any.
        per_target: For local attacks, the flips against each target node alone (none where the
            budget allows none).
        features_per_target: The feature entries of 0 and 1, (2, k) nodes and columns, flipped in
            the world of a target beside that; left out where there are none.
    """

    flips: Tensor = field(default_factory=_no_flips)
    x: Tensor | None = None
    injected: Injection | None = None
    per_target: dict[int, Tensor] = field(default_factory=dict)
    features_per_target: dict[int, Tensor] = field(default_factory=dict)

    def apply(self, graph: Graph) -> Graph:
        """The attacked graph; injected nodes come after all others."""
        changed = graph.flip(self.flips)
        if self.x is not None:
            changed = changed.replace(x=self.x)
        new = self.injected
        return changed if new is None else changed.grow(new.x, new.edges)

    def worlds(self, graph: Graph) -> Iterator[tuple[int, Graph]]:
        """(target, attacked graph) of each target, for local attacks."""
        for target in self.per_target:
            yield target, self.world(graph, target)

    def world(self, graph: Graph, target: int) -> Graph:
        """The attacked graph of one target."""
        changed, entries = graph.flip(self.per_target[target]), self.features_per_target.get(target)
        if entries is None:
            return changed
        assert graph.x is not None
        return changed.replace(x=flip_entries(graph.x, entries))


@dataclass(frozen=True, eq=False, kw_only=True)
class Takeover(Outcome):
    """Clients of a federation that send, from the first round on, what the attacker makes.

    Attributes:
        clients: How many; the federation draws which.
        forge: What they send (``federated.byzantine``).
    """

    clients: int
    forge: Forge


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers(Outcome):
    """What the victim answered about the unchanged graph, under conditions that the attack set.

    Attributes:
        logits: (n, outputs), finite.
    """

    logits: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class LinkScores(Outcome):
    """How likely each pair is an edge.

    Attributes:
        pairs: (2, k).
        scores: (k,), higher means more likely; finite.
    """

    pairs: Tensor
    scores: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class MemberScores(Outcome):
    """How likely each node was in the training set.

    Attributes:
        nodes: (k,).
        scores: (k,), higher means more likely; finite.
    """

    nodes: Tensor
    scores: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class AttributeScores(Outcome):
    """How likely each node has each value of a private attribute.

    Attributes:
        nodes: (k,).
        scores: (k, values), higher means more likely; finite, and of one scale for all nodes.
            Values beyond the last column are held for impossible.
    """

    nodes: Tensor
    scores: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class PropertyGuess(Outcome):
    """How likely a property holds at its second level rather than at its first.

    Attributes:
        log_odds: Logarithm of the ratio of the two probabilities; finite, 0 is undecided.
    """

    log_odds: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Reconstruction(Outcome):
    """Recovered tensors; what was not attempted is None or left out.

    Attributes:
        nodes: (k,) nodes that ``x``, ``adj`` and ``inputs`` belong to.
        x: (k, d) recovered features.
        adj: (k, k) recovered edge scores.
        y: Recovered labels of the nodes asked about, in their order.
        counts: (classes,) how many of the nodes asked about have each label.
        inputs: Name of a weight matrix → (k, width) what it multiplied at each node, after
            aggregation (``models.maps``).
        owner: (k,) which of the graphs asked about each node is of, where whole graphs were: their
            nodes have no numbers of their own. None in games about nodes.
    """

    nodes: Tensor
    x: Tensor | None = None
    adj: Tensor | None = None
    y: Tensor | None = None
    counts: Tensor | None = None
    inputs: dict[str, Tensor] = field(default_factory=dict)
    owner: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class StolenModel(Outcome):
    """A copy of the victim.

    Attributes:
        predictor: The stolen model.
    """

    predictor: Any
