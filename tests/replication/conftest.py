"""A connection and a slot, and servers with unusual settings, for the tests of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import pgcdc
from tests.conftest import Database
from tests.replication.streams import new_name
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pgcdc.replication import AsyncConnection, Connection


@pytest.fixture
def connection(request: pytest.FixtureRequest, database: Database) -> Connection | AsyncConnection:
    """A connection to `database`, of the colour of the tests of that file."""
    asynchronous = request.module.__name__.endswith("_async")
    made: Connection | AsyncConnection = request.getfixturevalue(
        "asynchronous_connection" if asynchronous else "synchronous_connection"
    )
    return made


@pytest.fixture
def synchronous_connection(database: Database) -> Iterator[Connection]:
    with pgcdc.connect(database.dsn) as connection:
        yield connection


@pytest.fixture
async def asynchronous_connection(database: Database) -> AsyncIterator[AsyncConnection]:
    async with pgcdc.aconnect(database.dsn) as connection:
        yield connection


@pytest.fixture
def slot(database: Database) -> str:
    """A slot, with a table `t` that publication `p` publishes."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY, note text)", "CREATE PUBLICATION p FOR TABLE t")
    with pgcdc.connect(database.dsn) as connection:
        return connection.create_slot(new_name()).name


@pytest.fixture(scope="module")
def postgres_small(postgres: PostgresServer) -> Iterator[Database]:
    """A server with one walsender and one slot."""
    with PostgresServer(postgres.version, {"max_wal_senders": "1", "max_replication_slots": "1"}) as server:
        yield Database(server, "postgres")


@pytest.fixture(scope="module")
def postgres_replica(postgres: PostgresServer) -> Iterator[Database]:
    """A server with `wal_level = replica`, as PostgreSQL comes."""
    with PostgresServer(postgres.version, {"wal_level": "replica"}) as server:
        yield Database(server, "postgres")


@pytest.fixture(scope="module")
def postgres_lossy(postgres: PostgresServer) -> Iterator[Database]:
    """A server that gives up the WAL of a slot soon."""
    settings = {"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "wal_keep_size": "0"}
    with PostgresServer(postgres.version, settings) as server:
        yield Database(server, "postgres")
