"""How a store connects, and what it sets on its own connections."""

from __future__ import annotations

import os
import select
from typing import Any, Final

import psycopg

from pgcdc.connection_string import parameters_of

__all__ = ["PREPARE", "is_quiet", "name_apart", "options_of"]

PREPARE: Final = (
    # What was appended survives the server's crash, whatever role or database say; a DSN that says otherwise is meant.
    "SELECT set_config('synchronous_commit', 'on', false) FROM pg_settings"
    " WHERE name = 'synchronous_commit' AND setting = 'off' AND source <> 'client';"
    " SET default_transaction_read_only = off; SET default_transaction_isolation = 'read committed';"
    " SET row_security = off; SET timezone = 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'"
)
_PATIENCE: Final[dict[str, Any]] = {
    "connect_timeout": os.environ.get("PGCONNECT_TIMEOUT", "10"),
    "keepalives_idle": 10,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 40_000,
    "fallback_application_name": "pgcdc event store",
}
"""So that a dead network is noticed within a minute; what the DSN says comes first."""


def options_of(dsn: str) -> dict[str, Any]:
    """What to connect with.

    Args:
        dsn: As `pgcdc.connection_string.Dsn` says.

    Returns:
        libpq's parameters.

    Raises:
        ConfigError: When it is no DSN.
    """
    return {**_PATIENCE, **parameters_of(dsn), "client_encoding": "UTF8"}


def is_quiet(socket: int) -> bool:
    """Whether nothing has come on an idle connection. Something that has is the server's farewell.

    Args:
        socket: Its file descriptor.

    Returns:
        Whether.
    """
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return not poll.poll(0)


def name_apart(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Have what psycopg prepares named as on no other connection.

    Behind a pooler several share a server's process. psycopg counts from 0 on each, so that the name of one's statement
    would be that of another's, perhaps of a store in another schema.

    Args:
        connection: One that is new.
    """
    connection._prepared._prepared_idx = int.from_bytes(os.urandom(7), "big")
