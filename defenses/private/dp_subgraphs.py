"""Node-level private training on disjoint subgraphs: one clipped gradient each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.private._training import PrivateTraining
from graphsec.graph import Graph
from graphsec.models.base import GNN
from graphsec.ops import Adj
from graphsec.predict import PrivacyStatement
from graphsec.registry import DEFENSES, Range
from graphsec.train import Recipe, Trace

if TYPE_CHECKING:
    from graphsec.dp.roots import Roots
    from graphsec.dp.step import PrivateSteps


@DEFENSES.register("dp-subgraphs")
@dataclass(frozen=True, kw_only=True)
class DPSubgraphs(PrivateTraining):
    """Weights that are private for nodes on any graph: training on subgraphs that share no node.

    Every node is in one subgraph, and edges between subgraphs are left out. A step draws some of
    the subgraphs, takes of each the gradient of the mean loss of its training nodes, clips it, adds
    noise to the sum and updates the weights. The subgraphs hold nodes that are not trained on too.

    **What is claimed**, and proven in docs/privacy.md ("Disjoint cells"): with the partition
    "cells", on any graph, hubs and all, for the weights and the noisy gradients. A node's cell is a
    hash of its number, or what a public list says: it depends on no edge and on no other node, so
    that a node that goes changes the term of its own cell and no other. The price is that of the
    edges, hashed cells keep one in ``cells``; public cells that keep more (regions, schools) are
    worth having. With "walks", the published partition by random walks, nothing is claimed: where a
    node is gone the walks that would have taken it go elsewhere and take nodes from others, and
    docs/privacy.md has a graph where one node changes every subgraph.

    Answers are not private: they read the edges and features they are asked about. A statement is
    made only with ``secure``, as noise from a seed can be replayed.

    Source: Ayle, Schuchardt, Gosch, Zügner & Günnemann, Training Differentially Private Graph
    Neural Networks with Random Walk Sampling, TSRML workshop at NeurIPS 2022 (arXiv 2301.00738).
    Of it the abstract could be read; "walks" is the plainest of disjoint random walks, drawn once,
    and none of the paper's three. Ours: "cells", their event and the proof.

    Attributes:
        epsilon: ε that all steps may cost together, unless ``noise_multiplier`` is given.
        noise_multiplier: σ, noise over ``clip``, whatever ε that makes; 0 is training without
            noise, clipped. None finds the least for ``epsilon``.
        delta: δ, below one over the number of training nodes.
        steps: Number of steps.
        rate: q, each subgraph's chance to be in a step.
        clip: C, the most that a subgraph's gradient can be long.
        clipping: "flat", by "layer" (C / √L each), or "automatic" (C g / (‖g‖ + 0.01)).
        optimizer: What makes updates from the noisy gradients.
        lr: Its learning rate.
        unit: Scale the features of every node to norm 1: its own affair, and so without cost.
        secure: Draw samples and noise from the operating system, not from the seed.
        partition: "cells" or "walks".
        cells: m, the public number of cells.
        salt: Of the hash, public.
        groups: The cell of each node, 0 … m − 1, from a public list; None hashes.
        length: Most nodes of a walk.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)

    partition: Literal["cells", "walks"] = "cells"
    cells: Annotated[int, Field(ge=1), Range(10, 1000, log=True)] = 100
    salt: Annotated[int, Field(ge=0)] = 0
    groups: tuple[int, ...] | None = None
    length: Annotated[int, Field(ge=1), Range(2, 50, log=True)] = 10

    @property
    def _stepping(self) -> type[PrivateSteps]:
        from graphsec.dp.cells import CellSteps

        return CellSteps

    def _labels(self, graph: Graph) -> Tensor:
        """Those of training nodes; −1 of the others in their subgraphs."""
        assert graph.split is not None
        assert graph.y is not None
        train = graph.split.train
        return torch.full_like(graph.y, -1).index_copy(0, train, graph.y[train])

    def _roots(self, model: GNN, graph: Graph, adj: Adj, generator: np.random.Generator) -> Roots:
        from graphsec.dp.cells import Cells, hashed, walked

        if self.partition == "walks":
            walk = walked(adj, self.length, generator)
            return Cells.of(adj, walk, count=int(walk.max()) + 1, rate=self.rate)
        if self.groups is None:
            cell = hashed(graph.num_nodes, self.cells, self.salt)
        else:
            cell = torch.tensor(self.groups, dtype=torch.int64)
        return Cells.of(adj, cell, count=self.cells, rate=self.rate)

    def statement(self, graph: Graph, recipe: Recipe, trace: Trace) -> PrivacyStatement | None:
        """ε of what was spent; none for walks, or noise that can be replayed."""
        from graphsec.dp.accountant import Ledger

        if not self.secure or self.noise_multiplier == 0 or self.partition == "walks":
            return None
        where = "a hash of its number" if self.groups is None else "a public list"
        return PrivacyStatement(
            epsilon=Ledger.resumed(trace.spent).epsilon(self.delta),
            delta=self.delta,
            relation="add or remove one node with its edges, features and label",
            family="all graphs whose numbers of features and classes are public, whose split and "
            "each node's number, features and label depend on no other node; its cell is by "
            + where,
            release="of one fit: weights and noisy gradients; not answers, which read the edges "
            "and features that they are asked about",
            argument="docs/privacy.md, Disjoint cells",
        )
