"""Components that cost nothing, for tests of the harness; worker processes import them too."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from graphsec.attacks.base import Attack
from graphsec.outcome import Perturbation
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import View


@ATTACKS.register("fake")
@dataclass(frozen=True, kw_only=True)
class Fake(Attack):
    """Waits, writes down that it ran, and perhaps fails or kills its process.

    Source: none.
    """

    variant: int = 0
    seconds: float = 0.0
    do: str = ""

    def run(self, view: View, rng: Rng) -> Perturbation:
        if "GRAPHSEC_FAKE_LOG" in os.environ:
            with Path(os.environ["GRAPHSEC_FAKE_LOG"]).open("a") as file:
                file.write(f"{rng.seed} {self.variant}\n")
        time.sleep(self.seconds)
        if self.do == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.do == "raise":
            raise RuntimeError("this attack always fails")
        return Perturbation()
