"""Another PostgreSQL as a target: the contract of sinks, and what is special to it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from pgcdc.sinks import Postgres
from pgcdc.testing.contracts import SinkContract
from tests.conftest import Database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class OfPostgres(SinkContract):
    """On a database whose name the fixture says; each place is a schema."""

    @pytest.fixture(autouse=True)
    def _database(self, target: Database) -> None:
        self._target = target

    def _schema(self, place: Path) -> str:
        return f"at {abs(hash(place))}"

    def make_sink(self, place: Path) -> Postgres:
        schema = self._schema(place)
        return Postgres(self._target.dsn, name=schema, schema=schema)

    def content(self, place: Path) -> dict[int, dict[str, Any]]:
        with self._target.connect() as connection:
            cursor = connection.execute(f'SELECT * FROM "{self._schema(place)}".contract')
            names = [column.name for column in cursor.description or ()]
            rows = [dict(zip(names, row, strict=True)) for row in cursor]
        return {row["id"]: row for row in rows}

    @contextlib.contextmanager
    def down(self, place: Path) -> Iterator[None]:
        """The database takes no connections, and those that there are have ended."""
        name = self._target.name
        with self._target.server.connect() as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            connection.execute(
                "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE datname = %s", (name,)
            )
            try:
                yield
            finally:
                connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    @contextlib.contextmanager
    def busy(self, place: Path) -> Iterator[None]:
        """Somebody has locked the table."""
        with self._target.connect() as connection, connection.transaction():
            connection.execute(f'LOCK TABLE "{self._schema(place)}".contract IN ACCESS EXCLUSIVE MODE')
            yield

    refused: ClassVar = {"id": 9, "name": "no text in PostgreSQL has a \0", "amount": None, "note": None}


class TestPostgres(OfPostgres):
    @pytest.fixture
    def target(self, newest_database: Database) -> Database:
        return newest_database
