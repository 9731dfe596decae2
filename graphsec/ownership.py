"""Whose model is it? Verdicts on suspects, each with the chance of accusing who did nothing.

A verdict is a test: the p-value is the chance of a score as high as this one under a null
hypothesis that the verdict states. How often a model that was stolen is accused has to be measured.
An owner who tries several marks or suspects pays for each (``stats.adjust``), and a mark proves
nothing that was not deposited before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from graphsec.models.base import inputs
from graphsec.ops.dependence import cka

if TYPE_CHECKING:
    from graphsec.graph import Graph
    from graphsec.predict import Predictor

Compared = Literal["scores", "labels", "embeddings"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an owner finds about a suspect.

    Attributes:
        score: Higher speaks more against the suspect.
        p_value: Chance of such a score, or a higher one, under the null hypothesis.
        meaning: What the score is.
        null: The null hypothesis.
    """

    score: float
    p_value: float
    meaning: str
    null: str

    def accuses(self, level: float = 0.05) -> bool:
        """Whether the null hypothesis is rejected: at most so many innocents are accused."""
        return self.p_value <= level


Verifier = Callable[["Predictor"], Verdict]


def watermark_verdict(answers: Tensor, marks: Tensor, classes: int) -> Verdict:
    """A binomial test of how many marks a suspect knows.

    Marks that were drawn uniformly and independently of everything are hit with probability
    1 / classes each, whatever a suspect answers who had no part in them: exact, no model assumed.

    Args:
        answers: (k,) the suspect's classes of the trigger nodes.
        marks: (k,) the classes that were trained in.
        classes: Number of classes that the marks were drawn from.

    Raises:
        ValueError: No marks, or shapes that differ.
    """
    from scipy.stats import binom

    if answers.shape != marks.shape or marks.dim() != 1 or not len(marks):
        raise ValueError(
            f"answers and marks must be (k,) with k ≥ 1, got {tuple(answers.shape)} "
            f"and {tuple(marks.shape)}"
        )
    hits = int((answers == marks).sum())
    return Verdict(
        score=hits / len(marks),
        p_value=float(binom.sf(hits - 1, len(marks), 1 / classes)),
        meaning="share of marks known",
        null=f"the suspect was made without the marks: each is hit with chance 1/{classes}",
    )


def fingerprint_verdict(
    suspect: Tensor, victim: Tensor, independent: list[Tensor], compared: Compared = "scores"
) -> Verdict:
    """A rank test: is the suspect nearer to the victim than to models trained as the victim was?

    All models of one task agree, so what counts is how each deviates from the mean of the victim
    and the independent models: a model's score is the cosine of its deviation with the suspect's.
    A suspect made without the victim can't tell it from the others, which differ from it by their
    seeds alone. So under the null hypothesis all ranks are equally likely, whatever the suspect is
    and whatever it was trained on, and the p-value is exact: the victim's rank over the number of
    models, never below 1 / (independent models + 1). The chance is the owner's: the draw of the
    seeds. All innocents share the luck of one victim, and a victim that was picked from several
    (the best on validation nodes, say) is no fair draw.

    Args:
        suspect: (n, c) what ``shown`` gives of the suspect.
        victim: The same of the victim; of the same width, unless embeddings are compared.
        independent: The same of each independent model.
        compared: Which it is. Embeddings have no common axes: their score is linear CKA.

    Raises:
        ValueError: No independent model.
    """
    if not independent:
        raise ValueError("independent must hold at least one model, got none")
    owners = [victim, *independent]
    if compared == "embeddings":
        scores = torch.stack([cka(suspect, own) for own in owners])
    else:
        models = torch.stack(owners)
        mean = models.mean(0)
        deviation = (suspect - mean).flatten().expand(len(owners), -1)
        scores = F.cosine_similarity((models - mean).flatten(1), deviation, dim=1)
    above = int((scores[1:] >= scores[0]).sum())
    return Verdict(
        score=float(scores[0]),
        p_value=(1 + above) / len(owners),
        meaning="likeness of embeddings" if compared == "embeddings" else "shared deviation",
        null=f"the suspect was made without the victim, one of {len(owners)} models alike",
    )


@torch.no_grad()
def shown(predictor: Predictor, graph: Graph, compared: Compared, classes: int) -> Tensor:
    """(n, …) what ``fingerprint_verdict`` compares, of one model asked about a graph.

    Args:
        predictor: Whom to ask.
        graph: About what.
        compared: "scores": logits as they are presented, centred at each node and of norm 1 in all,
            so that a temperature does not count; "labels", one-hot; or "embeddings" from inside:
            the states of the last layer but one.
        classes: Columns of the first two; what a model does not know is its least likely class.
    """
    if compared == "embeddings":
        states = predictor.hidden(inputs(graph), graph.adj)
        return states[-2 if len(states) > 1 else -1].double()
    logits = predictor.logits(graph).double()
    if compared == "labels":
        return F.one_hot(logits.argmax(1), classes).double()
    least = logits.min(1, keepdim=True).values.expand(-1, classes - logits.shape[1])
    logits = torch.cat([logits, least], 1)
    centred = logits - logits.mean(1, keepdim=True)
    scaled: Tensor = centred / centred.norm().clamp(min=1e-300)
    return scaled
