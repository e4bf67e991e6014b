"""What a DSN says, with what pgcdc needs, and how it is named without a secret."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pgcdc import connection_string
from pgcdc.errors import ConfigError
from pgcdc.replication.sqlstate import Who

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

__all__ = ["beside", "parameters_of", "target", "timeout", "who"]


def parameters_of(dsn: str, replication: bool) -> dict[str, str | int | None]:
    """What the DSN says, with what pgcdc needs."""
    parameters: dict[str, str | int | None] = connection_string.parameters_of(dsn)
    parameters.pop("replication", None)
    if replication:
        parameters["replication"] = "database"
    parameters["client_encoding"] = "UTF8"
    parameters.setdefault("fallback_application_name", "pgcdc")
    return parameters


def beside(parameters: dict[str, str | int | None], pgconn: PGconn) -> dict[str, str | int | None]:
    """The same, for the one server of several that a connection goes to.

    Args:
        parameters: What the DSN says.
        pgconn: The connection.

    Returns:
        The parameters of another connection to that server.
    """
    parameters = parameters | {"host": pgconn.host.decode(), "port": pgconn.port.decode()}
    parameters |= {"hostaddr": pgconn.hostaddr.decode() or None, "target_session_attrs": None}
    if str(parameters["host"]).startswith(("/", "@")):
        parameters["hostaddr"] = None
    return parameters


def timeout(parameters: dict[str, str | int | None], default: float) -> float:
    """How long one host may take, in seconds; 0 in the DSN means for ever there, here an hour."""
    said = parameters.get("connect_timeout") or os.environ.get("PGCONNECT_TIMEOUT")
    if not said:
        return default
    try:
        return float(said) if float(said) > 0 else 3600.0
    except ValueError:
        raise ConfigError("connect_timeout is not a number", hint="give it in seconds") from None


def who(pgconn: PGconn) -> Who:
    """As whom and to which database libpq has tried; it takes what the DSN leaves open from elsewhere."""
    role, database = (name.decode("utf-8", "replace") for name in (pgconn.user, pgconn.db))
    return Who(role or None, database or None)


def target(parameters: dict[str, str | int | None]) -> str:
    """Where to, without secrets."""
    host = parameters.get("host") or os.environ.get("PGHOST") or "the default host"
    port = parameters.get("port") or os.environ.get("PGPORT") or "5432"
    database = parameters.get("dbname") or os.environ.get("PGDATABASE")
    where = f"{host}:{port}"
    return f'database "{database}" at {where}' if database else where
