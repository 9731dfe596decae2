"""How messages travel: bytes out, bytes back. In one process here; other ways fit the interface."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from graphsec.federated.messages import Refused

log = logging.getLogger(__name__)

Replies = list[tuple[int, bytes]]


class Answering(Protocol):
    """A party, as transports know it."""

    def handle(self, content: bytes) -> bytes:
        """The reply to a request; raises ``Refused`` where the request breaks a rule."""
        ...


class Transport(Protocol):
    """Carries the server's requests to parties, and their replies back."""

    def exchange(self, requests: Mapping[int, bytes]) -> Replies:
        """Send each party its request, and wait for as long as this transport waits.

        Args:
            requests: Content by number of the party.

        Returns:
            (party, content) of all that arrived meanwhile, in the order of the parties, whatever
            it is: late replies to earlier requests too. A party that is away sends nothing. Who
            sent what is for the transport to say; the content is for the server to check.
        """
        ...


class InProcess:
    """All parties in this process, asked in order: the deterministic transport.

    Args:
        parties: The parties by number.
    """

    def __init__(self, parties: Sequence[Answering]) -> None:
        self.parties = parties

    def exchange(self, requests: Mapping[int, bytes]) -> Replies:
        """Each party's answer; a party that refuses its request stays silent."""
        replies: Replies = []
        for index, content in sorted(requests.items()):
            try:
                replies.append((index, self.parties[index].handle(content)))
            except Refused as error:
                log.warning("party:%d refuses a request: %s", index, error)
        return replies


Meddle = Callable[[int, bytes, bytes], Sequence[bytes]]


class Meddling:
    """A transport that something happens to: parties away, late or lying, for studies and tests.

    Args:
        inner: The transport underneath.
        away: ``(party, request) → bool``, whether the party gets no request now.
        meddle: ``(party, request, reply) → contents`` that arrive in the reply's place: none, one
            changed, several, or one kept from earlier.
    """

    def __init__(
        self,
        inner: Transport,
        away: Callable[[int, bytes], bool] = lambda party, request: False,
        meddle: Meddle = lambda party, request, reply: [reply],
    ) -> None:
        self.inner, self.away, self.meddle = inner, away, meddle

    def exchange(self, requests: Mapping[int, bytes]) -> Replies:
        """The inner transport's replies, after what happens to them."""
        asked = {p: content for p, content in requests.items() if not self.away(p, content)}
        replies = self.inner.exchange(asked)
        return [(p, one) for p, reply in replies for one in self.meddle(p, asked[p], reply)]
