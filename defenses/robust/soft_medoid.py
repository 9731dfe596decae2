"""Soft Medoid: a robust aggregation in place of the weighted sum."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from pydantic import Field

from graphsec.defenses.base import Defense
from graphsec.models.base import GNN
from graphsec.ops import soft_medoid
from graphsec.registry import DEFENSES, Range


@DEFENSES.register("soft-medoid")
@dataclass(frozen=True, kw_only=True)
class SoftMedoid(Defense):
    """Neighbours far from the other neighbours count less.

    An aggregation, not a model: every model that aggregates takes it. It holds the distances of
    all pairs within the k heaviest of a row, so that its memory grows with k times the edges.
    Attackers differentiate through it exactly, in values and weights, up to the choice of the k.
    With GDC in front, as published: ``["gdc", "soft-medoid"]``.

    Source: Geisler et al., Reliable Graph Neural Networks via Robust Aggregation, NeurIPS 2020,
    §3; with the k heaviest of Geisler et al., NeurIPS 2021, §4.

    Attributes:
        temperature: T; ``inf`` counts by weight alone, 0 takes the medoid.
        k: Neighbours that are looked at, the heaviest of each row.
    """

    temperature: Annotated[float, Field(gt=0), Range(0.2, 2.0, log=True)] = 0.5
    k: Annotated[int, Field(ge=1), Range(16, 128, log=True)] = 64

    def harden(self, model: GNN) -> GNN:
        """The model with its aggregation replaced."""
        model.aggregate = partial(soft_medoid, k=self.k, temperature=self.temperature)
        return model
