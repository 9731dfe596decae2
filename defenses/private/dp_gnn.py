"""Node-level private training: clipped per-root gradients and noise, on a graph or without one."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.graph import Graph
from graphsec.models.base import GNN
from graphsec.ops import Adj, Features, unit_rows
from graphsec.predict import How, PrivacyStatement
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace, released

if TYPE_CHECKING:
    from graphsec.dp.roots import Roots
    from graphsec.dp.step import PrivateSteps

_OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


@DEFENSES.register("dp-gnn", "dp-sgd")
@dataclass(frozen=True, kw_only=True)
class DPGNN(Defense):
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

    epsilon: Annotated[float, Field(gt=0), Range(1, 16, log=True)] = 8.0
    noise_multiplier: Annotated[float, Field(ge=0)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    steps: Annotated[int, Field(ge=1), Range(50, 1000, log=True)] = 200
    rate: Annotated[float, Field(gt=0, le=1), Range(0.01, 0.5, log=True)] = 0.05
    clip: Annotated[float, Field(gt=0), Range(0.1, 10, log=True)] = 1.0
    clipping: Literal["flat", "layer", "automatic"] = "flat"
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: Annotated[float, Field(gt=0, le=100), Range(1e-3, 1e-1, log=True)] = 0.01
    max_degree: Annotated[int, Field(ge=1), Range(2, 50, log=True)] = 10
    sampler: Literal["bounded", "published"] = "bounded"
    nodes: Annotated[int, Field(ge=1)] | None = None
    unit: bool = True
    secure: bool = False

    version: ClassVar[int] = 1

    def refuses(self, recipe: Recipe) -> str | None:
        """A recipe that chooses by data, or a model that mixes more than a root's subtree."""
        from graphsec.dp.gradients import beyond_roots

        training = recipe.training
        for name, found, only in (
            ("select", training.select, "last"),
            ("patience", training.patience, None),
            ("schedule", training.schedule, "constant"),
            ("sampler", training.sampler, None),
        ):
            if found != only:
                return (
                    f"training.{name} must be {only!r} with 'dp-gnn', got {found!r}: a choice by "
                    "private validation nodes is not paid for, and steps and rate are dp-gnn's"
                )
        return beyond_roots(recipe.model.module)

    def sanitise(
        self, x: Tensor | Features, adj: Adj, how: How = "exact"
    ) -> tuple[Tensor | Features, Adj]:
        """Features at norm 1."""
        return (unit_rows(x) if self.unit else x), adj

    def train(
        self, model: GNN, graph: Graph, recipe: Recipe, rng: Rng, x: Tensor | Features, adj: Adj,
        on_epoch: OnEpoch | None = None, whole: Defense | None = None,
    ) -> Trace:  # fmt: skip
        """So many private steps; ``on_epoch`` sees what was spent, and none of the data.

        Raises:
            ValueError: The graph or the model is not fit for it, or the recipe chooses by data.
        """
        from graphsec.dp.accountant import Ledger

        reason = self.refuses(recipe)
        if reason is not None:
            raise ValueError(reason)
        self._check(graph)
        ledger, trace = Ledger(), Trace()
        seed = Rng(secrets.randbits(64)) if self.secure else rng
        entropy: Any = secrets.randbits(256) if self.secure else rng["steps"].entropy
        generator = np.random.default_rng(entropy)
        with seed.scope():  # dropout draws from torch's generators
            steps = self.private_steps(model, graph, x, adj, generator, ledger)
            for i in range(self.steps):
                steps.step(
                    lambda i=i: released(  # type: ignore[misc]
                        model, (whole or self).release, trace, recipe.training, f"step {i}"
                    )
                )
                trace.epochs = i + 1
                if on_epoch and on_epoch(i, {"epsilon": ledger.epsilon(self.delta)}):
                    break
        trace.spent = ledger.state
        model.eval()
        return trace

    def private_steps(
        self, model: GNN, graph: Graph, x: Tensor | Features, adj: Adj,
        generator: np.random.Generator, ledger: Any,
    ) -> PrivateSteps:  # fmt: skip
        """The steps of a training; their noise fits ε where ε is given."""
        from graphsec.dp.gradients import Clip
        from graphsec.dp.step import PrivateSteps, check_model

        check_model(model)
        roots = self._roots(model, graph, adj, generator)
        assert graph.y is not None
        return PrivateSteps(
            model, x, graph.y, graph.task,
            roots=roots, clip=Clip(self.clip, self.clipping), noise_multiplier=self._noise(roots),
            optimizer=_OPTIMIZERS[self.optimizer](model.parameters(), lr=self.lr),
            generator=generator, ledger=ledger,
        )  # fmt: skip

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

    def _noise(self, roots: Roots) -> float:
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        import dp_accounting

        from graphsec.dp.accountant import noise_for

        def spent(noise: float) -> Any:
            return dp_accounting.SelfComposedDpEvent(roots.event(noise), self.steps)

        return noise_for(spent, self.epsilon, self.delta)

    def _public(self, graph: Graph) -> int:
        assert graph.split is not None
        return self.nodes or len(graph.split.train)

    def _check(self, graph: Graph) -> None:
        if graph.y is None:
            raise ValueError(f"y is missing in {graph.name!r}: training needs labels")
        if graph.split is None or len(graph.split.train) == 0:
            raise ValueError(f"split.train is empty in {graph.name!r}: training needs nodes")
        if graph.indptr.device.type != "cpu":
            raise ValueError(f"dp-gnn trains on the CPU, the graph is on {graph.indptr.device}")
        if self.delta * self._public(graph) >= 1:
            raise ValueError(
                f"delta must be < 1 / {self._public(graph)}, the number of training nodes, got "
                f"{self.delta}: at more, it may give one of them away outright"
            )

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
