"""Versions of tables' shapes in an SQLite file: in that of the positions, where those are in one."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from pgcdc.errors import ConfigError, PositionError
from pgcdc.pipeline.private_file import make_private
from pgcdc.pipeline.schemas import (
    STEP_COLUMNS,
    VERSION_COLUMNS,
    Step,
    check_step,
    check_version,
    version_from_row,
    version_to_row,
)
from pgcdc.schema import SchemaVersion

__all__ = ["SqliteSchemas"]

_CREATE = """
    CREATE TABLE IF NOT EXISTS schema_versions (
        pipeline text NOT NULL,
        relation_oid integer NOT NULL,
        version integer NOT NULL,
        schema_name text NOT NULL,
        table_name text NOT NULL,
        replica_identity text NOT NULL,
        columns text NOT NULL,
        fingerprint text NOT NULL,
        first_lsn text NOT NULL,
        first_index integer NOT NULL,
        seen_at text NOT NULL,
        PRIMARY KEY (pipeline, relation_oid, version)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS schema_migrations (
        pipeline text NOT NULL,
        consumer text NOT NULL,
        relation_oid integer NOT NULL,
        version integer NOT NULL,
        state text NOT NULL,
        epoch integer NOT NULL,
        PRIMARY KEY (pipeline, consumer, relation_oid, version)
    ) WITHOUT ROWID;
"""


class SqliteSchemas:
    """Versions and steps in one SQLite file.

    Args:
        path: The file; made when missing. Its directory must exist.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._opened: sqlite3.Connection | None = None

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            raise PositionError(f"the schema store {self._path.name!r} is not open")
        return self._opened

    def open(self) -> None:
        """Open the file and create the tables.

        Raises:
            ConfigError: When the file cannot be opened or is no SQLite database.
        """
        self.close()
        connection: sqlite3.Connection | None = None
        try:
            make_private(self._path)
            # Used from several threads, one at a time, as the contract of stores says.
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA busy_timeout = 10000")
            connection.executescript(_CREATE)
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            raise ConfigError(
                f"the schema store {str(self._path)!r} cannot be used: {error}",
                hint="its directory must exist and be writable, and the file must be an SQLite database",
            ) from error
        self._opened = connection

    def is_there(self) -> bool:
        """Whether there is anything to read; nothing is made for that."""
        return self._path.exists()

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
                f"the schema store {self._path.name!r} failed: {error}",
                hint="nothing was delivered past what is stored; put the file's disk right and start again",
            ) from error

    def versions(self, pipeline: str) -> list[SchemaVersion]:
        """Read all versions of a pipeline's tables.

        Raises:
            PositionError: When the file cannot be read.
        """
        query = f"SELECT {VERSION_COLUMNS} FROM schema_versions WHERE pipeline = ?"  # noqa: S608
        with self._transaction() as connection:
            return [version_from_row(row) for row in connection.execute(query, (pipeline,))]

    def add(self, pipeline: str, versions: Sequence[SchemaVersion]) -> None:
        """Write versions, all or none, durably; of one that is there already the earlier beginning stays.

        Raises:
            PositionError: When another shape is there under the same number.
        """
        insert = f"INSERT OR REPLACE INTO schema_versions (pipeline, {VERSION_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)"  # noqa: S608
        query = (
            f"SELECT {VERSION_COLUMNS} FROM schema_versions"  # noqa: S608
            " WHERE pipeline = ? AND relation_oid = ? AND version = ?"
        )
        with self._transaction() as connection:
            for version in versions:
                row = connection.execute(query, (pipeline, version.oid, version.version)).fetchone()
                stored = None if row is None else version_from_row(row)
                check_version(pipeline, version, stored)
                if stored is None or version.position < stored.position:
                    connection.execute(insert, (pipeline, *version_to_row(version)))

    def steps(self, pipeline: str) -> list[Step]:
        """Read all steps of a pipeline's consumers.

        Raises:
            PositionError: When the file cannot be read.
        """
        query = f"SELECT {STEP_COLUMNS} FROM schema_migrations WHERE pipeline = ?"  # noqa: S608
        with self._transaction() as connection:
            return [Step(*row) for row in connection.execute(query, (pipeline,))]

    def record(self, pipeline: str, steps: Sequence[Step]) -> None:
        """Write how far consumers are, all or none, durably.

        Raises:
            PositionError: When a later owner has written one of them, or it is done already.
        """
        query = (
            f"SELECT {STEP_COLUMNS} FROM schema_migrations"  # noqa: S608
            " WHERE pipeline = ? AND consumer = ? AND relation_oid = ? AND version = ?"
        )
        replace = f"INSERT OR REPLACE INTO schema_migrations (pipeline, {STEP_COLUMNS}) VALUES (?,?,?,?,?,?)"  # noqa: S608
        with self._transaction() as connection:
            for step in steps:
                row = connection.execute(query, (pipeline, step.consumer, step.oid, step.version)).fetchone()
                check_step(pipeline, step, None if row is None else Step(*row))
                connection.execute(replace, (pipeline, *msgspec.structs.astuple(step)))

    def rename(self, pipeline: str, consumer: str, new: str) -> None:
        """Let steps be another consumer's, durably.

        Raises:
            PositionError: When the file cannot be written.
        """
        with self._transaction() as connection:
            connection.execute(
                "UPDATE OR REPLACE schema_migrations SET consumer = ? WHERE pipeline = ? AND consumer = ?",
                (new, pipeline, consumer),
            )

    def forget(self, pipeline: str, consumers: Collection[str] | None = None) -> None:
        """Remove what is stored, durably.

        Raises:
            PositionError: When the file cannot be written.
        """
        with self._transaction() as connection:
            if consumers is None:
                connection.execute("DELETE FROM schema_versions WHERE pipeline = ?", (pipeline,))
                connection.execute("DELETE FROM schema_migrations WHERE pipeline = ?", (pipeline,))
            else:
                connection.executemany(
                    "DELETE FROM schema_migrations WHERE pipeline = ? AND consumer = ?",
                    [(pipeline, consumer) for consumer in consumers],
                )

    def close(self) -> None:
        """Close the file."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None
