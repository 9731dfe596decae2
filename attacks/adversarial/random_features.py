"""Random features: what a budget of features does without any skill."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from graphsec.attacks.adversarial._features import Entries, laid_out
from graphsec.attacks.adversarial.feature_pgd import limited
from graphsec.attacks.base import Attack
from graphsec.outcome import Perturbation
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.search import within
from graphsec.threat import Access, View
from graphsec.threat.features import FeatureLimits


@ATTACKS.register("random-features")
@dataclass(frozen=True, kw_only=True)
class RandomFeatures(Attack):
    """Flips uniformly drawn entries of binary features, and moves others as far as they may go.

    Real features go up or down at random, each by the whole distance under "linf", each node in
    a random direction under "l2", then into range. The baseline that any other attack on
    features has to beat within the same budget.

    Source: a convenience of this project, after the random baseline of Zügner et al., KDD 2018,
    §5, which flips edges.
    """

    tasks = ("classification", "regression")

    @property
    def needs(self) -> Access:
        """The features, in order to change them."""
        return Access.FEATURES

    def run(self, view: View, rng: Rng) -> Perturbation:
        """Random changes, as many as the budget allows."""
        limits, graph, generator = view.feature_limits, view.known, rng["move"].torch()
        assert graph.x is not None
        clean = graph.x.to_dense()
        if min(limits.entries, limits.per_node, limits.change) <= 0:
            return Perturbation()
        chosen = self._entries(clean, limits, rng)
        if limits.binary:
            x = self._flipped(clean, chosen, limits)
        else:
            x = limited(clean, clean + chosen * _moved(clean, limits, generator), limits)
        return Perturbation(x=laid_out(x, graph.x))

    def _flipped(self, clean: Tensor, chosen: Tensor, limits: FeatureLimits) -> Tensor:
        flipped = torch.where(chosen > 0, 1 - clean, clean)
        far = (flipped - clean).norm(dim=1, p=math.inf if limits.norm == "linf" else 2)
        return torch.where((far <= limits.change)[:, None], flipped, clean)

    def _entries(self, clean: Tensor, limits: FeatureLimits, rng: Rng) -> Tensor:
        """(n, d) 1 at entries drawn uniformly within the budgets."""
        n, d = clean.shape
        if limits.entries >= n * d and limits.per_node >= d:
            return torch.ones_like(clean)
        entries = Entries(n, limits, rng["entries"])
        codes = torch.from_numpy(entries.every())
        order = torch.randperm(len(codes), generator=rng["order"].torch())
        if limits.per_node >= d:
            codes = codes[order[: limits.entries]]
        else:
            pairs = entries.pairs(codes.numpy())
            each = torch.cat([torch.full((n,), limits.per_node), torch.full((d,), limits.entries)])
            codes = codes[within(pairs, order, limits.entries, each)]
        return torch.zeros(n * d).index_fill(0, codes, 1).view(n, d)


def _moved(clean: Tensor, limits: FeatureLimits, generator: Generator) -> Tensor:
    """(n, d) random moves: to the end of the range, or of the distance where that is nearer."""
    if limits.norm == "l2" and math.isfinite(limits.change):
        direction = torch.randn(clean.shape, generator=generator)
        length: Tensor = direction.norm(dim=1, keepdim=True)
        return direction * (limits.change / length)
    up = torch.rand(clean.shape, generator=generator) < 0.5
    up = (up | (clean <= limits.low)) & (clean < limits.high)  # at an end there is one way only
    free = torch.where(up, limits.high - clean, clean - limits.low).clamp(0, limits.change)
    return torch.where(up, free, -free)
