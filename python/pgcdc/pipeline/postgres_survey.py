"""The tables of pipelines in PostgreSQL, from outside: which are there, who has rows in them; made and dropped."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from pgcdc.connection_string import parameters_of
from pgcdc.errors import ConfigError, ConnectionLost
from pgcdc.pipeline.postgres_definitions import OwnTables, create
from pgcdc.pipeline.postgres_tables import DURABLE, ELSEWHERE, MADE, PATIENCE, primary, wait_for_creating
from pgcdc.replication.settings import pin

__all__ = ["Place", "TableThere", "drop_unused", "make", "survey"]

_OTHERS = """
    SELECT count(*) FROM pg_catalog.pg_depend d
    WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = %(schema)s::regnamespace
      AND NOT (d.classid = 'pg_catalog.pg_class'::regclass AND (d.objid = ANY (%(ours)s) OR EXISTS (
          SELECT FROM pg_catalog.pg_depend o WHERE o.classid = d.classid AND o.objid = d.objid
              AND o.refclassid = d.classid AND o.refobjid = ANY (%(ours)s))))
"""
"""What is in a schema besides some tables and the sequences of their columns."""


class TableThere(NamedTuple):
    """One table.

    Attributes:
        name: Its name.
        sql: What makes it.
        exists: Whether it is there.
        rows: How many rows each pipeline has in it.
    """

    name: str
    sql: str
    exists: bool
    rows: Mapping[str, int]


class Place(NamedTuple):
    """A schema of a database, with tables of pipelines.

    Attributes:
        schema: Its name.
        schema_exists: Whether it is there.
        schema_is_ours: Whether pgcdc has made it.
        tables: The tables.
        others: How many other things are in it.
        standby: Whether the server is one, where nothing can be made.
    """

    schema: str
    schema_exists: bool
    schema_is_ours: bool
    tables: list[TableThere]
    others: int
    standby: bool


def survey(own: Sequence[OwnTables]) -> list[Place]:
    """Look at tables.

    Args:
        own: The tables of stores.

    Returns:
        By database and schema.

    Raises:
        ConnectionLost: When the server cannot be reached.
        ConfigError: When the role may not look.
    """
    found = []
    for (dsn, schema), tables in _together(own).items():
        with _reaching(dsn) as connection:
            found.append(_look(connection, schema, tables))
    return found


def make(own: Sequence[OwnTables]) -> None:
    """Make what is missing.

    Args:
        own: The tables of stores.

    Raises:
        ConnectionLost: When the server cannot be reached.
        ConfigError: When the role may not make it.
    """
    for one in own:
        with _reaching(one.dsn) as connection, connection.transaction():
            create(connection, one)


def drop_unused(own: Sequence[OwnTables], names: Collection[str]) -> list[str]:
    """Drop tables in which nobody has rows, and their schema when pgcdc has made it and nothing else is in it.

    Args:
        own: The tables of stores.
        names: Those that are to be dropped, `schema.table`.

    Returns:
        Those that stay, because somebody has rows in them, or uses them just now.

    Raises:
        ConnectionLost: When the server cannot be reached.
        ConfigError: When the role may not drop them.
    """
    stay: list[str] = []
    for (dsn, schema), tables in _together(own).items():
        wanted = [name for name in tables if f"{schema}.{name}" in names]
        with _reaching(dsn) as connection:
            try:
                with connection.transaction():
                    stay += _drop(connection, schema, wanted)
            except psycopg.errors.LockNotAvailable:
                stay += [f"{schema}.{name}" for name in wanted]
    return stay


def _together(own: Sequence[OwnTables]) -> dict[tuple[str, str], dict[str, str]]:
    places: dict[tuple[str, str], dict[str, str]] = {}
    for one in own:
        places.setdefault((one.dsn, one.schema), {}).update(one.tables)
    return places


@contextlib.contextmanager
def _reaching(dsn: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    try:
        with psycopg.connect(
            autocommit=True,
            fallback_application_name="pgcdc",
            **{**PATIENCE, **parameters_of(dsn)},
        ) as connection:
            connection.execute(pin(connection.info.server_version))
            connection.execute(DURABLE)
            yield connection
    except psycopg.errors.LockNotAvailable:
        raise
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigError(
            f"the role may not do this with the tables of pipelines: {primary(error)}",
            hint="the role that owns them may; GRANT CREATE ON DATABASE … lets a role make them",
            sqlstate=error.sqlstate,
        ) from error
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise ConfigError(
            "the server that keeps the pipeline's tables is a standby, where they cannot be made, written or dropped",
            hint=ELSEWHERE,
            sqlstate=error.sqlstate,
        ) from error
    except psycopg.Error as error:
        raise ConnectionLost(
            f"the server that keeps the pipeline's tables cannot be used: {primary(error)}", sqlstate=error.sqlstate
        ) from error


def _look(connection: psycopg.Connection[tuple[Any, ...]], schema: str, tables: Mapping[str, str]) -> Place:
    row = connection.execute(
        "SELECT pg_catalog.obj_description(oid, 'pg_namespace') FROM pg_catalog.pg_namespace WHERE nspname = %s",
        (schema,),
    ).fetchone()
    standby = connection.info.parameter_status("in_hot_standby") == "on"
    if row is None:
        missing = [TableThere(name, text, False, {}) for name, text in tables.items()]
        return Place(schema, False, False, missing, 0, standby)
    there, oids = [], []
    for name, text in tables.items():
        table = sql.Identifier(schema, name)
        [oid] = connection.execute("SELECT to_regclass(%s)::oid", (table.as_string(),)).fetchone() or (None,)
        rows: dict[str, int] = {}
        if oid is not None:
            oids.append(oid)
            counted = connection.execute(sql.SQL("SELECT pipeline, count(*) FROM {} GROUP BY 1").format(table))
            rows = dict(counted.fetchall())
        there.append(TableThere(name, text, oid is not None, rows))
    return Place(schema, True, row[0] == MADE, there, _others(connection, schema, oids), standby)


def _others(connection: psycopg.Connection[tuple[Any, ...]], schema: str, ours: Sequence[int]) -> int:
    given = {"schema": sql.Identifier(schema).as_string(), "ours": list(ours)}
    row = connection.execute(_OTHERS, given).fetchone()
    return 0 if row is None else int(row[0])


def _drop(connection: psycopg.Connection[tuple[Any, ...]], schema: str, names: Sequence[str]) -> list[str]:
    wait_for_creating(connection)
    place = _look(connection, schema, dict.fromkeys(names, ""))
    there = [table for table in place.tables if table.exists]
    if there:
        listed = sql.SQL(", ").join(sql.Identifier(schema, table.name) for table in there)
        # Who reads or writes them just now is waited for no longer than a moment.
        connection.execute("SET LOCAL lock_timeout = '5s'")
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(listed))
        if any(table.rows for table in _look(connection, schema, dict.fromkeys(names, "")).tables):
            return [f"{schema}.{table.name}" for table in there]
        connection.execute(sql.SQL("DROP TABLE {}").format(listed))
    if place.schema_is_ours and _others(connection, schema, []) == 0:
        connection.execute(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(schema)))
    return []
