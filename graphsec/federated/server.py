"""The server: asks the parties round by round, checks what they answer, adds it up."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphsec.federated.messages import Message, Refused, party_name
from graphsec.federated.protocol import Protocol, public
from graphsec.federated.transcript import Transcript
from graphsec.federated.transport import Transport
from graphsec.models.base import Sizes
from graphsec.rng import Rng

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Incident:
    """A party that was away, or whose message was refused; training went on without it.

    Attributes:
        round: When.
        party: "party:3".
        what: "absent" or "refused".
        reason: What was missing, or the refusal: field and rule.
    """

    round: int
    party: str
    what: str
    reason: str

    def __str__(self) -> str:
        """One line."""
        return f"round {self.round}: {self.reason}"


class Server:
    """The server of a vertical federation; it holds the public parameters and no data.

    Args:
        protocol: What all agree on.
        transport: The way to the parties.
        rng: Stream of the server: initial parameters, and who is asked in a round.
        transcript: Where every message is written down.
    """

    def __init__(
        self, protocol: Protocol, transport: Transport, rng: Rng, transcript: Transcript
    ) -> None:
        self.protocol, self.transport, self.rng = protocol, transport, rng
        self.transcript = transcript
        self.incidents: list[Incident] = []
        self.next = 0
        with rng["init"].scope():
            model = protocol.recipe.model.build(Sizes(protocol.users, 0, 1, protocol.users))
        self.layers: int = model.layers or 0
        self.public = {n: p.clone() for n, p in public(model, protocol.users).items()}
        lr = protocol.recipe.training.lr
        self.optimizer = torch.optim.Adagrad(list(self.public.values()), lr=lr)
        self.widths = {name: tuple(p.shape) for name, p in self.public.items()}

    # -- a training ---------------------------------------------------------------------------

    def start(self) -> None:
        """What is settled before the first round: the users' degrees, where they are shared."""
        if self.protocol.degrees == "shared":
            told = self._ask("setup", {party: {} for party in range(self.protocol.parties)})
            total = sum((m.tensors["degree"] for m in told.values()), torch.zeros(()))
            assert isinstance(total, Tensor)
            self._ask("degrees", {p: {"degree": total} for p in told})

    def round(self) -> None:
        """One round: parameters out, sums of each layer back and forth, gradients in, a step."""
        sent = {name: p.clone() for name, p in self.public.items()}
        replies = self._ask("public", dict.fromkeys(self.asked(self.next), sent))
        for layer in range(self.layers if self.protocol.exchange else 0):
            sums = {party: reply.tensors["sums"] for party, reply in replies.items()}
            others = self.others(sums)
            replies = self._ask("neighbours", {p: {"sums": s} for p, s in others.items()}, layer)
        self._step({party: reply.tensors for party, reply in replies.items()})
        self.next += 1

    def finish(self) -> None:
        """Everybody gets the last public parameters."""
        sent = {name: p.clone() for name, p in self.public.items()}
        self._ask("finish", dict.fromkeys(range(self.protocol.parties), sent))

    def asked(self, round: int) -> list[int]:
        """Who takes part in a round, drawn anew each time."""
        count = self.protocol.parties
        some = max(1, math.floor(self.protocol.participation * count + 0.5))
        order = self.rng["participants"][round].numpy().permutation(count)
        return sorted(order[:some].tolist())

    def others(self, sums: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """What each party is sent: the sum over the other parties, scaled for those missing.

        By the items of all others over the items of those whose sums are there: unbiased where
        items are spread at random.
        """
        items, out = self.protocol.items, {}
        for mine, own in sums.items():
            rest = [party for party in sums if party != mine]
            if not rest:
                out[mine] = torch.zeros_like(own)
                continue
            there = sum(items[party] for party in rest)
            scale = (sum(items) - items[mine]) / there
            out[mine] = torch.stack([sums[party] for party in rest]).sum(0) * scale
        return out

    def _step(self, gradients: Mapping[int, Mapping[str, Tensor]]) -> None:
        if not gradients:
            log.warning("round %d: no gradients, the public parameters stay", self.next)
            return
        items = self.protocol.items
        scale = sum(items) / sum(items[party] for party in gradients)
        for name, parameter in self.public.items():
            parts = [self._number(sent[name]) for sent in gradients.values()]
            parameter.grad = torch.stack(parts).sum(0) * scale
        self.optimizer.step()

    def _number(self, sent: Tensor) -> Tensor:
        return sent.float() * self.protocol.level if sent.dtype == torch.int8 else sent

    # -- messages -----------------------------------------------------------------------------

    def _ask(
        self, kind: str, contents: Mapping[int, Mapping[str, Tensor]], layer: int = -1
    ) -> dict[int, Message]:
        """Send each party a message; the answers that came and keep to the rules, by party."""
        requests = {}
        for party, tensors in contents.items():
            message = Message(
                sender="server", receiver=party_name(party), round=self._now(kind), kind=kind,
                layer=layer, tensors=tensors,
            )  # fmt: skip
            requests[party] = message.encode()
            self.transcript.add(message, len(requests[party]))
        wanted, answers = self._answer(kind, layer), {}
        for party, content in self.transport.exchange(requests):
            name = party_name(party)
            try:
                reply = Message.decode(content, name)
                if party not in requests or party in answers:
                    raise Refused(name, "message", "must be one answer to one request")
                self._check(reply, self._now(kind), *wanted)
            except Refused as refusal:
                self.transcript.refused(name, self._now(kind), len(content))
                self._note(name, "refused", str(refusal), kind)
                continue
            self.transcript.add(reply, len(content))
            answers[party] = reply
        refused = {i.party for i in self.incidents if i.round == self._now(kind)}
        for party in requests:
            if party not in answers and party_name(party) not in refused:
                name = party_name(party)
                self._note(name, "absent", f"{name} did not answer {kind!r} in time", kind)
        return dict(sorted(answers.items()))

    def _now(self, kind: str) -> int:
        return -1 if kind in ("setup", "degrees") else self.next

    def _note(self, party: str, what: str, reason: str, kind: str) -> None:
        incident = Incident(self._now(kind), party, what, reason)
        self.incidents.append(incident)
        log.warning("%s", incident)

    def _answer(self, kind: str, layer: int) -> tuple[str, int]:
        """(kind, layer) of the right answer."""
        if kind in ("setup", "degrees", "finish"):
            return ("degrees" if kind == "setup" else "ready"), -1
        after = 0 if kind == "public" else layer + 1
        more = self.protocol.exchange and after < self.layers
        return ("sums", after) if more else ("gradient", -1)

    def _check(self, reply: Message, round: int, kind: str, layer: int) -> None:
        """Raise ``Refused`` unless a reply is what the protocol asks for."""
        who = reply.sender
        if reply.receiver != "server":
            raise Refused(who, "receiver", f"must be 'server', found {reply.receiver!r}")
        # A party's own round is that of the last parameters it took.
        known = round if kind in ("sums", "gradient", "degrees") else reply.round
        if reply.round != known:
            word = "a replayed or late message" if reply.round < round else "ahead of time"
            raise Refused(who, "round", f"must be {round}, found {reply.round}: {word}")
        if (reply.kind, reply.layer) != (kind, layer):
            raise Refused(
                who, "kind", f"must be {kind!r} of layer {layer}, found {reply.kind!r} of layer "
                f"{reply.layer}",
            )  # fmt: skip
        wanted = self._wanted(kind)
        if list(reply.tensors) != list(wanted):
            raise Refused(who, "tensors", f"must be {list(wanted)}, found {list(reply.tensors)}")
        for name, (shape, dtype) in wanted.items():
            found = reply.tensors[name]
            if tuple(found.shape) != shape:
                raise Refused(
                    who, f"tensors.{name}", f"must have shape {shape}, found {tuple(found.shape)}"
                )
            if found.dtype != dtype:
                raise Refused(who, f"tensors.{name}", f"must be {dtype}, found {found.dtype}")
            bad = int((~torch.isfinite(found)).sum())
            if bad:
                raise Refused(
                    who, f"tensors.{name}", f"must be finite, found {bad} NaN or infinite values"
                )

    def _wanted(self, kind: str) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of the tensors of an answer."""
        users, rows = self.protocol.users, self.protocol.rows
        if kind == "degrees":
            return {"degree": ((users,), torch.float32)}
        if kind == "sums":
            width = self.widths["table"][1]
            return {"sums": ((rows or users, width), torch.float32)}
        if kind == "gradient":
            dtype = torch.int8 if self.protocol.noise == "ternary" else torch.float32
            return {name: (shape, dtype) for name, shape in self.widths.items()}
        return {}

    # -- checkpoints --------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that the server must keep to go on after the end of a round."""
        return {
            "next": self.next, "public": dict(self.public),
            "optimizer": self.optimizer.state_dict(),
            "incidents": [list(vars(i).values()) for i in self.incidents],
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; the transcript goes on from where it is."""
        self.next = state["next"]
        for name, value in state["public"].items():
            self.public[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.incidents = [Incident(*fields) for fields in state["incidents"]]
