"""From a DSN to a connection that libpq has made: hosts in turn, each with its time-out, and no secret in any message.

libpq reads PG* variables, service files and .pgpass and tries several hosts; its asynchronous interface, which alone
can be interrupted, leaves the time-out and the look-up of names to the caller, so psycopg's `conninfo_attempts` splits
the hosts.

Source: PostgreSQL manual, "libpq: Database Connection Control Functions"; psycopg's `connection.py`.
"""

from __future__ import annotations

import os
from time import monotonic
from typing import TYPE_CHECKING, Final

from pgcdc.errors import ConfigError, ConnectionLost, Error
from pgcdc.replication import generators
from pgcdc.replication.libpq import conninfo, pq, psycopg, waiting
from pgcdc.replication.sqlstate import Who, connect_error

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

__all__ = ["make_connection"]

_INTERRUPTIBLE: Final = 0.1
"""Seconds between two looks at the deadline while a connection is made."""


def make_connection(dsn: str, *, replication: bool, connect_timeout: float, beside: PGconn | None = None) -> PGconn:
    """Connect to the first host of a DSN that lets us in.

    Args:
        dsn: A connection string or URI; may be empty.
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
    parameters = _parameters(dsn, replication)
    if beside is not None:
        parameters |= {"host": beside.host.decode(), "port": beside.port.decode()}
        parameters |= {"hostaddr": beside.hostaddr.decode() or None, "target_session_attrs": None}
        if str(parameters["host"]).startswith(("/", "@")):
            parameters["hostaddr"] = None
    seconds = _timeout(parameters, connect_timeout)
    try:
        attempts = conninfo.conninfo_attempts(parameters)
    except psycopg.Error as error:
        raise ConnectionLost(
            f"connecting to {_target(parameters)} failed: {error}", hint="check the host's name in the DSN or PGHOST"
        ) from None
    failures: list[Error] = []
    for attempt in attempts:
        pgconn = pq.PGconn.connect_start(conninfo.make_conninfo("", **attempt).encode())
        try:
            made = waiting.wait_conn(generators.connect(pgconn, monotonic() + seconds), _INTERRUPTIBLE)
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
            connect_error(_target(attempt), said, needs_password=bool(pgconn.needs_password), who=_who(pgconn))
        )
        pgconn.finish()
    # With several hosts the refusal of one that answered says more than the silence of another.
    refused = [failure for failure in failures if isinstance(failure, ConfigError)]
    raise (refused or failures)[-1]


def _parameters(dsn: str, replication: bool) -> dict[str, str | int | None]:
    """What the DSN says, with what pgcdc needs."""
    try:
        parameters = dict(conninfo.conninfo_to_dict(dsn))
    except psycopg.Error:
        # libpq's sentence quotes the part of the DSN that it did not understand, which may be a password.
        raise _malformed() from None
    if any("@" in host[1:] for host in str(parameters.get("host", "")).split(",")):
        raise _malformed()  # the password has an "@", and what follows it was taken for the host
    parameters.pop("replication", None)
    if replication:
        parameters["replication"] = "database"
    parameters["client_encoding"] = "UTF8"
    parameters.setdefault("fallback_application_name", "pgcdc")
    return parameters


def _malformed() -> ConfigError:
    return ConfigError(
        "the DSN is not a connection string that libpq understands",
        hint="postgresql://user@host:5432/database, or host=… port=… user=… dbname=…; in a URI write special"
        " characters of a password as %XX, in the other form put values in single quotes",
    )


def _timeout(parameters: dict[str, str | int | None], default: float) -> float:
    """How long one host may take, in seconds; 0 in the DSN means for ever there, here an hour."""
    said = parameters.get("connect_timeout") or os.environ.get("PGCONNECT_TIMEOUT")
    if not said:
        return default
    try:
        return float(said) if float(said) > 0 else 3600.0
    except ValueError:
        raise ConfigError("connect_timeout is not a number", hint="give it in seconds") from None


def _who(pgconn: PGconn) -> Who:
    """As whom and to which database libpq has tried; it takes what the DSN leaves open from elsewhere."""
    role, database = (name.decode("utf-8", "replace") for name in (pgconn.user, pgconn.db))
    return Who(role or None, database or None)


def _target(parameters: dict[str, str | int | None]) -> str:
    """Where to, without secrets."""
    host = parameters.get("host") or os.environ.get("PGHOST") or "the default host"
    port = parameters.get("port") or os.environ.get("PGPORT") or "5432"
    database = parameters.get("dbname") or os.environ.get("PGDATABASE")
    where = f"{host}:{port}"
    return f'database "{database}" at {where}' if database else where
