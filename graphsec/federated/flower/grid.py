"""The transport: requests and replies as messages on Flower's grid."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from graphsec.federated.transport import Replies

log = logging.getLogger(__name__)


class FlowerGrid:
    """Carries bytes to parties in SuperNodes, as messages of Flower's type "query.say".

    A party that was silent is not waited for until it has said something again: it is asked, and
    counts if it answers before the last of the others. So one that is gone costs ``timeout`` once.

    Args:
        grid: Flower's grid.
        nodes: Number of each party's node.
        timeout: Seconds that a party has for an answer.
        alive: Whether a party can still answer, as far as anybody knows.
    """

    def __init__(
        self, grid: Any, nodes: Mapping[int, int], timeout: float,
        alive: Callable[[int], bool] = lambda party: True,
    ) -> None:  # fmt: skip
        from graphsec.federated.flower import inner

        self.grid, self.nodes, self.timeout, self.alive = grid, nodes, timeout, alive
        self.mail = inner.Mailbox(grid)
        self.silent: set[int] = set()
        self._open: dict[str, int] = {}

    def exchange(self, requests: Mapping[int, bytes]) -> Replies:
        """Send each party its request; what came, also late replies to earlier ones."""
        from graphsec.federated.flower import inner

        asked = [party for party in sorted(requests) if self.alive(party)]
        messages = [
            inner.message({"content": requests[party]}, "say", self.nodes[party], self._ttl)
            for party in asked
        ]
        now = {}
        for party, sent in zip(asked, self.grid.push_messages(messages), strict=False):
            if sent:
                now[sent] = party
        self._open |= now
        replies: Replies = []
        heard: set[int] = set()
        # Nobody but silent ones: give them time, they are all there is.
        waiting = {i: p for i, p in now.items() if p not in self.silent} or dict(now)
        end, waits = time.monotonic() + self.timeout, inner.Waits()
        while waiting and time.monotonic() < end:
            for reply in self.mail.take(self._open):
                party = self._open.pop(reply.request, -1)
                waiting.pop(reply.request, None)
                if reply.reason:
                    log.warning("party:%d gives no answer: %s", party, reply.reason)
                elif party >= 0:
                    heard.add(party)
                    content = reply.content.get("content")
                    replies.append((party, content if isinstance(content, bytes) else b""))
            waiting = {i: p for i, p in waiting.items() if self.alive(p)}
            if waiting:
                waits.sleep()
        self.silent = (self.silent | set(requests)) - heard
        return sorted(replies, key=lambda reply: reply[0])

    @property
    def _ttl(self) -> float:
        return 10 * self.timeout
