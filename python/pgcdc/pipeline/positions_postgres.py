"""Positions in a PostgreSQL table, `pgcdc.positions`: by default in the source database itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from psycopg import sql

from pgcdc.connection_string import Dsn, dsn_of, parameters_of
from pgcdc.errors import ConfigError, ConnectionLost, PositionError
from pgcdc.pipeline.deadletter_postgres import PostgresDeadLetters
from pgcdc.pipeline.positions import COLUMNS, Move, StoredPosition, from_row, refused, to_row
from pgcdc.pipeline.postgres_definitions import OwnTables, create, position_tables
from pgcdc.pipeline.postgres_tables import DURABLE, PATIENCE, of_standby, primary
from pgcdc.pipeline.schemas_postgres import PostgresSchemas
from pgcdc.replication.settings import pin
from pgcdc.replication.sqlstate import ON_STANDBY

__all__ = ["PostgresPositions"]

_COLUMNS = sql.SQL(COLUMNS)
_LATER = ("tables", "seen", "spool")
"""Columns that an earlier version did not make."""


class PostgresPositions:
    """Positions in a table of a PostgreSQL database.

    The schema and the table are made at the first use. For that the role needs CREATE on the database, or, where the
    schema is there, on that.

    Args:
        dsn: Where to connect to, as libpq understands it; also PG* variables and service files.
        schema: The schema of the table `positions`.
    """

    def __init__(self, dsn: Dsn = "", *, schema: str = "pgcdc") -> None:
        self._dsn = dsn_of(dsn)
        self._schema = schema
        self._table = sql.Identifier(schema, "positions")
        self._opened: psycopg.Connection[tuple[Any, ...]] | None = None
        self._who = ("the pipeline's role", "the database")

    def again(self) -> PostgresPositions:
        """Another store in the same table, not connected."""
        return PostgresPositions(self._dsn, schema=self._schema)

    @property
    def _connection(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._opened is None:
            raise PositionError(f'the position store "{self._schema}"."positions" is not open')
        return self._opened

    def open(self) -> None:
        """Connect, and create schema and table where they are missing.

        Raises:
            ConnectionLost: When the server cannot be reached.
            ConfigError: When the table cannot be made or used.
        """
        self.close()
        connection = self._connect()
        try:
            connection.execute(pin(connection.info.server_version))
            connection.execute(DURABLE)
            if self._is_made(connection):
                self._extend(connection)
            else:
                with connection.transaction():
                    create(connection, self.own_tables())
        except psycopg.Error as error:
            connection.close()
            raise self._unusable(error) from error
        self._opened = connection

    def is_there(self) -> bool:
        """Whether there is anything to read; nothing is made for that.

        Raises:
            ConnectionLost: When the server cannot be reached.
            ConfigError: When the role may not look.
        """
        with closing(self._connect()) as connection:
            try:
                return self._is_made(connection)
            except psycopg.Error as error:
                raise self._unusable(error) from error

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        try:
            connection = psycopg.connect(
                autocommit=True,
                fallback_application_name="pgcdc positions",
                **{**PATIENCE, **parameters_of(self._dsn)},
            )
        except psycopg.Error as error:
            raise _lost(error) from error
        self._who = (connection.info.user, connection.info.dbname)
        return connection

    def _is_made(self, connection: psycopg.Connection[tuple[Any, ...]]) -> bool:
        found = connection.execute("SELECT to_regclass(%s)", (self._table.as_string(connection),)).fetchone()
        return found is not None and found[0] is not None

    def _extend(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        """Add what a table lacks that an earlier version has made."""
        query = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = ANY (%s)"
        found = {name for (name,) in connection.execute(query, (self._table.as_string(connection), list(_LATER)))}
        for column in _LATER:
            if column not in found:
                add = sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} text")
                connection.execute(add.format(self._table, sql.Identifier(column)))

    def _unusable(self, error: psycopg.Error) -> Exception:
        if isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08")[:2] in ("08", "53", "57"):
            return _lost(error)  # also while the server is being stopped, or has no room just now
        if (refused := of_standby(error, f"{self._schema}.positions")) is not None:
            return refused
        schema = sql.Identifier(self._schema).as_string()
        role, database = (sql.Identifier(name).as_string() for name in self._who)
        hint = (
            f"GRANT CREATE ON DATABASE {database} TO {role}; or, when another role has made it:"
            f" GRANT USAGE ON SCHEMA {schema} TO {role};"
            f" GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.positions TO {role};"
            " or keep the positions elsewhere: Pipeline(…, positions=…)"
        )
        return ConfigError(
            f"the position table {schema}.positions cannot be made or used: {primary(error)}",
            hint=hint,
            table=f"{self._schema}.positions",
            sqlstate=error.sqlstate,
        )

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        connection = self._connection
        try:
            with connection.transaction():
                yield connection
        except (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction) as error:
            raise _lost(error) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise self._unusable(error) from error
        except psycopg.Error as error:
            raise PositionError(
                f"the position table {self._schema}.positions cannot be used: {primary(error)}",
                hint="nothing was confirmed past what is stored; put the table right and start again",
                table=f"{self._schema}.positions",
                sqlstate=error.sqlstate,
            ) from error

    def load(self, pipeline: str) -> dict[str, StoredPosition]:
        """Read all that is stored for a pipeline.

        Raises:
            ConnectionLost: When the server is gone.
            PositionError: When the table cannot be read.
        """
        query = sql.SQL("SELECT {} FROM {} WHERE pipeline = %s").format(_COLUMNS, self._table)
        with self._transaction() as connection:
            return {row[0]: from_row(row) for row in connection.execute(query, (pipeline,))}

    def own_slots(self, pipeline: str) -> list[str]:
        """The consumers of a pipeline of which something is stored as of one with a slot of its own.

        Raises:
            ConnectionLost: When the server is gone.
            PositionError: When the table cannot be read.
        """
        query = sql.SQL("SELECT DISTINCT pipeline FROM {} WHERE starts_with(pipeline, %s)").format(self._table)
        with self._transaction() as connection:
            return sorted(name.partition("/")[2] for (name,) in connection.execute(query, (f"{pipeline}/",)))

    def move(self, pipeline: str, moves: Sequence[Move]) -> None:
        """Do all steps or none, durably.

        Raises:
            ConnectionLost: When the server is gone; whether the steps were done is not known then.
            PositionError: When what is stored is not what a step expects, or the table cannot be written.
        """
        insert = sql.SQL(
            "INSERT INTO {} (pipeline, {}) VALUES"
            " (%s, %s, %s, %s, %s::pg_lsn, %s, %s::pg_lsn, %s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING"
        ).format(self._table, _COLUMNS)
        update = sql.SQL(
            "UPDATE {} SET ({}, updated_at) ="
            " (%s, %s, %s, %s::pg_lsn, %s, %s::pg_lsn, %s, %s, %s, %s, %s, %s, %s, clock_timestamp())"
            " WHERE pipeline = %s AND consumer = %s AND epoch = %s AND through_lsn = %s::pg_lsn"
            " AND commit_lsn IS NOT DISTINCT FROM %s::pg_lsn AND change_index IS NOT DISTINCT FROM %s::bigint"
        ).format(self._table, _COLUMNS)
        with self._transaction() as connection:
            for move in moves:
                previous = move.previous
                if previous is None:
                    cursor = connection.execute(insert, (pipeline, *to_row(move.next)))
                else:
                    consumer, epoch, _, commit_lsn, index, through_lsn, *_rest = to_row(previous)
                    compare = (pipeline, consumer, epoch, through_lsn, commit_lsn, index)
                    cursor = connection.execute(update, (*to_row(move.next), *compare))
                if cursor.rowcount != 1:
                    query = sql.SQL("SELECT {} FROM {} WHERE pipeline = %s AND consumer = %s")
                    row = connection.execute(
                        query.format(_COLUMNS, self._table), (pipeline, move.next.consumer)
                    ).fetchone()
                    raise refused(pipeline, move, None if row is None else from_row(row))

    def forget(self, pipeline: str, consumers: Collection[str] | None = None) -> None:
        """Remove what is stored, durably.

        Raises:
            ConnectionLost: When the server is gone.
            PositionError: When the table cannot be written.
        """
        with self._transaction() as connection:
            connection.execute(
                sql.SQL(
                    "DELETE FROM {} WHERE pipeline = %s AND (%s::text[] IS NULL OR consumer = ANY (%s::text[]))"
                ).format(self._table),
                (pipeline, *(2 * (None if consumers is None else list(consumers),))),
            )

    def dead_letters(self) -> PostgresDeadLetters:
        """A store of dead letters beside this table."""
        return PostgresDeadLetters(self._dsn, schema=self._schema)

    def schemas(self) -> PostgresSchemas:
        """A store of versions of tables' shapes beside the positions."""
        return PostgresSchemas(self._dsn, schema=self._schema)

    def own_tables(self) -> OwnTables:
        """The table that `open` makes."""
        return position_tables(self._dsn, self._schema)

    def close(self) -> None:
        """Close the connection."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


def _lost(error: psycopg.Error) -> ConnectionLost:
    read_only = isinstance(error, psycopg.errors.ReadOnlySqlTransaction)
    return ConnectionLost(
        f"the server that keeps the positions cannot be {'written to' if read_only else 'reached'}: {primary(error)}",
        hint=f"nothing was confirmed past what is stored{f'; {ON_STANDBY}' if read_only else ''}",
        sqlstate=error.sqlstate,
    )
