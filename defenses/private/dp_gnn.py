"""Node-level private training: clipped per-root gradients and noise, on a graph or without one."""

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


@DEFENSES.register("dp-gnn", "dp-sgd")
@dataclass(frozen=True, kw_only=True)
class DPGNN(PrivateTraining):
    """Weights with (ε, δ)-differential privacy for nodes, their edges, features and labels.

    A step draws roots among the training nodes, takes the gradient of each on a subtree of its own
    (as many hops as the model has layers, edges among training nodes only), clips it, adds noise to
    the sum and updates the weights. With a model that ignores edges (``mlp``) this is DP-SGD, and
    the degree bound plays no part.

    **What is claimed**, and proven in docs/privacy.md ("Per-root training"): with the sampler
    "bounded", for graphs that keep a *public* bound on degrees, which is promised before the graph
    is seen. A graph that breaks the promise is refused. With "published", the sampler of the paper,
    nothing is claimed: what it keeps of one node's edges depends on the degrees of others, and
    docs/privacy.md shows a graph where one node changes hundreds of roots that never saw it. What
    it spends by the paper's accountant is in ``trace.spent``.

    What is private are the weights and the noisy gradients. Answers of a model with edges are not:
    they read the edges and features they are asked about. A statement is made only with ``secure``,
    as noise from a seed can be replayed.

    Nothing may be chosen by looking at the graph: not the fields below, and not by validation.
    So a recipe that stops early, selects a checkpoint or changes the rate is refused, and of the
    rest of the recipe's training nothing is used but ``expose``.

    Source: Daigavane et al., Node-Level Differentially Private Graph Neural Networks, 2021 (the
    training, and "published"); Abadi et al., Deep Learning with Differential Privacy, CCS 2016.
    Ours: "bounded", with Poisson samples and an event of its own.

    Attributes:
        epsilon: ε that all steps may cost together, unless ``noise_multiplier`` is given.
        noise_multiplier: σ, noise over sensitivity, whatever ε that makes; 0 is training without
            noise, clipped. None finds the least for ``epsilon``.
        delta: δ, below one over the public number of training nodes.
        steps: Number of steps.
        rate: q, each node's chance to be a root of a step ("published": the share that is drawn).
        clip: C, the most that a root's gradient can be long.
        clipping: "flat", by "layer" (C / √L each), or "automatic" (C g / (‖g‖ + 0.01)).
        optimizer: What makes updates from the noisy gradients.
        lr: Its learning rate.
        max_degree: D, the public bound ("published": K, the most roots that see a node at a hop).
        sampler: "bounded" or "published".
        nodes: Public number of training nodes, a scale of the updates; None takes the graph's,
            which then is public.
        unit: Scale the features of every node to norm 1: its own affair, and so without cost.
        secure: Draw samples and noise from the operating system, not from the seed.
    """

    max_degree: Annotated[int, Field(ge=1), Range(2, 50, log=True)] = 10
    sampler: Literal["bounded", "published"] = "bounded"
    nodes: Annotated[int, Field(ge=1)] | None = None

    version: ClassVar[int] = 1

    def _roots(self, model: GNN, graph: Graph, adj: Adj, generator: np.random.Generator) -> Roots:
        from graphsec.dp.roots import BoundedRoots, PublishedRoots

        assert graph.split is not None
        train = graph.split.train
        hops = (model.layers or 0) if model.capabilities.uses_edges else 0
        if hops and graph.directed:
            raise ValueError(f"dp-gnn needs an undirected graph, {graph.name!r} is directed")
        if hops and self.sampler == "published":
            size = max(round(self.rate * len(train)), 1)
            return PublishedRoots.of(
                adj, train, size=size, hops=hops, max_degree=self.max_degree, generator=generator
            )
        return BoundedRoots.of(
            adj, train,
            rate=self.rate, hops=hops, max_degree=self.max_degree, public=self._public(graph),
        )  # fmt: skip

    def _public(self, graph: Graph) -> int:
        return self.nodes or super()._public(graph)

    def own_steps(self) -> str | None:
        """Roots are drawn in secret unless all are drawn, and "published" thins their graph."""
        if self.rate < 1:
            return f"draws the roots of a step in secret: its rate must be 1, got {self.rate}"
        if self.sampler == "published":
            return "thins the graph in secret: its sampler must be 'bounded', got 'published'"
        if self.nodes is not None:
            return f"divides by another number than that of the roots: nodes is {self.nodes}"
        return None

    def within(self, adj: Adj, roots: Tensor) -> Adj:
        """Edges among training nodes."""
        from graphsec.dp.roots import induced

        return induced(adj, roots)

    def apart(self, roots: Tensor) -> list[Tensor] | None:
        """Every root alone."""
        return list(torch.arange(len(roots)).unsqueeze(1))

    def expectation(
        self, gradients: dict[str, Tensor], seen: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Clipped, as that of a single root."""
        from graphsec.dp.gradients import Clip

        squares = {name: g.square().sum().view(1) + 1e-30 for name, g in gradients.items()}
        factors = Clip(self.clip, self.clipping).factors(squares)
        return {name: g * factors[name] for name, g in gradients.items()}

    def statement(self, graph: Graph, recipe: Recipe, trace: Trace) -> PrivacyStatement | None:
        """ε of what was spent; none for the published sampler, or noise that can be replayed."""
        from graphsec.dp.accountant import Ledger

        edges = recipe.model.module.capabilities.uses_edges
        if not self.secure or self.noise_multiplier == 0 or (edges and self.sampler == "published"):
            return None
        graphs = "graphs whose split, and each node's features and label, depend on no other node"
        degrees = (
            f"undirected {graphs}, with degrees among training nodes of at most {self.max_degree}, "
            "publicly known"
        )
        fixed = "fixed beforehand" if self.nodes else "read from the graph and so taken as public"
        release = "of one fit: weights and noisy gradients; not answers, which read "
        release += "the edges and features that they are asked about"
        if not edges:
            release = "of one fit: weights, noisy gradients, answers about the asker's own features"
        return PrivacyStatement(
            epsilon=Ledger.resumed(trace.spent).epsilon(self.delta),
            delta=self.delta,
            relation="add or remove one node with its edges, features and label",
            family=f"{degrees if edges else graphs}; the scale of updates, for "
            f"{self._public(graph)} training nodes, is {fixed}",
            release=release,
            argument="docs/privacy.md, Per-root training",
        )
