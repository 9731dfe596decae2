"""GraphMI: the graph under which the model is right about the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.attacks.reconstruction._knowledge import Knowledge, ReconstructionAttack, Source
from graphsec.attacks.reconstruction._relaxed import Loss, Relaxed, gram
from graphsec.ops.dense import smoothness
from graphsec.ops.similarity import pair_similarity
from graphsec.ops.symmetric import Symmetric
from graphsec.registry import ATTACKS, Range
from graphsec.search import project
from graphsec.threat import Access, View


@ATTACKS.register("graphmi")
@dataclass(frozen=True, kw_only=True)
class GraphMI(ReconstructionAttack):
    """Projected gradient descent on a relaxed adjacency that explains the labels.

    Minimises the cross-entropy of the victim's answers on the adjacency with the known labels, plus
    ``smooth`` · tr(Xᵀ L X) (neighbours have like features) and ``norm`` · ‖a‖₂, over 0 ≤ a ≤ 1 with
    as many edges at most as there are. A pair's score is the cosine of the first layer's states on
    what was found. Dense: O(n²) memory and time a step.

    Source: Zhang et al., GraphMI: Extracting Private Graph Data from Graph Neural Networks, IJCAI
    2021, eqs. 3–6; ``norm`` and ``smooth`` are those of the published code, whose step size of .1 a
    grid on generated graphs found too small. Its graph auto-encoder is the victim's first layer,
    whose edges it samples; here pairs are scored instead.

    Attributes:
        knows: "features" and "labels", no more and no less.
        steps: Gradient steps.
        lr: Step size.
        smooth: Weight of the smoothness, from the middle of the search on.
        norm: Weight of the norm.
    """

    requires: ClassVar[tuple[Source, ...]] = ("features", "labels")

    knows: Annotated[tuple[Source, ...], Field(max_length=2)] = ("features", "labels")
    steps: Annotated[int, Field(ge=1), Range(50, 300)] = 100
    lr: Annotated[float, Field(gt=0), Range(1e-2, 1e3, log=True)] = 1.0
    smooth: Annotated[float, Field(ge=0), Range(1e-6, 1e-2, log=True)] = 1e-4
    norm: Annotated[float, Field(ge=0), Range(1e-5, 1e-1, log=True)] = 1e-3

    @property
    def needs(self) -> Access:
        """The model and the number of edges too."""
        return super().needs | Access.WEIGHTS | Access.EDGE_COUNT

    def parts(self, view: View, known: Knowledge, pairs: Tensor) -> list[Tensor]:
        """How alike the first layer's states are on the adjacency found."""
        assert known.x is not None
        relaxed, budget = Relaxed(view, known.x, self.name), 2.0 * view.num_edges
        a, losses = relaxed.constant(0.0), self.losses(relaxed, known)
        for step in range(self.steps):
            # Neighbours are asked to be alike only once there are some.
            moved = a - self.lr * relaxed.gradient(losses[2 * step >= self.steps], a)
            a = project(moved.ravel(), budget).view_as(a)
        with torch.no_grad():
            return [pair_similarity(relaxed.states(a)[0], pairs, "cosine")]

    def losses(self, relaxed: Relaxed, known: Knowledge) -> tuple[Loss, Loss]:
        """What is minimised, without smoothness and with it, as functions of the adjacency."""
        assert known.x is not None
        assert known.y is not None
        labelled = (known.y >= 0).nonzero().ravel()
        y, alike = known.y[labelled], gram(known.x)

        def rough(a: Symmetric) -> Tensor:
            wrong: Tensor = F.cross_entropy(relaxed.states(a)[-1][labelled], y)
            size: Tensor = a.norm() / 2**0.5  # each pair stands in a twice
            return wrong + self.norm * size

        return rough, lambda a: rough(a) + self.smooth * smoothness(a.matrix, alike)
