# Made from connecting_async.py by ./dev lint --fix: change that file, not this one.
"""From a DSN to a connection that libpq has made: hosts in turn, each with its time-out, and no secret in any message.

libpq reads PG* variables, service files and .pgpass and tries several hosts; its asynchronous interface, which alone
can be interrupted, leaves the time-out and the look-up of names to the caller, so psycopg's `conninfo_attempts` splits
the hosts.

Source: PostgreSQL manual, "libpq: Database Connection Control Functions"; psycopg's `connection.py`.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from pgcdc.errors import ConfigError, ConnectionLost, Error
from pgcdc.replication import dsn, generators, waits
from pgcdc.replication.libpq import conninfo, pq, psycopg
from pgcdc.replication.sqlstate import connect_error

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

__all__ = ["make_connection"]

_INTERRUPTIBLE: Final = 0.1
"""Seconds between two looks at the deadline while a connection is made."""


def make_connection(given: str, *, replication: bool, connect_timeout: float, beside: PGconn | None = None) -> PGconn:
    """Connect to the first host of a DSN that lets us in.

    Args:
        given: A connection string or URI; may be empty.
        replication: Whether to ask for a walsender of the database.
        connect_timeout: Seconds for each host, unless the DSN or PGCONNECT_TIMEOUT says otherwise.
        beside: A connection to the server that it must be, where the DSN has several.

    Returns:
        The connection, in non-blocking mode.

    Raises:
        ConfigError: When the DSN is malformed, or the server refuses what it asks for.
        ConnectionLost: When no host answers, or none can take a connection now.

    Source:
        libpq: PQconnectStart, PQconnectPoll.
    """
    parameters = dsn.parameters_of(given, replication)
    if beside is not None:
        parameters = dsn.beside(parameters, beside)
    seconds = dsn.timeout(parameters, connect_timeout)
    try:
        attempts = waits.attempts(parameters)
    except psycopg.Error as error:
        raise ConnectionLost(
            f"connecting to {dsn.target(parameters)} failed: {error}", hint="check the host's name in the DSN or PGHOST"
        ) from None
    failures: list[Error] = []
    for attempt in attempts:
        pgconn = pq.PGconn.connect_start(conninfo.make_conninfo("", **attempt).encode())
        try:
            made = waits.connecting(generators.connect(pgconn, monotonic() + seconds), _INTERRUPTIBLE)
        except psycopg.Error:
            made = True  # the socket went away: what libpq says about it is told below
        except BaseException:
            pgconn.finish()
            raise
        if made and pgconn.status == pq.ConnStatus.OK:
            pgconn.nonblocking = 1
            return pgconn
        said = pgconn.get_error_message("utf-8") if made else f"no answer within {seconds:g} s"
        failures.append(
            connect_error(dsn.target(attempt), said, needs_password=bool(pgconn.needs_password), who=dsn.who(pgconn))
        )
        pgconn.finish()
    # With several hosts the refusal of one that answered says more than the silence of another.
    refused = [failure for failure in failures if isinstance(failure, ConfigError)]
    raise (refused or failures)[-1]
