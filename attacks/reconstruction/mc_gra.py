"""MC-GRA: the graph whose chain of states has most to do with that of the victim."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.attacks.reconstruction._knowledge import Knowledge, ReconstructionAttack, Source
from graphsec.attacks.reconstruction._relaxed import Loss, Relaxed, gram
from graphsec.ops import Features
from graphsec.ops.dependence import alignment, cka, gaussian_kernel, hsic, information
from graphsec.ops.similarity import pair_similarity
from graphsec.ops.symmetric import Symmetric
from graphsec.registry import ATTACKS, Range
from graphsec.threat import Access, View

Measure = Literal["hsic", "cka", "kde", "mse"]
NARROW = 256  # columns up to which a thin product costs less than a kernel of all pairs


@ATTACKS.register("mc-gra")
@dataclass(frozen=True, kw_only=True)
class MCGRA(ReconstructionAttack):
    """Adam on a relaxed adjacency, along the chain features → states → outputs of the victim.

    Maximises the dependence of the states and outputs that the victim computes on the adjacency on
    those known of the true one (``match``), of the adjacency on the features (``prior``) and on its
    own first states (``chain``), and how right the outputs are (``label``), less ``norm`` · ‖a‖₂.
    The score of a pair combines, by Fisher's method, what was found, how alike the states on it
    are, and how alike all that was known. Dense: O(n²) memory and time a step.

    Source: Zhou et al., On Strengthening and Defending Graph Reconstruction Attack with Markov
    Chain Approximation, ICML 2023, §4. Ours: every measure is scaled by its value for what is
    known, so that the weights are of like size for all of them and for all graphs; measures count
    with the sign that makes states alike (the published code turns the sign of HSIC only); the
    terms of entropy are left out; the defaults were chosen on generated graphs, never on a graph
    that is attacked.

    Attributes:
        measure: Of dependence: linear "hsic" or "cka", "kde" (mutual information of kernel density
            estimates), or "mse" (minus the relative squared error).
        steps: Steps of Adam.
        lr: Its step size.
        match: Weight of the states and outputs known.
        prior: Weight of the features.
        chain: Weight of the first states.
        label: Weight of the labels.
        norm: Weight of the norm.
    """

    requires: ClassVar[tuple[Source, ...]] = ("features",)

    measure: Measure = "mse"
    steps: Annotated[int, Field(ge=1), Range(50, 500)] = 300
    lr: Annotated[float, Field(gt=0), Range(1e-3, 1, log=True)] = 0.01
    match: Annotated[float, Field(ge=0), Range(0.01, 100, log=True)] = 1.0
    prior: Annotated[float, Field(ge=0), Range(0.01, 100, log=True)] = 0.01
    chain: Annotated[float, Field(ge=0), Range(0.01, 100, log=True)] = 0.01
    label: Annotated[float, Field(ge=0), Range(0.01, 100, log=True)] = 0.1
    norm: Annotated[float, Field(ge=0), Range(1e-5, 1e-1, log=True)] = 1e-3

    @property
    def needs(self) -> Access:
        """The model too."""
        return super().needs | Access.WEIGHTS

    def parts(self, view: View, known: Knowledge, pairs: Tensor) -> list[Tensor]:
        """The adjacency found, how alike states are on it, and all that was known."""
        assert known.x is not None
        relaxed = Relaxed(view, known.x, self.name)
        loss = self.loss(relaxed, known)
        a = relaxed.adam(loss, relaxed.constant(0.01), self.steps, self.lr)
        with torch.no_grad():
            states = relaxed.states(a)
        alike = [pair_similarity(state, pairs, "cosine") for state in states]
        return [a[pairs[0], pairs[1]], *alike, *known.similarities(pairs)]

    def loss(self, relaxed: Relaxed, known: Knowledge) -> Loss:
        """What is minimised, as a function of the adjacency."""
        assert known.x is not None
        prior = _topology(self.measure, known.x)
        targets = [self._fixed(state) for state in known.hidden]
        answers = None if known.logits is None else self._fixed(known.logits.softmax(1))
        right = None if known.y is None else (known.y >= 0).nonzero().ravel()

        def loss(a: Symmetric) -> Tensor:
            states = relaxed.states(a)
            total: Tensor = self.norm * a.norm()
            if right is not None and self.label:
                assert known.y is not None
                total = total + self.label * F.cross_entropy(states[-1][right], known.y[right])
            for target, state in zip(targets, states, strict=False):
                total = total - self.match * target(state)
            if answers is not None:
                total = total - self.match * answers(states[-1].softmax(1))
            if self.prior:
                total = total - self.prior * prior(a)
            if self.chain:
                first = F.normalize(states[0], dim=1)
                total = total - self.chain * _topology(self.measure, first)(a)
            return total

        return loss

    def _fixed(self, target: Tensor) -> Callable[[Tensor], Tensor]:
        """How far a state has to do with a known one, about 1 at best."""
        if self.measure == "mse":
            spread = target.var(0, correction=0).sum().clamp(min=1e-12) * len(target)
            return lambda state: -(state - target).square().sum() / spread
        if self.measure == "cka":
            return lambda state: cka(target, state)
        if self.measure == "hsic":
            best = hsic(target, target).clamp(min=1e-12)
            return lambda state: hsic(target, state) / best
        kernel = gaussian_kernel(target)
        most = information(kernel, kernel).clamp(min=1e-12)
        return lambda state: information(kernel, gaussian_kernel(state)) / most


def _topology(measure: Measure, rows: Tensor | Features) -> Loss:
    """How far an adjacency, as a kernel, has to do with the linear kernel of rows (n, d)."""
    if measure == "mse" and rows.shape[1] <= NARROW:  # ‖K − A‖² without K
        thin = rows.to_dense()
        size = (thin.T @ thin).square().sum().clamp(min=1e-12)
        return lambda a: (2 * ((a @ thin) * thin).sum() - a.square) / size - 1
    kernel = gram(rows)
    if measure == "mse":
        size = kernel.square().sum().clamp(min=1e-12)
        return lambda a: (2 * a.inner(kernel) - a.square) / size - 1
    if measure == "kde":
        eye = torch.eye(len(kernel))
        positive = kernel.clamp(min=0)
        most = information(positive, positive).clamp(min=1e-12)
        return lambda a: information(positive, a.matrix + eye) / most
    return lambda a: alignment(kernel, a.matrix, scaled=measure == "cka")
