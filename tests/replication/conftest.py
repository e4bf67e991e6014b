"""Servers with unusual settings, one per version, for the tests of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import Database
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator


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
