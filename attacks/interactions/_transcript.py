"""What a seat of a vertical federation hears of one party, as numbers to compute with."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphsec.federated import Protocol, party_name
from graphsec.threat import View


@dataclass(frozen=True, eq=False)
class Heard:
    """What was heard of a victim, by round.

    Attributes:
        protocol: What was agreed on.
        decodes: Whether the projection of the sums is known; without one they are as they are.
        sums: Layer → round → (rows or users, width) sums of the victim, as sent; at another party
            those of all others.
        gradients: Round → name → gradient of a public parameter, quantised ones times their level.
        public: Round → name → public parameter.
    """

    protocol: Protocol
    decodes: bool
    sums: Mapping[int, Mapping[int, Tensor]]
    gradients: Mapping[int, Mapping[str, Tensor]]
    public: Mapping[int, Mapping[str, Tensor]]

    def decoded(self, layer: int) -> list[Tensor]:
        """(users, width) sums of each round, back through Φᵀ where they were projected."""
        found = []
        for round, sent in sorted(self.sums.get(layer, {}).items()):
            sketch = self.protocol.sketch(round)
            found.append(sent if sketch is None else sketch.decode(sent))
        return found


def heard(view: View, victim: int | None, name: str) -> Heard:
    """All that the seat hears of a victim; None adds up what it hears of all parties.

    Raises:
        ValueError: There is nothing to hear: no federation, nobody listening, or nothing kept.
    """
    releases, seat = view.releases(), view.threat.position
    if seat == "outside":
        raise ValueError(
            f"attack {name!r}: threat.position must be server, wire or party:0, …, got 'outside'"
        )
    if not view.agreed:
        raise ValueError(f"attack {name!r} needs a federation's transcript, and there is none")
    if victim is not None and seat == party_name(victim):
        raise ValueError(f"attack {name!r}: threat.position must not be the victim, got {seat!r}")
    agreed = dict(view.agreed)
    decodes = "seed" in agreed or not agreed["rows"]
    topic = "neighbours" if re.match("party", seat) else "sums"
    sums: dict[int, dict[int, Tensor]] = defaultdict(dict)
    gradients: dict[int, dict[str, Tensor]] = defaultdict(dict)
    public: dict[int, dict[str, Tensor]] = {}
    of_victim = {party_name(p) for p in range(len(agreed["items"])) if victim in (None, p)}
    for release in releases:
        at, sent = release.round, release.tensors
        if at < 0 or not sent:
            continue
        if release.topic == "public":
            public[at] = sent
        elif topic == "neighbours" and release.topic == topic and release.receiver == seat:
            sums[release.layer][at] = sent["sums"]
        elif topic == "sums" and release.topic == topic and release.sender in of_victim:
            so_far = sums[release.layer].get(at)
            sums[release.layer][at] = sent["sums"] if so_far is None else so_far + sent["sums"]
        elif release.topic == "gradient" and release.sender in of_victim - {seat}:
            for key, value in sent.items():
                real = value.float() * agreed["level"] if value.dtype == torch.int8 else value
                so_far = gradients[at].get(key)
                gradients[at][key] = real if so_far is None else so_far + real
    if not public:
        raise ValueError(
            f"attack {name!r}: the transcript holds no tensors: the defense's keep must be "
            "None, or at least 1"
        )
    return Heard(Protocol.of(agreed), decodes, sums, gradients, public)


def windows(series: list[Tensor], count: int) -> Tensor:
    """(users, count · width) float64: means over so many parts of the rounds, side by side."""
    parts = np.array_split(np.arange(len(series)), min(count, len(series)))
    return torch.cat([torch.stack([series[i] for i in p]).double().mean(0) for p in parts], 1)


def in_batch(gradient: Mapping[str, Tensor]) -> Tensor:
    """(users,) bool: whose bias has a gradient, and so surely had a rating in the batch.

    Without noise all of them but for sums of errors that are exactly 0; a quantised gradient names
    nobody falsely, but only one in level / |gradient|. Rows of the table don't say it: they have
    gradients through items that others rated.
    """
    return gradient["bias"].ravel() != 0


def error_sums(gradient: Mapping[str, Tensor]) -> Tensor:
    """(users,) sums of rating − prediction over the batch: −½ of the gradient of the bias.

    Exact without noise. Who has one rating in the batch gives away its error, and so the rating to
    whoever can predict it: μ + b_u is public, the item's part is not.
    """
    return -gradient["bias"].ravel() / 2
