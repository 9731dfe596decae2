"""Federations across processes: equal, outliving the dead, refusing liars and strangers."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import graphsec
from graphsec.federated import Federation, Protocol, owners
from graphsec.federated.flower import FlowerError, FlowerFederation
from graphsec.registry import DEFENSES
from graphsec.rng import Rng
from graphsec.testing import tiny_ratings
from graphsec.train import Recipe

pytest.importorskip("flwr", reason="needs the extra federated: make test-federated")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

GRAPH = tiny_ratings()["tastes"]


def agreed(parties: int, epochs: int, steps: int = 1, layers: int = 2) -> tuple[Protocol, Any]:
    """A protocol, and who holds which items."""
    batch = -(-GRAPH.num_edges // steps)
    model = {"name": "rating-lightgcn", "layers": layers}
    recipe = Recipe.of(model, {"epochs": epochs, "batch_size": batch})
    defense = DEFENSES.build({"name": "verfedgnn", "parties": parties})
    owner = owners(GRAPH.num_nodes - GRAPH.num_users, parties, Rng(0)["items"])
    return defense.protocol(GRAPH, recipe, 7), owner


def made(
    parties: int, epochs: int, steps: int = 1, layers: int = 2, **fields: Any
) -> FlowerFederation:
    """A federation across processes."""
    protocol, owner = agreed(parties, epochs, steps, layers)
    return FlowerFederation(GRAPH, owner, protocol, Rng(0)["fed"], **fields)


def in_process(parties: int, epochs: int, steps: int = 1, layers: int = 2) -> Federation:
    """The same in this one, trained."""
    protocol, owner = agreed(parties, epochs, steps, layers)
    federation = Federation(GRAPH, owner, protocol, Rng(0)["fed"])
    federation.run()
    return federation


def assert_equal(a: Federation, b: Federation) -> None:
    """Weights of the server and of all parties, to 1e-6."""
    for name, value in a.server.public.items():
        torch.testing.assert_close(value, b.server.public[name], rtol=0, atol=1e-6)
    for one, other in zip(a.learned(), b.learned(), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=0, atol=1e-6)


def running(pids: Sequence[int]) -> list[int]:
    """Which of the processes are there."""
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def below(pid: int) -> dict[int, str]:
    """Children of a process and their command lines."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
            command = (path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has just ended
            continue
        if parent == pid:
            found[int(path.parent.name)] = command
    return found


def test_processes_train_the_same_model() -> None:
    """Three parties, five rounds: equal to 1e-6 and the same transcript; nothing is left behind."""
    alone = in_process(3, 5)
    with made(3, 5) as federation:
        pids = [p.pid for p in federation.processes.parties.values()]
        assert len({*pids, os.getpid()}) == 4
        federation.run()
        assert_equal(alone, federation)
        held = [held_by(federation.folder / f"party-{k}") for k in range(3)]
    assert not running(pids)
    assert not federation.folder.exists()
    assert not federation.server.incidents

    def told(one: Federation) -> list[Any]:
        return [(r.sender, r.receiver, r.round, r.topic, r.fields, r.bytes)
                for r in one.transcript.releases]  # fmt: skip

    assert told(alone) == told(federation)
    for party, (names, nodes, settings) in zip(alone.parties, held, strict=True):
        assert names == {"part.pt", "secret", "settings.json", "state-000003.pt", "state-000004.pt"}
        assert nodes == party.graph.num_nodes  # all users, and the party's own items
        assert set(settings) == {"index", "protocol", "seed", "ticket", "resume"}
        assert settings["seed"] == party.rng.seed != 0


def held_by(folder: Path) -> tuple[set[str], int, dict[str, Any]]:
    """Files of a party's folder, number of nodes of its graph, its settings."""
    from graphsec.federated.flower import parts

    party, _ = parts.unpack(folder)
    settings = json.loads((folder / "settings.json").read_text())
    assert party.graph.holdout is None
    return {path.name for path in folder.iterdir()}, party.graph.num_nodes, settings


def test_a_killed_party_is_missed_and_said() -> None:
    """kill -9 of one of five at round 3: a finished model, and a record that says so."""

    def kill() -> None:
        end = time.monotonic() + 200
        while time.monotonic() < end:
            for pid, command in below(os.getpid()).items():
                words = command.split()
                folder = next((w for w in words if w.endswith("/party-4")), None)
                # Its state of round 2 is there as soon as round 2 ends.
                if folder and (Path(folder) / "state-000002.pt").is_file():
                    os.kill(pid, signal.SIGKILL)
                    return
            time.sleep(0.01)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    record = graphsec.run(graphsec.Cell(
        dataset={"name": "rating/factors", "users": 40, "items": 30, "each": 10},
        model={"name": "rating-lightgcn", "layers": 1},
        defense={"name": "verfedgnn", "parties": 5, "transport": "flower", "timeout": 30},
        training={"epochs": 5, "batch_size": None},
    ))  # fmt: skip
    killer.join(1)
    assert not killer.is_alive()
    assert record.status == "done", record.reason
    assert 0 < record.value("rmse") < 2
    assert record.cost["rounds"] == 5
    assert record.cost["absent"] >= 2
    assert record.cost["refused"] == 0
    first = record.notes[0]
    assert first.startswith(("round 2: party:4", "round 3: party:4")), first
    assert all("party:4 did not answer" in note for note in record.notes)


LIAR = """
    import dataclasses, sys, torch
    from graphsec.federated.flower import child
    from graphsec.federated.messages import Message

    class Liar(child.Host):
        kept = None

        def handle(self, content):
            reply = super().handle(content)
            said = Message.decode(reply, self.party.name)
            if said.kind != "sums":
                return reply
            if said.round == 0:
                self.kept = reply
            if said.round != 1:
                return reply
            sums = said.tensors["sums"]
            lies = {1: sums * torch.nan, 2: sums[:3]}
            if self.settings.index == 3:
                return self.kept
            return dataclasses.replace(said, tensors={"sums": lies[self.settings.index]}).encode()

    child.main(Liar)
"""


def test_liars_are_refused_by_name(tmp_path: Path) -> None:
    """NaN, a wrong shape and a replayed round, each from a process of its own."""
    program = tmp_path / "liar.py"
    program.write_text(textwrap.dedent(LIAR))
    programs = {k: [sys.executable, str(program)] for k in (1, 2, 3)}
    with made(4, 3, layers=1, programs=programs, folder=tmp_path / "fed") as federation:
        federation.run()
    reasons = {(i.round, i.party, i.what): i.reason for i in federation.server.incidents}
    assert set(reasons) == {(1, f"party:{k}", "refused") for k in (1, 2, 3)}
    assert "party:1: tensors.sums must be finite, found 36 NaN" in reasons[1, "party:1", "refused"]
    assert (
        "party:2: tensors.sums must have shape (6, 6), found (3, 6)"
        in (reasons[1, "party:2", "refused"])
    )
    assert (
        "party:3: round must be 1, found 0: a replayed or late message"
        in (reasons[1, "party:3", "refused"])
    )
    last = {r.sender for r in federation.transcript.releases if r.round == 2}
    assert last == {"server", "party:0", "party:1", "party:2", "party:3"}
    assert all(torch.isfinite(p).all() for p in federation.server.public.values())


def test_strangers_get_in_nowhere(tmp_path: Path) -> None:
    """Another key, none, or no TLS is let in nowhere; the parties train as they would alone."""
    from graphsec.federated.flower import keys

    with made(2, 3, layers=1, secure=True, folder=tmp_path / "fed") as federation:
        processes = federation.processes
        party = tmp_path / "fed" / "party-0"
        keys.party_key(tmp_path / "key")
        tls = ["--root-certificates", str(tmp_path / "fed" / "ca.pem")]
        unknown = [*tls, "--auth-supernode-private-key", str(tmp_path / "key")]
        # They have even the party's folder, with its data and ticket: all but its key.
        strangers = [
            processes._run(
                [sys.executable, "-m", "graphsec.federated.flower.child", str(party),
                 str(os.getpid()), *safety, "--superlink", processes.address],
                f"stranger-{k}",
            )
            for k, safety in enumerate((unknown, tls, ["--insecure", "--max-retries", "1"]))
        ]  # fmt: skip
        try:
            federation.run()
            ended = [stranger.wait(90) for stranger in strangers]
        finally:
            for stranger in strangers:
                stranger.kill()
        assert set(processes.task.grid.get_node_ids()) == set(processes.nodes.values())
    assert 0 not in ended
    for k in range(3):
        words = (tmp_path / "fed" / f"stranger-{k}.log").read_text()
        assert "Failed to initialize the connection to the SuperLink" in words
    assert not federation.server.incidents
    assert_equal(in_process(2, 3, layers=1), federation)
    for name in ("server.key", "superlink.secret", "party-0/key", "party-0/secret"):
        assert (tmp_path / "fed" / name).stat().st_mode & 0o077 == 0


SPEC = """
    dataset = { name = "rating/factors", users = 40, items = 30, each = 10 }
    model = { name = "rating-lightgcn", layers = 1 }
    defense = { name = "verfedgnn" }
    training = { epochs = 6, batch_size = 240 }
"""


def command(tmp_path: Path, *more: str) -> list[str]:
    """``graphsec federate``."""
    spec = tmp_path / "spec.toml"
    spec.write_text(textwrap.dedent(SPEC))
    return [
        sys.executable, "-c", "from graphsec.cli import main; main()", "federate", str(spec),
        "--parties", "2", *more,
    ]  # fmt: skip


def reached(folder: Path, round: int, process: subprocess.Popen[Any]) -> None:
    """Wait until the server's state is of a round."""
    end = time.monotonic() + 150
    while time.monotonic() < end and process.poll() is None:
        path = folder / "server.pt"
        if path.is_file() and torch.load(path, weights_only=True)["next"] >= round:
            return
        time.sleep(0.02)
    raise AssertionError(f"round {round} was not reached, {process.poll()}")


def gone(pids: Sequence[int]) -> bool:
    """Whether all processes end within ten seconds."""
    end = time.monotonic() + 10
    while running(pids) and time.monotonic() < end:
        time.sleep(0.1)
    return not running(pids)


def test_a_killed_server_goes_on_where_it_was(tmp_path: Path) -> None:
    """After kill -9 its parties end with it; the same command finishes the same model."""
    folder = tmp_path / "kept"
    first = subprocess.Popen(command(tmp_path, "--checkpoint", str(folder)))
    reached(folder, 2, first)
    children = list(below(first.pid))
    assert len(children) == 3
    first.kill()
    first.wait(30)
    assert gone(children)
    done = torch.load(folder / "server.pt", weights_only=True)["next"]
    assert 2 <= done < 6
    again = subprocess.run(
        command(tmp_path, "--checkpoint", str(folder)), capture_output=True, text=True, timeout=150
    )
    assert again.returncode == 0, again.stderr
    assert "absent 0" in again.stdout
    record = graphsec.run(graphsec.Cell(**{
        **tomllib.loads(SPEC), "defense": {"name": "verfedgnn", "parties": 2},
    }))  # fmt: skip
    assert rmse(again.stdout) == pytest.approx(record.value("rmse"), abs=1e-6)


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    """One line, exit code 130, no process, and what was trained is kept."""
    folder = tmp_path / "kept"
    first = subprocess.Popen(
        command(tmp_path, "--checkpoint", str(folder)),
        stderr=subprocess.PIPE,
        text=True,
        # What is started in the background of a shell would ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    reached(folder, 1, first)
    children = list(below(first.pid))
    assert len(children) == 3
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=30)
    assert first.returncode == 130
    assert f"interrupted; {folder} has what was trained" in said
    assert "Traceback" not in said
    assert gone(children)
    assert (folder / "server.pt").is_file()


HALF = """
    import os, sys
    from flwr.supernode import start_client_internal  # what Flower's loop is in
    from graphsec.federated.flower import child

    NOW = __file__ + ".now"
    loop = sys.modules["flwr.supernode.start_client_internal"]
    push = loop.push_object_contents_from_iterable

    def half(contents, *more, **others):
        first = next(iter(contents))
        push([first], *more, **others)
        if os.path.exists(NOW):
            os._exit(9)
        push(contents, *more, **others)

    loop.push_object_contents_from_iterable = half

    class Host(child.Host):
        def handle(self, content):
            reply = super().handle(content)
            if self.party.round == 1:
                open(NOW, "w").close()
            return reply

    child.main(Host)
"""


def test_half_a_reply_holds_nobody_up(tmp_path: Path) -> None:
    """A party that dies in the middle of an upload is absent at once, the others are not."""
    program = tmp_path / "half.py"
    program.write_text(textwrap.dedent(HALF))
    with made(3, 3, layers=1, programs={1: [sys.executable, str(program)]}) as federation:
        start = time.monotonic()
        federation.run()
        assert time.monotonic() - start < 55  # Flower alone waits for longer than that
        assert federation.processes.parties[1].poll() == 9
    first, *more = federation.server.incidents
    assert (first.round, first.party, first.what) == (1, "party:1", "absent")
    assert {i.party for i in more} == {"party:1"}


def test_what_does_not_start_is_named(tmp_path: Path) -> None:
    """A party that ends at once: its name and its last words; the others are ended."""
    programs = {1: [sys.executable, "-c", "raise SystemExit('no such shop')"]}
    federation = made(2, 1, programs=programs, folder=tmp_path / "fed")
    with pytest.raises(FlowerError, match=r"party-1 ended with 1 .*no such shop"), federation:
        pass
    pids = [p.pid for p in federation.processes.parties.values()]
    assert not running(pids)


def test_states_of_another_training_are_refused(tmp_path: Path) -> None:
    """By the field that differs."""
    protocol, owner = agreed(2, 1)
    made(2, 1, folder=tmp_path).save(tmp_path)
    other = dataclasses.replace(protocol, level=4.0)
    with pytest.raises(ValueError, match=r"level was 3\.0, is 4\.0"):
        FlowerFederation(GRAPH, owner, other, Rng(0)["fed"], folder=tmp_path, resume=True)


def rmse(output: str) -> float:
    """The figure in the command's output."""
    return float(next(line.split()[1] for line in output.splitlines() if line.startswith("rmse ")))
