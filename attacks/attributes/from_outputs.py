"""Attribute inference: a private attribute from what the victim says of a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from graphsec.attacks.attributes._asked import AttributeAttack
from graphsec.attacks.reconstruction._knowledge import Source
from graphsec.registry import ATTACKS, SpecError


@ATTACKS.register("attribute-inference")
@dataclass(frozen=True, kw_only=True)
class AttributeInference(AttributeAttack):
    """A classifier learns the attribute from hidden states or posteriors, and what is known beside.

    What it is worth is what it gains over ``attribute-features`` with the same classifier, the
    same known values and the same knowledge beside the victim: what can be told from a node's
    other features is no leak of the model.

    Source: Duddu et al., Quantifying Privacy Leakage in Graph Embedding, MobiQuitous 2020 (from
    embeddings); Olatunji et al., Does Black-box Attribute Inference Attacks on Graph Neural
    Networks Constitute Privacy Risk?, 2023 (from posteriors, against the estimation of missing
    values); abstracts read, classifiers are ours.

    Attributes:
        knows: What is known of every node: the "hidden" states of the victim, its "outputs" (one
            of the two at least), and the "features" without the attribute and the "labels".
    """

    knows: Annotated[tuple[Source, ...], Field(min_length=1)] = ("features", "outputs")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not {"hidden", "outputs"} & set(self.knows):
            raise SpecError(
                f"attack {self.name!r}: knows must hold hidden or outputs, got {self.knows}; "
                "'attribute-features' does without the victim"
            )

    @property
    def sources(self) -> Sequence[Source]:
        """As the field says."""
        return self.knows
