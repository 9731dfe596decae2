"""The baseline of attribute inference: what a node's other features tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from graphsec.attacks.attributes._asked import AttributeAttack
from graphsec.registry import ATTACKS


@ATTACKS.register("attribute-features")
@dataclass(frozen=True, kw_only=True)
class AttributeFeatures(AttributeAttack):
    """A classifier learns the attribute without the victim: imputation of missing values.

    Source: Jayaraman and Evans, Are Attribute Inference Attacks Just Imputation?, CCS 2022 (that
    an attack must beat imputation from the same data; from memory).

    Attributes:
        knows: What is known of every node: its "features" without the attribute, its "labels".
    """

    knows: Annotated[tuple[Literal["features", "labels"], ...], Field(min_length=1)] = (
        "features",
    )  # fmt: skip

    @property
    def sources(self) -> Sequence[Literal["features", "labels"]]:
        """As the field says."""
        return self.knows
