"""Positions in an SQLite file: for a pipeline whose source must not be written to, on a disk that stays."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pgcdc.errors import ConfigError, PositionError
from pgcdc.pipeline.deadletter_sqlite import SqliteDeadLetters
from pgcdc.pipeline.positions import COLUMNS, Move, StoredPosition, from_row, refused, to_row
from pgcdc.pipeline.private_file import make_private
from pgcdc.pipeline.schemas_sqlite import SqliteSchemas

__all__ = ["SqlitePositions"]

# LSNs are stored as PostgreSQL prints them: they have 64 bits without a sign, SQLite's integers have one.
_CREATE = """
    CREATE TABLE IF NOT EXISTS positions (
        pipeline text NOT NULL,
        consumer text NOT NULL,
        epoch integer NOT NULL,
        snapshot text NOT NULL,
        commit_lsn text,
        change_index integer,
        through_lsn text NOT NULL,
        slot text NOT NULL,
        system_identifier text NOT NULL,
        timeline integer NOT NULL,
        fingerprint text NOT NULL,
        tables text,
        seen text,
        spool text,
        PRIMARY KEY (pipeline, consumer)
    ) WITHOUT ROWID
"""

_LATER = frozenset({"tables", "seen", "spool"})
"""Columns that an earlier version did not make."""


class SqlitePositions:
    """Positions in one SQLite file.

    Args:
        path: The file; made when missing. Its directory must exist.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._opened: sqlite3.Connection | None = None

    def again(self) -> SqlitePositions:
        """Another store in the same file, not open."""
        return SqlitePositions(self._path)

    def own_slots(self, pipeline: str) -> list[str]:
        """The consumers of a pipeline of which something is stored as of one with a slot of its own."""
        with self._transaction() as connection:
            names = [name for (name,) in connection.execute("SELECT DISTINCT pipeline FROM positions")]
        return sorted(name.partition("/")[2] for name in names if name.startswith(f"{pipeline}/"))

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            raise PositionError(f"the position store {self._path.name!r} is not open")
        return self._opened

    def open(self) -> None:
        """Open the file and create the table.

        Raises:
            ConfigError: When the file cannot be opened or is no SQLite database.
        """
        self.close()
        try:
            make_private(self._path)
            # Used from several threads, one at a time, as the contract of stores says.
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA busy_timeout = 10000")
            connection.execute(_CREATE)
            columns = {column for _, column, *_ in connection.execute("PRAGMA table_info(positions)")}
            for column in _LATER - columns:
                connection.execute(f"ALTER TABLE positions ADD COLUMN {column} text")
        except sqlite3.Error as error:
            connection.close()
            raise self._unusable(error) from error
        self._opened = connection

    def is_there(self) -> bool:
        """Whether there is anything to read; nothing is made for that."""
        return self._path.exists()

    def _unusable(self, error: sqlite3.Error) -> ConfigError:
        return ConfigError(
            f"the position store {str(self._path)!r} cannot be used: {error}",
            hint="its directory must exist and be writable, and the file must be an SQLite database",
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException as error:
            # SQLite itself has rolled back after some errors (a full disk); the first error is the one to tell.
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            if not isinstance(error, sqlite3.Error):
                raise
            raise PositionError(
                f"the position store {self._path.name!r} failed: {error}",
                hint="nothing was confirmed past what is stored; put the file's disk right and start again",
            ) from error

    def load(self, pipeline: str) -> dict[str, StoredPosition]:
        """Read all that is stored for a pipeline.

        Raises:
            PositionError: When the file cannot be read.
        """
        with self._transaction() as connection:
            return _load(connection, pipeline)

    def move(self, pipeline: str, moves: Sequence[Move]) -> None:
        """Do all steps or none, durably.

        Raises:
            PositionError: When what is stored is not what a step expects, or the file cannot be written.
        """
        with self._transaction() as connection:
            stored = _load(connection, pipeline)
            for move in moves:
                found = stored.get(move.next.consumer)
                expected = move.previous
                if (found is None) != (expected is None) or (found and expected and not found.same_place(expected)):
                    raise refused(pipeline, move, found)
            connection.executemany(
                f"INSERT OR REPLACE INTO positions (pipeline, {COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",  # noqa: S608
                [(pipeline, *to_row(move.next)) for move in moves],
            )

    def forget(self, pipeline: str, consumers: Collection[str] | None = None) -> None:
        """Remove what is stored, durably.

        Raises:
            PositionError: When the file cannot be written.
        """
        with self._transaction() as connection:
            if consumers is None:
                connection.execute("DELETE FROM positions WHERE pipeline = ?", (pipeline,))
            else:
                connection.executemany(
                    "DELETE FROM positions WHERE pipeline = ? AND consumer = ?",
                    [(pipeline, consumer) for consumer in consumers],
                )

    def dead_letters(self) -> SqliteDeadLetters:
        """A store of dead letters in the same file."""
        return SqliteDeadLetters(self._path)

    def schemas(self) -> SqliteSchemas:
        """A store of versions of tables' shapes in the same file."""
        return SqliteSchemas(self._path)

    def close(self) -> None:
        """Close the file."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


def _load(connection: sqlite3.Connection, pipeline: str) -> dict[str, StoredPosition]:
    rows = connection.execute(f"SELECT {COLUMNS} FROM positions WHERE pipeline = ?", (pipeline,))  # noqa: S608
    return {row[0]: from_row(row) for row in rows}
