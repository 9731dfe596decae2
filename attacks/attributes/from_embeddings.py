"""Attribute inference on users of a recommender: from their embeddings, or from what they took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks._classifier import Classifier, learned
from graphsec.attacks.base import Attack
from graphsec.attacks.interactions._transcript import heard
from graphsec.graph import Graph
from graphsec.outcome import AttributeScores
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import Access, Timing, View

_COMPONENTS = 64
_ACCESS = {"public": Access.TRANSCRIPT, "answers": Access.SCORES, "ratings": Access.EDGES}


@ATTACKS.register("user-attributes")
@dataclass(frozen=True, kw_only=True)
class UserAttributes(Attack):
    """A classifier learns a private attribute of users from what is known of all of them.

    What an embedding tells is to be held against the majority (``attribute_gain``), and against a
    classifier that sees the interactions that it was trained on: knows = ("ratings",).

    Source: Zhang and Yin, Comprehensive Privacy Analysis on Federated Recommender System against
    Attribute Inference Attacks, arXiv 2205.11857 (the question; from notes, not read).

    Attributes:
        knows: What is known of every user: the "public" parameters of a federation (embedding and
            bias, as the server sent them last; the seat is ``threat.position``), the "answers" of
            the trained predictor (embeddings after propagation), or all "ratings" (who took what,
            and how far ratings are from their mean: 64 principal components of the two).
        classifier: What learns: "logistic" regression, "mlp" or "boosting".
    """

    game: ClassVar[str] = "attributes"
    timing: ClassVar[Timing] = "inference"
    tasks: ClassVar[tuple[str, ...]] = ("rating", "ranking")

    knows: Annotated[tuple[Literal["public", "answers", "ratings"], ...], Field(min_length=1)] = (
        "public",
    )  # fmt: skip
    classifier: Classifier = "logistic"

    @property
    def needs(self) -> Access:
        """The attribute of some users, and each thing known of all."""
        needed = Access.PARTIAL_ATTRIBUTES
        for source in self.knows:
            needed |= _ACCESS[source]
        return needed

    def run(self, view: View, rng: Rng) -> AttributeScores:
        """Log-probabilities of the values at each user asked about."""
        shown, values = view.examples
        users = torch.arange(view.known.num_users)
        asked = users[~torch.isin(users, shown)] if view.question is None else view.question
        columns = []
        if "public" in self.knows:
            public = heard(view, None, self.name).public
            last = public[max(public)]
            columns += [last["table"].double(), last["bias"].double()]
        if "answers" in self.knows:
            columns.append(view.logits()[: len(users)].double())
        if "ratings" in self.knows:
            columns.append(components(view.known))
        seen = torch.cat(columns, 1)
        scores = learned(self.classifier, seen[shown], values, rng["fit"], asked=seen[asked])
        return AttributeScores(nodes=asked, scores=scores)


def components(graph: Graph) -> Tensor:
    """(users, 64 or fewer) principal components of who took what, and of what they thought of it.

    Ratings are taken from their mean over all pairs. Dense: users × items.
    """
    users, items = graph.num_users, graph.num_nodes - graph.num_users
    row, col = graph.edge_index
    mine = row < users
    table = torch.zeros(users, 2 * items, dtype=torch.float64)
    table[row[mine], col[mine] - users] = 1.0
    if graph.edge_y is not None:
        ratings = graph.edge_y[mine].double()
        table[row[mine], col[mine] - users + items] = ratings - ratings.mean()
    table = table - table.mean(0)
    value, vector = torch.linalg.eigh(table @ table.T)
    found: Tensor = vector[:, -_COMPONENTS:] * value[-_COMPONENTS:].clamp(min=0).sqrt()
    return found
