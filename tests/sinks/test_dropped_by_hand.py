"""A table that somebody drops in the target while a pipeline runs: every sink that makes tables does the same."""

from __future__ import annotations

import contextlib
import importlib
import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import pgcdc
from pgcdc.errors import ConfigError
from pgcdc.sinks import Postgres
from pgcdc.testing import Table, insert
from tests.pipeline.running import Running, running
from tests.sinks.batches import batch_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Database


class Target:
    """Where a sink keeps the table `orders`.

    Attributes:
        kind: The sink's name.
    """

    def __init__(self, kind: str, place: Path, database: Database, request: pytest.FixtureRequest) -> None:
        self.kind = kind
        self._path = place / "copy"
        self._dsn = database.dsn
        self._server: Any = None
        if kind == "ClickHouse":
            self._server = request.getfixturevalue("clickhouse")
            self._server.query("CREATE DATABASE by_hand")

    def sink(self) -> Any:
        cls = getattr(importlib.import_module("pgcdc.sinks"), self.kind)
        if self.kind == "Postgres":
            return cls(self._dsn, schema="copy")
        return cls(self._server.url, database="by_hand") if self.kind == "ClickHouse" else cls(self._path)

    def drop(self) -> None:
        self._do(f"DROP TABLE {'by_hand.' if self._server else ''}orders")

    def ids(self) -> list[int]:
        if self._server:
            return [int(one) for one in self._do("SELECT id FROM by_hand.orders FINAL ORDER BY id").split()]
        return [one for (one,) in self._do("SELECT id FROM orders ORDER BY id")]

    def _do(self, statement: str) -> Any:
        if self._server:
            return self._server.query(statement)
        if self.kind == "Postgres":
            with psycopg.connect(self._dsn, options="-c search_path=copy") as connection:
                found = connection.execute(statement)
                return found.fetchall() if found.description else []
        connect = importlib.import_module("duckdb" if self.kind == "DuckDB" else "sqlite3").connect
        with contextlib.closing(connect(str(self._path))) as file:
            return file.execute(statement).fetchall()

    def close(self) -> None:
        if self._server:
            self._server.query("DROP DATABASE by_hand")


@pytest.fixture(params=["ClickHouse", "DuckDB", "Postgres", "SQLite"])
def target(request: pytest.FixtureRequest, tmp_path: Path, newest_database: Database) -> Iterator[Target]:
    if request.param == "DuckDB":
        pytest.importorskip("duckdb")
    with contextlib.closing(Target(request.param, tmp_path, newest_database, request)) as made:
        yield made


@pytest.mark.parametrize(
    ("statement", "anew", "left"),
    [
        ("INSERT INTO orders VALUES (4)", False, [4]),
        ("UPDATE orders SET note = 'x' WHERE id = 1", True, [1, 2, 3]),
        ("DELETE FROM orders WHERE id = 3", True, [1, 2]),
        ("TRUNCATE orders", False, []),
    ],
)
def test_a_table_that_is_dropped_by_hand_ends_it_once(
    newest_database: Database, target: Target, statement: str, anew: bool, left: list[int]
) -> None:
    """The error says so, and its hint is right: the next start makes it anew, with all rows when they are copied."""
    database = newest_database
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)", "INSERT INTO orders VALUES (1), (2), (3)")

    def pipeline() -> pgcdc.Pipeline:
        made = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
        made.add(target.sink(), name="copy")
        return made

    run = Running(pipeline())
    run.streaming()
    run.catch_up(database)
    assert target.ids() == [1, 2, 3]
    target.drop()
    database.execute(statement)
    error = run.ended()
    assert isinstance(error, ConfigError)
    assert re.search(r"the table \S*orders\S* is not in \w+( \w+)? any more: somebody has dropped it", str(error)), (
        error
    )
    assert "pgcdc consumer forget" in str(error.hint)
    if anew:
        pipeline().forget("copy")
    with running(pipeline()) as again:
        again.streaming()
        again.catch_up(database)
    assert target.ids() == left


def test_a_table_that_the_sink_is_not_to_make(newest_database: Database) -> None:
    """It does not say then that it would."""
    table = Table("items", {"id": "int"}, key=("id",))
    whole = batch_of([insert(table, {"id": number}) for number in (1, 2)])
    newest_database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    sink = Postgres(newest_database.dsn, create=False)
    sink.open()
    sink.write(whole.take([0]))
    newest_database.execute("DROP TABLE items")
    with pytest.raises(ConfigError, match=r"public\.items") as raised:
        sink.write(whole.take([1]))
    assert raised.value.hint is None
    sink.close()
