"""How a store connects, what it sets on its own connections, and that a forked process leaves those alone."""

from __future__ import annotations

import os
import select
import weakref
from collections.abc import Iterable
from typing import Any, Final, Protocol

import psycopg

from pgcdc.connection_string import parameters_of

__all__ = ["PREPARE", "Forgetting", "forget_in_children", "is_quiet", "leave_to_parent", "name_apart", "options_of"]

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


class Forgetting(Protocol):
    """What has connections that are its process's own."""

    def forget(self) -> None:
        """Begin anew, without them."""


_ALL: Final[weakref.WeakSet[Forgetting]] = weakref.WeakSet()


def forget_in_children(connections: Forgetting) -> None:
    """Have a process that is forked (by gunicorn's --preload, by multiprocessing) make its own connections.

    By one that two processes use, each reads what the other has asked for.

    Args:
        connections: Those of a store.
    """
    _ALL.add(connections)


def leave_to_parent(made: Iterable[psycopg.Connection[Any] | psycopg.AsyncConnection[Any]]) -> None:
    """Let go of connections in a forked process without a word to the server, which would take it for the parent's.

    Args:
        made: The connections; psycopg does not finish them in another process than that which has made them.
    """
    for connection in made:
        if not connection.closed:
            os.close(connection.pgconn.socket)
        _LEFT.append(connection)


_LEFT: Final[list[Any]] = []
"""So that nobody is warned that they were not closed."""


def _forget_all() -> None:
    for connections in list(_ALL):
        connections.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
