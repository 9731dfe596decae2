"""A federation whose parties are processes of their own."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphsec.federated.federation import Federation, parts_of, seed_of, write_whole
from graphsec.federated.flower import parts
from graphsec.federated.flower.grid import FlowerGrid
from graphsec.federated.flower.processes import FlowerError, Processes
from graphsec.federated.protocol import Protocol
from graphsec.federated.transport import Replies, Transport
from graphsec.graph import Graph
from graphsec.rng import Rng
from graphsec.train import OnEpoch


class FlowerFederation(Federation):
    """As ``Federation``, with each party in a Flower SuperNode; the server is in this process.

    Use it in a ``with`` statement, which starts the processes and ends them, whatever happens; one
    at a time in a process, as Flower keeps the number of the run in a global.
    A party's process is given a folder with its part of the graph, the protocol, and a seed; it
    writes its states there. Weights equal those of ``Federation``, bit for bit where arithmetic is
    the same.

    Args:
        graph: Users, items and interactions of all parties.
        owner: (items,) the party of each item.
        protocol: What all agree on.
        rng: Stream of the training.
        keep: Rounds whose messages are kept with their tensors; None keeps all.
        around: Puts another transport around Flower's.
        secure: TLS, and only the keys of these parties are let in.
        timeout: Seconds that parties have for an answer.
        patience: Seconds that starting may take.
        folder: Where states are kept, to go on from; None is a temporary one.
        resume: Go on from the states in ``folder``.
        programs: Commands of parties that run another program, by number: it gets the folder of
            the party, our process's id and the arguments of ``flower-supernode``.

    Raises:
        FlowerError: A process did not start.
        ValueError: ``folder`` has the states of another training.
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
        secure: bool = False,
        timeout: float = 60.0,
        patience: float = 120.0,
        folder: Path | None = None,
        resume: bool = False,
        programs: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        if timeout <= 0 or patience <= 0:
            raise ValueError(f"timeout and patience must be > 0, got {timeout} and {patience}")
        self.owner, self.protocol = owner, protocol
        self.parties = []  # they are elsewhere
        self._temporary = None
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(
                prefix="graphsec-", ignore_cleanup_errors=True
            )
            folder = Path(self._temporary.name)
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.processes = Processes(
            self.folder, protocol.parties, secure=secure, patience=patience,
            programs=programs or {},
        )  # fmt: skip
        self._timeout = timeout
        self._inner: FlowerGrid | None = None
        self._serve(around(_Later(self)), rng, keep)
        agreed = {
            **json.loads(json.dumps(protocol.spec())),
            "graph": graph.fingerprint,
            "owner": hashlib.sha256(owner.numpy().tobytes()).hexdigest(),
        }
        found = self._found(resume, agreed)
        if found is not None:
            self.server.restore(found)
        (self.folder / "agreed.json").write_text(json.dumps(agreed))
        for index, part in enumerate(parts_of(graph, owner, protocol.parties)):
            settings = parts.Settings(
                index=index, protocol=protocol.spec(), seed=seed_of(rng, index),
                ticket=self.processes.tickets[index],
                resume=None if found is None else self.server.next,
            )  # fmt: skip
            parts.pack(self._of(index), part, settings)

    def _of(self, party: int) -> Path:
        return self.folder / f"party-{party}"

    def _found(self, resume: bool, agreed: Mapping[str, Any]) -> dict[str, Any] | None:
        """The server's state to go on from."""
        if not resume or not (self.folder / "server.pt").is_file():
            (self.folder / "server.pt").unlink(missing_ok=True)
            return None
        before = json.loads((self.folder / "agreed.json").read_text())
        changed = [name for name in agreed if before.get(name) != agreed[name]]
        if changed:
            raise ValueError(
                f"{self.folder} must hold states of this training, found another: "
                f"{changed[0]} was {before.get(changed[0])!r}, is {agreed[changed[0]]!r}"
            )
        state: dict[str, Any] = torch.load(self.folder / "server.pt", weights_only=True)
        return state

    def __enter__(self) -> FlowerFederation:
        try:
            self.processes.start()
        except BaseException:
            self.close()
            raise
        self._inner = FlowerGrid(
            self.processes.task.grid, self.processes.nodes, self._timeout, self.processes.alive
        )
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes; a temporary folder goes."""
        self.processes.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    def run(
        self, rounds: int | None = None, *, on_epoch: OnEpoch | None = None,
        checkpoint: Path | None = None,
    ) -> None:  # fmt: skip
        """As ``Federation.run``; states are kept in the federation's own folder.

        Raises:
            TypeError: ``checkpoint`` is given.
        """
        if checkpoint is not None:
            raise TypeError("a FlowerFederation keeps its states in its own folder: folder=…")
        super().run(rounds, on_epoch=on_epoch, checkpoint=self.folder)

    def exchange(self, requests: Mapping[int, bytes]) -> Replies:
        """As the grid does, once there is one."""
        if self._inner is None:
            raise FlowerError("the processes are not started: use 'with FlowerFederation(…)'")
        self.processes.check()
        try:
            return self._inner.exchange(requests)
        except Exception:
            self.processes.check()  # if the SuperLink has ended, that is the reason
            raise

    def save(self, folder: Path) -> None:
        """Write the server's state; parties have written theirs, each in its own folder."""
        write_whole(folder / "server.pt", self.server.state())

    def resume(self, folder: Path) -> None:
        """Not here: ``resume=True`` and ``folder`` say it before the parties are started.

        Raises:
            TypeError: Always.
        """
        raise TypeError("a FlowerFederation resumes when it is made: resume=True, folder=…")

    def learned(self) -> list[dict[str, Tensor]]:
        """The parameters of each party's backbone, from its folder.

        Those of a party that was killed are of the end of the last epoch that it finished; of one
        that finished none, as it had drawn them.
        """
        found = []
        for index in range(self.protocol.parties):
            state = parts.latest(self._of(index))
            if state is None:
                party, _ = parts.unpack(self._of(index))
                state = party.state()
            found.append(state["model"])
        return found


class _Later:
    """Flower's transport, which is there once the processes are."""

    def __init__(self, federation: FlowerFederation) -> None:
        self.federation = federation

    def exchange(self, requests: Mapping[int, bytes]) -> Replies:
        return self.federation.exchange(requests)
