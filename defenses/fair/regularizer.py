"""Fairness as a term of the loss: parity, opportunity, or independence of the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.defenses.fair._training import FairDefense, rates
from graphsec.graph import Graph
from graphsec.ops.dependence import alignment, gaussian_kernel
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng
from graphsec.train import Regulariser

MOST = 1024  # nodes of a step that kernels are made of


@DEFENSES.register("fair-regularizer")
@dataclass(frozen=True, kw_only=True)
class FairRegularizer(FairDefense):
    """Training with a penalty on what the answers have to do with the groups.

    With σ the probability of answer 1, over the training nodes of a step, the loss adds ``weight``
    times: the largest less the smallest mean σ of any group ("parity"; |mean σ₀ − mean σ₁| of two);
    the same over nodes of label 1 ("opportunity"); their mean ("both"); or the Hilbert–Schmidt
    independence criterion of σ and group, normalised to 0…1 (kernels: Gaussian, and whether groups
    are the same), of at most 1024 nodes a step ("hsic"). The model and its inputs are as without
    the defense; attackers differentiate it exactly.

    Source: the relaxed parity of Zafar et al., AISTATS 2017, and of the regularised GCN in Zhang et
    al., ICLR 2024; HSIC: Pérez-Suay et al., Fair Kernel Learning, ECML 2017 (from memory).

    Attributes:
        term: What is penalised.
        weight: How much, beside a mean cross-entropy.
    """

    term: Literal["parity", "opportunity", "both", "hsic"] = "both"
    weight: Annotated[float, Field(ge=0), Range(0.1, 10, log=True)] = 1.0

    def regulariser(self, graph: Graph, group: Tensor, rng: Rng) -> Regulariser:
        """The weighted term."""
        assert graph.y is not None
        y = graph.y

        def added(logits: Tensor, roots: Tensor) -> Tensor:
            here = (group[roots] >= 0) & (y[roots] >= 0)
            p, s, label = logits.softmax(1)[here, 1], group[roots][here], y[roots][here]
            return self.weight * self.measured(p, label, s)

        return added

    def measured(self, p: Tensor, y: Tensor, group: Tensor) -> Tensor:
        """The term, of probabilities, labels and groups (k,)."""
        if self.term == "hsic":
            return dependence(p, group)
        parity, opportunity = spread(p, group), spread(p[y == 1], group[y == 1])
        return {
            "parity": parity, "opportunity": opportunity, "both": (parity + opportunity) / 2,
        }[self.term]  # fmt: skip


def spread(p: Tensor, group: Tensor) -> Tensor:
    """The largest less the smallest mean of any group."""
    if len(p) == 0:
        return p.sum()
    means = rates(p, group)
    return means.max() - means.min()


def dependence(p: Tensor, group: Tensor) -> Tensor:
    """HSIC of values and groups (k,), normalised."""
    if len(p) > MOST:
        picked = torch.randperm(len(p))[:MOST].to(p.device)
        p, group = p[picked], group[picked]
    if len(torch.unique(group)) < 2:
        return 0 * p.sum()
    same = F.one_hot(group).to(p.dtype)
    return alignment(gaussian_kernel(p.unsqueeze(1)), same @ same.T)
