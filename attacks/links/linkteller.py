"""LinkTeller: a node whose features are turned up is felt by its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.base import Attack
from graphsec.attacks.links._asked import asked
from graphsec.models.base import inputs
from graphsec.outcome import LinkScores
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.threat import Access, Timing, View


@ATTACKS.register("linkteller")
@dataclass(frozen=True, kw_only=True)
class LinkTeller(Attack):
    """Scores a pair by how much each node's answer moves when the other's features do.

    The attacker sends the features with those of one node v times 1 + Δ, and gets the answers about
    all nodes: I_uv = ‖f(X')_u − f(X)_u‖ / Δ. A GNN of k layers answers about u as before unless v
    is within k hops. One query of all nodes for each node in question; edges are never seen. The
    score of an undirected pair is I_uv + I_vu, of a directed one (u → v) what v feels of u.

    Source: Wu et al., LINKTELLER: Recovering Private Edges from Graph Neural Networks via Influence
    Analysis, S&P 2022, §4 and algorithm 1, without its guess of how many edges there are: scores
    are ranked. Between the published Δ of 1e-4 and 1 the scores hardly change; the default is ours,
    far from the rounding of single precision.

    Attributes:
        delta: Δ.
    """

    game = "links"
    timing: ClassVar[Timing] = "inference"

    delta: Annotated[float, Field(gt=0), Range(1e-4, 1, log=True)] = 0.1

    @property
    def needs(self) -> Access:
        """Features, and answers to queries with features of the attacker's own."""
        return Access.FEATURES | Access.SCORES | Access.QUERY_INPUT

    def run(self, view: View, rng: Rng) -> LinkScores:
        """A score for each pair asked about; all pairs of a small graph where none is asked."""
        graph, pairs = view.known, asked(view, self.name)
        nodes, (u, v) = torch.unique(pairs, return_inverse=True)
        felt = self._influence(view, inputs(graph).to_dense().clone(), nodes)
        scores = felt[u, v] if graph.directed else felt[u, v] + felt[v, u]
        return LinkScores(pairs=pairs, scores=scores)

    def _influence(self, view: View, x: Tensor, nodes: Tensor) -> Tensor:
        """(k, k) how far node i of ``nodes``, turned up, moves the answer about node j."""
        plain, felt = view.logits(nodes, x=x), torch.empty(len(nodes), len(nodes))
        for i, node in enumerate(nodes.tolist()):
            row = x[node].clone()
            x[node] = row * (1 + self.delta)
            felt[i] = (view.logits(nodes, x=x) - plain).norm(dim=1) / self.delta
            x[node] = row
        return felt
