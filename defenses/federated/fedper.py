"""FedPer: last layers stay with their client (Arivazhagan et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from graphsec.defenses.federated._horizontal import HorizontalDefense
from graphsec.registry import DEFENSES, Range


@DEFENSES.register("fedper")
@dataclass(frozen=True, kw_only=True)
class FedPer(HorizontalDefense):
    """FedAvg on all layers but the last, which every client has for itself.

    A node is answered by its client's model. Clients without training nodes keep the last layers
    as they were drawn.

    Source: Arivazhagan, Aggarwal, Singh & Choudhary, Federated Learning with Personalization
    Layers, arXiv 1912.00818, algorithms 1 and 2.

    Attributes:
        personal: Number of last layers that stay.
    """

    personal: Annotated[int, Field(ge=1, le=64), Range(1, 2)] = 1

    @property
    def layers_kept(self) -> int:
        """As many as ``personal`` says."""
        return self.personal
