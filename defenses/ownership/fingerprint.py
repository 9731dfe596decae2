"""Fingerprint: a model is known by how its answers deviate from those of its twins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from graphsec.defenses.base import Defense
from graphsec.graph import Graph
from graphsec.ownership import Compared, Verdict, Verifier, fingerprint_verdict, shown
from graphsec.predict import Predictor
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng


@DEFENSES.register("fingerprint")
@dataclass(frozen=True, kw_only=True)
class Fingerprint(Defense):
    """Changes nothing; the owner asks whether a suspect is nearer to the victim than to its twins.

    The twins are trained by the owner as the victim was, on the same data, from other seeds. A
    suspect made without the victim has no way to tell it from its twins, so the rank test is exact
    for suspects of any architecture and training data (``fingerprint_verdict``, which also says
    what that chance is over). Suspects are asked about the owner's graph.

    Source: after the abstract of Waheed, Duddu and Asokan, GrOVe: Ownership Verification of Graph
    Neural Networks using Embeddings, S&P 2024, where a classifier learns from models of both kinds
    which distances of embeddings betray a copy. Ours: deviations from the twins' mean, answers as
    well as embeddings, and a rank test in the classifier's place. What is compared of the scores
    was chosen on Citeseer and a generated graph.

    Attributes:
        models: Number of twins; the p-value is at least 1 / (models + 1).
        compared: "scores", "labels" (for suspects that show no more), or "embeddings" (for who can
            look inside: the states of the last layer but one, by linear CKA).
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    verifies: ClassVar[bool] = True

    models: Annotated[int, Field(ge=1), Range(9, 99, log=True)] = 19
    compared: Compared = "scores"

    def verifier(self, predictor: Predictor, graph: Graph, rng: Rng) -> Verifier:
        """Trains the independent models.

        Raises:
            TypeError: The predictor is a wrapped model, which nobody can train again.
        """
        origin = predictor.origin
        if origin is None:
            raise TypeError("a wrapped model has no recipe to train independent models by")
        classes = predictor.logits(graph).shape[1]
        victim = shown(predictor, graph, self.compared, classes)
        independent = [
            shown(origin.defense.fit(graph, origin.recipe, rng[i]), graph, self.compared, classes)
            for i in range(self.models)
        ]

        def verify(suspect: Predictor) -> Verdict:
            mine = shown(suspect, graph, self.compared, classes)
            return fingerprint_verdict(mine, victim, independent, self.compared)

        return verify
