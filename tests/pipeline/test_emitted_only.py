"""A pipeline without tables: what the application says by logical messages is all that it follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc import ConfigError
from tests.pipeline.running import running
from tests.pipeline.shop import left_behind
from tests.pipeline.targets import Recorder

if TYPE_CHECKING:
    from tests.conftest import Database


def emit(database: Database, number: int) -> None:
    with database.connect() as connection:
        pgcdc.emit(connection, "paid", {"n": number}, key="7")


def test_events_are_followed_without_a_table(database: Database) -> None:
    said: list[Any] = []
    sink = Recorder()

    def shop() -> pgcdc.Pipeline:
        pipeline = pgcdc.Pipeline("shop", database.dsn)
        pipeline.on_message("paid", name="handler")(lambda event: said.append(event.new.payload))
        pipeline.add(sink, name="sink", topics=["paid"])
        return pipeline

    with running(shop()) as run:
        run.streaming()
        emit(database, 1)
        run.catch_up(database)
    emit(database, 2)
    with running(shop()) as run:
        run.catch_up(database)
    assert said == [{"n": 1}, {"n": 2}]
    assert [(change.table, change.new.key) for change in sink.changes] == [("paid", "7")] * 2
    shop().destroy()
    assert left_behind(database) == ([], [], 0)


def test_a_table_that_joins_later_is_copied(new_orders: Database) -> None:
    pipeline = pgcdc.Pipeline("shop", new_orders.dsn)
    pipeline.on_message("paid", name="handler")(lambda event: None)
    with running(pipeline) as run:
        run.streaming()
        run.catch_up(new_orders)
    pipeline = pgcdc.Pipeline("shop", new_orders.dsn, tables=["orders"])
    pipeline.on_message("paid", name="handler")(lambda event: None)
    sink = Recorder()
    pipeline.add(sink, name="sink")
    with running(pipeline) as run:
        run.streaming()
        new_orders.execute("INSERT INTO orders VALUES (2, 'new')")
        run.catch_up(new_orders)
    assert [change.new.id for change in sink.changes if change.action == "insert"] == [1, 2]


def test_who_wants_rows_needs_a_table() -> None:
    with pytest.raises(ConfigError, match="the pipeline of consumer 'recorder' has no tables"):
        pgcdc.Pipeline("shop").add(Recorder())
    with pytest.raises(ConfigError, match="has no tables"):
        pgcdc.Pipeline("shop", tables=[]).on("orders")(lambda change: None)
