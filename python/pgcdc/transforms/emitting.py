"""`pgcdc.emit`: an event from within the application's transaction, without a table; no driver is imported for it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

from pgcdc.errors import ConfigError
from pgcdc.transforms.outbox import PREFIX, content_of

__all__ = ["aemit", "emit"]

_SQL: Final = "SELECT pg_catalog.pg_logical_emit_message(true, %s::text, %s::bytea)"
_NUMBERED: Final = _SQL.replace("%s", "$1", 1).replace("%s", "$2", 1)


def emit(
    connection: Any, topic: str, payload: Any, *, key: str | None = None, headers: Mapping[str, str] | None = None
) -> None:
    """Say an event within the connection's transaction: it reaches consumers if and when that commits.

    It is written to the WAL as a logical message, and to no table. `Pipeline.on_message(topic)` and the option
    `topics=` get it.

    Args:
        connection: A connection of psycopg, psycopg2 or another driver of DB-API 2.0 with `%s`, or a connection or
            session of SQLAlchemy on one of these. It is not committed.
        topic: What kind of event it is.
        payload: Bytes as they are, else anything that msgspec writes as JSON.
        key: What the event is about, of the application's choosing.
        headers: What else is to be said of it.

    Raises:
        ConfigError: When the connection cannot be used so, or the topic is empty or has a zero byte in it.

    Source:
        PostgreSQL manual, "Replication Management Functions", `pg_logical_emit_message`.
    """
    arguments = _arguments(topic, payload, key, headers)
    if _is_async(connection):
        raise ConfigError(
            f"a {type(connection).__name__} is asynchronous", hint="await pgcdc.aemit(connection, topic, payload)"
        )
    if callable(session := getattr(connection, "connection", None)) and hasattr(connection, "execute"):
        connection = session()  # of a session of SQLAlchemy the connection that its transaction is on
    if hasattr(connection, "exec_driver_sql"):
        connection.exec_driver_sql(_SQL, arguments)
    elif hasattr(connection, "cursor"):
        cursor = connection.cursor()
        try:
            cursor.execute(_SQL, arguments)
        finally:
            cursor.close()
    else:
        raise _not_usable(connection)


async def aemit(
    connection: Any, topic: str, payload: Any, *, key: str | None = None, headers: Mapping[str, str] | None = None
) -> None:
    """As `emit`, for asynchronous connections.

    Args:
        connection: A connection of psycopg's asynchronous half or of asyncpg, or an asynchronous one of SQLAlchemy on
            psycopg.
        topic: See `emit`, as what follows.
        payload: Likewise.
        key: Likewise.
        headers: Likewise.

    Raises:
        ConfigError: As `emit`.
    """
    arguments = _arguments(topic, payload, key, headers)
    if not _is_async(connection):
        raise ConfigError(
            f"a {type(connection).__name__} is not asynchronous", hint="pgcdc.emit(connection, topic, payload)"
        )
    if hasattr(connection, "exec_driver_sql"):
        await connection.exec_driver_sql(_SQL, arguments)
    elif hasattr(connection, "fetchval"):
        await connection.fetchval(_NUMBERED, *arguments)
    elif hasattr(connection, "cursor"):
        await connection.execute(_SQL, arguments)
    else:
        raise _not_usable(connection)


def _is_async(connection: Any) -> bool:
    return inspect.iscoroutinefunction(getattr(connection, "execute", None))


def _not_usable(connection: Any) -> ConfigError:
    return ConfigError(
        f"nothing can be emitted through a {type(connection).__name__}",
        hint="give a connection of psycopg, psycopg2, asyncpg or SQLAlchemy; or run"
        " SELECT pg_logical_emit_message(true, 'pgcdc.outbox:TOPIC', CONTENT) (docs/transforms.md says what it holds)",
    )


def _arguments(topic: str, payload: Any, key: str | None, headers: Mapping[str, str] | None) -> tuple[str, bytes]:
    if not topic or "\x00" in topic:
        raise ConfigError("a topic is a name of at least one character, and none of them a zero byte")
    return PREFIX + topic, content_of(payload, key, headers)
