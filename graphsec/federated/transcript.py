"""Everything that was said: the record of messages that attackers with TRANSCRIPT access see."""

from __future__ import annotations

from collections import Counter

from graphsec.federated.messages import Message
from graphsec.train import Release


class Transcript:
    """Messages in the order in which they were sent, as ``Release``s of the kind "message".

    Headers (sender, receiver, round, topic, layer, names, types, shapes, bytes) are kept of all
    messages, tensors of the first ``keep`` rounds.

    Args:
        keep: Rounds whose tensors are kept; None keeps all.
    """

    def __init__(self, keep: int | None = None) -> None:
        self.keep = keep
        self.releases: list[Release] = []

    def add(self, message: Message, size: int) -> None:
        """Write a message down that has ``size`` bytes on the wire.

        What is written down is a view's to see and nobody's to change: tensors that were sent to
        several are kept once.
        """
        kept = self.keep is None or message.round < self.keep
        self.releases.append(Release(
            message.round, "message", dict(message.tensors) if kept else {},
            sender=message.sender, receiver=message.receiver, topic=message.kind,
            layer=message.layer, fields=message.fields, size=size,
        ))  # fmt: skip

    def refused(self, sender: str, round: int, size: int) -> None:
        """Write down that something came which was no message of the protocol."""
        self.releases.append(
            Release(round, "message", {}, sender=sender, topic="refused", size=size)
        )

    def traffic(self) -> dict[tuple[str, str, int], int]:
        """Bytes by (sender, receiver, round)."""
        total: Counter[tuple[str, str, int]] = Counter()
        for release in self.releases:
            total[release.sender, release.receiver, release.round] += release.bytes
        return dict(total)
