"""A party: its items, its edges, and the answers it gives to the server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from graphsec.federated.mechanisms import laplace, ternary
from graphsec.federated.messages import Message, Refused, party_name
from graphsec.federated.objectives import objective_of
from graphsec.federated.protocol import PRIVATE, Protocol, public
from graphsec.graph import Graph
from graphsec.models.base import Sizes
from graphsec.models.rating import Rater
from graphsec.rng import Rng


class Party:
    """One party of a vertical federation; it knows nothing but its graph and the protocol.

    Per round it is sent the public parameters, answers its users' sums of each layer as it is
    sent those of the others, and ends with the gradient of the public parameters. Received sums
    are constants: gradients do not flow through them into other parties' items.

    Args:
        index: Number of the party.
        graph: Users (all of them, first) and the party's own items, with ratings.
        protocol: What all agree on.
        rng: The party's own stream; nobody else has it.
    """

    def __init__(self, index: int, graph: Graph, protocol: Protocol, rng: Rng) -> None:
        if graph.num_users != protocol.users:
            raise ValueError(
                f"graph must have the {protocol.users} users of the protocol, "
                f"found {graph.num_users}"
            )
        self.name, self.protocol, self.graph, self.rng = party_name(index), protocol, graph, rng
        mine = graph.num_nodes - graph.num_users
        if mine != protocol.items[index]:
            raise ValueError(
                f"graph must have the {protocol.items[index]} items of {self.name}, found {mine}"
            )
        with rng["init"].scope():
            model = protocol.recipe.model.build(Sizes.of(graph))
        assert isinstance(model, Rater)
        self.model = model.train()
        tables = [p for name, p in model.named_parameters() if name in PRIVATE]
        self.optimizer = torch.optim.Adagrad(tables, lr=protocol.recipe.training.lr)
        self.objective = objective_of(graph, protocol, rng)
        factor = sum(protocol.items) / max(mine, 1) if protocol.exchange else 1.0
        self.degree = extrapolated(graph, factor)
        self.round, self.expected = -1, ("setup", -1)
        self._states: list[Tensor] = []

    # -- messages -----------------------------------------------------------------------------

    def handle(self, content: bytes) -> bytes:
        """The answer to a message of the server, both as bytes.

        Raises:
            Refused: The server's message breaks a rule.
        """
        return self.answer(Message.decode(content, "server")).encode()

    def answer(self, message: Message) -> Message:
        """The answer to a message of the server.

        Raises:
            Refused: It is addressed to somebody else, of a past round, or out of turn.
        """
        if message.receiver != self.name:
            raise Refused("server", "receiver", f"must be {self.name!r}, got {message.receiver!r}")
        if message.kind in ("setup", "public", "finish"):
            if message.kind == "public" and message.round <= self.round:
                raise Refused("server", "round", f"must be > {self.round}, found {message.round}")
        elif (message.kind, message.layer) != self.expected or (
            message.kind == "neighbours" and message.round != self.round
        ):
            raise Refused(
                "server", "kind",
                f"must be {self.expected[0]!r} of layer {self.expected[1]} in round {self.round}, "
                f"found {message.kind!r} of layer {message.layer} in round {message.round}",
            )  # fmt: skip
        sent = message.tensors
        with torch.enable_grad():  # whatever the caller of a transport has switched off
            if message.kind == "setup":
                self.expected = ("degrees", -1)
                users = self.graph.degree[: self.protocol.users].float()
                return self._say("degrees", {"degree": users})
            if message.kind == "degrees":
                self.degree = torch.cat([sent["degree"], self.degree[self.protocol.users :]])
                return self._say("ready", {})
            if message.kind == "public":
                self.round = message.round
                self._take(sent)
                self._start()
            if message.kind == "finish":
                self._take(sent)
                return self._say("ready", {})
            if message.kind == "neighbours":
                self._continue(message.layer, sent["sums"])
            return self._next()

    def _say(self, kind: str, tensors: dict[str, Tensor], layer: int = -1) -> Message:
        return Message(
            sender=self.name, receiver="server", round=self.round, kind=kind, layer=layer,
            tensors=tensors,
        )  # fmt: skip

    # -- one round ----------------------------------------------------------------------------

    def _take(self, sent: Any) -> None:
        """The public parameters become the server's."""
        own = public(self.model, self.protocol.users)
        for name, value in own.items():
            if name not in sent or sent[name].shape != value.shape:
                raise Refused("server", f"tensors.{name}", f"must have shape {tuple(value.shape)}")
            value.copy_(sent[name])

    def _start(self) -> None:
        adj = replace(self.graph.adj, degree=self.degree)
        self._operator = self.model.operator(adj)
        self._sketch = self.protocol.sketch(self.round)
        self._states = [self.model.table]
        if not self.protocol.exchange:
            for layer in range(self.model.hops):
                self._gather(layer)
                self._states.append(self.model.update(layer, self._states[-1], self._sums))

    def _gather(self, layer: int) -> None:
        self._sums = self.model.gather(layer, self._states[-1], self._operator)

    def _continue(self, layer: int, sums: Tensor) -> None:
        others = sums if self._sketch is None else self._sketch.decode(sums)
        padded = torch.nn.functional.pad(others, (0, 0, 0, len(self._sums) - len(others)))
        self._states.append(self.model.update(layer, self._states[-1], self._sums + padded))

    def _next(self) -> Message:
        """The sums of the layer that is next, or the gradient after the last."""
        layer = len(self._states) - 1
        if layer < self.model.hops:
            self._gather(layer)
            self.expected = ("neighbours", layer)
            own = self._sums.detach()[: self.protocol.users]
            sent = own if self._sketch is None else self._sketch.encode(own)
            return self._say("sums", {"sums": sent}, layer)
        self.expected = ("public", -1)
        return self._say("gradient", self._learn())

    def _learn(self) -> dict[str, Tensor]:
        """Step on the private rows; the gradient of the public parameters, as it leaves."""
        loss = self.objective.loss(self.model, self.model.read(self._states), self.round)
        self._states = []
        named = dict(self.model.named_parameters())
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        gradient = {
            name: torch.zeros_like(p) if g is None else g
            for (name, p), g in zip(named.items(), found, strict=True)
        }
        users, sent = self.protocol.users, {}
        for name, g in gradient.items():
            private = name in PRIVATE
            sent[name] = self._noisy(g[:users].clone() if private else g, name)
            if private:
                g[:users] = 0
                named[name].grad = g
        self.optimizer.step()
        return sent

    def _noisy(self, gradient: Tensor, name: str) -> Tensor:
        p, stream = self.protocol, self.rng["noise"][self.round][name]
        if p.noise == "ternary":
            return ternary(gradient, p.clip, p.level, stream)
        if p.noise == "laplace":
            return laplace(gradient, p.clip, p.level, stream)
        return gradient

    # -- checkpoints --------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a party must keep to go on after the end of a round; it stays with the party."""
        return {
            "round": self.round, "model": self.model.state_dict(), "degree": self.degree,
            "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self.round, self.degree = state["round"], state["degree"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._states, self.expected = [], ("public", -1)


def extrapolated(graph: Graph, factor: float) -> Tensor:
    """(n,) degrees, those of users as if other items were taken as often as these."""
    degree = graph.adj.degrees().clone()
    degree[: graph.num_users] *= factor
    return degree
