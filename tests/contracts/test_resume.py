"""Interrupted, shared and broken runs: nothing finished is lost, nothing is done twice."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from graphsec import database, runner
from graphsec.cell import Cell, Record, run_cell
from graphsec.matrix import Matrix
from graphsec.owners import process_of
from graphsec.registry import SpecError
from graphsec.results import Results
from graphsec.runner import WorkersDied
from graphsec.store import FINAL, Status, Store, StoreError

PLUGINS = Path(__file__).parents[1] / "plugins"
MAIN = [sys.executable, "-c", "from graphsec.cli import main; main()"]
SPEC = """
plugins = ["graphsec_fakes"]
datasets = ["karate"]
attacks = [{attacks}]
seeds = [0, 1, 2, 3]
mlp_line = false
training = {{ epochs = 2 }}
"""


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make the fakes importable, here and in worker processes; give the log of what ran."""
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS))
    monkeypatch.setenv("GRAPHSEC_FAKE_LOG", str(tmp_path / "ran.txt"))
    return tmp_path / "ran.txt"


def matrix(*attacks: dict[str, Any], seeds: int = 1) -> Matrix:
    return Matrix(
        plugins=["graphsec_fakes"],
        datasets=["karate"],
        attacks=[{"name": "fake", **attack} for attack in attacks],
        seeds=list(range(seeds)),
        mlp_line=False,
        training={"epochs": 2},
    )


def command(folder: Path, store: str, *options: str, seconds: float = 0.3) -> list[str]:
    """The command line of a run of 4 rows of 5 cells."""
    attacks = ", ".join(
        f'{{ name = "fake", variant = {i}, seconds = {seconds} }}' for i in range(5)
    )
    (folder / "m.toml").write_text(SPEC.format(attacks=attacks))
    return [*MAIN, "run", str(folder / "m.toml"), "--store", str(folder / store), *options]


def statuses(path: Path) -> list[Status]:
    try:
        with Store(str(path), create=False) as store:
            return store.statuses()
    except StoreError:  # not there yet
        return []


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def variant(cell: Cell) -> int:
    return int(cell.spec()["attack"]["variant"])


def comparable(path: Path) -> list[dict[str, Any]]:
    return [record.result() for record in Results.from_store(str(path))]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the workers in /proc")
def test_kill_9_of_the_runner_then_the_same_command(tmp_path: Path, plugins: Path) -> None:
    store = tmp_path / "killed.db"
    run = command(tmp_path, "killed.db", "--workers", "2", "--quiet")
    first = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while sum(s.state in FINAL for s in statuses(store)) < 4:
        assert time.monotonic() < limit, "no cell was finished in two minutes"
        assert first.poll() is None, "the run ended too early to be killed"
        time.sleep(0.05)
    workers = {process_of(s.owner) for s in statuses(store) if s.owner}
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    limit = time.monotonic() + 10
    while not all(gone(pid) for pid in workers):
        assert time.monotonic() < limit, "workers outlive their runner"
        time.sleep(0.05)

    before = {s.key: s for s in statuses(store) if s.state in FINAL}
    records = {r.key: r.to_json() for r in Results.from_store(str(store))}
    assert 4 <= len(before) < 20
    assert len(records) == len(before)
    ran_before = Counter(plugins.read_text().split("\n")[:-1])

    again = subprocess.run(run, capture_output=True, text=True, check=False, timeout=240)
    assert again.returncode == 0, again.stderr
    after = {s.key: s for s in statuses(store)}
    assert len(after) == 20
    assert {s.state for s in after.values()} == {"done"}
    # Same owner, attempts, times: not one of them was touched.
    assert {key: after[key] for key in before} == before
    now = {r.key: r.to_json() for r in Results.from_store(str(store))}
    assert {key: now[key] for key in records} == records
    # Every cell ran once; only those under way at the kill (one a worker) began twice.
    ran = Counter(plugins.read_text().split("\n")[:-1])
    assert len(ran) == 20
    assert sum(ran.values()) == 20 + sum(ran_before.values()) - len(before)
    assert sum(ran_before.values()) - len(before) <= 2

    whole = subprocess.run(
        command(tmp_path, "whole.db", "--quiet"),
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert whole.returncode == 0, whole.stderr
    assert again.stdout == whole.stdout
    assert "fake" in whole.stdout
    assert comparable(store) == comparable(tmp_path / "whole.db")


@pytest.mark.slow
def test_two_runners_share_one_store(tmp_path: Path, plugins: Path) -> None:
    run = command(tmp_path, "shared.db", "--quiet", seconds=0.5)
    both = [
        subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    out = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], out
    assert out[0][0] == out[1][0]
    ran = Counter(plugins.read_text().split("\n")[:-1])
    assert len(ran) == 20
    assert set(ran.values()) == {1}, "a cell was done twice"
    assert len({s.owner for s in statuses(tmp_path / "shared.db")}) == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere death is told by silence")
def test_a_cell_that_kills_its_worker_is_given_up_and_the_others_go_on(
    tmp_path: Path, plugins: Path
) -> None:
    grid = matrix({"variant": 0}, {"variant": 1, "do": "die"}, {"variant": 2}, seeds=2)
    grid = dataclasses.replace(grid, seeds=[0])
    results = grid.run(str(tmp_path / "runs.db"), workers=2, progress=False)
    assert [record.status for record in results] == ["done", "failed", "done"]
    assert "its worker died 3 times" in results[1].reason
    assert Counter(plugins.read_text().split()[1::2]) == {"0": 1, "1": 3, "2": 1}


def test_failed_cells_stay_failed_unless_asked(tmp_path: Path, plugins: Path) -> None:
    grid, store = matrix({"variant": 0}, {"variant": 1, "do": "raise"}), str(tmp_path / "r.db")
    first = grid.run(store, progress=False)
    assert [record.status for record in first] == ["done", "failed"]
    assert "RuntimeError: this attack always fails" in first[1].reason
    grid.run(store, progress=False)
    assert Counter(plugins.read_text().split()[1::2]) == {"0": 1, "1": 1}
    grid.run(store, progress=False, retry_failed=True)
    assert Counter(plugins.read_text().split()[1::2]) == {"0": 1, "1": 2}


def test_foreign_executors_can_run_the_workers(tmp_path: Path, plugins: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        results = matrix({}, seeds=2).run(str(tmp_path / "r.db"), executor=pool, progress=False)
    assert [record.status for record in results] == ["done", "done"]


def test_interrupt_gives_the_claims_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, store = run_cell, str(tmp_path / "r.db")
    grid = matrix({"variant": 0}, {"variant": 1}, {"variant": 2})

    def interrupted(cell: Cell, *rest: Any) -> Record:
        if variant(cell) == 1:
            raise KeyboardInterrupt
        return real(cell, *rest)

    monkeypatch.setattr(runner, "run_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        grid.run(store, progress=False)
    assert [(s.state, s.attempts) for s in statuses(Path(store))] == [
        ("done", 1), ("pending", 0), ("pending", 0),
    ]  # fmt: skip
    monkeypatch.setattr(runner, "run_cell", real)
    assert grid.run(store, progress=False).counts() == {"done": 3, "skipped": 0, "failed": 0}


def test_locked_store_stops_the_run_and_nothing_finished_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "r.db", run_cell
    other = sqlite3.connect(path, isolation_level=None)
    ran: list[int] = []

    def locks_after_two(cell: Cell, *rest: Any) -> Record:
        ran.append(variant(cell))
        if len(ran) == 3:
            other.execute("BEGIN EXCLUSIVE")
        return real(cell, *rest)

    monkeypatch.setattr(runner, "run_cell", locks_after_two)
    monkeypatch.setattr(runner, "Store", partial(Store, timeout=0.3))
    grid = matrix(*({"variant": i} for i in range(5)))
    with pytest.raises(StoreError, match=r"r\.db: another process has held its lock"):
        grid.run(str(path), progress=False)
    assert ran == [0, 1, 2], "the worker went on although it could not write"
    other.execute("ROLLBACK")
    other.close()
    before = [s for s in statuses(path) if s.state == "done"]
    assert len(before) == 2
    monkeypatch.setattr(runner, "run_cell", real)
    _expire(path)
    assert grid.run(str(path), progress=False).counts()["done"] == 5
    assert [s for s in statuses(path) if s.finished_at][:2] == before


def test_full_disk_stops_the_run_and_nothing_finished_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real, set_up = tmp_path / "r.db", run_cell, database._set_up
    grid = matrix(*({"variant": i} for i in range(8)))

    def big(cell: Cell, *rest: Any) -> Record:
        return dataclasses.replace(real(cell, *rest), reason="x" * 50_000)

    def small_disk(connection: Any, other: Any) -> None:
        set_up(connection, other)
        connection.execute("PRAGMA max_page_count=60")

    with monkeypatch.context() as full:
        full.setattr(runner, "run_cell", big)
        full.setattr(database, "_set_up", small_disk)
        with pytest.raises(StoreError, match="the disk is full; what was finished is kept"):
            grid.run(str(path), progress=False)
    before = {record.key: record.to_json() for record in Results.from_store(str(path))}
    assert 0 < len(before) < 8
    _expire(path)
    after = {r.key: r.to_json() for r in grid.run(str(path), progress=False)}
    assert len(after) == 8
    assert {key: after[key] for key in before} == before


def _expire(path: Path) -> None:
    """Stand in for the end of the process whose claims could not be given back."""
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE cells SET heartbeat = 0 WHERE state = 'running'")


@pytest.mark.slow
def test_workers_that_cannot_start_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "RESTARTS", 1)
    monkeypatch.setattr(runner._Crew, "_start", _broken_start)
    with pytest.raises(WorkersDied, match="2 workers died one after the other"):
        matrix({}, seeds=2).run(str(tmp_path / "r.db"), workers=2, progress=False)


def _broken_start(crew: Any) -> None:
    pool = ProcessPoolExecutor(1, mp_context=crew.context)
    crew.pools[pool.submit(os._exit, 1)] = pool


def test_a_misspelt_attack_is_skipped_and_the_others_go_on(tmp_path: Path) -> None:
    grid = dataclasses.replace(matrix({}), attacks=["fake", "fakee", "none"])
    results = grid.run(str(tmp_path / "r.db"), progress=False)
    assert [record.status for record in results] == ["done", "skipped", "done"]
    assert "no attack 'fakee'; did you mean 'fake'" in results[1].reason


def test_nothing_to_run_is_an_error(tmp_path: Path) -> None:
    grid = dataclasses.replace(matrix({}), attacks=["fakee"])
    with pytest.raises(SpecError, match="no cell can be run:\nno attack 'fakee'"):
        grid.run(str(tmp_path / "r.db"), progress=False)
    assert not (tmp_path / "r.db").exists()


def test_a_bad_store_is_told_before_anything_is_trained(tmp_path: Path, plugins: Path) -> None:
    with pytest.raises(StoreError, match="is a folder"):
        matrix({}).run(str(tmp_path), progress=False)
    assert not plugins.exists()


def test_same_spec_twice_gives_the_same_records_but_for_time(tmp_path: Path) -> None:
    grid = Matrix(datasets=["karate"], attacks=["none", "random", "link-stealing"], budgets=[0.1])
    first, second = (grid.run(None, progress=False) for _ in range(2))
    assert len(first) == 4
    assert [r.result() for r in first] == [r.result() for r in second]
