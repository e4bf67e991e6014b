"""The tables that a pipeline keeps in PostgreSQL, as SQL: made by its stores at their first use, or by `pgcdc init`."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import dedent
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql

from pgcdc.pipeline.postgres_tables import begin_creating

__all__ = ["OwnTables", "create", "dead_letter_tables", "position_tables", "schema_tables"]

# Half-empty pages: the rows are updated every second, and without indexed changes stay on their page (HOT).
_POSITIONS: Final = """
    CREATE TABLE IF NOT EXISTS {schema}.positions (
        pipeline text NOT NULL,
        consumer text NOT NULL,
        epoch bigint NOT NULL,
        snapshot text NOT NULL,
        commit_lsn pg_lsn,
        change_index bigint,
        through_lsn pg_lsn NOT NULL,
        slot text NOT NULL,
        system_identifier text NOT NULL,
        timeline bigint NOT NULL,
        fingerprint text NOT NULL,
        tables text,
        seen text,
        spool text,
        updated_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (pipeline, consumer)
    ) WITH (fillfactor = 50)
"""
_OWNERS: Final = """
    CREATE TABLE IF NOT EXISTS {schema}.dead_letter_owners (
        pipeline text NOT NULL,
        consumer text NOT NULL,
        epoch bigint NOT NULL,
        PRIMARY KEY (pipeline, consumer)
    )
"""
_LETTERS: Final = """
    CREATE TABLE IF NOT EXISTS {schema}.dead_letters (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        pipeline text NOT NULL,
        consumer text NOT NULL,
        commit_lsn pg_lsn NOT NULL,
        change_index bigint NOT NULL,
        digest text NOT NULL,
        state text NOT NULL,
        requested boolean NOT NULL DEFAULT false,
        table_name text,
        action text NOT NULL,
        key text,
        change text,
        message bytea NOT NULL,
        holds text NOT NULL,
        error_type text NOT NULL,
        error_text text NOT NULL,
        attempts bigint NOT NULL,
        first_at timestamptz NOT NULL,
        last_at timestamptz NOT NULL,
        UNIQUE (pipeline, consumer, commit_lsn, change_index, digest)
    )
"""
_VERSIONS: Final = """
    CREATE TABLE IF NOT EXISTS {schema}.schema_versions (
        pipeline text NOT NULL,
        relation_oid bigint NOT NULL,
        version integer NOT NULL,
        schema_name text NOT NULL,
        table_name text NOT NULL,
        replica_identity text NOT NULL,
        columns text NOT NULL,
        fingerprint text NOT NULL,
        first_lsn pg_lsn NOT NULL,
        first_index bigint NOT NULL,
        seen_at text NOT NULL,
        PRIMARY KEY (pipeline, relation_oid, version)
    )
"""
_STEPS: Final = """
    CREATE TABLE IF NOT EXISTS {schema}.schema_migrations (
        pipeline text NOT NULL,
        consumer text NOT NULL,
        relation_oid bigint NOT NULL,
        version integer NOT NULL,
        state text NOT NULL,
        epoch bigint NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (pipeline, consumer, relation_oid, version)
    )
"""


class OwnTables(NamedTuple):
    """Tables of one store.

    Attributes:
        dsn: The database that they are in.
        schema: Their schema.
        tables: The SQL that makes each, by its name.
    """

    dsn: str
    schema: str
    tables: Mapping[str, str]


def position_tables(dsn: str, schema: str) -> OwnTables:
    """The table of positions.

    Args:
        dsn: The database.
        schema: The schema.
    """
    return _own(dsn, schema, positions=_POSITIONS)


def dead_letter_tables(dsn: str, schema: str) -> OwnTables:
    """The tables of dead letters.

    Args:
        dsn: The database.
        schema: The schema.
    """
    return _own(dsn, schema, dead_letter_owners=_OWNERS, dead_letters=_LETTERS)


def schema_tables(dsn: str, schema: str) -> OwnTables:
    """The tables of tables' versions.

    Args:
        dsn: The database.
        schema: The schema.
    """
    return _own(dsn, schema, schema_versions=_VERSIONS, schema_migrations=_STEPS)


def create(connection: psycopg.Connection[tuple[Any, ...]], own: OwnTables) -> None:
    """Within a transaction, make schema and tables where they are missing.

    Args:
        connection: A connection to their database.
        own: The tables.
    """
    begin_creating(connection, own.schema)
    for text in own.tables.values():
        connection.execute(text.encode())


def _own(dsn: str, schema: str, **tables: str) -> OwnTables:
    name = sql.Identifier(schema).as_string()
    return OwnTables(dsn, schema, {table: dedent(text).strip().format(schema=name) for table, text in tables.items()})
