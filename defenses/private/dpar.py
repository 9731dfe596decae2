"""Personalised PageRank, noised once, and private training on the features that it gathers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.defenses.private._training import PrivateTraining, looks_at_edges
from graphsec.graph import Graph
from graphsec.models.base import GNN, inputs
from graphsec.ops import Adj, Features, personalized_pagerank, propagate, unit_rows
from graphsec.predict import How, PrivacyStatement
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace

if TYPE_CHECKING:
    from graphsec.dp.roots import Roots


@DEFENSES.register("dpar")
@dataclass(frozen=True, kw_only=True)
class DPAR(PrivateTraining):
    """Decoupled: PageRank rows are noised once, a model of features trains on what they gather.

    The personalised PageRank of each training node, at norm 1, gets Gaussian noise; its k largest
    entries say which features the node gathers beside its own. Of each column the ``seen`` largest
    entries stay, so that no node's features are gathered by more training nodes. A model that
    ignores edges (``mlp``) is then trained by private steps.

    **What is claimed**, and proven in docs/privacy.md ("PageRank rows"): with ``rows = "all"``, on
    any undirected graph, for the weights. A hub can change the PageRank of every node at once, and
    the noise pays for all rows: its deviation grows as √(2 M) with M of them, which leaves little
    of the rows unless ε is large. ``every`` takes fewer of them. With ``rows = "one"`` the noise
    pays for a single row, and nothing is claimed: docs/privacy.md has a graph whose rows all
    change.

    Answers are not private: they gather by the exact PageRank of the graph they are asked about. A
    statement is made only with ``secure``, as noise from a seed can be replayed.

    Source: after Zhang, Lee, Ma, Lou, Yang & Xiong, DPAR: Decoupled Graph Neural Networks with
    Node-Level Differential Privacy, WWW 2024 (arXiv 2210.04442), of which the abstract could be
    read. Ours: exact PageRank for an approximate one, the Gaussian mechanism on whole rows, the cut
    of columns after the noise, and the proof. Its figures say nothing about the paper's.

    Attributes:
        epsilon: ε of rows and steps together, unless ``noise_multiplier`` is given.
        noise_multiplier: That of the steps, whatever ε it makes with that of the rows; 0 is no
            noise. None finds the least for ``epsilon``.
        delta: δ, below one over the number of training nodes.
        steps: Number of steps.
        rate: q, each root's chance to be in a step.
        clip: C, the most that a root's gradient can be long.
        clipping: "flat", by "layer" (C / √L each), or "automatic" (C g / (‖g‖ + 0.01)).
        optimizer: What makes updates from the noisy gradients.
        lr: Its learning rate.
        unit: Scale the features of every node to norm 1: its own affair, and so without cost.
        secure: Draw samples and noise from the operating system, not from the seed.
        ratio: Noise multiplier of the steps over that of the rows.
        alpha: Teleport probability, and the share of a node's own features.
        k: Entries of a row.
        seen: R, most roots that gather a node's features.
        every: One in so many nodes is a root, by a hash of its number.
        rows: What the noise of the rows pays for: "all" of them, or "one".
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)

    ratio: Annotated[float, Field(gt=0), Range(1, 10, log=True)] = 4.0
    alpha: Annotated[float, Field(gt=0, lt=1), Range(0.05, 0.5)] = 0.25
    k: Annotated[int, Field(ge=1), Range(2, 32, log=True)] = 8
    seen: Annotated[int, Field(ge=1), Range(1, 16, log=True)] = 4
    every: Annotated[int, Field(ge=1), Range(1, 100, log=True)] = 1
    rows: Literal["all", "one"] = "all"

    def refuses(self, recipe: Recipe) -> str | None:
        """Models that look at edges: they would be private no longer."""
        return looks_at_edges(recipe) or super().refuses(recipe)

    def sanitise(
        self, x: Tensor | Features, adj: Adj, how: How = "exact"
    ) -> tuple[Tensor | Features, Adj]:
        """Features gathered by exact PageRank; "bypass" leaves the features as they are."""
        own = unit_rows(x) if self.unit else x
        if how == "bypass":
            return own, adj
        return self._gathered(own, personalized_pagerank(adj, self.alpha, self.k)), adj

    def _gathered(self, x: Tensor | Features, weights: Adj) -> Tensor:
        own = _dense(x)
        return self.alpha * own + (1 - self.alpha) * propagate(weights, own)

    def train(
        self, model: GNN, graph: Graph, recipe: Recipe, rng: Rng, x: Tensor | Features, adj: Adj,
        on_epoch: OnEpoch | None = None, whole: Defense | None = None,
    ) -> Trace:  # fmt: skip
        """Noise the rows, gather by them, and train on that; ``x`` is exact, and is not used."""
        if graph.directed:
            raise ValueError(f"dpar needs an undirected graph, {graph.name!r} is directed")
        self._check(graph)
        noise = self._noise(self._roots(model, graph, adj, np.random.default_rng(0)))
        seed = Rng.fresh() if self.secure else rng
        plain = inputs(graph)
        gathered = self._gathered(
            unit_rows(plain) if self.unit else plain, self.noised(graph, noise, seed["rows"])
        )
        made = replace(self, noise_multiplier=noise)  # found once
        trace = super(DPAR, made).train(model, graph, recipe, rng, gathered, adj, on_epoch, whole)
        if noise:
            import dp_accounting

            trace.spent.insert(0, (dp_accounting.GaussianDpEvent(noise / self.ratio), 1))
        return trace

    @property
    def _movement(self) -> float:
        """Most that a row moves: two rows without negative entries, of norm at most 1."""
        return math.sqrt(2)

    def noised(self, graph: Graph, noise: float, rng: Rng) -> Adj:
        """(n, n) weights by which roots gather, from noisy rows; ``noise`` is that of the steps."""
        roots = self.sampled(graph.num_nodes)
        paid = len(roots) if self.rows == "all" else 1
        clean = pagerank_rows(graph, self.alpha)[roots]
        draw = torch.from_numpy(rng.numpy().standard_normal(clean.shape)).float()
        scale = noise / self.ratio * self._movement * math.sqrt(paid)
        value, column = (clean + scale * draw).topk(min(self.k, graph.num_nodes), 1)
        weight = value.clamp(min=0)
        dense = torch.zeros(graph.num_nodes, graph.num_nodes)
        dense[roots.unsqueeze(1), column] = weight / weight.sum(1, keepdim=True).clamp(min=1e-12)
        most = dense.topk(min(self.seen, graph.num_nodes), 0).indices
        kept = torch.zeros_like(dense).scatter(0, most, 1.0)
        return Adj.dense(dense * kept)

    def sampled(self, nodes: int) -> Tensor:
        """(M,) numbers of which the nodes are roots, as far as they are trained on."""
        from graphsec.dp.cells import hashed

        return (hashed(nodes, self.every, 0) == 0).nonzero().ravel()

    def _roots(self, model: GNN, graph: Graph, adj: Adj, generator: np.random.Generator) -> Roots:
        from graphsec.dp.roots import BoundedRoots

        assert graph.split is not None
        roots = self.sampled(graph.num_nodes)
        train = graph.split.train
        return BoundedRoots(
            adj=adj, nodes=train[torch.isin(train, roots)], rate=self.rate, hops=0,
            changed=self.seen, batch=self.rate * max(len(roots), 1),
        )  # fmt: skip

    def _spent(self, noise: float, roots: Roots) -> Any:
        """The rows beside the steps."""
        import dp_accounting

        rows = dp_accounting.GaussianDpEvent(noise / self.ratio)
        return dp_accounting.ComposedDpEvent([rows, super()._spent(noise, roots)])

    def statement(self, graph: Graph, recipe: Recipe, trace: Trace) -> PrivacyStatement | None:
        """ε of rows and steps; none where a single row is paid for, or noise can be replayed."""
        from graphsec.dp.accountant import Ledger

        if not self.secure or self.noise_multiplier == 0 or self.rows == "one":
            return None
        return PrivacyStatement(
            epsilon=Ledger.resumed(trace.spent).epsilon(self.delta),
            delta=self.delta,
            relation="add or remove one node with its edges, features and label",
            family="undirected graphs whose numbers of features, classes and node numbers (used or "
            "not) are public, whose split and each node's features and label depend on no other",
            release="of one fit: weights, noisy gradients, noisy rows; not answers, which read the "
            "edges and features that they are asked about",
            argument="docs/privacy.md, PageRank rows",
        )


def _dense(x: Tensor | Features) -> Tensor:
    if isinstance(x, Tensor):
        return x if x.layout == torch.strided else x.to_dense()
    return x.values.new_zeros(x.shape).index_put(x.csr.coo, x.values)


def pagerank_rows(graph: Graph, alpha: float) -> Tensor:
    """(n, n) personalised PageRank of the training nodes, rows at norm 1; 0 for all others."""
    assert graph.split is not None
    exact = personalized_pagerank(graph.adj, alpha, graph.num_nodes).merged()
    assert exact.weight is not None
    row, col = exact.csr.coo
    dense = torch.zeros(graph.num_nodes, graph.num_nodes)
    dense[row, col] = exact.weight.detach()
    trained = torch.zeros(graph.num_nodes, 1).index_fill(0, graph.split.train, 1.0)
    return torch.nn.functional.normalize(dense.clamp(min=0), dim=1) * trained
