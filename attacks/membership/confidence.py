"""Confidence: nodes that the victim is surer of were probably trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from graphsec.attacks.membership._asking import MembershipAttack, confidence, logit_confidence
from graphsec.outcome import MemberScores
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import Access, View

Score = Literal["confidence", "loss", "margin", "entropy", "modified-entropy"]


@ATTACKS.register("confidence")
@dataclass(frozen=True, kw_only=True)
class Confidence(MembershipAttack):
    """One threshold for all nodes, on how sure the victim is: the baseline without any training.

    Source: Yeom et al., Privacy Risk in Machine Learning, CSF 2018, §3 (loss); Salem et al.,
    ML-Leaks, NDSS 2019, §5 (entropy); Song and Mittal, Systematic Evaluation of Privacy Risks of
    Machine Learning Models, USENIX Security 2021, §3 (modified entropy); all from memory.

    Attributes:
        score: What is compared: the posterior of the true label ("confidence"), minus its
            cross-entropy ("loss", which ranks as confidence does), its log-odds against all other
            labels ("margin", likewise, without saturating at 1), minus the entropy of the posterior
            ("entropy", the only one for attackers without labels), or minus the entropy in which
            the true label counts the other way round ("modified-entropy").
    """

    score: Score = "confidence"

    @property
    def needs(self) -> Access:
        """Scores, and the labels of the nodes in question unless entropy is compared."""
        return super().needs | (Access.NONE if self.score == "entropy" else Access.TRUE_LABELS)

    def run(self, view: View, rng: Rng) -> MemberScores:
        """How sure the victim is of each node."""
        nodes = self.nodes(view)
        logits = self.ask(view, nodes)
        if self.score == "entropy":
            p = logits.double().softmax(1)
            return MemberScores(nodes=nodes, scores=torch.xlogy(p, p).sum(1))
        y = self.labels(view, nodes)
        return MemberScores(nodes=nodes, scores=_of_label(self.score, logits, y))


def _of_label(score: Score, logits: Tensor, y: Tensor) -> Tensor:
    if score == "confidence":
        return confidence(logits, y)
    if score == "margin":
        return logit_confidence(logits, y)
    log_p = logits.double().log_softmax(1)
    log_py = log_p.gather(1, y.unsqueeze(1)).squeeze(1)
    if score == "loss":
        return log_py
    # Σ_{c≠y} p_c log(1 − p_c) + (1 − p_y) log p_y
    p = log_p.exp()
    against = torch.xlogy(p, (1 - p).clamp(min=1e-300)).scatter(1, y.unsqueeze(1), 0.0)
    return against.sum(1) - torch.expm1(log_py) * log_py
