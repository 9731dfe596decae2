"""Horizontal federations: clients hold nodes, train the same model, and send what it changed."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from graphsec.federated.aggregation import Aggregation, aggregate
from graphsec.federated.byzantine import flat, shaped
from graphsec.federated.messages import Message, Refused, party_name
from graphsec.federated.server import Incident
from graphsec.federated.transcript import Transcript
from graphsec.federated.transport import Transport
from graphsec.graph import Graph
from graphsec.models.base import GNN
from graphsec.ops import Adj, Features
from graphsec.rng import Rng
from graphsec.train import Step, Training
from graphsec.train import fit as train_model

log = logging.getLogger(__name__)


class Horizontal(GNN):
    """What a horizontal federation ends with: one model of all clients, or one of each.

    A node is answered by its client's model, which sees the client's own part of the graph, or all
    of it where edges between clients are kept.

    Args:
        parts: One model, or one a client; all of one shape.
        nodes: Number of nodes.
        cross: Whether edges between clients are seen.
    """

    def __init__(self, parts: Sequence[GNN], nodes: int, cross: bool) -> None:
        super().__init__(parts[0].layers)
        self.parts, self.cross = nn.ModuleList(parts), cross
        self.capabilities = replace(  # type: ignore[misc]
            parts[0].capabilities, sampled=False, alone=False, per_sample=False
        )
        self.owner: Tensor
        self.register_buffer("owner", torch.zeros(nodes, dtype=torch.int64))

    @property
    def models(self) -> list[GNN]:
        """The parts."""
        return [part for part in self.parts if isinstance(part, GNN)]

    @property
    def aggregate(self) -> Callable[[Adj, Tensor], Tensor]:
        """How the parts gather neighbours."""
        return self.models[0].aggregate

    @aggregate.setter
    def aggregate(self, way: Callable[[Adj, Tensor], Tensor]) -> None:
        if "parts" in self._modules:  # the base class sets one before there are any
            for part in self.models:
                part.aggregate = way

    def seen(self, adj: Adj) -> Adj:
        """The edges inside of clients, or all; weights stay differentiable."""
        if adj.num_nodes != len(self.owner):
            raise ValueError(
                f"a federation of {len(self.owner)} nodes has no client for those of a graph of "
                f"{adj.num_nodes}"
            )
        if self.cross:
            return adj
        whole = adj.merged()
        assert whole.weight is not None
        row, col = whole.csr.coo
        inside = self.owner[row] == self.owner[col]
        return Adj(csr=whole.csr, weight=whole.weight * inside).pruned()

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """Outputs of all layers, of each node by its client's model."""
        adj, models = self.seen(adj), self.models
        if len(models) == 1:
            return models[0].hidden(x, adj)
        every = [model.hidden(x, adj) for model in models]
        return [self._own(states) for states in zip(*every, strict=True)]

    def forward(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """(n, classes) logits, of each node by its client's model."""
        adj, models = self.seen(adj), self.models
        return models[0](x, adj) if len(models) == 1 else self._own([m(x, adj) for m in models])

    def _own(self, states: Sequence[Tensor]) -> Tensor:
        every = torch.arange(len(self.owner), device=self.owner.device)
        return torch.stack(list(states))[self.owner, every]


def personal_names(model: nn.Module, layers: int) -> frozenset[str]:
    """Names of the parameters and buffers of the last layers.

    A layer is what names with the same first number belong to ("weight.1", "bias.1"), and each
    name without a number one of its own kind, the last being what is named last.

    Raises:
        ValueError: The model has no layer left to share.
    """
    names = list(_state(model))
    layer = [match[0] if (match := re.search(r"\d+", name)) else name for name in names]
    order = sorted(set(layer), key=lambda one: (not one.isdigit(), int(one) if one.isdigit() else 0,
                                                layer.index(one)))  # fmt: skip
    if layers >= len(order):
        raise ValueError(
            f"personal must be < {len(order)}, the layers of {type(model).__name__}, got {layers}"
        )
    mine = set(order[len(order) - layers :])
    return frozenset(n for n, one in zip(names, layer, strict=True) if one in mine)


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of real numbers."""
    return {n: t for n, t in model.state_dict().items() if t.is_floating_point()}


class Client:
    """One client: its part of the graph, its model, and a stream of its own.

    Args:
        index: Its number.
        model: Trained in place; what is personal stays in it.
        graph: What it sees; the training nodes are its own.
        training: The local training of one round.
        rng: Stream; each round has a child.
        personal: Names of what never leaves it.
        x: Sanitised features.
        adj: Sanitised adjacency.
        release: What is done to an update before it leaves.
    """

    def __init__(
        self, index: int, model: GNN, graph: Graph, training: Training, rng: Rng,
        personal: frozenset[str], x: Tensor | Features, adj: Adj, release: Step,
    ) -> None:  # fmt: skip
        self.name = party_name(index)
        self.model, self.graph, self.training, self.rng = model, graph, training, rng
        self.personal, self.x, self.adj, self.release = personal, x, adj, release

    @property
    def samples(self) -> int:
        """Labelled training nodes."""
        assert self.graph.split is not None
        assert self.graph.y is not None
        return int((self.graph.y[self.graph.split.train] >= 0).sum())

    def shared(self) -> dict[str, Tensor]:
        """What travels (views)."""
        return {n: t for n, t in _state(self.model).items() if n not in self.personal}

    def take(self, sent: Mapping[str, Tensor]) -> None:
        """The shared weights become those that were sent."""
        with torch.no_grad():
            for name, own in self.shared().items():
                if name not in sent or sent[name].shape != own.shape:
                    rule = f"must have shape {tuple(own.shape)}"
                    raise Refused("server", f"tensors.{name}", rule)
                own.copy_(sent[name])

    def handle(self, content: bytes) -> bytes:
        """Train on from the weights that were sent; the difference, released.

        Raises:
            Refused: It is no request for an update.
        """
        message = Message.decode(content, "server")
        if message.kind != "weights":
            raise Refused("server", "kind", f"must be 'weights', found {message.kind!r}")
        self.take(message.tensors)
        before = {name: t.clone() for name, t in self.shared().items()}
        with torch.enable_grad():  # whatever the caller of a transport has switched off
            train_model(
                self.model, self.graph, self.training, self.rng[message.round],
                x=self.x, adj=self.adj,
            )  # fmt: skip
        moved = [t - before[name] for name, t in self.shared().items()]
        update = dict(zip(before, self.release(moved), strict=True))
        return Message(
            sender=self.name, receiver="server", round=message.round, kind="update",
            tensors=update,
        ).encode()  # fmt: skip


class Coordinator:
    """The server of a horizontal federation; it holds the shared weights and no data.

    Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized
    Data, AISTATS 2017, algorithm 1.

    Args:
        weights: Shared weights to begin with, by name.
        samples: Training nodes of each client, as it says; those without any are never asked.
        rule: How updates become one.
        liars: Clients that the rule must stand.
        participation: Share of the able clients asked in a round, at least one.
        transport: The way to them.
        rng: Stream: who is asked.
        transcript: Where every message is written down.

    Raises:
        ValueError: No client has a training node, or there are too few for the rule.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], samples: Sequence[int], rule: Aggregation, liars: int,
        participation: float, transport: Transport, rng: Rng, transcript: Transcript,
    ) -> None:  # fmt: skip
        self.weights = {name: t.clone() for name, t in weights.items()}
        self.samples, self.rule, self.liars = samples, rule, liars
        self.transport, self.rng, self.transcript = transport, rng, transcript
        self.able = [client for client, count in enumerate(samples) if count]
        if not self.able:
            raise ValueError("a federation needs a client with a labelled training node")
        self.asked = max(1, math.floor(participation * len(self.able) + 0.5))
        self.incidents: list[Incident] = []
        self.next = 0

    def round(self) -> None:
        """Weights out, updates in, the aggregate added."""
        order = self.rng["participants"][self.next].numpy().permutation(len(self.able))
        updates = self._ask(sorted(self.able[i] for i in order[: self.asked]))
        try:
            if updates:
                rows = torch.stack([flat(update) for update in updates.values()])
                count = torch.tensor([float(self.samples[client]) for client in updates])
                step = aggregate(self.rule, rows, count, self.liars)
                for name, moved in shaped(step, self.weights).items():
                    self.weights[name] += moved
        except ValueError as reason:  # clients away: too few are left for the rule
            if len(updates) == self.asked:
                raise
            log.warning("round %d: the weights stay: %s", self.next, reason)
        self.next += 1

    def _ask(self, clients: Sequence[int]) -> dict[int, dict[str, Tensor]]:
        """The updates that came and keep to the rules, by client."""
        requests = {}
        for client in clients:
            sent = {name: t.clone() for name, t in self.weights.items()}
            message = Message(
                sender="server", receiver=party_name(client), round=self.next, kind="weights",
                tensors=sent,
            )  # fmt: skip
            requests[client] = message.encode()
            self.transcript.add(message, len(requests[client]))
        found: dict[int, dict[str, Tensor]] = {}
        refused = set()
        for client, content in self.transport.exchange(requests):
            name = party_name(client)
            try:
                reply = Message.decode(content, name)
                if client not in requests or client in found:
                    raise Refused(name, "message", "must be one answer to one request")
                self._check(reply)
            except Refused as refusal:
                refused.add(client)
                self.transcript.refused(name, self.next, len(content))
                self._note(name, "refused", str(refusal))
                continue
            self.transcript.add(reply, len(content))
            found[client] = dict(reply.tensors)
        for client in requests:
            if client not in found and client not in refused:
                name = party_name(client)
                self._note(name, "absent", f"{name} did not answer 'weights' in time")
        return dict(sorted(found.items()))

    def _note(self, client: str, what: str, reason: str) -> None:
        self.incidents.append(Incident(self.next, client, what, reason))
        log.warning("%s", self.incidents[-1])

    def _check(self, reply: Message) -> None:
        """Raise ``Refused`` unless a reply is an update of this round."""
        who = reply.sender
        for name, found, wanted in (
            ("receiver", reply.receiver, "server"), ("kind", reply.kind, "update"),
            ("round", reply.round, self.next), ("tensors", list(reply.tensors), list(self.weights)),
        ):  # fmt: skip
            if found != wanted:
                raise Refused(who, name, f"must be {wanted!r}, found {found!r}")
        for name, tensor in reply.tensors.items():
            own = self.weights[name]
            if tensor.shape != own.shape or tensor.dtype != own.dtype:
                raise Refused(
                    who, f"tensors.{name}", f"must be {own.dtype} of shape {tuple(own.shape)}, "
                    f"found {tensor.dtype} of {tuple(tensor.shape)}",
                )  # fmt: skip
            bad = int((~torch.isfinite(tensor)).sum())
            if bad:
                raise Refused(
                    who, f"tensors.{name}", f"must be finite, found {bad} NaN or infinite values"
                )
