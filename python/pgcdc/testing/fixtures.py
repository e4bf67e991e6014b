"""Fixtures for pytest: `pytest_plugins = ["pgcdc.testing.fixtures"]` in a conftest.py.

They need a server: the one that the environment variable PGCDC_TEST_DSN names (its role may create databases and
replicate, its `wal_level` is logical), else one that is started for the session (`pip install 'pgcdc[demo]'`).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgcdc.embedded import EmbeddedPostgres
from pgcdc.errors import ConfigError
from pgcdc.replication import connect

__all__ = ["TestDatabase", "TestSlot", "pgcdc_database", "pgcdc_server", "pgcdc_slot"]

pytest.register_assert_rewrite(
    "pgcdc.testing.contract_target",
    "pgcdc.testing.late_contract",
    "pgcdc.testing.part_contract",
    "pgcdc.testing.position_contract",
    "pgcdc.testing.sink_contract",
)


@dataclass(frozen=True)
class TestDatabase:
    """A database for one test.

    Attributes:
        dsn: How to connect.
        name: Its name.
    """

    __test__ = False  # pytest takes what begins with Test for tests

    dsn: str
    name: str

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection in autocommit."""
        return psycopg.connect(self.dsn, autocommit=True)

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements, each in its own transaction.

        Args:
            *statements: SQL.

        Returns:
            The rows of the last one.
        """
        rows: list[tuple[Any, ...]] = []
        with self.connect() as connection:
            for statement in statements:
                cursor = connection.execute(statement)
                rows = cursor.fetchall() if cursor.description else []
        return rows


@dataclass(frozen=True)
class TestSlot:
    """A slot, and a publication of all tables of its database.

    Attributes:
        name: The slot's name.
        publication: The publication's.
    """

    __test__ = False

    name: str
    publication: str


@pytest.fixture(scope="session")
def pgcdc_server() -> Iterator[str]:
    """The DSN of a server with `wal_level=logical`, started for the session when none is named."""
    dsn = os.environ.get("PGCDC_TEST_DSN")
    if dsn:
        yield dsn
        return
    try:
        server = EmbeddedPostgres()
        server.__enter__()
    except ConfigError as error:
        pytest.skip(f"{error}: {error.hint}; or name a server in PGCDC_TEST_DSN")
    try:
        yield server.dsn
    finally:
        server.__exit__(None, None, None)


@pytest.fixture
def pgcdc_database(pgcdc_server: str) -> Iterator[TestDatabase]:
    """An empty database, dropped afterwards together with its slots and whoever is connected to it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(pgcdc_server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield TestDatabase(make_conninfo(pgcdc_server, dbname=name), name)
        # A slot is free only when the session that has it has ended.
        ending = "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE datname = %s"
        connection.execute(ending, (name,))
        dropping = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s"
        connection.execute(dropping, (name,))
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def pgcdc_slot(pgcdc_database: TestDatabase) -> TestSlot:
    """A slot of pgoutput in the test's database, and a publication of all its tables."""
    slot = TestSlot(pgcdc_database.name, "everything")
    pgcdc_database.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    with connect(pgcdc_database.dsn) as connection:
        connection.create_slot(slot.name)
    return slot
