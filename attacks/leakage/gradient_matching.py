"""Gradient matching: features under which the model would have had the gradient that was seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.attacks.leakage._images import check_grid, total_variation
from graphsec.attacks.leakage._leak import Leak, LeakageAttack
from graphsec.attacks.leakage._problem import Problem, posed
from graphsec.models.base import inputs
from graphsec.outcome import Reconstruction
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.threat import Access, View


@ATTACKS.register("gradient-matching")
@dataclass(frozen=True, kw_only=True)
class GradientMatching(LeakageAttack):
    """Optimises the private features until the model's gradient is the one that was seen.

    With the defaults it is DLG: the squared distance of the gradients (relative to the size of
    the one seen) by L-BFGS. Inverting Gradients is ``loss`` "cosine", ``optimizer`` "adam", ``lr``
    0.1, ``signed``, ``boxed`` and, on images, ``tv`` 0.2. The edges and all features that are not
    private are known. The label of a single root is recovered first (``idlg``); labels of several
    are known (``labels``), or looked for beside the features as DLG does. With dropout the step
    that is looked for is not the one that was made.

    Source: Zhu et al., Deep Leakage from Gradients, NeurIPS 2019, algorithm 1 (300 iterations,
    here with a line search); Geiping et al., Inverting Gradients, NeurIPS 2020, §4 eq. 4 (24,000
    signed steps of Adam at 0.1, falling to a tenth after 3/8, 5/8 and 7/8).

    Attributes:
        loss: "l2" distance, 1 − "cosine" of all gradients as one vector, or the share of a
            gradient's size that has another "sign" than what was seen, 0 at the truth where no more
            than signs was left.
        optimizer: "lbfgs" or "adam".
        lr: Step size of Adam; L-BFGS searches its own.
        steps: Most iterations of a run.
        signed: Whether Adam sees only the signs of the gradient.
        skip_zeros: Whether entries that were seen as 0 are left out, for gradients that a known
            defense has pruned.
        boxed: Whether features stay in the range that known features have.
        start: Features begin as "normal" noise, as "zero", or at the "mean" of neighbours.
        restarts: Runs, of which the one with the least loss counts.
        labels: Whether the labels of the roots are known (TRAIN_LABELS).
        prior: Weight of the features' squared distance to the means of their neighbours, in
            standard deviations as measured on known nodes: for what the gradient leaves open.
        rounds: Steps after each other whose gradients are matched at once, all of the same
            features: what noise adds to one it takes off another. ``training.expose`` must cover
            them.
        through: Whether the attacker allows for the defense, which is known but for what it drew:
            gradients go through what it is expected to do to them (root by root where it does),
            its secret keys are looked for beside the features, and features that it changed are
            guessed from what was found. Noise that is right in expectation needs nothing of it.
        tv: Weight of the total variation of features that are pixels of a ``grid``.
        grid: Rows and columns of the pixels, row by row.
    """

    loss: Literal["l2", "cosine", "sign"] = "l2"
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    lr: Annotated[float, Field(gt=0), Range(1e-3, 1.0, log=True)] = 0.1
    steps: Annotated[int, Field(ge=1), Range(100, 24_000, log=True)] = 300
    signed: bool = False
    boxed: bool = False
    skip_zeros: bool = False
    start: Literal["normal", "zero", "mean"] = "normal"
    restarts: Annotated[int, Field(ge=1), Range(1, 8)] = 1
    labels: bool = False
    prior: Annotated[float, Field(ge=0), Range(1e-4, 1.0, log=True)] = 0.0
    rounds: Annotated[int, Field(ge=1), Range(1, 20, log=True)] = 1
    through: bool = False
    tv: Annotated[float, Field(ge=0), Range(1e-4, 1.0, log=True)] = 0.0
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid(self.name, self.tv, self.grid)

    @property
    def needs(self) -> Access:
        """Gradients, edges, features and, where said so, labels."""
        known = Access.FEATURES | Access.EDGES
        return super().needs | known | (Access.TRAIN_LABELS if self.labels else Access.NONE)

    def run(self, view: View, rng: Rng) -> Reconstruction:
        """Features of all nodes for which they are private, and labels of the roots.

        Raises:
            ValueError: The labels are private, or there are more unknown numbers than numbers in
                the gradient.
        """
        leak = self.leak(view, self.rounds)
        if self.through and not view.threat.adaptive:
            raise ValueError(
                "attack 'gradient-matching': through allows for the defense, so threat.adaptive "
                "must be true"
            )
        counts = leak.counts()
        y = leak.labels(counts)
        if self.labels:
            assert view.known.y is not None
            y = view.known.y[leak.roots]
            if bool((y < 0).any()):
                raise ValueError(
                    "attack 'gradient-matching': labels are private in this game; play it with "
                    "labels = 'known'"
                )
        nodes = leak.hidden(view.known)
        told, informed = y, self.prior > 0 or self.start == "mean"
        if y is None and leak.secrets and len(leak.roots) == 1:
            y = torch.zeros(1, dtype=torch.int64)  # keys are looked for: any may be the root's
        problem, rows = posed(view, leak, nodes, y, self.through, informed)
        self._check_size(problem, 0 if y is not None else len(leak.roots) * leak.classes)
        runs = [self._optimised(problem, leak, rng["run"][i]) for i in range(self.restarts)]
        loss, z, soft = min(runs, key=lambda each: each[0])
        x = torch.zeros(len(nodes), z.shape[1])
        if self.through and leak.defense is not None:
            shown = torch.ones(view.known.num_nodes, dtype=torch.bool)
            shown[nodes] = False
            z = leak.defense.estimate(z, inputs(view.known).to_dense()[shown])
        x[rows] = z.float()  # what no root's answer depends on stays at zero
        found = told if soft is None or leak.secrets else soft.argmax(1)
        return Reconstruction(nodes=nodes, x=x, y=found, counts=counts, info={"loss": loss})

    def _check_size(self, problem: Problem, labels: int) -> None:
        unknown = len(problem.rows) * problem.x.shape[1] + labels
        unknown += sum(shape.numel() for shape in problem.secrets.values())
        given = sum(g.numel() for g in problem.seen)
        if unknown > given:
            raise ValueError(
                f"attack 'gradient-matching' looks for {unknown:,} numbers, of which a gradient of "
                f"{given:,} can tell no more than that many: draw fewer roots, or keep fewer "
                "features private"
            )

    def _optimised(
        self, problem: Problem, leak: Leak, rng: Rng
    ) -> tuple[float, Tensor, Tensor | None]:
        """(loss, features, logits of labels) that one run finds."""
        shape = (len(problem.rows), problem.x.shape[1])
        z = torch.zeros(shape, dtype=torch.float64)
        if self.start == "normal":
            z = torch.randn(shape, generator=rng.torch(), dtype=torch.float64)
        if self.start == "mean":
            assert problem.prior is not None
            z = problem.prior.mean.clone()
        variables, soft = [z.requires_grad_()], None
        if problem.y is None:
            soft = torch.zeros(len(leak.roots), leak.classes, dtype=torch.float64)
            variables.append(soft.requires_grad_())
        secret = {
            name: torch.randn(shape, generator=rng[name].torch(), dtype=torch.float64)
            for name, shape in problem.secrets.items()
        }
        variables += [value.requires_grad_() for value in secret.values()]
        bounds = problem.bounds if self.boxed else None

        def objective() -> Tensor:
            mine = problem.gradients(z, soft, secret)
            if self.skip_zeros:
                mine = [a * (b != 0) for a, b in zip(mine, problem.seen, strict=True)]
            loss = distance(mine, problem.seen, self.loss) + self._variation(z)
            if problem.prior is None:
                return loss
            return loss + self.prior * problem.prior.distance(z)

        if self.optimizer == "lbfgs":
            _lbfgs(objective, variables, self.steps)
        else:
            _adam(objective, variables, self.steps, self.lr, self.signed, bounds)
        if bounds:
            with torch.no_grad():
                z.clamp_(*bounds)
        return objective().item(), z.detach(), None if soft is None else soft.detach()

    def _variation(self, z: Tensor) -> Tensor | float:
        """What the total variation of images adds to the loss."""
        return self.tv * total_variation(z, self.grid) if self.tv and self.grid else 0.0


Objective = Callable[[], Tensor]


def distance(mine: Sequence[Tensor], seen: Sequence[Tensor], kind: str) -> Tensor:
    """How far gradients are from those seen: ``GradientMatching.loss``, of all as one vector."""
    if kind == "l2":
        off = sum(((a - b).square().sum() for a, b in zip(mine, seen, strict=True)))
        assert isinstance(off, Tensor)
        return off / sum(float(b.square().sum()) for b in seen)
    if kind == "sign":  # parameter by parameter: their sizes differ
        wrong = [
            F.relu(-a * b.sign()).sum() / (a.abs() * (b != 0)).sum().clamp(min=1e-30)
            for a, b in zip(mine, seen, strict=True)
        ]
        return torch.stack(wrong).mean()
    a, b = (torch.cat([g.ravel() for g in each]) for each in (mine, seen))
    return 1 - F.cosine_similarity(a, b, dim=0, eps=1e-30)


def _lbfgs(objective: Objective, variables: list[Tensor], steps: int) -> None:
    optimizer = torch.optim.LBFGS(
        variables, max_iter=steps, max_eval=2 * steps, history_size=50, tolerance_grad=1e-14,
        tolerance_change=1e-16, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> float:
        value = objective()
        _give(variables, value)
        return value.item()

    optimizer.step(closure)  # type: ignore[no-untyped-call]


def _adam(
    objective: Objective, variables: list[Tensor], steps: int, lr: float, signed: bool,
    bounds: tuple[float, float] | None,
) -> None:  # fmt: skip
    """Adam; the step size falls to a tenth after 3/8, 5/8 and 7/8 of the steps."""
    optimizer = torch.optim.Adam(variables, lr=lr)
    falls = [steps * eighths // 8 for eighths in (3, 5, 7)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, falls, 0.1)
    for _ in range(steps):
        _give(variables, objective(), signed)
        optimizer.step()
        schedule.step()
        if bounds:
            with torch.no_grad():
                variables[0].clamp_(*bounds)


def _give(variables: list[Tensor], value: Tensor, signed: bool = False) -> None:
    """Gradients for an optimiser's step; those of the weights are left alone."""
    for variable, gradient in zip(variables, torch.autograd.grad(value, variables), strict=True):
        variable.grad = gradient.sign() if signed else gradient
