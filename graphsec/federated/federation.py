"""A whole federation in one process: parts of a graph, parties, server, transport."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphsec.federated.party import Party
from graphsec.federated.protocol import Protocol
from graphsec.federated.server import Server
from graphsec.federated.transcript import Transcript
from graphsec.federated.transport import InProcess, Transport
from graphsec.federated.vertical import Vertical
from graphsec.graph import Graph, Holdout
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Trace


def owners(items: int, parties: int, rng: Rng) -> Tensor:
    """(items,) the party of each item: parts of equal size, drawn at random."""
    return torch.from_numpy(rng.numpy().permutation(np.arange(items) % parties))


def part_of(graph: Graph, nodes: Tensor) -> Graph:
    """What a party has: the users, its items, the edges between them and their ratings.

    Nothing that is held out is in it.
    """
    bare = graph.replace(holdout=None, task="none")
    part = bare.subgraph(nodes).replace(
        task=graph.task, holdout=no_holdout() if graph.task == "ranking" else None
    )
    if graph.edge_y is None:
        return part
    place = graph.adj.csr.find(nodes[part.edge_index[0]], nodes[part.edge_index[1]])
    return part.replace(edge_y=graph.edge_y[place])


def no_holdout() -> Holdout:
    """A holdout of nothing."""
    none = np.zeros((2, 0), np.int64)
    return Holdout.of(none, none)


def parts_of(graph: Graph, owner: Tensor, parties: int) -> list[Graph]:
    """What each party has, of a graph whose item i is the party's ``owner[i]``."""
    users = torch.arange(graph.num_users)
    items = ((owner == index).nonzero().ravel() + graph.num_users for index in range(parties))
    return [part_of(graph, torch.cat([users, mine])) for mine in items]


def seed_of(rng: Rng, party: int) -> int:
    """The seed that a party is given: it leads to its own stream and to nobody else's."""
    return rng["party"][party].entropy


class Federation:
    """Parties, server and what joins them.

    Args:
        graph: Users, items and interactions of all parties.
        owner: (items,) the party of each item.
        protocol: What all agree on.
        rng: Stream of the training; each party has a seed of its own from it, the server a child.
        keep: Rounds whose messages are kept with their tensors; None keeps all.
        around: Puts another transport around the one in this process (``Meddling``).
    """

    def __init__(
        self,
        graph: Graph,
        owner: Tensor,
        protocol: Protocol,
        rng: Rng,
        *,
        keep: int | None = None,
        around: Callable[[Transport], Transport] = lambda transport: transport,
    ) -> None:
        self.owner, self.protocol = owner, protocol
        self.parties = [
            Party(index, part, protocol, Rng(seed_of(rng, index)))
            for index, part in enumerate(parts_of(graph, owner, protocol.parties))
        ]
        self._serve(around(InProcess(self.parties)), rng, keep)

    def _serve(self, transport: Transport, rng: Rng, keep: int | None) -> None:
        self.transcript = Transcript(keep)
        self.server = Server(self.protocol, transport, rng["server"], self.transcript)
        self.seconds = 0.0

    def run(
        self,
        rounds: int | None = None,
        *,
        on_epoch: OnEpoch | None = None,
        checkpoint: Path | None = None,
    ) -> None:
        """Train, from the next round on.

        Args:
            rounds: Round to stop before; default all.
            on_epoch: Called after each epoch with the incidents so far; returning True stops.
            checkpoint: Folder that is written to after each epoch.
        """
        server, steps = self.server, self.protocol.steps
        start, end = time.perf_counter(), self.protocol.rounds if rounds is None else rounds
        if server.next == 0:
            server.start()
        while server.next < end:
            server.round()
            if server.next % steps == 0:
                if checkpoint is not None:
                    self.save(checkpoint)
                figures = {"incidents": float(len(server.incidents))}
                if on_epoch is not None and on_epoch(server.next // steps - 1, figures):
                    break
        if server.next >= self.protocol.rounds or rounds is None:
            server.finish()
        self.seconds += time.perf_counter() - start

    def trace(self) -> Trace:
        """What training showed: the whole transcript, who was missing, and what it cost."""
        server, done = self.server, max(self.server.next, 1)
        up = sum(r.bytes for r in self.transcript.releases if r.receiver == "server")
        down = sum(r.bytes for r in self.transcript.releases if r.sender == "server")
        each = done * self.protocol.parties
        cost = {
            "rounds": float(server.next),
            "seconds_per_round": self.seconds / done,
            "bytes_up": up / each,
            "bytes_down": down / each,
            "absent": float(sum(i.what == "absent" for i in server.incidents)),
            "refused": float(sum(i.what == "refused" for i in server.incidents)),
        }
        return Trace(
            epochs=server.next // self.protocol.steps, releases=self.transcript.releases,
            incidents=[str(incident) for incident in server.incidents],
            cost=cost,
            agreed=self.protocol.spec(),
        )  # fmt: skip

    def learned(self) -> list[dict[str, Tensor]]:
        """The parameters of each party's backbone."""
        return [party.model.state_dict() for party in self.parties]

    def into(self, model: Vertical) -> None:
        """Put what the parties have learned into a model of the whole federation.

        Only a simulation can: no party shows its items' embeddings to anybody.
        """
        for part, learned in zip(model.parts, self.learned(), strict=True):
            part.load_state_dict(learned)
        sketch = self.protocol.sketch(max(self.server.next - 1, 0))
        if sketch is not None:
            model.bucket.copy_(sketch.bucket)
            model.sign.copy_(sketch.sign)

    # -- checkpoints --------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the state of server and parties, a file each: a party's stays with the party."""
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "server.pt", self.server.state())
        for index, party in enumerate(self.parties):
            write_whole(folder / f"party-{index}.pt", party.state())

    def resume(self, folder: Path) -> None:
        """Go on from what ``save`` wrote.

        Raises:
            ValueError: The files are of different rounds.
        """
        server = torch.load(folder / "server.pt", weights_only=True)
        states = [
            torch.load(folder / f"party-{index}.pt", weights_only=True)
            for index in range(self.protocol.parties)
        ]
        for index, state in enumerate(states):
            if state["round"] >= server["next"]:
                raise ValueError(
                    f"party-{index}.pt must be of a round before {server['next']}, the server's "
                    f"next one, found {state['round']}"
                )
        self.server.restore(server)
        for party, state in zip(self.parties, states, strict=True):
            party.restore(state)


def write_whole(path: Path, state: dict[str, Any]) -> None:
    """Save to ``path``, whole or not at all: a training may be killed while it writes."""
    fresh = path.with_suffix(".new")
    torch.save(state, fresh)
    fresh.replace(path)
