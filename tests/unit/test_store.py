"""The store: claims, records, dead workers, and what goes wrong with files."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from graphsec.cell import Cell, Record
from graphsec.owners import is_dead, new_owner
from graphsec.store import Store, StoreError


def cells(rows: int = 2, columns: int = 3) -> list[Cell]:
    """Cells of ``rows`` rows; those of a row differ by their budget only."""
    return [
        Cell(dataset="karate", attack="random", seed=seed, threat={"budget": {"edges": edges}})
        for seed in range(rows)
        for edges in range(columns)
    ]


def record(cell: Cell, status: Any = "done", reason: str = "") -> Record:
    return Record(key=cell.key, row=cell.row, status=status, spec=cell.spec(), reason=reason)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store(url) as opened:
        yield opened


def dead_owner() -> str:
    """An owner on this host whose process is gone."""
    done = subprocess.run(
        [sys.executable, "-c", "from graphsec.owners import new_owner; print(new_owner())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


# -- claims and records -----------------------------------------------------------------------


def test_add_is_idempotent(store: Store) -> None:
    assert store.add(cells()) == 6
    assert store.add(cells()) == 0
    assert store.counts() == {"pending": 6, "running": 0, "done": 0, "skipped": 0, "failed": 0}


def test_a_claim_is_one_whole_row_in_the_order_asked(store: Store) -> None:
    every = cells(rows=3)
    store.add(every)
    keys = [cell.key for cell in reversed(every)]
    claims = store.claim("a:1:1:x", keys)
    assert [claim.key for claim in claims] == keys[:3]
    assert {claim.row for claim in claims} == {every[-1].row}
    assert Cell.from_spec(claims[0].spec).key == claims[0].key
    assert store.claim("b:1:1:x", keys[:3]) == []


def test_a_claim_leaves_cells_of_other_matrices_alone(store: Store) -> None:
    every = cells()
    store.add(every)
    assert [claim.key for claim in store.claim("a:1:1:x", [every[1].key])] == [every[1].key]
    assert store.counts()["pending"] == 5


def test_finish_is_once(store: Store) -> None:
    every = cells(1, 1)
    store.add(every)
    store.claim("a:1:1:x", [every[0].key])
    assert store.finish(record(every[0], reason="first"), "a:1:1:x")
    assert not store.finish(record(every[0], reason="second"), "b:1:1:x")
    assert [found.reason for found in store.records()] == ["first"]


def test_a_released_cell_can_still_be_finished_by_whom_comes_first(store: Store) -> None:
    every = cells(1, 1)
    store.add(every)
    store.claim("a:1:1:x", [every[0].key])
    store.release("a:1:1:x")
    store.claim("b:1:1:x", [every[0].key])
    assert not store.start(every[0].key, "a:1:1:x")
    assert store.finish(record(every[0], reason="late"), "a:1:1:x")
    assert not store.finish(record(every[0]), "b:1:1:x")
    assert store.counts()["done"] == 1


def test_records_come_in_the_order_of_the_keys(store: Store) -> None:
    every = cells()
    store.add(every)
    for cell in every[:4]:
        store.finish(record(cell), "a:1:1:x")
    keys = [cell.key for cell in reversed(every)]
    assert [found.key for found in store.records(keys)] == keys[2:]
    assert [found.key for found in store.records()] == [cell.key for cell in every[:4]]


def test_retry_gives_failed_cells_another_chance_and_replaces_their_record(store: Store) -> None:
    every = cells(1, 2)
    store.add(every)
    store.finish(record(every[0], "failed"), "a:1:1:x")
    store.finish(record(every[1]), "a:1:1:x")
    assert store.retry([cell.key for cell in every]) == 1
    assert store.counts()["pending"] == 1
    assert [found.key for found in store.records()] == [every[1].key]
    assert store.finish(record(every[0]), "a:1:1:x")
    assert [found.status for found in store.records()] == ["done", "done"]


def test_find_needs_one_record(store: Store) -> None:
    every = cells(1, 2)
    store.add(every)
    for cell in every:
        store.finish(record(cell), "a:1:1:x")
    assert store.find(every[0].key[:12]).key == every[0].key
    with pytest.raises(StoreError, match="has 2 records whose key begins with ''"):
        store.find("")
    with pytest.raises(StoreError, match="has no record whose key begins with 'zz'"):
        store.find("zz")


def _claim_all(url: str, keys: list[str]) -> list[str]:
    got = []
    with Store(url) as store:
        owner = new_owner()
        while claims := store.claim(owner, keys):
            got += [claim.key for claim in claims]
            for claim in claims:
                assert store.start(claim.key, owner)
                done = Record(key=claim.key, row=claim.row, status="done", spec=claim.spec)
                assert store.finish(done, owner)
    return got


def test_two_processes_never_claim_the_same_cell(url: str) -> None:
    every = cells(rows=40, columns=2)
    keys = [cell.key for cell in every]
    with Store(url) as store:
        store.add(every)
    # Forked: a spawned process can't import a test module.
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        futures = [pool.submit(_claim_all, url, keys) for _ in range(2)]
        got = [key for future in futures for key in future.result(timeout=120)]
    assert sorted(got) == sorted(keys)
    with Store(url) as store:
        assert store.counts()["done"] == len(keys)
        assert {status.attempts for status in store.statuses()} == {1}


# -- dead workers -----------------------------------------------------------------------------


def test_owner_of_a_living_process_is_alive() -> None:
    assert not is_dead(new_owner(), time.time())


def test_owner_of_a_gone_process_is_dead_despite_a_fresh_heartbeat() -> None:
    assert is_dead(dead_owner(), time.time())


def test_a_reused_process_id_is_another_worker() -> None:
    host, pid, start, unique = new_owner().rsplit(":", 3)
    assert is_dead(f"{host}:{pid}:{int(start) - 1}:{unique}", time.time())


def test_on_another_host_silence_is_death() -> None:
    now = time.time()
    assert not is_dead("elsewhere:1:1:x", now - 50, now)
    assert is_dead("elsewhere:1:1:x", now - 70, now)


def test_the_dead_give_back_and_only_the_cell_they_ran_is_blamed(store: Store) -> None:
    every = cells(1, 3)
    store.add(every)
    keys = [cell.key for cell in every]
    for _ in range(3):
        owner = dead_owner()
        assert len(store.claim(owner, keys)) == 3
        store.start(keys[1], owner)
        assert store.release_dead() == 1
    states = {status.key: status for status in store.statuses()}
    assert [states[key].state for key in keys] == ["pending", "failed", "pending"]
    assert states[keys[0]].attempts == 0
    assert "its worker died 3 times" in store.records()[0].reason
    assert store.records()[0].spec == every[1].spec()


def test_the_living_keep_their_claims(store: Store) -> None:
    store.add(cells(1, 2))
    store.claim(new_owner(), [cell.key for cell in cells(1, 2)])
    assert store.release_dead() == 0
    assert store.counts()["running"] == 2


def test_release_is_no_death(store: Store) -> None:
    every = cells(1, 1)
    store.add(every)
    for _ in range(5):
        store.claim("a:1:1:x", [every[0].key])
        store.start(every[0].key, "a:1:1:x")
        store.release("a:1:1:x")
    assert [(s.state, s.attempts) for s in store.statuses()] == [("pending", 0)]


# -- files ------------------------------------------------------------------------------------


def test_locked_store_names_the_file_and_loses_nothing(url: str, tmp_path: Path) -> None:
    every = cells(1, 2)
    with Store(url, timeout=0.2) as store:
        store.add(every)
        store.finish(record(every[0]), "a:1:1:x")
        other = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match=r"runs\.db: another process has held its lock"):
            store.finish(record(every[1]), "a:1:1:x")
        other.execute("ROLLBACK")
        other.close()
        assert [found.key for found in store.records()] == [every[0].key]
        assert store.finish(record(every[1]), "a:1:1:x")


def test_a_writer_waits_for_a_lock_that_ends_in_time(url: str, tmp_path: Path) -> None:
    with Store(url, timeout=10) as store:
        other = sqlite3.connect(tmp_path / "runs.db", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN EXCLUSIVE")
        release = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
        release.start()
        assert store.add(cells(1, 1)) == 1
        release.join()
        other.close()


def _fill(store: Store, every: list[Cell]) -> int:
    """Finish cells with big records until the database is full; the number finished."""
    for number, cell in enumerate(every):
        try:
            store.finish(record(cell, reason="x" * 20_000), "a:1:1:x")
        except StoreError as error:
            if "the disk is full" not in str(error):
                raise
            return number
    raise AssertionError("the store never got full")


def test_full_store_says_so_and_keeps_what_was_finished(store: Store, url: str) -> None:
    import sqlalchemy as sa

    every = cells(2, 10)
    store.add(every)

    def limit(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA max_page_count=60")

    store.close()
    sa.event.listen(store._database._engine, "connect", limit)
    finished = _fill(store, every)
    assert 0 < finished < len(every)
    store.close()
    with Store(url) as again:
        assert len(again.records()) == finished
        assert again.counts()["done"] == finished
        assert all(len(found.reason) == 20_000 for found in again.records())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tiny disk needs root")
def test_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"can't mount a tiny disk here: {mounted.stderr.strip()}")
    try:
        every = cells(2, 10)
        with Store(str(disk / "runs.db")) as store:
            store.add(every)
            finished = _fill(store, every)
        assert finished > 0
        with Store(str(disk / "runs.db"), create=False) as again:
            assert len(again.records()) == finished
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are notes, not a database, and quite a few of them " * 40)
    with pytest.raises(StoreError, match=r"notes\.txt.*not an SQLite database"):
        Store(str(path))
    assert path.read_text().startswith("these are notes")


def test_damaged_database(url: str, tmp_path: Path) -> None:
    with Store(url) as store:
        store.add(cells(4, 10))
    path = tmp_path / "runs.db"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\x5a" * (len(content) - 4096)
    path.write_bytes(bytes(content))
    with pytest.raises(StoreError, match="damaged"), Store(url) as store:
        store.claim("a:1:1:x", [cell.key for cell in cells()])


def test_another_programs_database(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE cells (battery TEXT)")
    with pytest.raises(StoreError, match="not one of graphsec's"):
        Store(str(path))


def test_newer_schema(url: str, tmp_path: Path) -> None:
    Store(url).close()
    with sqlite3.connect(tmp_path / "runs.db") as other:
        other.execute("UPDATE graphsec SET value = '99'")
    with pytest.raises(StoreError, match="newer graphsec"):
        Store(url)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("nonsense://x", "nonsense"),
        ("://", "Could not parse|not a database"),
        ("/proc/nothing/here/runs.db", "folder"),
    ],
)
def test_bad_urls(given: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        Store(given)


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder"):
        Store(str(tmp_path))


def test_reading_needs_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        Store(str(tmp_path / "none.db"), create=False)
    assert not (tmp_path / "none.db").exists()


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    with Store(str(tmp_path / "deep" / "er" / "runs.db")) as store:
        assert store.counts()["pending"] == 0
