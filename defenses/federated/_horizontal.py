"""What horizontal federations have in common: clients with nodes, rounds, and who may lie."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.federated.aggregation import Aggregation, aggregate, too_few
from graphsec.federated.byzantine import Lying
from graphsec.federated.horizontal import Client, Coordinator, Horizontal, personal_names
from graphsec.federated.partition import Partition, partition
from graphsec.federated.transcript import Transcript
from graphsec.federated.transport import InProcess, Transport
from graphsec.graph import Graph, Split
from graphsec.models.base import GNN, Sizes, inputs
from graphsec.ops import Adj, Features
from graphsec.outcome import Outcome, Takeover
from graphsec.registry import Range, SpecError
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace


@dataclass(frozen=True, kw_only=True)
class HorizontalDefense(Defense):
    """Clients hold the nodes of one graph and train one model, whose changes they send.

    A round is ``local_steps`` epochs of the recipe at each client that is asked, with an optimiser
    that starts afresh; training takes as many rounds as cover the recipe's epochs. Clients sanitise
    their own part of the graph; the ``release`` of other parts of a composition is done to each
    update.

    Attributes:
        clients: K.
        partition: How nodes are dealt: "uniform", by "labels", or by "communities".
        skew: Evenness of "labels": parameter of the Dirichlet distribution.
        cross: Whether edges between clients are kept: each client then sees the whole graph, and
            trains on its own nodes. If not, they are missing, in training and in answers.
        local_steps: E, epochs of a round.
        participation: Share of the clients with training nodes that are asked in a round.
        aggregation: How the server makes one update of many.
        liars: f, clients that "krum", "multi-krum" and "trimmed-mean" must stand.
        keep: Rounds whose messages the transcript keeps with their tensors; None keeps all.
    """

    clients: Annotated[int, Field(ge=1, le=1000), Range(2, 20)] = 10
    partition: Partition = "communities"
    skew: Annotated[float, Field(gt=0), Range(0.1, 10, log=True)] = 0.5
    cross: bool = False
    local_steps: Annotated[int, Field(ge=1), Range(1, 20, log=True)] = 5
    participation: Annotated[float, Field(gt=0, le=1), Range(0.2, 1)] = 1.0
    aggregation: Aggregation = "mean"
    liars: Annotated[int, Field(ge=0)] = 0
    keep: Annotated[int, Field(ge=0)] | None = 1
    _takeover: Takeover | None = field(init=False, default=None, repr=False, compare=False)

    tasks: ClassVar[tuple[str, ...]] = ("classification",)

    def __post_init__(self) -> None:
        super().__post_init__()
        asked = max(1, int(self.participation * self.clients + 0.5))
        reason = too_few(self.aggregation, asked, self.liars)
        if reason:
            raise SpecError(f"defense {self.name!r}: aggregation {reason}")

    # -- what the methods differ in -----------------------------------------------------------

    @property
    def layers_kept(self) -> int:
        """Last layers that each client keeps to itself."""
        return 0

    # -- the way through ----------------------------------------------------------------------

    def refuses(self, recipe: Recipe) -> str | None:
        """Clients train plainly, on all their nodes or in batches of them."""
        training = recipe.training
        if training.local_steps is not None:
            return f"has local_steps itself, got training.local_steps {training.local_steps}"
        if training.expose:
            return f"has a transcript, got training.expose {training.expose}"
        if training.select != "last" or training.patience:
            return "can't stop early: training.select must be 'last' and training.patience None"
        return None

    @property
    def federation(self) -> int:
        """K."""
        return self.clients

    def among(self, outcome: Outcome) -> Defense:
        """This federation with the clients among it that ``outcome`` has taken over."""
        if not isinstance(outcome, Takeover):
            return self
        other = copy.copy(self)
        object.__setattr__(other, "_takeover", outcome)
        return other

    def build(self, recipe: Recipe, sizes: Sizes) -> GNN:
        """One model, or one a client where layers are kept; all begin alike."""
        first = recipe.model.build(sizes)
        count = self.clients if self.layers_kept else 1
        parts = [first, *(copy.deepcopy(first) for _ in range(count - 1))]
        if self.layers_kept:
            personal_names(first, self.layers_kept)
        return Horizontal(parts, sizes.nodes, self.cross)

    def train(
        self, model: GNN, graph: Graph, recipe: Recipe, rng: Rng, x: Tensor | Features, adj: Adj,
        on_epoch: OnEpoch | None = None, whole: Defense | None = None,
    ) -> Trace:  # fmt: skip
        """Run the federation, and put what it learned into the model."""
        assert isinstance(model, Horizontal)
        start = time.perf_counter()
        dealt = partition(graph, self.partition, self.clients, self.skew, rng["partition"])
        model.owner.copy_(dealt)
        clients = self._clients(model, graph, recipe, rng, whole or self)
        transcript = Transcript(self.keep)
        server = Coordinator(
            clients[0].shared(), [client.samples for client in clients], self.aggregation,
            self.liars, self.participation, self._transport(clients, rng), rng["server"],
            transcript,
        )  # fmt: skip
        rounds = -(-recipe.training.epochs // self.local_steps)
        for index in range(rounds):
            server.round()
            if on_epoch is not None:
                _finish(model, clients, server)
                if on_epoch(index, self._figures(model, graph, x, adj)):
                    break
        _finish(model, clients, server)
        return self._trace(server, transcript, time.perf_counter() - start)

    def _clients(
        self, model: Horizontal, graph: Graph, recipe: Recipe, rng: Rng, whole: Defense
    ) -> list[Client]:
        training = replace(
            recipe.training, epochs=self.local_steps, schedule="constant", validate_every=1
        )
        own = model.models if self.layers_kept else [
            copy.deepcopy(model.models[0]) for _ in range(self.clients)
        ]  # fmt: skip
        kept = personal_names(own[0], self.layers_kept) if self.layers_kept else frozenset()
        clients = []
        for index, mine in enumerate(own):
            part = self.part(graph, model.owner, index)
            x, adj = whole.sanitise(inputs(part), part.adj, "exact")
            clients.append(Client(
                index, mine, part, training, rng["client"][index], kept, x, adj.pruned(),
                whole.release,
            ))  # fmt: skip
        return clients

    def part(self, graph: Graph, owner: Tensor, client: int) -> Graph:
        """What a client sees, with its own training nodes and nobody's validation or test nodes."""
        mine = owner == client
        assert graph.split is not None
        train = graph.split.train
        none = train[:0]
        if self.cross:
            return graph.replace(split=Split(train[mine[train]], none, none))
        part = graph.subgraph(mine.nonzero().ravel())
        assert part.split is not None
        return part.replace(split=Split(part.split.train, none, none))

    def _transport(self, clients: list[Client], rng: Rng) -> Transport:
        plain, taken = InProcess(clients), self._takeover
        if taken is None or taken.clients == 0:
            return plain
        drawn = rng["liars"].numpy().permutation(self.clients)[: taken.clients]

        def rule(updates: Tensor) -> Tensor:
            return aggregate(self.aggregation, updates, torch.ones(len(updates)), self.liars)

        return Lying(plain, frozenset(drawn.tolist()), taken.forge, rule, rng["forge"])

    def _figures(
        self, model: Horizontal, graph: Graph, x: Tensor | Features, adj: Adj
    ) -> dict[str, float]:
        """Accuracy on the validation nodes, for pruners: no client sends it."""
        assert graph.split is not None
        assert graph.y is not None
        nodes = graph.split.val
        if not len(nodes):
            return {}
        model.eval()
        with torch.no_grad():
            right = model(x, adj)[nodes].argmax(1) == graph.y[nodes]
        return {"val_accuracy": float(right.float().mean())}

    def _trace(self, server: Coordinator, transcript: Transcript, seconds: float) -> Trace:
        done = max(server.next, 1)
        up = sum(r.bytes for r in transcript.releases if r.receiver == "server")
        down = sum(r.bytes for r in transcript.releases if r.sender == "server")
        what = [incident.what for incident in server.incidents]
        cost = {
            "rounds": float(server.next), "seconds_per_round": seconds / done,
            "bytes_up": up / (done * self.clients), "bytes_down": down / (done * self.clients),
            "absent": float(what.count("absent")), "refused": float(what.count("refused")),
        }  # fmt: skip
        agreed: dict[str, Any] = {"defense": self.spec(), "samples": list(server.samples)}
        return Trace(
            epochs=server.next * self.local_steps, releases=transcript.releases,
            incidents=[str(incident) for incident in server.incidents], cost=cost, agreed=agreed,
        )  # fmt: skip


def _finish(model: Horizontal, clients: list[Client], server: Coordinator) -> None:
    """All take the server's weights; without layers of their own one model holds them."""
    for client in clients:
        client.take(server.weights)
    if len(model.models) == 1:
        model.models[0].load_state_dict(clients[0].model.state_dict())
    model.eval()
