"""Versions of tables' shapes in PostgreSQL: the tables `pgcdc.schema_versions` and `pgcdc.schema_migrations`.

Beside the positions, by default in the source database itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import msgspec
import psycopg
from psycopg import sql

from pgcdc.connection_string import Dsn, dsn_of, parameters_of
from pgcdc.errors import ConfigError, ConnectionLost, PositionError
from pgcdc.pipeline.postgres_definitions import OwnTables, create, schema_tables
from pgcdc.pipeline.postgres_tables import DURABLE, PATIENCE, of_standby, primary
from pgcdc.pipeline.schemas import (
    STEP_COLUMNS,
    VERSION_COLUMNS,
    Step,
    check_step,
    check_version,
    version_from_row,
    version_to_row,
)
from pgcdc.replication.settings import pin
from pgcdc.schema import SchemaVersion

__all__ = ["PostgresSchemas"]

_VERSIONS, _STEPS = sql.SQL(VERSION_COLUMNS), sql.SQL(STEP_COLUMNS)


class PostgresSchemas:
    """Versions and steps in tables of a PostgreSQL database.

    The schema and the tables are made at the first use. For that the role needs CREATE on the database, or, where the
    schema is there, on that.

    Args:
        dsn: Where to connect to, as libpq understands it; also PG* variables and service files.
        schema: The schema of the tables.
    """

    def __init__(self, dsn: Dsn = "", *, schema: str = "pgcdc") -> None:
        self._dsn = dsn_of(dsn)
        self._schema = schema
        self._versions = sql.Identifier(schema, "schema_versions")
        self._steps = sql.Identifier(schema, "schema_migrations")
        self._opened: psycopg.Connection[tuple[Any, ...]] | None = None
        self._who = ("the pipeline's role", "the database")

    @property
    def _connection(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._opened is None:
            raise PositionError(f'the schema store "{self._schema}"."schema_versions" is not open')
        return self._opened

    def open(self) -> None:
        """Connect, and create what is missing.

        Raises:
            ConnectionLost: When the server cannot be reached.
            ConfigError: When the tables cannot be made or used.
        """
        self.close()
        connection = self._connect()
        try:
            connection.execute(pin(connection.info.server_version))
            connection.execute(DURABLE)
            if not self._is_made(connection):
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
                fallback_application_name="pgcdc schemas",
                **{**PATIENCE, **parameters_of(self._dsn)},
            )
        except psycopg.Error as error:
            raise _lost(error) from error
        self._who = (connection.info.user, connection.info.dbname)
        return connection

    def _is_made(self, connection: psycopg.Connection[tuple[Any, ...]]) -> bool:
        query = "SELECT to_regclass(%s) IS NOT NULL AND to_regclass(%s) IS NOT NULL"
        names = [table.as_string(connection) for table in (self._versions, self._steps)]
        return connection.execute(query, names).fetchone() == (True,)

    def _unusable(self, error: psycopg.Error) -> Exception:
        if isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08")[:2] in ("08", "53", "57"):
            return _lost(error)  # also while the server is being stopped, or has no room just now
        if (refused := of_standby(error, f"{self._schema}.schema_versions")) is not None:
            return refused
        schema = sql.Identifier(self._schema).as_string()
        role, database = (sql.Identifier(name).as_string() for name in self._who)
        return ConfigError(
            f"the tables {schema}.schema_versions and {schema}.schema_migrations cannot be made or used:"
            f" {primary(error)}",
            hint=f"GRANT CREATE ON DATABASE {database} TO {role}; or, when another role has made them:"
            f" GRANT USAGE ON SCHEMA {schema} TO {role};"
            f" GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.schema_versions, {schema}.schema_migrations TO {role}",
            table=f"{self._schema}.schema_versions",
            sqlstate=error.sqlstate,
        )

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        connection = self._connection
        try:
            with connection.transaction():
                yield connection
        except psycopg.OperationalError as error:
            raise _lost(error) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise self._unusable(error) from error
        except psycopg.Error as error:
            raise PositionError(
                f"the table {self._schema}.schema_versions or {self._schema}.schema_migrations cannot be used:"
                f" {primary(error)}",
                hint="nothing was delivered past what is stored; put the tables right and start again",
                table=f"{self._schema}.schema_versions",
                sqlstate=error.sqlstate,
            ) from error

    def versions(self, pipeline: str) -> list[SchemaVersion]:
        """Read all versions of a pipeline's tables.

        Raises:
            ConnectionLost: When the server is gone.
            PositionError: When the table cannot be read.
        """
        query = sql.SQL("SELECT {} FROM {} WHERE pipeline = %s").format(_VERSIONS, self._versions)
        with self._transaction() as connection:
            return [version_from_row(row) for row in connection.execute(query, (pipeline,))]

    def add(self, pipeline: str, versions: Sequence[SchemaVersion]) -> None:
        """Write versions, all or none, durably; of one that is there already the earlier beginning stays.

        Raises:
            ConnectionLost: When the server is gone; whether they were written is not known then.
            PositionError: When another shape is there under the same number.
        """
        insert = sql.SQL(
            "INSERT INTO {} AS stored (pipeline, {}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s::pg_lsn, %s, %s)"
            " ON CONFLICT (pipeline, relation_oid, version) DO UPDATE"
            " SET first_lsn = EXCLUDED.first_lsn, first_index = EXCLUDED.first_index"
            " WHERE stored.fingerprint = EXCLUDED.fingerprint"
            " AND (EXCLUDED.first_lsn, EXCLUDED.first_index) < (stored.first_lsn, stored.first_index)"
        ).format(self._versions, _VERSIONS)
        query = sql.SQL("SELECT {} FROM {} WHERE pipeline = %s AND relation_oid = %s AND version = %s").format(
            _VERSIONS, self._versions
        )
        with self._transaction() as connection:
            for version in versions:
                if not connection.execute(insert, (pipeline, *version_to_row(version))).rowcount:
                    row = connection.execute(query, (pipeline, version.oid, version.version)).fetchone()
                    check_version(pipeline, version, None if row is None else version_from_row(row))

    def steps(self, pipeline: str) -> list[Step]:
        """Read all steps of a pipeline's consumers.

        Raises:
            ConnectionLost: When the server is gone.
            PositionError: When the table cannot be read.
        """
        query = sql.SQL("SELECT {} FROM {} WHERE pipeline = %s").format(_STEPS, self._steps)
        with self._transaction() as connection:
            return [Step(*row) for row in connection.execute(query, (pipeline,))]

    def record(self, pipeline: str, steps: Sequence[Step]) -> None:
        """Write how far consumers are, all or none, durably.

        Raises:
            ConnectionLost: When the server is gone; whether it was written is not known then.
            PositionError: When a later owner has written one of them, or it is done already.
        """
        write = sql.SQL(
            "INSERT INTO {table} AS stored (pipeline, {columns}) VALUES (%s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (pipeline, consumer, relation_oid, version) DO UPDATE"
            " SET state = EXCLUDED.state, epoch = EXCLUDED.epoch, updated_at = clock_timestamp()"
            " WHERE stored.epoch <= EXCLUDED.epoch AND (stored.state <> 'done' OR EXCLUDED.state = 'done')"
        ).format(table=self._steps, columns=_STEPS)
        query = sql.SQL(
            "SELECT {} FROM {} WHERE pipeline = %s AND consumer = %s AND relation_oid = %s AND version = %s"
        ).format(_STEPS, self._steps)
        with self._transaction() as connection:
            for step in steps:
                if not connection.execute(write, (pipeline, *msgspec.structs.astuple(step))).rowcount:
                    row = connection.execute(query, (pipeline, step.consumer, step.oid, step.version)).fetchone()
                    check_step(pipeline, step, None if row is None else Step(*row))

    def rename(self, pipeline: str, consumer: str, new: str) -> None:
        """Let steps be another consumer's, durably.

        Raises:
            ConnectionLost: When the server is gone.
            PositionError: When the table cannot be written.
        """
        with self._transaction() as connection:
            connection.execute(
                sql.SQL("DELETE FROM {} WHERE pipeline = %s AND consumer = %s").format(self._steps), (pipeline, new)
            )
            connection.execute(
                sql.SQL("UPDATE {} SET consumer = %s WHERE pipeline = %s AND consumer = %s").format(self._steps),
                (new, pipeline, consumer),
            )

    def forget(self, pipeline: str, consumers: Collection[str] | None = None) -> None:
        """Remove what is stored, durably.

        Raises:
            ConnectionLost: When the server is gone.
            PositionError: When the table cannot be written.
        """
        with self._transaction() as connection:
            if consumers is None:
                connection.execute(sql.SQL("DELETE FROM {} WHERE pipeline = %s").format(self._versions), (pipeline,))
            connection.execute(
                sql.SQL(
                    "DELETE FROM {} WHERE pipeline = %s AND (%s::text[] IS NULL OR consumer = ANY (%s::text[]))"
                ).format(self._steps),
                (pipeline, *(2 * (None if consumers is None else list(consumers),))),
            )

    def own_tables(self) -> OwnTables:
        """The tables that `open` makes."""
        return schema_tables(self._dsn, self._schema)

    def close(self) -> None:
        """Close the connection."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


def _lost(error: psycopg.Error) -> ConnectionLost:
    return ConnectionLost(
        f"the server that keeps the versions of tables cannot be reached: {primary(error)}",
        hint="nothing was delivered past what is stored",
        sqlstate=error.sqlstate,
    )
