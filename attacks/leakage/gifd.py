"""GIFD: gradient matching in the feature layers of a generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.leakage._generator import Generator, vae, vgae
from graphsec.attacks.leakage._images import check_grid, total_variation
from graphsec.attacks.leakage._leak import LeakageAttack
from graphsec.attacks.leakage._problem import Problem, posed
from graphsec.attacks.leakage.gradient_matching import distance
from graphsec.ops.prox import onto_l1_ball
from graphsec.outcome import Reconstruction
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.threat import Access, View


@ATTACKS.register("gifd")
@dataclass(frozen=True, kw_only=True)
class GIFD(LeakageAttack):
    """Matches gradients by features that a generator makes, from its latent outwards.

    First the latent is optimised, then each feature layer in turn, from where the layer before
    arrived and inside an L1 ball about that start; the layer with the least loss counts. The
    generator is a decoder trained on nodes whose features are public, never on private ones. The
    edges and all features that are not private are known, as for ``gradient-matching``; ``steps``
    are those of all layers together, so that both have equal iterations. Fewer numbers are looked
    for than there are features, so that noise, or what pruning took away, matters less; and no
    better is found than the generator can draw.

    Source: Fang et al., GIFD: A Generative Gradient Inversion Method with Feature Domain
    Optimization, ICCV 2023, algorithm 1 (there a BigGAN of images, radii in absolute terms).

    Attributes:
        prior: "vae" learns what a row of features is, "vgae" also what the neighbours' say of it.
        latent: Width of the latent.
        width: Width of the feature layers.
        epochs: Passes of the generator's training over the public nodes.
        loss: 1 − "cosine" of all gradients as one vector, or their "l2" distance.
        lr: Step size of Adam; it falls to a tenth after 3/8, 5/8 and 7/8 of a layer's steps.
        steps: Iterations of a run, shared equally by latent and feature layers.
        norm: Weight of the latent's squared distance from where it is likely, in units of its
            standard deviation.
        radius: Radius of the L1 ball of a feature layer, as a share of its start's L1 norm.
        tv: Weight of the total variation of features that are pixels of a ``grid``.
        grid: Rows and columns of the pixels, row by row.
        skip_zeros: Whether entries that were seen as 0 are left out, for gradients that a known
            defense has pruned.
        restarts: Runs, of which the one with the least loss counts.
        labels: Whether the labels of the roots are known (TRAIN_LABELS).
    """

    prior: Literal["vae", "vgae"] = "vae"
    latent: Annotated[int, Field(ge=1, le=1024), Range(4, 64, log=True)] = 16
    width: Annotated[int, Field(ge=1, le=8192), Range(32, 512, log=True)] = 128
    epochs: Annotated[int, Field(ge=1), Range(20, 500, log=True)] = 100
    loss: Literal["l2", "cosine"] = "cosine"
    lr: Annotated[float, Field(gt=0), Range(1e-3, 1.0, log=True)] = 0.1
    steps: Annotated[int, Field(ge=3), Range(100, 24_000, log=True)] = 1000
    norm: Annotated[float, Field(ge=0), Range(1e-7, 1e-2, log=True)] = 1e-4
    radius: Annotated[float, Field(ge=0), Range(0.05, 4.0, log=True)] = 1.0
    tv: Annotated[float, Field(ge=0), Range(1e-6, 1.0, log=True)] = 0.0
    grid: tuple[int, int] | None = None
    skip_zeros: bool = False
    restarts: Annotated[int, Field(ge=1), Range(1, 8)] = 1
    labels: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid(self.name, self.tv, self.grid)

    @property
    def needs(self) -> Access:
        """Gradients, edges, features and, where said so, labels."""
        known = Access.FEATURES | Access.EDGES
        return super().needs | known | (Access.TRAIN_LABELS if self.labels else Access.NONE)

    def run(self, view: View, rng: Rng) -> Reconstruction:
        """Features of all nodes for which they are private.

        Raises:
            ValueError: The labels of several roots are not known, or there are too few nodes with
                public features.
        """
        leak = self.leak(view)
        counts = leak.counts()
        y = leak.labels(counts)
        if self.labels:
            assert view.known.y is not None
            y = view.known.y[leak.roots]
        if y is None or bool((y < 0).any()):
            raise ValueError(
                f"attack 'gifd' needs the labels of {len(leak.roots)} roots: play the game with "
                "labels = 'known', and set labels"
            )
        nodes = leak.hidden(view.known)
        problem, rows = posed(view, leak, nodes, y)
        prior = self._prior(view, nodes, rng["prior"])
        runs = [self._run(problem, prior, rows, rng["run"][i]) for i in range(self.restarts)]
        loss, layer, found, losses = min(runs, key=lambda each: each[0])
        x = torch.zeros(len(nodes), found.shape[1])
        x[rows] = found.float()  # what no root's answer depends on stays at zero
        info = {"loss": loss, "layer": layer, "losses": losses}
        return Reconstruction(nodes=nodes, x=x, y=y, counts=counts, info=info)

    def _prior(self, view: View, nodes: Tensor, rng: Rng) -> Generator:
        train = vae if self.prior == "vae" else vgae
        sizes = self.latent, self.width, self.epochs
        key = ("gifd", self.prior, sizes, tuple(nodes.tolist()), rng)
        return view.once(key, lambda: train(view.known, nodes, *sizes, rng))

    def _run(
        self, problem: Problem, prior: Generator, rows: Tensor, rng: Rng
    ) -> tuple[float, int, Tensor, list[float]]:
        """(loss, its layer, features, losses of all layers) that one run finds."""
        mean, std = prior.mean[rows], prior.std[rows]
        h = mean + std * torch.randn(mean.shape, generator=rng.torch(), dtype=torch.float64)

        def objective(h: Tensor, layer: int) -> Tensor:
            unlikely = 0.0 if layer else ((h - mean) / std).square().sum()
            return self._mismatch(problem, prior.features(h, layer)) + self.norm * unlikely

        found = []
        layers = len(prior.stages)
        for layer, stage in enumerate(prior.stages):
            steps = self.steps // layers + (layer < self.steps % layers)
            ball = partial(into_ball, centre=h, radius=self.radius * h.abs().sum(1))
            goal = partial(objective, layer=layer)
            h = descend(goal, h, steps, self.lr, ball if layer else None)
            x = prior.features(h, layer)
            found.append((self._mismatch(problem, x).item(), layer, x))
            h = stage(h)
        best = min(found, key=lambda each: each[0])
        return *best, [loss for loss, _, _ in found]

    def _mismatch(self, problem: Problem, x: Tensor) -> Tensor:
        """How far the gradients under features x (k, d) are from those seen, with ``tv``."""
        mine = problem.gradients(x, None)
        if self.skip_zeros:
            mine = [a * (b != 0) for a, b in zip(mine, problem.seen, strict=True)]
        loss = distance(mine, problem.seen, self.loss)
        return loss + self.tv * total_variation(x, self.grid) if self.tv and self.grid else loss


def into_ball(h: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    """The nearest points to h (k, w) that are no farther (L1) than the radii (k,) from a centre."""
    return centre + onto_l1_ball(h - centre, radius)


def descend(
    objective: Callable[[Tensor], Tensor], start: Tensor, steps: int, lr: float,
    project: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Where Adam arrives from ``start``, projected after each step."""
    h = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([h], lr=lr)
    falls = [steps * eighths // 8 for eighths in (3, 5, 7)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, falls, 0.1)
    for _ in range(steps):
        (h.grad,) = torch.autograd.grad(objective(h), [h])
        optimizer.step()
        schedule.step()
        if project is not None:
            with torch.no_grad():
                h.copy_(project(h))
    return h.detach()
