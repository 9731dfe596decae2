"""Shadow models and a classifier that learns from them how the property shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from graphsec.attacks._classifier import learned
from graphsec.attacks.properties._worlds import ShadowWorlds
from graphsec.outcome import PropertyGuess
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import Access, View

_AT = torch.arange(1, 20, dtype=torch.float64) / 20  # quantiles: 5 % to 95 %


@ATTACKS.register("property-shadow")
@dataclass(frozen=True, kw_only=True)
class PropertyShadow(ShadowWorlds):
    """A logistic regression over shadow models, half trained with the property, half without.

    From "outputs" it sees, for each class, the mean and 19 quantiles of the posteriors on a graph
    of the attacker's own: they don't depend on the order of nodes. From "weights" it sees, of each
    parameter tensor, mean and standard deviation over hidden units, whose order means nothing,
    for each feature and each class (known by their number, the length of that side).

    Source: Suri and Evans, Formalizing and Estimating Distribution Inference Risks, PETS 2022;
    Wang and Wang, Group Property Inference Attacks Against Graph Neural Networks, CCS 2022 (on
    node classifiers, from posteriors); from memory. The summaries are ours.

    Attributes:
        knows: Whether the "outputs" of the victim are known or its "weights".
    """

    knows: Literal["outputs", "weights"] = "outputs"

    @property
    def needs(self) -> Access:
        """Who has the weights asks nothing."""
        if self.knows == "outputs":
            return super().needs
        return super().needs & ~(Access.SCORES | Access.QUERY_INPUT) | Access.WEIGHTS

    def run(self, view: View, rng: Rng) -> PropertyGuess:
        """The classifier's log-odds."""
        if self.knows == "outputs":
            victim, shadows, holds = self.compare(view, rng, quantiles)
        else:
            models, holds = self.models(view, rng)
            kept = view.known.num_features, view.known.num_classes
            victim, *others = (
                over_hidden(model.model.parameters(), kept) for model in (view.model(), *models)
            )  # fmt: skip
            shadows = torch.stack(others)
        found = learned("logistic", shadows, holds, rng["fit"], asked=victim[None])[0]
        return PropertyGuess(log_odds=float(found[1] - found[0]))


def quantiles(values: Tensor) -> Tensor:
    """(20 · d,) mean and quantiles of the columns of (k, d)."""
    wide = values.double()
    return torch.cat([wide.mean(0, keepdim=True), torch.quantile(wide, _AT, dim=0)]).flatten()


def over_hidden(parameters: Iterable[Tensor], kept: tuple[int, ...]) -> Tensor:
    """(d,) mean and standard deviation of each tensor over sides whose length is not ``kept``."""
    parts = []
    for parameter in parameters:
        p = parameter.detach().double()
        sides = [i for i, length in enumerate(p.shape) if length not in kept]
        if sides:
            parts += [p.mean(sides).flatten(), p.std(sides, correction=0).flatten()]
        else:
            parts.append(p.flatten())
    return torch.cat(parts)
