"""What attacks by a federation's own clients share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphsec.attacks.base import Attack
from graphsec.federated.byzantine import Forge
from graphsec.outcome import Takeover
from graphsec.rng import Rng
from graphsec.threat import Timing, View


@dataclass(frozen=True, kw_only=True)
class ByzantineAttack(Attack):
    """Base of attacks that take over as many clients as the budget allows.

    The federation draws which. From the first round on they see all updates of a round before they
    answer, and answer together: the strongest clients that there can be, as in the papers.
    """

    timing: ClassVar[Timing] = "poisoning"
    federated: ClassVar[bool] = True

    def forge(self, adaptive: bool) -> Forge:
        """What they send; ``adaptive`` ones know the rule of the server."""
        raise NotImplementedError

    def run(self, view: View, rng: Rng) -> Takeover:
        """The takeover; what is sent is made in training."""
        return Takeover(clients=view.client_budget, forge=self.forge(view.threat.adaptive))
