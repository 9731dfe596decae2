"""The edges of a step's nodes, from its gradient: matched, or guessed by the features' likeness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.attacks.leakage._leak import LeakageAttack
from graphsec.attacks.leakage.gradient_matching import distance
from graphsec.models.base import inputs
from graphsec.outcome import LinkScores
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.threat import Access, View


@ATTACKS.register("structure-matching")
@dataclass(frozen=True, kw_only=True)
class StructureMatching(LeakageAttack):
    """Optimises the weights of possible edges at the roots until the gradient is the one seen.

    Every pair of a root and another node has a weight from 0 to 1; the distance of the gradients
    is lowered by Adam, and the weights are put back into their range after each step. All features
    and the other edges are known, and the label of a single root is read off the gradient; those
    of several are known (``labels``).

    Source: gradient matching as in Zhu et al., Deep Leakage from Gradients, NeurIPS 2019,
    algorithm 1, with edges for the unknown, relaxed and projected as in Zhang et al., GraphMI,
    IJCAI 2021, §4 (both from the reference notes).

    Attributes:
        loss: "l2" distance, or 1 − "cosine" of all gradients as one vector.
        lr: Step size of Adam, in weights of edges.
        steps: Steps.
        start: Weight that all pairs begin with.
        labels: Whether the labels of the roots are known (TRAIN_LABELS).
    """

    game: ClassVar[str] = "edge-gradients"

    loss: Literal["l2", "cosine"] = "cosine"
    lr: Annotated[float, Field(gt=0, le=1), Range(1e-3, 0.3, log=True)] = 0.02
    steps: Annotated[int, Field(ge=1), Range(50, 1000, log=True)] = 200
    start: Annotated[float, Field(ge=0, le=1)] = 0.02
    labels: bool = False

    @property
    def needs(self) -> Access:
        """Gradients, features, the other edges and, where said so, labels."""
        known = Access.FEATURES | Access.EDGES
        return super().needs | known | (Access.TRAIN_LABELS if self.labels else Access.NONE)

    def run(self, view: View, rng: Rng) -> LinkScores:
        """The weight of each pair asked about.

        Raises:
            ValueError: Labels are private, or the model ignores edges or can't be differentiated
                twice.
        """
        leak, known = self.leak(view), view.known
        pairs = view.question
        assert pairs is not None
        predictor = leak.predictor
        can = predictor.model.capabilities
        if not (can.uses_edges and can.edge_weight and can.second_order):
            raise ValueError(
                "attack 'structure-matching' differentiates gradients by edge weights, which "
                f"{type(predictor.model).__name__} does not allow"
            )
        y = leak.labels(leak.counts())
        if self.labels:
            assert known.y is not None
            y = known.y[leak.roots]
        if y is None or bool((y < 0).any()):
            raise ValueError(
                "attack 'structure-matching' needs the labels of several roots: play with labels "
                "= 'known', and set labels = true"
            )
        model = predictor.model.double()
        x, clean = predictor.sanitise(inputs(known), known.adj, predictor.how)
        x, clean = x.to_dense().double(), clean.with_tensors([t.double() for t in clean.tensors()])
        named = dict(model.named_parameters())
        wanted = [named[name] for name in leak.gradient]
        seen = [g.double() for g in leak.gradient.values()]
        weight = torch.full((pairs.shape[1],), self.start, dtype=torch.float64).requires_grad_()
        optimizer = torch.optim.Adam([weight], lr=self.lr)
        best, least = weight.detach().clone(), float("inf")
        for _ in range(self.steps):
            logits = model(x, clean.with_block(pairs, weight))[leak.roots]
            loss = F.cross_entropy(logits, y)
            mine = torch.autograd.grad(loss, wanted, create_graph=True)
            off = distance(mine, seen, self.loss)
            if off.item() < least:
                best, least = weight.detach().clone(), off.item()
            (weight.grad,) = torch.autograd.grad(off, [weight])
            optimizer.step()
            with torch.no_grad():
                weight.clamp_(0, 1)
        return LinkScores(pairs=pairs, scores=best.float(), info={"loss": least})


@ATTACKS.register("structure-similarity")
@dataclass(frozen=True, kw_only=True)
class StructureSimilarity(LeakageAttack):
    """Guesses edges at the roots by the cosine of features, without a look at the gradient.

    Source: a baseline of this project: neighbours are alike in most graphs.
    """

    game: ClassVar[str] = "edge-gradients"

    @property
    def needs(self) -> Access:
        """Features; and gradients, as all attacks on this game."""
        return super().needs | Access.FEATURES

    def run(self, view: View, rng: Rng) -> LinkScores:
        """The cosine of the two nodes of each pair asked about."""
        self.leak(view)
        pairs: Tensor | None = view.question
        assert pairs is not None
        unit = F.normalize(inputs(view.known).to_dense(), dim=1)
        scores = (unit[pairs[0]] * unit[pairs[1]]).sum(1)
        return LinkScores(pairs=pairs, scores=scores)
