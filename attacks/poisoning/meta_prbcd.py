"""Meta-PR-BCD: projected gradient ascent on random blocks of edges, through the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from graphsec.attacks.adversarial.prbcd import PRBCD
from graphsec.attacks.poisoning._relaxed import NOBODY, MetaObjective
from graphsec.attacks.poisoning.meta_pgd import RelaxedMetaAttack
from graphsec.outcome import Perturbation
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.threat import View


@ATTACKS.register("meta-prbcd", "meta-pr-bcd")
@dataclass(frozen=True, kw_only=True)
class MetaPRBCD(RelaxedMetaAttack):
    """PR-BCD by gradients through the training of a surrogate: Meta-PGD on random blocks.

    Memory is linear in edges and block, times features or training nodes, whichever are fewer;
    the training itself takes the square of the training nodes. Undirected graphs only. The victim
    is not asked: the flips transfer to it.

    Source: the search is Geisler et al., Robustness of Graph Neural Networks at Scale, NeurIPS
    2021, algorithm 1; the gradients are those of Mujkanovic et al., NeurIPS 2022 (Meta-PGD).

    Attributes:
        fine_tune: Fraction of the steps at the end on the best block, without redrawing.
        block: Candidate pairs at a time.
        check_every: Steps between two looks at the discretised iterate.
    """

    fine_tune: Annotated[float, Field(ge=0, le=1), Range(0.1, 0.5)] = 0.2
    block: Annotated[int, Field(ge=1), Range(1e4, 1e6, log=True)] = 100_000
    check_every: Annotated[int, Field(ge=1)] = 5

    def run(self, view: View, rng: Rng) -> Perturbation:
        """The flips, and in ``info`` the attack loss at each gradient."""
        objective = MetaObjective(self, view, rng, self.trainings, dense=False)
        if not objective.possible:
            return Perturbation()
        search = PRBCD(
            steps=self.steps, lr=self.step * view.known.num_nodes / objective.budget,
            fine_tune=self.fine_tune, block=self.block, check_every=self.check_every,
            samples=self.samples,
        )  # fmt: skip
        best = search.search(objective, NOBODY, rng["search"])
        return Perturbation(flips=best.flips, info={"losses": objective.history})
