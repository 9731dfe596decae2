"""Watermark: the model learns the labels of a random graph that only its owner can draw again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.graph import Graph, Split
from graphsec.graph.arrays import as_scipy
from graphsec.models.base import GNN, inputs
from graphsec.ops import CSR, Adj, Features
from graphsec.ownership import Verdict, Verifier, watermark_verdict
from graphsec.predict import Predictor
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace
from graphsec.train import fit as train_model

_DECOY = 2**31 - 1  # the key that attackers are shown


@DEFENSES.register("watermark")
@dataclass(frozen=True, kw_only=True)
class Watermark(Defense):
    """Trains on a random graph beside the real one, without an edge between them.

    The trigger is an Erdős–Rényi graph. Its nodes' features are drawn column by column from those
    of the real nodes, so that no value stands out, and their labels uniformly, so that a model made
    without them hits each with chance 1 / classes, whatever it answers: the p-value of the binomial
    test is exact. Whoever has the key draws the trigger again; it belongs to the owner, and to a
    notary who can say when it was made. Attackers never see it. The owner asks suspects about the
    trigger alone, which must be possible.

    Nothing else is promised: a copy that learns from answers about the real graph need not learn
    the trigger.

    Source: Zhao, Wu and Zhang, Watermarking Graph Neural Networks by Random Graphs, ISDFS 2021,
    and the tests of Xu et al., Watermarking Graph Neural Networks Based on Backdoor Attacks,
    EuroS&P 2023; from memory. Ours: the features' distribution, uniform labels, the exact test.

    Attributes:
        nodes: Nodes of the trigger.
        density: Chance of each of its edges.
        key: What the trigger is drawn from: the same key, the same trigger.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    verifies: ClassVar[bool] = True

    nodes: Annotated[int, Field(ge=4), Range(10, 200, log=True)] = 40
    density: Annotated[float, Field(ge=0, le=1), Range(0.01, 0.5, log=True)] = 0.05
    key: Annotated[int, Field(ge=0)] = 0

    def public(self) -> Watermark:
        """With a key that is not the owner's."""
        return replace(self, key=_DECOY)

    def trigger(self, graph: Graph) -> Graph:
        """The trigger graph, all of it labelled."""
        rng = Rng(self.key)["watermark"]
        m = self.nodes
        pairs = torch.triu_indices(m, m, 1)
        kept = torch.rand(pairs.shape[1], generator=rng["edges"].torch()) < self.density
        x, d = as_scipy(inputs(graph)), graph.num_features
        rows = rng["features"].numpy().integers(0, graph.num_nodes, (m, d))
        drawn = np.asarray(x[rows.ravel(), np.tile(np.arange(d), m)]).reshape(m, d)
        y = torch.randint(graph.num_classes, (m,), generator=rng["labels"].torch())
        return Graph.from_edges(
            pairs[:, kept], m, x=drawn, y=y, directed=graph.directed, name="trigger"
        )

    def train(
        self, model: GNN, graph: Graph, recipe: Recipe, rng: Rng, x: Tensor | Features, adj: Adj,
        on_epoch: OnEpoch | None = None, whole: Defense | None = None,
    ) -> Trace:  # fmt: skip
        """On both graphs at once.

        Raises:
            ValueError: Another defense made the adjacency dense, or a finished operator.
        """
        if adj.factors is not None or adj.final:
            raise ValueError(
                "watermark adds a graph to the one that is trained on: compose it with no defense "
                "that makes a dense adjacency or a finished operator"
            )
        assert graph.y is not None
        assert graph.split is not None
        mark, n = self.trigger(graph), graph.num_nodes
        assert mark.x is not None
        assert mark.y is not None
        new = torch.arange(n, n + self.nodes)
        split = Split.of(torch.cat([graph.split.train, new]), graph.split.val, graph.split.test)
        both = graph.grow(mark.x, mark.pairs + n)
        both = both.replace(y=torch.cat([graph.y, mark.y]), split=split)
        untouched = x is graph.x  # stays sparse if it was
        rows = both.x if untouched else torch.cat([x.to_dense(), mark.x.to(x.dtype)])
        assert rows is not None
        return train_model(
            model, both, recipe.training, rng, x=rows, adj=beside(adj.pruned(), mark.adj),
            release=(whole or self).release, on_epoch=on_epoch,
        )  # fmt: skip

    def verifier(self, predictor: Predictor, graph: Graph, rng: Rng) -> Verifier:
        """Asks about the trigger."""
        mark = self.trigger(graph)
        assert mark.y is not None
        marks, classes = mark.y, graph.num_classes

        def verify(suspect: Predictor) -> Verdict:
            return watermark_verdict(suspect.predict(mark), marks, classes)

        return verify


def beside(first: Adj, second: Adj) -> Adj:
    """Both adjacencies as one, without an edge between them."""
    one, two = first.csr, second.csr
    csr = CSR(
        torch.cat([one.indptr, one.indptr[-1] + two.indptr[1:]]),
        torch.cat([one.indices, two.indices + first.num_nodes]),
        first.num_nodes + second.num_nodes,
    )
    weights = [adj.weight for adj in (first, second)]
    if all(weight is None for weight in weights):
        return Adj(csr=csr)
    parts = [
        torch.ones(adj.csr.nnz) if weight is None else weight
        for adj, weight in zip((first, second), weights, strict=True)
    ]
    return Adj(csr=csr, weight=torch.cat(parts))
