"""The baseline of attacks on interactions: what is popular was taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from graphsec.attacks.base import Attack
from graphsec.attacks.interactions._known_users import look_up, taken_by, weighted
from graphsec.outcome import LinkScores
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import Access, Timing, View


@ATTACKS.register("interaction-popularity")
@dataclass(frozen=True, kw_only=True)
class InteractionPopularity(Attack):
    """Scores a pair by the popularity of its item, without the victim.

    Source: ours; a recommender's oldest baseline.

    Attributes:
        counts: Where popularity is from: the users that the game reveals ("examples"; a user
            counts for one over the root of how many items it took), or the edges that are known
            ("edges": the degrees of item and user, both; in a game that hides the edges these are
            more than an attacker can have, and bound what popularity and activity can tell).
    """

    game: ClassVar[str] = "interactions"
    timing: ClassVar[Timing] = "inference"
    tasks: ClassVar[tuple[str, ...]] = ("rating", "ranking")

    counts: Literal["examples", "edges"] = "examples"

    @property
    def needs(self) -> Access:
        """Examples, or edges."""
        return Access.PARTIAL_EDGES if self.counts == "examples" else Access.EDGES

    def run(self, view: View, rng: Rng) -> LinkScores:
        """A score for each pair asked about."""
        pairs = asked(view, self.name)
        if self.counts == "edges":
            degree = view.known.degree.double()
            return LinkScores(pairs=pairs, scores=degree[pairs].clamp(min=0.5).log().sum(0))
        _, items, taken = taken_by(view.examples)
        count = weighted(taken).mean(0)
        scores = look_up(count.expand(view.known.num_nodes, -1), items, pairs)
        return LinkScores(pairs=pairs, scores=scores)


def asked(view: View, name: str) -> torch.Tensor:
    """(2, k) the pairs in question.

    Raises:
        ValueError: None are asked about.
    """
    if view.question is None:
        raise ValueError(f"attack {name!r} scores the pairs asked about: pass **secret.shown")
    return view.question
