"""De-anonymisation: which items users took, from the sums that a party sends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from graphsec.attacks.base import Attack
from graphsec.attacks.interactions._known_users import look_up, scored, taken_by
from graphsec.attacks.interactions._transcript import Heard, heard, windows
from graphsec.attacks.interactions.popularity import asked
from graphsec.game import Interactions
from graphsec.outcome import LinkScores
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import Access, Timing, View

_WINDOWS = (1, 4, 16, 64)
_RIDGES = (1e-10, 1e-6, 1e-2)


@ATTACKS.register("de-anonymisation")
@dataclass(frozen=True, kw_only=True)
class DeAnonymisation(Attack):
    """Learns from users whose items are known how a party's messages tell what a user took.

    Users with like sums took like items: a linear map from what the transcript says of each user
    to the items is fitted on the users that the game reveals, and applied to the others. Item
    embeddings need not be known, and drop out. The map has a ridge penalty, chosen by
    cross-validation on the revealed users, as is how the transcript is averaged.

    What is read:

    - "sums": the sums of both layers, decoded by Φᵀ, averaged over 1, 4, 16 or 64 parts of the
      rounds; the linear map takes their differences. Where Φ is drawn anew in each round the
      average loses its error, where it stays it does not.
    - "operator": the sums of layer 1 of LightGCN are S = Φ Â Âᵀ U, with U the users' embeddings
      that everybody is sent, in each round others. Least squares over all rounds solves for
      Φ Â Âᵀ, whose columns are users: a random projection of what each took, and neither the items'
      embeddings nor the other users of the bucket are in it. It needs no Φ as long as that stays
      the same. Other backbones' sums are not linear in U; for them it is a heuristic.
    - "gradients": the gradients of users' embeddings and biases, averaged likewise; not to be had
      at a party.
    - "public": the users' embeddings that the server sends: what any party, and whoever gets
      the model, knows.

    The eavesdropper's seat is ``threat.position``. At another party sums are those of all others.
    On the wire Φ is not known: "sums" are read there only where they are not projected.

    Source: ours. Mai & Pang, Vertical Federated Graph Neural Network for Recommender System, ICML
    2023, attack their federation by a de-anonymisation that is not described in what is public.

    Attributes:
        reads: What is read.
    """

    game: ClassVar[str] = "interactions"
    timing: ClassVar[Timing] = "inference"
    tasks: ClassVar[tuple[str, ...]] = ("rating", "ranking")

    reads: Literal["sums", "operator", "gradients", "public"] = "operator"

    @property
    def needs(self) -> Access:
        """Messages, and what some users took."""
        return Access.TRANSCRIPT | Access.PARTIAL_EDGES

    def run(self, view: View, rng: Rng) -> LinkScores:
        """A score for each pair asked about."""
        pairs, rules = asked(view, self.name), view.rules
        assert isinstance(rules, Interactions)
        users, items, taken = taken_by(view.examples)
        found = self.candidates(heard(view, rules.victim, self.name))
        table = scored(found, users, taken, rng["folds"])
        return LinkScores(pairs=pairs, scores=look_up(table, items, pairs))

    def candidates(self, told: Heard) -> list[Tensor]:
        """(users, d) what the transcript says of users, read in several ways.

        Raises:
            ValueError: It does not say it at this seat.
        """
        if self.reads == "operator":
            return [operator(told, ridge) for ridge in _RIDGES]
        if self.reads == "sums":
            if not told.decodes:
                raise ValueError(
                    f"attack {self.name!r}: reads = 'sums' needs the projection, which is not "
                    "known on the wire; 'operator' does without where it stays the same"
                )
            layers = [told.decoded(layer) for layer in sorted(told.sums)]
        elif self.reads == "gradients":
            rounds = [told.gradients[at] for at in sorted(told.gradients)]
            layers = [[sent[name] for sent in rounds] for name in ("table", "bias") if rounds]
        else:
            layers = [[told.public[at]["table"] for at in sorted(told.public)]]
        if not layers:
            raise ValueError(f"attack {self.name!r}: no {self.reads} are heard at this seat")
        return [torch.cat([windows(series, count) for series in layers], 1) for count in _WINDOWS]


def operator(told: Heard, ridge: float) -> Tensor:
    """(users, rows or users) the transpose of B, least squares of S₁ = B U over all rounds.

    Args:
        told: What was heard.
        ridge: Penalty, as a fraction of the largest eigenvalue of Σ U Uᵀ.

    Raises:
        ValueError: There are no sums of layer 1, or each is projected by a Φ that is not known.
    """
    rounds = [at for at in sorted(told.sums.get(1, {})) if at in told.public]
    if not rounds:
        raise ValueError("attack 'de-anonymisation': reads = 'operator' needs sums of layer 1")
    sums = [told.sums[1][at] for at in rounds]
    if told.protocol.redraw and told.protocol.rows:
        if not told.decodes:
            raise ValueError(
                "attack 'de-anonymisation': a projection that is drawn anew and not known can't "
                "be solved for"
            )
        sums = told.decoded(1)
    sent = torch.cat(sums, 1).double()
    users = torch.cat([told.public[at]["table"] for at in rounds], 1).double()
    value, vector = torch.linalg.eigh(users @ users.T)
    solved: Tensor = vector @ (
        (vector.T @ (users @ sent.T)) / (value + ridge * value[-1]).unsqueeze(1)
    )
    return solved
