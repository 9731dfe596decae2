"""What attacks on attributes share: what is known of each node, and a classifier of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from graphsec.attacks._classifier import Classifier, learned
from graphsec.attacks.base import Attack
from graphsec.attacks.reconstruction._knowledge import Knowledge, Source, access_to, gathered
from graphsec.outcome import AttributeScores
from graphsec.rng import Rng
from graphsec.threat import Access, Timing, View


@dataclass(frozen=True, kw_only=True)
class AttributeAttack(Attack):
    """Base of attacks that learn an attribute from nodes whose value is known, and what else is.

    Attributes:
        classifier: What learns: "logistic" regression, "mlp" or "boosting".
    """

    game: ClassVar[str] = "attributes"
    timing: ClassVar[Timing] = "inference"

    classifier: Classifier = "logistic"

    @property
    def sources(self) -> Sequence[Source]:
        """What is known of each node."""
        raise NotImplementedError

    @property
    def needs(self) -> Access:
        """The attribute of some nodes, and each thing known of all."""
        return Access.PARTIAL_ATTRIBUTES | access_to(self.sources)

    def run(self, view: View, rng: Rng) -> AttributeScores:
        """Log-probabilities of the values at each node asked about."""
        shown, values = view.examples
        every = torch.arange(view.known.num_nodes)
        nodes = every[~torch.isin(every, shown)] if view.question is None else view.question
        seen = columns(gathered(view, self.sources))
        scores = learned(self.classifier, seen[shown], values, rng["fit"], asked=seen[nodes])
        return AttributeScores(nodes=nodes, scores=scores)


def columns(known: Knowledge) -> Tensor:
    """(n, d) dense float64 of all that is known: features, states, posteriors, labels one-hot."""
    parts = [] if known.x is None else [known.x.to_dense()]
    parts += known.hidden
    if known.logits is not None:
        parts.append(known.logits.softmax(1))
    if known.y is not None:
        parts.append(F.one_hot(known.y + 1)[:, 1:])  # nothing where a node has none
    return torch.cat([part.double() for part in parts], 1)
