"""The store: which cells are to be done, who is doing them, and what they gave."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy as sa

from graphsec.database import CELLS as _cells
from graphsec.database import RECORDS as _records
from graphsec.database import Database, StoreError
from graphsec.owners import is_dead

if TYPE_CHECKING:
    from graphsec.cell import Record

__all__ = ["Claim", "Status", "Store", "StoreError"]

DEATHS = 3
"""A cell whose worker died this often is given up."""
FINAL = ("done", "skipped", "failed")
_CHUNK = 500  # keys in one statement; databases limit the number of parameters


class Stored(Protocol):
    """What can be stored: a cell, or one training of an audit."""

    @property
    def key(self) -> str:
        """Hash of all that its record depends on."""
        ...

    @property
    def row(self) -> str:
        """What is claimed together."""
        ...

    def spec(self) -> dict[str, Any]:
        """What builds it again."""
        ...


@dataclass(frozen=True)
class Claim:
    """A cell that a worker has claimed."""

    key: str
    row: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Status:
    """Where a cell stands.

    Attributes:
        key: The cell's key.
        state: "pending", "running", "done", "skipped" or "failed".
        owner: Who runs it.
        attempts: How often it was begun and not ended.
        started_at: When it was begun (Unix time); None while it waits in a claimed row.
        finished_at: When its record was written.
        seconds: How long it took.
    """

    key: str
    state: str
    owner: str | None
    attempts: int
    started_at: float | None
    finished_at: float | None
    seconds: float | None


class Store:
    """Cells and records behind a database URL; processes may share it.

    Args:
        url: ``sqlite:///runs.db``, ``postgresql://…``, or the path of an SQLite file.
        create: Whether a store that does not exist is made.
        timeout: Seconds to wait for a lock of another process (SQLite).

    Raises:
        StoreError: No such store, no right to write it, or it is something else; every method
            raises it when the database fails (locked, full, damaged).
    """

    def __init__(self, url: str, *, create: bool = True, timeout: float = 30.0) -> None:
        self._database = Database(url, create=create, timeout=timeout)
        self.url, self.name = self._database.url, self._database.name
        self._read, self._write = self._database.read, self._database.write

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- cells --------------------------------------------------------------------------------

    def add(self, cells: Iterable[Stored]) -> int:
        """Add cells that are not there yet; the number added."""
        given = {cell.key: cell for cell in cells}
        with self._write() as connection:
            there = {k for (k,) in _select(connection, [_cells.c.key], list(given))}
            last = connection.scalar(sa.select(sa.func.max(_cells.c.position))) or 0
            rows = [
                {
                    "key": key,
                    "position": last + i,
                    "row": cell.row,
                    "spec": json.dumps(cell.spec(), sort_keys=True),
                    "state": "pending",
                    "attempts": 0,
                }
                for i, (key, cell) in enumerate(
                    ((k, c) for k, c in given.items() if k not in there), start=1
                )
            ]
            if rows:
                connection.execute(_cells.insert(), rows)
        return len(rows)

    def retry(self, keys: Sequence[str]) -> int:
        """Make failed cells pending again; the number of them."""
        changed = 0
        with self._write() as connection:
            for part in _parts(keys):
                changed += connection.execute(
                    _cells.update()
                    .where(_cells.c.key.in_(part), _cells.c.state == "failed")
                    .values(state="pending", attempts=0, **_NOBODY)
                ).rowcount
        return changed

    def claim(self, owner: str, keys: Sequence[str]) -> list[Claim]:
        """Claim all pending cells of one row, the first row in the order of ``keys``."""
        wanted = dict.fromkeys(keys)
        with self._write() as connection:
            pending = {
                key: row
                for key, row in connection.execute(
                    sa.select(_cells.c.key, _cells.c.row).where(_cells.c.state == "pending")
                )
                if key in wanted
            }
            first = next((pending[key] for key in wanted if key in pending), None)
            if first is None:
                return []
            mine = [key for key in wanted if pending.get(key) == first]
            now = time.time()
            for part in _parts(mine):
                # The state is asked again: not every database serialises these transactions.
                connection.execute(
                    _cells.update()
                    .where(_cells.c.key.in_(part), _cells.c.state == "pending")
                    .values(state="running", owner=owner, claimed_at=now, heartbeat=now)
                )
            columns = [_cells.c.key, _cells.c.row, _cells.c.spec]
            ours = (_cells.c.state == "running", _cells.c.owner == owner)
            rows = _select(connection, columns, mine, *ours)
            got = {key: Claim(key, row, json.loads(spec)) for key, row, spec in rows}
            return [got[key] for key in mine if key in got]

    def start(self, key: str, owner: str) -> bool:
        """Note that a claimed cell begins now; False if it is no longer this owner's."""
        now = time.time()
        with self._write() as connection:
            return bool(
                connection.execute(
                    _cells.update()
                    .where(
                        _cells.c.key == key,
                        _cells.c.state == "running",
                        _cells.c.owner == owner,
                    )
                    .values(attempts=_cells.c.attempts + 1, started_at=now, heartbeat=now)
                ).rowcount
            )

    def finish(self, record: Record, owner: str) -> bool:
        """Write a record and its cell's state, both or neither.

        The first to finish a cell wins: False, and nothing is written, if it has a record.
        """
        with self._write() as connection:
            return _finish(connection, record, owner)

    def beat(self, owner: str) -> None:
        """Say that a worker is alive."""
        with self._write() as connection:
            connection.execute(
                _cells.update()
                .where(_cells.c.owner == owner, _cells.c.state == "running")
                .values(heartbeat=time.time())
            )

    def release(self, owner: str) -> None:
        """Give back what a worker claimed and did not finish; this does not count as a death."""
        held = (_cells.c.owner == owner, _cells.c.state == "running")
        started = _cells.c.started_at.is_not(None)
        with self._write() as connection:
            connection.execute(
                _cells.update().where(*held, started).values(attempts=_cells.c.attempts - 1)
            )
            connection.execute(_cells.update().where(*held).values(state="pending", **_NOBODY))

    def release_dead(self, *, blame: bool = True) -> int:
        """Give back the claims of dead workers; the number of cells given back.

        Args:
            blame: Whether the cell that a dead worker was running counts one death; one that
                has seen three becomes failed.
        """
        columns = [_cells.c.owner, sa.func.max(_cells.c.heartbeat)]
        running = _cells.c.state == "running"
        with self._read() as connection:
            rows = list(connection.execute(sa.select(*columns).where(running).group_by(columns[0])))
        dead = {owner: beat for owner, beat in rows if is_dead(owner, beat)}
        for owner in dead:
            if not blame:
                self.release(owner)
                continue
            held = (_cells.c.owner == owner, running)
            with self._write() as connection:
                given_up = connection.execute(
                    sa.select(_cells.c.key, _cells.c.row, _cells.c.spec).where(
                        *held, _cells.c.started_at.is_not(None), _cells.c.attempts >= DEATHS
                    )
                ).all()
                for key, row, spec in given_up:
                    _finish(connection, _died(key, row, json.loads(spec)), owner)
                connection.execute(_cells.update().where(*held).values(state="pending", **_NOBODY))
        return len(dead)

    # -- reading ------------------------------------------------------------------------------

    def statuses(self, keys: Sequence[str] | None = None) -> list[Status]:
        """Where cells stand, in the order in which they were added."""
        c = _cells.c
        columns = (c.key, c.state, c.owner, c.attempts, c.started_at, c.finished_at, c.seconds)
        wanted = None if keys is None else set(keys)
        with self._read() as connection:
            rows = connection.execute(sa.select(*columns).order_by(c.position)).all()
        return [Status(*row) for row in rows if wanted is None or row[0] in wanted]

    def counts(self, keys: Sequence[str] | None = None) -> dict[str, int]:
        """Number of cells by state."""
        found = Counter(status.state for status in self.statuses(keys))
        return {state: found[state] for state in ("pending", "running", *FINAL)}

    def records(self, keys: Sequence[str] | None = None) -> list[Record]:
        """Records of finished cells, in the order of ``keys`` (default: as they were added)."""
        from graphsec.cell import Record

        order = [s.key for s in self.statuses(keys) if s.state in FINAL]
        if keys is not None:
            final = set(order)
            order = [key for key in dict.fromkeys(keys) if key in final]
        with self._read() as connection:
            texts = dict(_select(connection, [_records.c.key, _records.c.json], order))
        return [Record.from_json(texts[key]) for key in order if key in texts]

    def find(self, prefix: str) -> Record:
        """The record whose key begins with ``prefix``.

        Raises:
            StoreError: None or several do.
        """
        from graphsec.cell import Record

        with self._read() as connection:
            rows = connection.execute(
                sa.select(_records.c.key, _records.c.json).where(
                    _records.c.key.startswith(prefix, autoescape=True)
                )
            ).all()
        if len(rows) != 1:
            found = "no record" if not rows else f"{len(rows)} records"
            raise StoreError(f"store {self.name} has {found} whose key begins with {prefix!r}")
        return Record.from_json(rows[0][1])


_NOBODY: dict[str, Any] = {
    "owner": None,
    "claimed_at": None,
    "started_at": None,
    "heartbeat": None,
}


def _finish(connection: sa.Connection, record: Record, owner: str) -> bool:
    now = time.time()
    key = _cells.c.key == record.key
    started = connection.scalar(sa.select(_cells.c.started_at).where(key, _cells.c.owner == owner))
    won = connection.execute(
        _cells.update()
        .where(key, _cells.c.state.in_(("pending", "running")))
        .values(
            state=record.status,
            owner=owner,
            finished_at=now,
            seconds=None if started is None else now - started,
        )
    ).rowcount
    if not won:
        return False
    # A failed cell that was retried has an old record.
    connection.execute(_records.delete().where(_records.c.key == record.key))
    connection.execute(_records.insert().values(key=record.key, json=record.to_json()))
    return True


def _died(key: str, row: str, spec: dict[str, Any]) -> Record:
    from graphsec.cell import Record

    reason = f"its worker died {DEATHS} times (killed, or out of memory)"
    return Record(key=key, row=row, status="failed", spec=spec, reason=reason)


def _parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[i : i + _CHUNK] for i in range(0, len(keys), _CHUNK))


def _select(
    connection: sa.Connection, columns: list[Any], keys: Sequence[str], *where: Any
) -> Iterator[Any]:
    """Rows of a table by key, in statements that stay small enough."""
    key = columns[0]
    for part in _parts(keys):
        yield from connection.execute(sa.select(*columns).where(key.in_(part), *where))
