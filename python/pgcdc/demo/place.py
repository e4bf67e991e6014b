"""Where the demo runs: the embedded server, or a schema of its own on the user's server, of which nothing is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import psycopg
from psycopg import sql

from pgcdc.connection_string import dsn_of
from pgcdc.embedded import EmbeddedPostgres
from pgcdc.errors import ConfigError, ConnectionLost
from pgcdc.replication import Connection, check_server, connect

__all__ = ["NAME", "Place", "embedded_server", "own_server", "sql_connection"]

NAME: Final = "pgcdc_demo"
"""The name of the slot and the publication, and of the schema on the user's own server."""

_DROP: Final = (
    f"SELECT pg_drop_replication_slot('{NAME}'); DROP PUBLICATION IF EXISTS {NAME};"
    f" DROP SCHEMA IF EXISTS {NAME} CASCADE;"
)
_LEFTOVERS: Final = f"if it is left from a demo that was killed: {_DROP}"


class Place(msgspec.Struct, frozen=True):
    """Where the shop is.

    Attributes:
        dsn: How to connect; may hold a password.
        schema: The shop's schema; it exists and is empty.
        server_version: As `SHOW server_version` says, without what the packager added.
        embedded: Whether the server is deleted afterwards.
    """

    dsn: str
    schema: str
    server_version: str
    embedded: bool


@contextmanager
def embedded_server() -> Iterator[Place]:
    """Start a server for the demo alone.

    Yields:
        The place, in the schema `public`.

    Raises:
        ConfigError: When the package with the server is not installed.
        ConnectionLost: When the server does not start.
    """
    with EmbeddedPostgres() as server:
        with connect(server.dsn) as connection:
            version = _version(connection)
        yield Place(server.dsn, "public", version, embedded=True)


@contextmanager
def own_server(dsn: str) -> Iterator[Place]:
    """Use a server that exists, after making sure that nothing is in the way; what was made is dropped afterwards.

    Args:
        dsn: How to connect, as libpq understands it.

    Yields:
        The place, in a new schema.

    Raises:
        ConfigError: When the server or the role cannot do it, or something of the demo's name exists already.
        ConnectionLost: When the server cannot be reached.
    """
    dsn = dsn_of(dsn)
    with connect(dsn) as connection:
        check_server(connection, need_new_slot=True)
        if connection.slot(NAME) is not None:
            raise ConfigError(f'the replication slot "{NAME}" exists already', hint=_LEFTOVERS, slot=NAME)
        version = _version(connection)
    with sql_connection(dsn) as database:
        _make_schema(database)
    try:
        yield Place(dsn, NAME, version, embedded=False)
    finally:
        try:
            with sql_connection(dsn) as database:
                database.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(NAME)))
        except (ConnectionLost, psycopg.OperationalError):
            raise ConnectionLost(
                "the server went away, and what the demo made there could not be dropped",
                hint=f"when it is back: {_DROP}",
                slot=NAME,
                publication=NAME,
            ) from None


def sql_connection(dsn: str) -> psycopg.Connection[tuple[Any, ...]]:
    """Connect for SQL; every statement is a transaction of its own.

    Args:
        dsn: How to connect.

    Raises:
        ConnectionLost: When the server cannot be reached.
    """
    try:
        return psycopg.connect(dsn, autocommit=True, application_name="pgcdc-demo", connect_timeout=10)
    except psycopg.OperationalError as error:
        # libpq's first line names host, port and reason, never the password.
        raise ConnectionLost(f"connecting for SQL failed: {str(error).partition(chr(10))[0]}") from None


def _make_schema(database: psycopg.Connection[tuple[Any, ...]]) -> None:
    for what, query in (
        ("schema", "SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s"),
        ("publication", "SELECT FROM pg_catalog.pg_publication WHERE pubname = %s"),
    ):
        if database.execute(query, (NAME,)).rowcount:
            raise ConfigError(f'the {what} "{NAME}" exists already', hint=_LEFTOVERS)
    try:
        database.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(NAME)))
    except psycopg.errors.InsufficientPrivilege as error:
        name, user = database.info.dbname, database.info.user
        raise ConfigError(
            f'the role "{user}" may not create a schema in the database "{name}"',
            hint=f'GRANT CREATE ON DATABASE "{name}" TO "{user}";',
            sqlstate=error.sqlstate,
        ) from None
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise ConfigError(
            "the server is read-only: the demo writes",
            hint="name the primary in --dsn; if this is one: ALTER ROLE … SET default_transaction_read_only = off;",
            sqlstate=error.sqlstate,
        ) from None


def _version(connection: Connection) -> str:
    return (connection.execute("SHOW server_version")[0][0] or "").split(" ")[0]
