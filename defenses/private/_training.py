"""What defenses share that train by private steps: clipped gradients, noise, and what they cost."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.graph import Graph
from graphsec.models.base import GNN
from graphsec.ops import Adj, Features, unit_rows
from graphsec.predict import How
from graphsec.registry import Range
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace, released

if TYPE_CHECKING:
    from graphsec.dp.roots import Roots
    from graphsec.dp.step import PrivateSteps

_OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


def looks_at_edges(recipe: Recipe) -> str | None:
    """Why a model that looks at edges is refused where edges are somebody else's matter."""
    if not recipe.model.module.capabilities.uses_edges:
        return None
    return f"needs a model that uses no edges, such as 'mlp', got {recipe.model.name!r}"


@dataclass(frozen=True, kw_only=True)
class UnitFeatures(Defense):
    """Base of defenses that may scale each node's features to norm 1, its own affair (``unit``)."""

    unit: bool = True

    def sanitise(
        self, x: Tensor | Features, adj: Adj, how: How = "exact"
    ) -> tuple[Tensor | Features, Adj]:
        """Features at norm 1."""
        return (unit_rows(x) if self.unit else x), adj

    def estimate(self, found: Tensor, known: Tensor) -> Tensor:
        """At the mean norm of the features of others: their own is lost."""
        if not self.unit:
            return found
        direction: Tensor = torch.nn.functional.normalize(found, dim=1)
        size: Tensor = known.to(found.dtype).norm(dim=1).mean()
        return direction * size


@dataclass(frozen=True, kw_only=True)
class PrivateTraining(UnitFeatures):
    """Base: so many steps, each of which draws records, sums their clipped gradients, adds noise.

    A method says what its records are (``_roots``) and what it promises (``statement``). Nothing
    may be chosen by looking at the graph: not the fields, and not by validation. So a recipe that
    stops early, selects a checkpoint or changes the rate is refused, and of the rest of the
    recipe's training nothing is used but ``expose``.
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
    secure: bool = False

    def refuses(self, recipe: Recipe) -> str | None:
        """A recipe that chooses by data, or a model that mixes more than a root's subtree."""
        from graphsec.dp.gradients import beyond_roots

        training = recipe.training
        for name, found, only in (
            ("select", training.select, "last"),
            ("patience", training.patience, None),
            ("schedule", training.schedule, "constant"),
            ("sampler", training.sampler, None),
            ("local_steps", training.local_steps, None),
        ):
            if found != only:
                return (
                    f"training.{name} must be {only!r} with {self.name!r}, got {found!r}: a choice "
                    "by private validation nodes is not paid for, and steps and rate are the "
                    "defense's"
                )
        return beyond_roots(recipe.model.module)

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
        seed = Rng.fresh() if self.secure else rng
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
        from graphsec.dp.step import check_model

        check_model(model)
        roots = self._roots(model, graph, adj, generator)
        return self._stepping(
            model, x, self._labels(graph), graph.task,
            roots=roots, clip=Clip(self.clip, self.clipping), noise_multiplier=self._noise(roots),
            optimizer=_OPTIMIZERS[self.optimizer](model.parameters(), lr=self.lr),
            generator=generator, ledger=ledger,
        )  # fmt: skip

    @property
    def _stepping(self) -> type[PrivateSteps]:
        """The steps that know such records."""
        from graphsec.dp.step import PrivateSteps

        return PrivateSteps

    def _labels(self, graph: Graph) -> Tensor:
        """(n,) labels as steps take them."""
        assert graph.y is not None
        return graph.y

    def _roots(self, model: GNN, graph: Graph, adj: Adj, generator: np.random.Generator) -> Roots:
        """The records that steps draw."""
        raise NotImplementedError

    def _noise(self, roots: Roots) -> float:
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        from graphsec.dp.accountant import noise_for

        return noise_for(lambda noise: self._spent(noise, roots), self.epsilon, self.delta)

    def _spent(self, noise: float, roots: Roots) -> Any:
        """The event of a whole training at a noise multiplier."""
        import dp_accounting

        return dp_accounting.SelfComposedDpEvent(roots.event(noise), self.steps)

    def _public(self, graph: Graph) -> int:
        """Public number of training nodes."""
        assert graph.split is not None
        return len(graph.split.train)

    def _check(self, graph: Graph) -> None:
        if graph.y is None:
            raise ValueError(f"y is missing in {graph.name!r}: training needs labels")
        if graph.split is None or len(graph.split.train) == 0:
            raise ValueError(f"split.train is empty in {graph.name!r}: training needs nodes")
        if graph.indptr.device.type != "cpu":
            device = graph.indptr.device
            raise ValueError(f"{self.name} trains on the CPU, the graph is on {device}")
        if self.delta * self._public(graph) >= 1:
            raise ValueError(
                f"delta must be < 1 / {self._public(graph)}, the number of training nodes, got "
                f"{self.delta}: at more, it may give one of them away outright"
            )
