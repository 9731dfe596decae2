"""How much the noisy gradients of a training look as if a canary had been there."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from graphsec.dp.canaries import Planted
from graphsec.dp.roots import PublishedRoots
from graphsec.dp.step import PrivateSteps
from graphsec.graph import Graph
from graphsec.models.base import GNN, inputs
from graphsec.predict import How
from graphsec.train import Release


class PrivateTrainer(Protocol):
    """A defense that trains by private steps."""

    def sanitise(self, x: Any, adj: Any, how: How = "exact") -> tuple[Any, Any]:
        """Features and adjacency as the steps see them."""
        ...

    def private_steps(
        self, model: GNN, graph: Graph, x: Any, adj: Any, generator: Any, ledger: Any
    ) -> PrivateSteps:
        """The steps of a training on ``graph``."""
        ...


def gradient_scores(
    planted: Planted, trainer: PrivateTrainer, model: GNN, releases: Sequence[Release]
) -> Tensor:
    """(m,) how well the released sums fit a training with each canary rather than without it.

    The auditor knows all but the coins and the noise. At the parameters of each step they work out
    the sum of clipped gradients with all canaries, S₁, and with none, S₀, of which a step draws a
    share q in the mean, and the score is

        Σ_t ⟨g̃_t − q (S₁ + S₀) / 2, q (S₁ − S₀)⟩

    with g̃ the noisy sum, over the rows of the first layer that belong to the canary's feature (of
    one canary alone: over all parameters). With Gaussian noise and q = 1 this is the
    log-likelihood ratio, but for its scale.

    Args:
        planted: Graph and canaries.
        trainer: Makes the steps, as the training did.
        model: Of the training; left as it is.
        releases: Of its steps, each with parameters and noisy gradients.
    """
    shadow = copy.deepcopy(model).eval()
    nobody = torch.zeros(len(planted.canaries))
    ways = [_steps(trainer, shadow, graph) for graph in (planted.graph, planted.drawn(nobody))]
    share, batch = _share(ways[0]), ways[0].roots.batch
    parameters = dict(shadow.named_parameters())
    scores = torch.zeros(len(planted.canaries), dtype=torch.float64)
    for release in releases:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(release.tensors[f"parameter:{name}"])
        inside, outside = (share * _stacked(steps, planted) for steps in ways)
        noisy = batch * _rows({n: release.tensors[n] for n in parameters}, planted)
        scores += ((noisy - (inside + outside) / 2) * (inside - outside)).sum(1)
    return scores


def reach(planted: Planted, trainer: PrivateTrainer, model: GNN) -> float:
    """How far a canary moves the sum of all roots' gradients, in clip norms; the mean of all.

    A claim covers 1 for the canary's own root and 2 for each other root that it changes.
    """
    shadow = copy.deepcopy(model).eval()
    nobody = torch.zeros(len(planted.canaries))
    ways = [_steps(trainer, shadow, graph) for graph in (planted.graph, planted.drawn(nobody))]
    inside, outside = (_stacked(steps, planted) for steps in ways)
    return float((inside - outside).norm(dim=1).mean()) / ways[0].clip.norm


def _steps(trainer: PrivateTrainer, model: GNN, graph: Graph) -> PrivateSteps:
    from graphsec.dp.accountant import Ledger

    # A generator of the auditor's own: what the training drew, they don't know.
    x, adj = trainer.sanitise(inputs(graph), graph.adj, "exact")
    return trainer.private_steps(model, graph, x, adj, np.random.default_rng(0), Ledger())


def _share(steps: PrivateSteps) -> float:
    """Part of the roots that a step draws in the mean."""
    roots: Any = steps.roots
    fixed = isinstance(roots, PublishedRoots)
    return float(roots.size / len(roots.nodes) if fixed else roots.rate)


def _stacked(steps: PrivateSteps, planted: Planted) -> Tensor:
    roots: Any = steps.roots
    return _rows(steps.total(roots.nodes), planted)


def _rows(sums: dict[str, Tensor], planted: Planted) -> Tensor:
    """(m, numbers) float64: each canary's rows of the first layer, or all numbers of one canary."""
    if len(planted.canaries) == 1:
        return torch.cat([value.double().ravel() for value in sums.values()]).unsqueeze(0)
    width = planted.graph.num_features
    own = [v for v in sums.values() if v.dim() == 2 and len(v) == width]
    return torch.cat([value[planted.columns].double() for value in own], dim=1)
