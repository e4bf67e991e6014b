"""What is taken for a DSN: libpq's two forms, and the URLs of SQLAlchemy; and how one that is none is refused.

psycopg is imported when a string is taken apart, and not before: this is below the rooms that have a driver.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import parse_qsl, quote, unquote

from pgcdc.errors import ConfigError

__all__ = ["Dsn", "EngineURL", "dsn_of", "parameters_of"]


class EngineURL(Protocol):
    """A `sqlalchemy.URL`, as an engine's `url` is one; nothing of SQLAlchemy is imported for it.

    Attributes:
        drivername: `"postgresql"`, or that and a driver.
        username: None: as libpq finds it; as the others.
        password: Not escaped.
        host: A name, an address, or the directory of a Unix socket.
        port: The port.
        database: The database.
        query: Further parameters of the connection.
    """

    @property
    def drivername(self) -> str: ...  # noqa: D102 (above)
    @property
    def username(self) -> str | None: ...  # noqa: D102
    @property
    def password(self) -> Any: ...  # noqa: D102
    @property
    def host(self) -> str | None: ...  # noqa: D102
    @property
    def port(self) -> int | None: ...  # noqa: D102
    @property
    def database(self) -> str | None: ...  # noqa: D102
    @property
    def query(self) -> Mapping[str, Any]: ...  # noqa: D102


Dsn: TypeAlias = str | EngineURL
"""A connection string or URI of libpq, a URL of SQLAlchemy, or what `sqlalchemy.make_url` makes of it."""

_WITH_DRIVER: Final = re.compile(r"postgres(?:ql)?\+\w+://", re.IGNORECASE)
# As SQLAlchemy reads one: a password ends at the first "@" and may have anything else.
_PARTS: Final = re.compile(
    r"""(?: (?P<username> [^:/@]* ) (?: : (?P<password> [^@]* ) )? @ )?
        (?: \[ (?P<bracketed> [^\]/?]+ ) \] | (?P<host> [^/:?]* ) )
        (?: : (?P<port> [^/?]* ) )?
        (?: / (?P<database> [^?]* ) )?
        (?: \? (?P<query> .* ) )?""",
    re.VERBOSE | re.DOTALL,
)
_OF_DRIVERS: Final = frozenset(
    {
        "async_fallback",
        "command_timeout",
        "max_cacheable_statement_size",
        "max_cached_statement_lifetime",
        "prepare_threshold",
        "prepared_statement_cache_size",
        "prepared_statement_name_func",
        "statement_cache_size",
    }
)
"""What these drivers do with a connection; it says nothing of where it goes."""


def dsn_of(given: Dsn) -> str:
    """The DSN for libpq.

    Args:
        given: As `Dsn` says. `postgresql+psycopg://`, `postgresql+asyncpg://` and the like lose their driver, `ssl=` of
            asyncpg is `sslmode=`, and parameters by which drivers keep statements are left out.

    Returns:
        What libpq understands as it is stays so, whatever it is.

    Raises:
        ConfigError: When an object is the URL of another database.
    """
    if isinstance(given, str):
        driver = _WITH_DRIVER.match(given)
        if driver is None:
            return given
        parts = _PARTS.fullmatch(given, driver.end())
        if parts is None:
            return "postgresql://" + given[driver.end() :]  # libpq will refuse it
        return _uri(
            parts["username"] and unquote(parts["username"]),
            None if parts["password"] is None else unquote(parts["password"]),
            host=parts["bracketed"] or parts["host"],
            port=parts["port"],
            database=parts["database"] and unquote(parts["database"]),
            query=parse_qsl(parts["query"] or "", keep_blank_values=True),
        )
    if given.drivername.partition("+")[0] not in ("postgresql", "postgres"):
        raise ConfigError(f"this is a URL for {given.drivername!r}, not for PostgreSQL", hint="postgresql+psycopg://…")
    return _uri(
        given.username,
        None if given.password is None else str(given.password),
        host=given.host,
        port=None if given.port is None else str(given.port),
        database=given.database,
        query=list(_each(given.query)),
    )


def _each(query: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in query.items():
        for one in (value,) if isinstance(value, str) else value:
            yield name, one


def _uri(
    username: str | None,
    password: str | None,
    *,
    host: str | None,
    port: str | None,
    database: str | None,
    query: list[tuple[str, str]],
) -> str:
    """A URI of libpq's, all of whose parts are escaped."""
    user = quote(username or "", safe="") + ("" if password is None else ":" + quote(password, safe=""))
    where = f"[{host}]" if host and ":" in host else quote(host or "", safe="")
    hosts = [value for name, value in query if name == "host"]
    parameters = [
        ("sslmode" if name == "ssl" else name, value)
        for name, value in query
        if name not in _OF_DRIVERS and not (name == "host" and len(hosts) > 1)
    ]
    if len(hosts) > 1:  # ?host=one:5432&host=other:5433: libpq has two lists
        pairs = [(one, "") if one.startswith("/") else _host_and_port(one) for one in hosts]
        parameters += [("host", ",".join(one for one, _ in pairs)), ("port", ",".join(port for _, port in pairs))]
    return "".join(
        (
            "postgresql://",
            f"{user}@" if user else "",
            where,
            f":{port}" if port else "",
            f"/{quote(database, safe='')}" if database else "",
            "?" if parameters else "",
            "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in parameters),
        )
    )


def _host_and_port(text: str) -> tuple[str, str]:
    host, _, port = text.rpartition(":") if ":" in text else (text, "", "")
    return host.strip("[]"), port


def parameters_of(given: Dsn) -> dict[str, Any]:
    """What a DSN says, by libpq's names.

    Args:
        given: As `Dsn` says.

    Returns:
        Only what it says.

    Raises:
        ConfigError: When it is no DSN. No part of it is quoted, as libpq does it: that may be one of the password.

    Source:
        PostgreSQL manual, "libpq: Database Connection Control Functions".
    """
    from psycopg import Error, conninfo

    try:
        parameters = dict(conninfo.conninfo_to_dict(dsn_of(given)))
    except Error:
        raise _malformed() from None
    if any("@" in host[1:] for host in str(parameters.get("host", "")).split(",")):
        raise _malformed()  # the password has an "@", and what follows it was taken for the host
    return parameters


def _malformed() -> ConfigError:
    return ConfigError(
        "the DSN is not a connection string that libpq understands",
        hint="postgresql://user@host:5432/database, or host=… port=… user=… dbname=…; in a URI write special"
        " characters of a password as %XX, in the other form put values in single quotes",
    )
