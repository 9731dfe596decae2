"""The database behind a store: connections, transactions, and errors that say what to do."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

SCHEMA = 2  # 2: records may hold pictures, which versions before it can't read
TABLES = sa.MetaData()
ABOUT = sa.Table(
    "graphsec",
    TABLES,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("value", sa.String(200), nullable=False),
)
CELLS = sa.Table(
    "cells",
    TABLES,
    sa.Column("key", sa.String(40), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("row", sa.String(40), nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("state", sa.String(10), nullable=False, index=True),
    sa.Column("owner", sa.String(200)),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("claimed_at", sa.Float),
    sa.Column("started_at", sa.Float),
    sa.Column("heartbeat", sa.Float),
    sa.Column("finished_at", sa.Float),
    sa.Column("seconds", sa.Float),
)
RECORDS = sa.Table(
    "records",
    TABLES,
    sa.Column("key", sa.String(40), primary_key=True),
    sa.Column("json", sa.Text, nullable=False),
)


class StoreError(RuntimeError):
    """The store can't be read or written; the message says which and why."""


class Database:
    """Transactions on the tables behind a URL.

    Args:
        url: ``sqlite:///runs.db``, ``postgresql://…``, or the path of an SQLite file.
        create: Whether missing tables are made, and the right to write is checked.
        timeout: Seconds to wait for a lock of another process (SQLite).

    Raises:
        StoreError: No such database, no right to write it, or it is something else.
    """

    def __init__(self, url: str, *, create: bool = True, timeout: float = 30.0) -> None:
        self.url = url if "://" in url else f"sqlite:///{url}"
        self.timeout = timeout
        try:
            parsed = sa.engine.make_url(self.url)
            self._sqlite = parsed.get_backend_name() == "sqlite"
            self.name = parsed.render_as_string(hide_password=True)
            if self._sqlite:
                self.name = _checked_path(parsed.database, create)
            self._engine = self._connect(parsed)
        except (SQLAlchemyError, ImportError) as error:
            raise StoreError(f"store {url!r}: {error}") from None
        self._writer = self._engine.execution_options(graphsec_write=True)
        try:
            self._prepare(create)
        except BaseException:
            self.close()
            raise

    def _connect(self, url: sa.URL) -> sa.Engine:
        if not self._sqlite:
            return sa.create_engine(url, pool_pre_ping=True)
        # Python's sqlite3 must not begin transactions by itself: writers begin IMMEDIATE ones.
        options = {"isolation_level": None, "timeout": self.timeout}
        engine = sa.create_engine(url, connect_args=options)
        sa.event.listen(engine, "connect", _set_up)
        sa.event.listen(engine, "begin", _begin)
        return engine

    def _prepare(self, create: bool) -> None:
        """Check the schema, and make it where there is none."""
        with self.read() as connection:
            names = set(sa.inspect(connection).get_table_names())
            found = None
            if "graphsec" in names:
                found = connection.scalar(sa.select(ABOUT.c.value).where(ABOUT.c.name == "schema"))
        if int(found or 0) > SCHEMA:
            raise StoreError(
                f"store {self.name} was written by a newer graphsec (schema {found}, this one "
                f"knows {SCHEMA}); update graphsec"
            )
        if found is None and names & {"cells", "records"}:
            raise StoreError(f"store {self.name} is a database, but not one of graphsec's")
        if found is None and not create:
            raise StoreError(f"store {self.name} is empty: no cells were ever run in it")
        if not create:
            return
        # Written even if it is there: a store that can't be written shows before any training.
        with self.write() as connection:
            TABLES.create_all(connection)
            if not connection.execute(ABOUT.update().values(value=str(SCHEMA))).rowcount:
                connection.execute(ABOUT.insert().values(name="schema", value=str(SCHEMA)))

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that holds the write lock from its beginning."""
        with self._translated(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Database errors become StoreErrors that name the store and what to do."""
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            text = str(error.orig if isinstance(error, DBAPIError) else error)
            raise StoreError(f"store {self.name}: {_explained(text, self.timeout)}") from error


def _set_up(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=FULL")
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            # Another process may be setting the same mode: any mode is right, WAL is faster.
            if "locked" not in str(error) and "readonly" not in str(error):
                raise
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("graphsec_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _checked_path(database: str | None, create: bool) -> str:
    """The path of an SQLite store, made sure of before anything is trained."""
    if not database or database == ":memory:":
        raise StoreError("store: an SQLite store needs a file, such as sqlite:///runs.db")
    path = Path(database)
    if path.is_dir():
        raise StoreError(f"store {path} is a folder, not a file")
    if not path.exists():
        if not create:
            raise StoreError(f"store {path} does not exist")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"store {path}: can't make its folder ({error})") from None
    if create and not os.access(path.parent, os.W_OK):
        raise StoreError(f"store {path}: the folder {path.parent.absolute()} can't be written")
    return str(path)


def _explained(text: str, timeout: float) -> str:
    """What to do about a database's error."""
    kept = "what was finished is kept: run the same command again"
    hints = {
        "is locked": f"another process has held its lock for more than {timeout:g} s; {kept} "
        "when it has ended",
        "is full": f"the disk is full; {kept} when there is room",
        "readonly": "it can't be written; check the rights on the file and its folder",
        "unable to open": "it can't be opened; check that the folder exists, has room and "
        "can be written",
        "not a database": "this file is not an SQLite database; name another one",
        "malformed": "the file is damaged; name another one (or try SQLite's .recover)",
        "disk I/O": f"the disk can't be written or read; {kept} when it works",
    }
    hint = next((hint for mark, hint in hints.items() if mark in text), "")
    return f"{hint} ({text})" if hint else text
