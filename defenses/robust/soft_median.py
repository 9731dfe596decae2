"""Soft Median: a robust aggregation in place of the weighted sum."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

from pydantic import Field

from graphsec.defenses.base import Defense
from graphsec.models.base import GNN
from graphsec.ops import soft_median
from graphsec.registry import DEFENSES, Range


@DEFENSES.register("soft-median")
@dataclass(frozen=True, kw_only=True)
class SoftMedian(Defense):
    """Neighbours far from the neighbourhood's median count less.

    An aggregation, not a model: every model that aggregates takes it. Attackers differentiate
    through it exactly, in values and weights. With GDC in front: ``["gdc", "soft-median"]``.

    Source: Geisler et al., Robustness of Graph Neural Networks at Scale, NeurIPS 2021, §4.

    Attributes:
        temperature: T; ``inf`` is the plain sum, 0 the neighbour nearest to the median.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification", "regression", "ranking")

    temperature: Annotated[float, Field(gt=0), Range(0.2, 2.0, log=True)] = 0.5

    def harden(self, model: GNN) -> GNN:
        """The model with its aggregation replaced."""
        model.aggregate = partial(soft_median, temperature=self.temperature)
        return model
