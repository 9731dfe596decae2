"""Clients of a federation that lie: what they send in the place of their updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import torch
from torch import Tensor

from graphsec.federated.messages import Message, party_name
from graphsec.federated.transport import Replies, Transport
from graphsec.rng import Rng

Rule = Callable[[Tensor], Tensor]
"""(k, d) updates → (d,) what the server makes of them."""


class Forge(Protocol):
    """What liars send. They work together and see every update of the round before they answer."""

    def __call__(self, honest: Tensor, own: Tensor, rule: Rule, rng: Rng) -> Tensor:
        """(b, d) updates to send.

        Args:
            honest: (h, d) updates of the honest clients, h ≥ 1.
            own: (b, d) what the liars would have sent if they had been honest.
            rule: The server's, for those who know it.
            rng: Stream of this round.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SignFlip:
    """−scale times the own update (Blanchard et al. 2017 call its kind omniscient; from memory)."""

    scale: float = 1.0

    def __call__(self, honest: Tensor, own: Tensor, rule: Rule, rng: Rng) -> Tensor:
        """Each liar its own."""
        return -self.scale * own


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Gaussian noise as long as ``scale`` mean honest updates (Blanchard et al. 2017, §5)."""

    scale: float = 10.0

    def __call__(self, honest: Tensor, own: Tensor, rule: Rule, rng: Rng) -> Tensor:
        """Each liar draws its own."""
        drawn: Tensor = torch.randn(own.shape, generator=rng.torch(), dtype=own.dtype)
        length = honest.norm(dim=1).mean() * self.scale
        sent: Tensor = drawn * (length / math.sqrt(own.shape[1]))
        return sent


@dataclass(frozen=True, kw_only=True)
class ALittle:
    """μ − z σ of the honest updates, coordinate by coordinate: little enough to look honest.

    Source: Baruch, Baruch & Goldberg, A Little Is Enough: Circumventing Defenses For Distributed
    Learning, NeurIPS 2019, algorithm 3: z is the largest with Φ(z) ≤ (n − f − s) / (n − f), where
    s = ⌊n / 2 + 1⌋ − f honest clients must seem further out; at least 0.
    """

    z: float | None = None

    def __call__(self, honest: Tensor, own: Tensor, rule: Rule, rng: Rng) -> Tensor:
        """All liars send the same."""
        z = little(len(honest) + len(own), len(own)) if self.z is None else self.z
        spread = honest.std(0, correction=0)
        return (honest.mean(0) - z * spread).expand_as(own)


def little(clients: int, liars: int) -> float:
    """Z of ``ALittle``."""
    honest, needed = clients - liars, clients // 2 + 1 - liars
    share = (honest - needed) / honest
    return 0.0 if not 0.5 < share < 1 else NormalDist().inv_cdf(share)


@dataclass(frozen=True, kw_only=True)
class InnerProduct:
    """−scale times the honest mean, whose inner product with what is sent turns negative.

    Source: Xie, Koyejo & Gupta, Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
    Manipulation, UAI 2019, §4 (ε = 0.1 … against medians and Krum; large against the mean).
    """

    scale: float = 0.5

    def __call__(self, honest: Tensor, own: Tensor, rule: Rule, rng: Rng) -> Tensor:
        """All liars send the same."""
        return (-self.scale * honest.mean(0)).expand_as(own)


@dataclass(frozen=True, kw_only=True)
class Tailored:
    """μ + γ p, with the γ and p for which the server goes furthest against the honest mean.

    p is −μ or −σ (coordinate by coordinate), both as long as the mean honest update. With the rule
    in hand γ is searched for over a grid, and what counts is how far the aggregate lies from μ in
    the direction −μ. Without it γ is the largest for which no honest update is further from what
    is sent than honest ones are from each other (Min-Max), along −σ.

    Source: Shejwalkar & Houmansadr, Manipulating the Byzantine: Optimizing Model Poisoning Attacks
    and Defenses for Federated Learning, NDSS 2021, §IV (tailored and agnostic attacks; from
    memory). That the distance is counted along −μ, and the grid, are ours.
    """

    knows: bool = True
    steps: int = 16

    def __call__(self, honest: Tensor, own: Tensor, rule: Rule, rng: Rng) -> Tensor:
        """All liars send the same."""
        mean = honest.mean(0)
        size = honest.norm(dim=1).mean()
        spread = -honest.std(0, correction=0)
        ways = [way * size / way.norm().clamp(min=1e-30) for way in (-mean, spread)]
        if not self.knows:
            hidden: Tensor = mean + self._unseen(honest, ways[1]) * ways[1]
            return hidden.expand_as(own)
        best, against = -math.inf, -mean / mean.norm().clamp(min=1e-30)
        sent: Tensor = mean
        for way in ways:
            for gamma in torch.logspace(-2, 2, self.steps).tolist():
                tried = mean + gamma * way
                made = rule(torch.cat([honest, tried.expand_as(own)]))
                moved = float((made - mean) @ against)
                if moved > best:
                    best, sent = moved, tried
        return sent.expand_as(own)

    def _unseen(self, honest: Tensor, way: Tensor) -> float:
        """The largest γ of Min-Max, by bisection."""
        widest = torch.cdist(honest, honest).max()
        low, high = 0.0, 1.0
        mean = honest.mean(0)

        def hides(gamma: float) -> bool:
            return bool((honest - (mean + gamma * way)).norm(dim=1).max() <= widest)

        while hides(high) and high < 1e6:
            low, high = high, high * 2
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if hides(middle) else (low, middle)
        return low


class Lying:
    """A transport in which some clients send what ``forge`` makes, after seeing all updates.

    Args:
        inner: The transport underneath.
        liars: Their numbers.
        forge: What they send; honest where no honest client answers with them.
        rule: What the server makes of updates.
        rng: Stream; each round has a child of its own.
    """

    def __init__(
        self, inner: Transport, liars: frozenset[int], forge: Forge, rule: Rule, rng: Rng
    ) -> None:
        self.inner, self.liars, self.forge, self.rule, self.rng = inner, liars, forge, rule, rng

    def exchange(self, requests: Mapping[int, bytes]) -> Replies:
        """The inner transport's replies, those of the liars replaced."""
        replies = dict(self.inner.exchange(requests))
        sent = {party: Message.decode(c, party_name(party)) for party, c in replies.items()}
        bad = [p for p, message in sent.items() if p in self.liars and message.kind == "update"]
        good = [p for p in sent if p not in self.liars]
        if bad and good:
            rows = {p: flat(m.tensors) for p, m in sent.items()}
            honest, own = (torch.stack([rows[p] for p in part]) for part in (good, bad))
            forged = self.forge(honest, own, self.rule, self.rng[sent[bad[0]].round])
            for party, row in zip(bad, forged, strict=True):
                old = sent[party]
                replies[party] = Message(
                    sender=old.sender, receiver=old.receiver, round=old.round, kind=old.kind,
                    tensors=shaped(row, old.tensors),
                ).encode()  # fmt: skip
        return sorted(replies.items())


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """(d,) all numbers of an update."""
    return torch.cat([t.reshape(-1) for t in tensors.values()])


def shaped(row: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The numbers (d,) as tensors like those of an update."""
    parts = torch.split(row, [t.numel() for t in like.values()])
    return {
        name: part.reshape(t.shape).to(t.dtype)
        for (name, t), part in zip(like.items(), parts, strict=True)
    }
