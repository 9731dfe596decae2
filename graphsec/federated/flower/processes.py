"""The processes of a federation on this machine: a SuperLink, and a SuperNode for each party."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graphsec.federated.flower import keys, link

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
PARTY = (sys.executable, "-m", "graphsec.federated.flower.child")
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0", "FLWR_LOG_LEVEL": "WARNING",
    "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1",
    "NO_PROXY": HOST, "no_proxy": HOST,
}  # fmt: skip


class FlowerError(RuntimeError):
    """A process of the federation did not start, or ended, with the end of its log."""


@contextmanager
def directly() -> Iterator[None]:
    """Connections that begin here go to this machine by no proxy, whatever the environment says."""
    before = os.environ.get("no_proxy")  # this spelling counts before the other
    known = os.environ.get("NO_PROXY") if before is None else before
    os.environ["no_proxy"] = f"{known},{HOST}" if known else HOST
    try:
        yield
    finally:
        if before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = before


class Processes:
    """Starts and ends the processes of a federation.

    Args:
        folder: Where logs, keys and Flower's own files go; each party has ``folder/party-k``.
        parties: Number of parties.
        secure: Whether messages go through TLS and only registered keys are let in.
        patience: Seconds that starting may take.
        programs: Commands of parties that run another program than ``child``.
    """

    def __init__(
        self, folder: Path, parties: int, *, secure: bool, patience: float,
        programs: Mapping[int, Sequence[str]],
    ) -> None:  # fmt: skip
        self.folder, self.secure, self.patience = folder, secure, patience
        self.programs = programs
        self.address = f"{HOST}:{link.free_port()}"
        self.tickets = [secrets.token_hex(16) for _ in range(parties)]
        self.secret = secrets.token_bytes(32)
        self.ca: bytes | None = None
        self.superlink: subprocess.Popen[bytes] | None = None
        self.parties: dict[int, subprocess.Popen[bytes]] = {}
        self.nodes: dict[int, int] = {}
        self.task: Any = None

    # -- starting -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything, and wait until every party is there.

        Raises:
            FlowerError: A process ended, or is not there in time.
        """
        from graphsec.federated.flower import inner

        end = time.monotonic() + self.patience
        self._start_superlink(end)
        with directly():
            control = inner.Control(self.address, self.ca)
            try:
                for index in range(len(self.tickets)):
                    self._start_party(index, control)
                control.start(self.folder)
            finally:
                control.close()
            self.task = inner.ServerTask(self.address, self.ca, self.secret, self.patience)
        self._meet(end)

    def _start_superlink(self, end: float) -> None:
        keys.secret(self.folder / "superlink.secret", self.secret)
        if self.secure:
            keys.certificates(self.folder, HOST)
            self.ca = (self.folder / "ca.pem").read_bytes()
            safety = ["--enable-supernode-auth"]
            for option, name in (
                ("certfile", "server.pem"), ("keyfile", "server.key"), ("ca-certfile", "ca.pem"),
            ):  # fmt: skip
                safety += [f"--ssl-{option}", str(self.folder / name)]
        else:
            safety = ["--insecure"]
        host, port = self.address.split(":")
        command = [
            sys.executable, "-P", link.__file__, str(os.getpid()), *safety, "--host", host,
            "--port", port, "--isolation", "process",
            "--superexec-auth-secret-file", str(self.folder / "superlink.secret"),
        ]  # fmt: skip
        self.superlink = self._run(command, "superlink")
        while True:
            self._check(self.superlink, "superlink", end)
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex((host, int(port))) == 0:
                    return
            time.sleep(0.1)

    def _start_party(self, index: int, control: Any) -> None:
        name, mine = f"party-{index}", self.folder / f"party-{index}"
        keys.secret(mine / "secret", secrets.token_bytes(32))
        if self.secure:
            public = keys.party_key(mine / "key")
            self.nodes[index] = control.register(public, name)
            safety = ["--root-certificates", str(self.folder / "ca.pem")]
            safety += ["--auth-supernode-private-key", str(mine / "key")]
        else:
            safety = ["--insecure"]
        program = self.programs.get(index, PARTY)
        command = [*program, str(mine), str(os.getpid()), *safety, "--superlink", self.address]
        self.parties[index] = self._run(command, name)

    def _run(self, command: Sequence[str], name: str) -> subprocess.Popen[bytes]:
        home = self.folder / "flower" / name
        home.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{name}.log").open("wb") as output:
            return subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env={**os.environ, **QUIET, "FLWR_HOME": str(home)},
                start_new_session=True,  # Ctrl-C comes to us, and we end them
            )  # fmt: skip

    def _meet(self, end: float) -> None:
        """Learn which node is which party: by its key if that is registered, and its ticket."""
        from graphsec.federated.flower import inner

        grid, mail = self.task.grid, inner.Mailbox(self.task.grid)
        sent: set[str] = set()
        known: set[int] = set()
        met: dict[int, int] = {}
        while len(met) < len(self.tickets):
            for index, process in self.parties.items():
                if index not in met:
                    self._check(process, f"party-{index}", end)
            fresh = set(grid.get_node_ids()) - known
            if self.secure:  # nobody else is spoken to
                fresh &= set(self.nodes.values())
            known |= fresh
            hello = [inner.message({"hello": 1}, "hello", node, self.patience) for node in fresh]
            sent |= {request for request in grid.push_messages(hello) if request}
            for reply in mail.take(sent):
                sent.discard(reply.request)
                who = self._introduced(reply.node, reply.content)
                if who is None or who in met:
                    log.warning("node %d is refused: it is no party here", reply.node)
                else:
                    met[who] = reply.node
            time.sleep(inner.LATE)
        self.nodes = met

    def _introduced(self, node: int, said: Mapping[str, Any]) -> int | None:
        """The party that a node is, None if it can't show that."""
        index = said.get("party")
        if not isinstance(index, int) or index not in self.parties:
            return None
        ticket = str(said.get("ticket"))
        right = secrets.compare_digest(ticket.encode(), self.tickets[index].encode())
        return index if right and self.nodes.get(index, node) == node else None

    def _check(self, process: subprocess.Popen[bytes], name: str, end: float) -> None:
        ended = process.poll()
        if ended is None and time.monotonic() < end:
            return
        what = f"ended with {ended}" if ended is not None else "is not there in time"
        tail = (self.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()[-5:]
        raise FlowerError(f"{name} {what} ({self.folder}/{name}.log): " + " | ".join(tail))

    # -- while it runs ------------------------------------------------------------------------

    def alive(self, party: int) -> bool:
        """Whether a party's process runs."""
        return self.parties[party].poll() is None

    def check(self) -> None:
        """Raise ``FlowerError`` if the SuperLink has ended: no one can be reached then."""
        assert self.superlink is not None
        self._check(self.superlink, "superlink", float("inf"))

    # -- ending -------------------------------------------------------------------------------

    def stop(self) -> None:
        """End every process; those that don't listen are killed after one second."""
        if self.task is not None:
            self.task.close()
            self.task = None
        running = [*self.parties.values(), *([self.superlink] if self.superlink else [])]
        for process in running:
            if process.poll() is None:
                process.terminate()
        end = time.monotonic() + 1
        for process in running:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
