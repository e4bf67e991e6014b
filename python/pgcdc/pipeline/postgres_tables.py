"""What the pipeline's own tables in PostgreSQL have in common: how they are reached, and what an error tells."""

from __future__ import annotations

import os
from typing import Any, Final

import psycopg
from psycopg import sql

from pgcdc.errors import ConfigError

__all__ = ["DURABLE", "ELSEWHERE", "MADE", "PATIENCE", "begin_creating", "of_standby", "primary", "wait_for_creating"]

_CREATE_LOCK: Final = 0x7067636463000001
"""Held while a table is made: two CREATE … IF NOT EXISTS at once can collide in the catalog."""
MADE: Final = "made by pgcdc"
"""The comment of a schema that was made here, and is dropped when the last pipeline in it is destroyed."""
DURABLE: Final = (
    "SET synchronous_commit = on; SET default_transaction_read_only = off;"
    " SET default_transaction_isolation = 'read committed'"
)
"""What a pipeline confirms must survive the server's crash, whatever the settings of a role or database say."""
ELSEWHERE: Final = (
    "positions=SqlitePositions(…), or PostgresPositions(…) with the primary's DSN; dead letters and versions of tables"
    " go along; or run the pipeline on the primary (target_session_attrs=read-write, where a DSN names several servers)"
)
"""What to do when a pipeline's tables would have to be on a standby."""
PATIENCE: Final[dict[str, Any]] = {
    "connect_timeout": os.environ.get("PGCONNECT_TIMEOUT", "10"),
    "keepalives_idle": 10,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 40_000,
}
"""So that a dead network is noticed within a minute; what the DSN says comes first."""


def wait_for_creating(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Within a transaction, wait for whoever else makes or drops tables of ours.

    Args:
        connection: The connection.
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_CREATE_LOCK,))


def begin_creating(connection: psycopg.Connection[tuple[Any, ...]], schema: str) -> None:
    """Within a transaction, wait for whoever else makes tables of ours, and make the schema where it is missing.

    Who has the schema need not be allowed to make one: CREATE SCHEMA IF NOT EXISTS asks for that also when it is there.

    Args:
        connection: The connection.
        schema: The schema of the tables.
    """
    wait_for_creating(connection)
    if connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone() is None:
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
        connection.execute(sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(schema), sql.Literal(MADE)))


def of_standby(error: psycopg.Error, table: str) -> ConfigError | None:
    """The error when tables of ours cannot be made or written because the server is a standby.

    Args:
        error: What was raised; a session that could write says in `DURABLE` that it does.
        table: The table, as `schema.name`.

    Returns:
        What to raise; None when it was another reason.
    """
    if not isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return None
    return ConfigError(
        f"this server is a standby, where table {table} of pipelines cannot be made or written",
        hint=ELSEWHERE,
        table=table,
        sqlstate=error.sqlstate,
    )


def primary(error: psycopg.Error) -> str:
    """What may be told of an error.

    Args:
        error: The error.

    Returns:
        The primary message alone, because details can hold values of rows. When there was no server to send one,
        libpq's first line; not where it quotes a part of the DSN that it could not understand, which can be of a
        password.
    """
    if error.diag.message_primary:
        return error.diag.message_primary
    text = str(error).partition("\n")[0]
    return text if isinstance(error, psycopg.OperationalError) and "invalid" not in text else type(error).__name__
