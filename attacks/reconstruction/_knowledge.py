"""What a reconstruction starts from, and how several kinds of evidence become one score a pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.base import Attack
from graphsec.models.base import inputs
from graphsec.ops import Features
from graphsec.ops.similarity import pair_similarity
from graphsec.outcome import LinkScores
from graphsec.registry import SpecError
from graphsec.rng import Rng
from graphsec.threat import Access, Timing, View

Source = Literal["features", "hidden", "outputs", "labels"]
ACCESS = {
    "features": Access.FEATURES,
    "hidden": Access.HIDDEN,
    "outputs": Access.SCORES,
    "labels": Access.TRUE_LABELS,
}
LARGEST = 10_000  # nodes of a matrix of all pairs: 400 MB each, of which a step holds several


def combined(parts: Sequence[Tensor]) -> Tensor:
    """One score (k,) from several kinds of scores, of any scale, for the same pairs.

    Fisher's method: a pair's rank from above, 0 to 1, in each kind is taken for a p-value of "no
    edge", and minus the sum of their logarithms is the score, so that to stand out in one kind
    counts for more than to be a little above the middle in all.
    """
    from scipy.stats import rankdata

    total = torch.zeros(len(parts[0]), dtype=torch.float64)
    for part in parts:
        above = len(part) + 0.5 - rankdata(part.numpy())
        total -= torch.from_numpy(np.log(above / len(part)))
    return total


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What an attacker knows of the victim and its graph; None (or nothing) is not known.

    Attributes:
        x: Features.
        hidden: States of all layers but the last on the true graph.
        logits: (n, classes) the victim's answers there.
        y: (n,) labels, −1 where a node has none.
    """

    x: Tensor | Features | None = None
    hidden: tuple[Tensor, ...] = ()
    logits: Tensor | None = None
    y: Tensor | None = None

    def similarities(self, pairs: Tensor) -> list[Tensor]:
        """For each thing known, how alike it is at the two nodes of each pair (2, k)."""
        found = [] if self.x is None else [pair_similarity(self.x, pairs, "cosine")]
        found += [pair_similarity(state, pairs, "cosine") for state in self.hidden]
        if self.logits is not None:
            found.append(pair_similarity(self.logits.softmax(1), pairs, "cosine"))
        if self.y is not None:
            u, v = self.y[pairs]
            found.append(((u == v) & (u >= 0)).to(torch.float32))
        return found


def access_to(sources: Sequence[Source]) -> Access:
    """What must be granted; outputs come with the hidden states."""
    needed = Access.NONE
    for source in sources:
        if source != "outputs" or "hidden" not in sources:
            needed |= ACCESS[source]
    return needed


def gathered(view: View, sources: Sequence[Source]) -> Knowledge:
    """What is known from these sources, asked for once."""
    states = view.hidden() if "hidden" in sources else []
    logits = None
    if "outputs" in sources:
        logits = states[-1] if states else view.logits()
    return Knowledge(
        x=inputs(view.known) if "features" in sources else None,
        hidden=tuple(states[:-1]),
        logits=logits,
        y=view.known.y if "labels" in sources else None,
    )


@dataclass(frozen=True, kw_only=True)
class ReconstructionAttack(Attack):
    """Base of attacks that score pairs of nodes by how likely they are edges.

    Attributes:
        knows: What of the victim and its graph the attacker knows: "features" of nodes, "hidden"
            states of the model on the true graph, its "outputs" there, true "labels" of all nodes.
            Who knows hidden states takes the last of them for the outputs, so that a defense that
            blurs the scores shown to others is passed by.
    """

    game = "links"
    timing: ClassVar[Timing] = "inference"
    requires: ClassVar[tuple[Source, ...]] = ()

    knows: Annotated[tuple[Source, ...], Field(min_length=1)] = (
        "features", "hidden", "outputs", "labels",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        missing = [source for source in self.requires if source not in self.knows]
        if missing:
            raise SpecError(
                f"attack {self.name!r}: knows must hold {', '.join(missing)}, got {self.knows}"
            )

    @property
    def needs(self) -> Access:
        """Access to each thing known."""
        return access_to(self.knows)

    def known(self, view: View) -> Knowledge:
        """All that the attacker knows, asked for once."""
        return gathered(view, self.knows)

    def run(self, view: View, rng: Rng) -> LinkScores:
        """A score for each pair asked about; for all pairs where none is asked about."""
        pairs = view.question
        if pairs is None:
            check_size(view, self.name)
            pairs = torch.triu_indices(view.known.num_nodes, view.known.num_nodes, 1)
        return LinkScores(pairs=pairs, scores=combined(self.parts(view, self.known(view), pairs)))

    def parts(self, view: View, known: Knowledge, pairs: Tensor) -> list[Tensor]:
        """Scores (k,) of one or more kinds for pairs (2, k)."""
        raise NotImplementedError


def check_size(view: View, name: str) -> None:
    """Refuse graphs whose matrix of all pairs would not fit, and directed ones."""
    graph = view.known
    if graph.num_nodes > LARGEST:
        raise ValueError(
            f"attack {name!r} holds a matrix of all pairs: num_nodes of {graph.name!r} must be "
            f"≤ {LARGEST:,}, got {graph.num_nodes:,}"
        )
    if graph.directed:
        raise ValueError(f"attack {name!r} rebuilds undirected graphs, {graph.name!r} is directed")
