"""Dead letters in an SQLite file, beside positions: for a pipeline whose source must not be written to."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from pgcdc.errors import ConfigError, ConnectionLost
from pgcdc.lsn import Position
from pgcdc.pipeline.deadletter import DeadLetter, Marks, Which, outdated
from pgcdc.pipeline.private_file import make_private

__all__ = ["SqliteDeadLetters"]

_COLUMNS = (
    "pipeline, consumer, position, digest, state, table_name, action, key, change, holds, error_type, error_text,"
    " attempts, first_at, last_at"
)
_TRANSIENT = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
"""Errors that a later call may not meet."""

# Positions are text of fixed width, which sorts as they do.
_CREATE = """
    CREATE TABLE IF NOT EXISTS dead_letters (
        id integer PRIMARY KEY AUTOINCREMENT,
        pipeline text NOT NULL,
        consumer text NOT NULL,
        position text NOT NULL,
        digest text NOT NULL,
        state text NOT NULL,
        requested integer NOT NULL DEFAULT 0,
        table_name text,
        action text NOT NULL,
        key text,
        change text,
        message blob NOT NULL,
        holds text NOT NULL,
        error_type text NOT NULL,
        error_text text NOT NULL,
        attempts integer NOT NULL,
        first_at text NOT NULL,
        last_at text NOT NULL,
        UNIQUE (pipeline, consumer, position, digest)
    );
    CREATE TABLE IF NOT EXISTS dead_letter_owners (
        pipeline text NOT NULL,
        consumer text NOT NULL,
        epoch integer NOT NULL,
        PRIMARY KEY (pipeline, consumer)
    ) WITHOUT ROWID;
"""


class SqliteDeadLetters:
    """Dead letters in one SQLite file.

    Args:
        path: The file; made when missing. Its directory must exist.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._opened: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def _open(self) -> sqlite3.Connection:
        if self._opened is None:
            make_private(self._path)
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA busy_timeout = 10000")
                connection.executescript(_CREATE)
            except BaseException:
                connection.close()
                raise
            self._opened = connection
        return self._opened

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                connection = self._open()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                finally:
                    # SQLite itself has rolled back after some errors (a full disk); the first error is the one to tell.
                    if connection.in_transaction:
                        with suppress(sqlite3.Error):
                            connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.Error) -> ConfigError | ConnectionLost:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _TRANSIENT:
            return ConnectionLost(
                f"the dead letters in {self._path.name!r} cannot be used now: {error}",
                hint="nothing is confirmed past a change that is not among them",
            )
        return ConfigError(
            f"the file {str(self._path)!r} cannot be used for dead letters: {error}",
            hint="its directory must exist and be writable, and the file must be an SQLite database",
        )

    def claim(self, pipeline: str, consumer: str, epoch: int) -> None:
        """Become the owner, durably.

        Raises:
            PositionError: When there is an owner of a higher epoch.
            ConnectionLost: When the file cannot be used now.
        """
        with self._transaction() as connection:
            _check(connection, pipeline, consumer, epoch)
            connection.execute(
                "INSERT OR REPLACE INTO dead_letter_owners VALUES (?, ?, ?)", (pipeline, consumer, epoch)
            )

    def add(self, letters: Sequence[DeadLetter], epoch: int) -> None:
        """Store letters, all or none, durably.

        Raises:
            PositionError: When there is an owner of a higher epoch.
            ConnectionLost: When the file cannot be used now.
        """
        if not letters:
            return
        with self._transaction() as connection:
            _check(connection, letters[0].pipeline, letters[0].consumer, epoch)
            connection.executemany(
                f"INSERT INTO dead_letters ({_COLUMNS}, message)"  # noqa: S608 (names of ours)
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (pipeline, consumer, position, digest) DO UPDATE SET state = excluded.state,"
                " requested = 0, holds = excluded.holds, error_type = excluded.error_type,"
                " error_text = excluded.error_text, attempts = dead_letters.attempts + excluded.attempts,"
                " last_at = excluded.last_at WHERE excluded.state = 'failed'",
                [_row(letter) for letter in letters],
            )

    def find(self, which: Which, limit: int | None = None) -> list[DeadLetter]:
        """Read letters without their messages.

        Raises:
            ConnectionLost: When the file cannot be used now.
        """
        query = (
            f"SELECT id, requested, {_COLUMNS}, x'' FROM dead_letters"  # noqa: S608 (names of ours)
            " WHERE (:consumer IS NULL OR consumer = :consumer)"
            " ORDER BY pipeline, consumer, position, id"
        )
        found = []
        with self._transaction() as connection:
            for row in connection.execute(query, {"consumer": which.consumer}):
                letter = _letter(row)
                if which.means(letter):
                    found.append(letter)
                    if limit is not None and len(found) == limit:
                        break
        return found

    def read(self, id: int) -> DeadLetter | None:
        """Read one letter whole.

        Raises:
            ConnectionLost: When the file cannot be used now.
        """
        query = f"SELECT id, requested, {_COLUMNS}, message FROM dead_letters WHERE id = ?"  # noqa: S608 (names of ours)
        with self._transaction() as connection:
            row = connection.execute(query, (id,)).fetchone()
        return None if row is None else _letter(row)

    def marks(self, pipeline: str) -> Mapping[str, Marks]:
        """Look at the letters of a pipeline.

        Raises:
            ConnectionLost: When the file cannot be used now.
        """
        query = (
            "SELECT consumer, count(*), sum(id), sum(CASE WHEN requested THEN id ELSE 0 END)"
            " FROM dead_letters WHERE pipeline = ? GROUP BY consumer"
        )
        with self._transaction() as connection:
            return {consumer: Marks(*rest) for consumer, *rest in connection.execute(query, (pipeline,))}

    def request(self, ids: Collection[int]) -> int:
        """Ask for failed letters to be delivered again, durably.

        Raises:
            ConnectionLost: When the file cannot be used now.
        """
        return self._each("UPDATE dead_letters SET requested = 1 WHERE state = 'failed' AND id = ?", ids)

    def remove(self, ids: Collection[int]) -> int:
        """Remove letters, durably.

        Raises:
            ConnectionLost: When the file cannot be used now.
        """
        return self._each("DELETE FROM dead_letters WHERE id = ?", ids)

    def _each(self, statement: str, ids: Collection[int]) -> int:
        with self._transaction() as connection:
            return sum(connection.execute(statement, (id,)).rowcount for id in ids)

    def rename(self, pipeline: str, consumer: str, new: str) -> None:
        """Give a consumer's letters to another name, durably.

        Raises:
            ConnectionLost: When the file cannot be used now.
        """
        with self._transaction() as connection:
            of = (pipeline, consumer)
            connection.execute("UPDATE dead_letters SET consumer = ? WHERE pipeline = ? AND consumer = ?", (new, *of))
            connection.execute("DELETE FROM dead_letter_owners WHERE pipeline = ? AND consumer = ?", of)

    def forget(self, pipeline: str, consumers: Collection[str] | None = None) -> None:
        """Remove all letters and owners, durably.

        Raises:
            ConnectionLost: When the file cannot be used now.
        """
        with self._transaction() as connection:
            for table in ("dead_letters", "dead_letter_owners"):
                statement = f"DELETE FROM {table} WHERE pipeline = ?"  # noqa: S608 (names of ours)
                if consumers is None:
                    connection.execute(statement, (pipeline,))
                else:
                    connection.executemany(f"{statement} AND consumer = ?", [(pipeline, name) for name in consumers])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None


def _check(connection: sqlite3.Connection, pipeline: str, consumer: str, epoch: int) -> None:
    row = connection.execute(
        "SELECT epoch FROM dead_letter_owners WHERE pipeline = ? AND consumer = ?", (pipeline, consumer)
    ).fetchone()
    if row is not None and row[0] > epoch:
        raise outdated(pipeline, consumer, row[0])


def _text(text: str | None) -> str | None:
    """What is UTF-8 of it: names and error texts may have bytes that are not, as lone surrogates."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def _row(letter: DeadLetter) -> tuple[object, ...]:
    return (
        letter.pipeline,
        letter.consumer,
        str(letter.position),
        letter.digest,
        letter.state,
        _text(letter.table),
        letter.action,
        _text(letter.key),
        _text(letter.values),
        letter.holds,
        letter.error_type,
        _text(letter.error_text),
        letter.attempts,
        letter.first_at.isoformat(),
        letter.last_at.isoformat(),
        letter.message,
    )


def _letter(row: Sequence[Any]) -> DeadLetter:
    (id, requested, pipeline, consumer, position, digest, state, table, action, key, change, holds) = row[:12]
    error_type, error_text, attempts, first_at, last_at, message = row[12:]
    return DeadLetter(
        id=id,
        pipeline=pipeline,
        consumer=consumer,
        position=Position.parse(position),
        digest=digest,
        state=state,
        requested=bool(requested),
        table=table,
        action=action,
        key=key,
        values=change,
        message=bytes(message),
        holds=holds,
        error_type=error_type,
        error_text=error_text,
        attempts=attempts,
        first_at=datetime.fromisoformat(first_at),
        last_at=datetime.fromisoformat(last_at),
    )
