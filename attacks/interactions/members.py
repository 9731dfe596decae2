"""Membership of interactions: was this rating trained on?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.base import Attack
from graphsec.attacks.interactions.popularity import asked
from graphsec.game.interactions import only
from graphsec.graph import Graph
from graphsec.outcome import LinkScores
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.threat import Access, Timing, View


@ATTACKS.register("interaction-membership")
@dataclass(frozen=True, kw_only=True)
class InteractionMembership(Attack):
    """Pairs whose rating the trained predictor knows better were probably trained on.

    Play the game with ``others = "heldout"``: then both kinds of pairs were rated, and what is
    asked is which ratings were trained on, so that popularity and taste say nothing.

    Source: Yuan et al., Interaction-level Membership Inference Attack Against Federated Recommender
    Systems, arXiv 2301.10964 (the question; from notes, not read); the threshold on the error as
    Yeom et al., CSF 2018, its calibration as Watson et al., On the Importance of Difficulty
    Calibration in Membership Inference Attacks, ICLR 2022 (both from memory).

    Attributes:
        score: What is compared: minus the squared "error" of the rating, which must be known, or
            the predicted "rating" alone, for attackers who don't know what the user thought.
        references: Models trained as the victim was, each on a random half of the pairs asked
            about; a pair's error is compared with theirs, of those that were not trained on it.
            0 compares with nothing.
    """

    game: ClassVar[str] = "interactions"
    timing: ClassVar[Timing] = "inference"
    tasks: ClassVar[tuple[str, ...]] = ("rating",)

    score: Literal["error", "rating"] = "error"
    references: Annotated[int, Field(ge=0, le=100), Range(0, 16)] = 0

    @property
    def needs(self) -> Access:
        """Scores; the pairs with their ratings for the error, and the recipe for references."""
        rated = Access.EDGES if self.score == "error" or self.references else Access.NONE
        return Access.SCORES | rated | (Access.RECIPE if self.references else Access.NONE)

    def run(self, view: View, rng: Rng) -> LinkScores:
        """A score for each pair asked about."""
        pairs = asked(view, self.name)
        told = _predicted(view.logits(), pairs)
        if self.score == "rating" and not self.references:
            return LinkScores(pairs=pairs, scores=told)
        truth = _ratings(view.known, pairs, self.name)
        mine = self._score(told, truth)
        if not self.references:
            return LinkScores(pairs=pairs, scores=mine)
        total, count = torch.zeros_like(mine), torch.zeros_like(mine)
        for i in range(self.references):
            # In complementary halves, so that each pair is left out by half of the models.
            order = rng["half"][i // 2].numpy().permutation(len(truth))
            inside = torch.zeros(len(truth), dtype=torch.bool)
            inside[order[: len(truth) // 2]] = True
            inside = ~inside if i % 2 else inside
            graph = only(view.known, pairs[:, inside], truth[inside])
            model = view.train(graph, rng["reference"][i])
            theirs = self._score(_predicted(model.logits(graph), pairs), truth)
            total, count = total + theirs * ~inside, count + ~inside
        out = torch.where(count > 0, total / count.clamp(min=1), 0.0)
        return LinkScores(pairs=pairs, scores=mine - out)

    def _score(self, told: Tensor, truth: Tensor) -> Tensor:
        return told if self.score == "rating" else -(told - truth).square()


def _predicted(z: Tensor, pairs: Tensor) -> Tensor:
    """(k,) inner products, which rating models' answers are."""
    return (z[pairs[0]] * z[pairs[1]]).sum(1).double()


def _ratings(graph: Graph, pairs: Tensor, name: str) -> Tensor:
    """(k,) what users thought of items.

    Raises:
        ValueError: The graph has no ratings, or not those of all pairs.
    """
    place = graph.adj.csr.find(pairs[0], pairs[1])
    if graph.edge_y is None or bool((place < 0).any()):
        raise ValueError(
            f"attack {name!r} needs the rating of each pair asked about: play the game "
            "'interactions' with others = 'heldout'"
        )
    return graph.edge_y[place].double()
