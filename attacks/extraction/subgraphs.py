"""Subgraph extraction: a few neighbourhoods, changed again and again, are all that is handed in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.attacks.extraction._thief import ExtractionAttack, others, some, trained_copy
from graphsec.graph import Graph
from graphsec.graph.arrays import take_rows
from graphsec.models.base import inputs
from graphsec.outcome import StolenModel
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.sampling import Shadow
from graphsec.threat import Access, View
from graphsec.train import Recipe


@ATTACKS.register("subgraph-extraction")
@dataclass(frozen=True, kw_only=True)
class SubgraphExtraction(ExtractionAttack):
    """Trains a model on answers about the centres of changed copies of a few neighbourhoods.

    For a thief who knows little of the graph, and whom the victim answers about graphs of its own.
    Each neighbourhood is asked about as it is, and then in copies: edges are dropped and as many
    added at random, and nodes other than the centre take the features of other nodes that the thief
    knows. The copy learns from all of these at once, side by side, and is judged on the whole
    graph.

    Source: DeFazio and Ramesh, Adversarial Model Extraction on Graph Neural Networks, 2019,
    arXiv:1912.07721 (2-hop subgraphs, changed in structure and features, queried for labels; from
    memory beside its abstract and introduction). How the changes are drawn is ours.

    Attributes:
        roots: Neighbourhoods that are known, of nodes that are not targets.
        hops: Their size.
        copies: Queries for each neighbourhood, fewer where the budget says so.
        change: Share of the edges of a copy that are exchanged, and of its nodes whose features
            are.
        answers: What the victim shows: "scores" or "labels".
        model: Name or spec of the copy's architecture.
        training: Changes to that model's own recipe.
    """

    roots: Annotated[int, Field(ge=1), Range(5, 100, log=True)] = 20
    hops: Annotated[int, Field(ge=0, le=16), Range(1, 3)] = 2
    copies: Annotated[int, Field(ge=1), Range(5, 100, log=True)] = 25
    change: Annotated[float, Field(ge=0, le=1), Range(0.05, 0.5)] = 0.2
    answers: Literal["scores", "labels"] = "scores"
    model: str | dict[str, Any] = field(default_factory=lambda: {"name": "gcn", "dropout": 0.0})
    training: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.recipe  # a wrong spec is found now

    @property
    def recipe(self) -> Recipe:
        """How the copy is made."""
        return Recipe.of(self.model, self.training)

    @property
    def needs(self) -> Access:
        """Answers about own graphs, and what these are made of."""
        answers = Access.SCORES if self.answers == "scores" else Access.LABELS
        return answers | Access.QUERY_INPUT | Access.FEATURES | Access.EDGES

    def run(self, view: View, rng: Rng) -> StolenModel:
        """A copy of the victim.

        Raises:
            ValueError: The budget has no queries.
        """
        roots = some(others(view), self.roots, rng["roots"])
        left = view.queries_left
        most = len(roots) * self.copies
        count = most if left is None else min(left, most)
        if not count:
            raise ValueError("attack 'subgraph-extraction' needs budget.queries ≥ 1, got 0")
        centres, graph = self.changed(view.known, roots, count, rng["change"])
        x, adj = inputs(graph), graph.adj
        if self.answers == "scores":
            answers = view.logits(centres, x, adj).softmax(1)
        else:
            answers = F.one_hot(view.labels(centres, x, adj)).float()
        return StolenModel(
            predictor=trained_copy(graph, centres, answers, self.recipe, rng["copy"])
        )

    def changed(self, graph: Graph, roots: Tensor, count: int, rng: Rng) -> tuple[Tensor, Graph]:
        """(count,) centres, and the graph of all copies side by side; the first are unchanged.

        Args:
            graph: What the thief knows.
            roots: (r,) centres of the neighbourhoods.
            count: Copies in all, of each neighbourhood in turn.
            rng: Stream of the changes.
        """
        scopes = Shadow(hops=self.hops).scopes(graph.adj, roots)
        nodes, adj = scopes.batch(torch.arange(count) % len(roots))
        assert adj.roots is not None
        assert adj.owner is not None
        x = inputs(graph)
        touched = adj.owner >= len(roots)
        swapped = touched & (torch.rand(len(nodes), generator=rng["swap"].torch()) < self.change)
        swapped[adj.roots] = False
        mine = torch.unique(nodes)
        drawn = torch.randint(len(mine), (len(nodes),), generator=rng["features"].torch())
        rows = torch.where(swapped, mine[drawn], nodes)
        copies = Graph(
            indptr=adj.csr.indptr, indices=adj.csr.indices, edge_weight=adj.weight,
            x=take_rows(x, rows), directed=not adj.csr.symmetric, name="copies",
        )  # fmt: skip
        return adj.roots, copies.flip(self._flips(copies, adj.owner, touched, rng["edges"]))

    def _flips(self, copies: Graph, owner: Tensor, touched: Tensor, rng: Rng) -> Tensor:
        """(2, k) edges of changed copies, and about as many absent pairs within them."""
        pairs = copies.pairs
        chosen = torch.rand(pairs.shape[1], generator=rng["drop"].torch()) < self.change
        gone = pairs[:, chosen & touched[pairs[0]]]
        # For each a pair of its first end with any node of the same copy.
        size = torch.bincount(owner)
        start = size.cumsum(0) - size
        part = torch.rand(gone.shape[1], generator=rng["add"].torch())
        end = start[owner[gone[0]]] + (part * size[owner[gone[0]]]).long()
        new = torch.stack([gone[0].minimum(end), gone[0].maximum(end)])
        new = torch.unique(new[:, new[0] != new[1]], dim=1)
        return torch.cat([gone, new[:, ~copies.has_edges(new)]], 1)
