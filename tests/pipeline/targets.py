"""Sinks for tests: one that only remembers, and an SQLite file that keeps its position together with its rows."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

import pgcdc
from pgcdc import DecodeError, Delete, Insert, Truncate, Update

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Recorder:
    """Remembers every change, and what was done with it."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0
        self.batches: list[pgcdc.Batch] = []
        self.changes: list[Any] = []

    def open(self) -> None:
        self.opened += 1

    def write(self, batch: pgcdc.Batch) -> None:
        self.batches.append(batch)
        self.changes.extend(batch.changes())

    def close(self) -> None:
        self.closed += 1

    @property
    def actions(self) -> list[str]:
        return [change.action for change in self.changes]


class AsyncRecorder(Recorder):
    """Likewise, on the event loop."""

    async def open(self) -> None:  # type: ignore[override]
        self.opened += 1

    async def write(self, batch: pgcdc.Batch) -> None:  # type: ignore[override]
        self.batches.append(batch)
        self.changes.extend(batch.changes())

    async def close(self) -> None:  # type: ignore[override]
        self.closed += 1


def row_key(row: Any) -> int:
    return int(row.id)


class SqliteMirror:
    """The rows of the source by table and id, a log of all changes of the stream, and the position, in one transaction.

    It takes whatever it is given and skips nothing, so what comes twice is seen: the log's positions are unique.
    """

    def __init__(self, path: Path, after_commit: Callable[[pgcdc.Batch], None] = lambda _: None) -> None:
        self._path = path
        self._after_commit = after_commit
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        self._connection.executescript("""
            PRAGMA synchronous = FULL;
            CREATE TABLE IF NOT EXISTS rows (relation text, id integer, data text, PRIMARY KEY (relation, id));
            CREATE TABLE IF NOT EXISTS log (
                place integer PRIMARY KEY AUTOINCREMENT, position text UNIQUE, action text, relation text, id integer
            );
            CREATE TABLE IF NOT EXISTS position (one integer PRIMARY KEY CHECK (one = 1), value text);
        """)

    def position(self) -> pgcdc.Position | None:
        assert self._connection is not None
        row = self._connection.execute("SELECT value FROM position").fetchone()
        return None if row is None else pgcdc.Position.parse(row[0])

    def write(self, batch: pgcdc.Batch) -> None:
        connection = self._connection
        assert connection is not None
        connection.execute("BEGIN IMMEDIATE")
        try:
            for change in batch.changes():
                assert not isinstance(change, DecodeError)
                self._apply(connection, change)
            connection.execute("INSERT OR REPLACE INTO position VALUES (1, ?)", (str(batch.last_position),))
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        self._after_commit(batch)

    def _apply(self, connection: sqlite3.Connection, change: Any) -> None:
        if isinstance(change, Truncate):
            for relation in change.relations:
                connection.execute("DELETE FROM rows WHERE relation = ?", (relation.name,))
                if change.index == -1:  # before a new copy: what was logged was of another one
                    connection.execute("DELETE FROM log WHERE relation = ?", (relation.name,))
            if change.index == -1:
                return
            key, table = None, ",".join(relation.name for relation in change.relations)
        else:
            row = change.old if isinstance(change, Delete) else change.new
            key, table = row_key(row), change.table
            if isinstance(change, Update) and change.old is not UNSET:
                connection.execute("DELETE FROM rows WHERE relation = ? AND id = ?", (table, row_key(change.old)))
            if isinstance(change, Delete):
                connection.execute("DELETE FROM rows WHERE relation = ? AND id = ?", (table, key))
            else:
                verb = "INSERT" if isinstance(change, Insert) else "INSERT OR REPLACE"
                data = "|".join(str(getattr(row, column.name)) for column in change.relation.columns)
                connection.execute(f"{verb} INTO rows VALUES (?, ?, ?)", (table, key, data))
            if change.snapshot:
                return
        connection.execute(
            "INSERT INTO log (position, action, relation, id) VALUES (?, ?, ?, ?)",
            (str(change.position), change.action, table, key),
        )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def mirrored(path: Path, relation: str) -> list[str]:
    """The rows of a mirror, each as one line, by id."""
    connection = sqlite3.connect(path)
    try:
        query = "SELECT data FROM rows WHERE relation = ? ORDER BY id"
        return [data for (data,) in connection.execute(query, (relation,))]
    finally:
        connection.close()


def logged(path: Path) -> list[tuple[str, str, str, int]]:
    """The log of a mirror, in the order in which it was written: position, action, relation, id."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT position, action, relation, id FROM log ORDER BY place").fetchall()
    finally:
        connection.close()
