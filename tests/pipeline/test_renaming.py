"""Tables and consumers that get another name: what they had before is theirs still, dead letters too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

import pgcdc
from pgcdc import PositionError, SinkRejected, transforms
from pgcdc.pipeline import PostgresPositions
from pgcdc.pipeline.deadletter_postgres import PostgresDeadLetters
from pgcdc.sinks import DuckDB, Postgres, SQLite
from tests.pipeline.running import running, until
from tests.pipeline.shop import ORDERS
from tests.sinks.test_cases import read as read_file

if TYPE_CHECKING:
    from tests.conftest import Database

OUTBOX = "CREATE TABLE outbox (id bigint PRIMARY KEY, topic text, aggregate_id bigint, payload jsonb)"


class Taking:
    """Remembers table and values of what it takes, but for values that it refuses."""

    def __init__(self, refused: object = None) -> None:
        self.refused = refused
        self.taken: list[tuple[str, Any]] = []

    def open(self) -> None:
        """Nothing to do."""

    def write(self, batch: pgcdc.Batch) -> None:
        for change in batch.changes():
            assert isinstance(change, pgcdc.Insert)
            row = change.new
            value = row.payload if "payload" in row.__struct_fields__ else row.status
            if value == self.refused:
                raise SinkRejected("not this one")
            self.taken.append((f"{change.schema}.{change.table}", value))

    def close(self) -> None:
        """Nothing to do."""


def events(database: Database, table: str, sink: Taking, **options: Any) -> pgcdc.Pipeline:
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=[table], snapshot="never")
    pipeline.add(sink, name="events", max_rows=1, transform=transforms.outbox(table), **options)
    return pipeline


def event(database: Database, table: str, id: int) -> None:
    database.execute(f"INSERT INTO {table} VALUES ({id}, 'order', 7, '{id}')")


def run_to_the_end(database: Database, pipeline: pgcdc.Pipeline) -> None:
    with running(pipeline) as run:
        run.streaming()
        run.catch_up(database)


def test_an_outbox_table_is_one_under_its_former_name(database: Database) -> None:
    database.execute(OUTBOX)
    sink = Taking()
    run_to_the_end(database, events(database, "outbox", sink))
    event(database, "outbox", 1)
    database.execute("ALTER TABLE outbox RENAME TO said")
    event(database, "said", 2)
    run_to_the_end(database, events(database, "said", sink))
    assert sink.taken == [("outbox.order", 1), ("outbox.order", 2)]


def test_an_outbox_table_is_one_under_the_name_that_it_gets(new_orders: Database) -> None:
    new_orders.execute(OUTBOX)
    sink = Taking()
    pipeline = events(new_orders, "outbox", sink, on_schema_change={"rename_table": "follow"})
    with running(pipeline) as run:
        run.streaming()
        event(new_orders, "outbox", 1)
        new_orders.execute("ALTER TABLE outbox RENAME TO said")
        event(new_orders, "said", 2)
        run.catch_up(new_orders)
    assert sink.taken == [("outbox.order", 1), ("outbox.order", 2)]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_what_an_event_holds_it_holds_when_its_table_has_another_name(new_orders: Database, concurrency: int) -> None:
    """The letter is from a run that knew it by the former one; delivered again, it is an event of the same topic."""
    new_orders.execute(OUTBOX)
    options: dict[str, Any] = {"on_failure": "hold", "concurrency": concurrency}
    sink = Taking(refused=1)
    pipeline = events(new_orders, "outbox", sink, **options)
    with running(pipeline) as run:
        run.streaming()
        event(new_orders, "outbox", 1)
        run.catch_up(new_orders)
    event(new_orders, "outbox", 2)
    new_orders.execute("ALTER TABLE outbox RENAME TO said")
    event(new_orders, "said", 3)
    pipeline = events(new_orders, "said", sink, **options)
    with running(pipeline) as run:
        run.streaming()
        run.catch_up(new_orders)
        assert (sink.taken, len(pipeline.dead_letters.list())) == ([], 3)
        sink.refused = None
        pipeline.dead_letters.retry()
        until(lambda: not pipeline.dead_letters.list(), "all are delivered")
    assert sink.taken == [("outbox.order", 1), ("outbox.order", 2), ("outbox.order", 3)]


def test_a_letter_of_a_table_that_was_renamed_is_masked(new_orders: Database) -> None:
    """A later run knows the table by another name than the letter does."""

    def shop(table: str, sink: Taking) -> pgcdc.Pipeline:
        pipeline = pgcdc.Pipeline("shop", new_orders.dsn, tables=[table], snapshot="never")
        hidden = transforms.mask(table, "status")
        pipeline.add(sink, name="search", max_rows=1, transform=hidden, on_failure="park")
        return pipeline

    with running(shop("orders", Taking(refused="***"))) as run:
        run.streaming()
        new_orders.execute("INSERT INTO orders VALUES (2, 'secret')")
        run.catch_up(new_orders)
    new_orders.execute("ALTER TABLE orders RENAME TO purchases")
    sink = Taking()
    pipeline = shop("purchases", sink)
    with running(pipeline) as run:
        run.streaming()
        pipeline.dead_letters.retry()
        until(lambda: not pipeline.dead_letters.list(), "it is delivered")
    assert [value for _, value in sink.taken] == ["***"]


@pytest.mark.parametrize("kind", [SQLite, DuckDB, Postgres])
def test_a_letter_of_a_column_that_was_renamed_comes_under_its_name_of_now(
    new_orders: Database, tmp_path: Path, kind: Any
) -> None:
    """In targets whose columns are renamed, too; a column that was dropped stays there, and has its value."""
    place = {"dsn": new_orders.dsn, "schema": "copy"} if kind is Postgres else {"path": tmp_path / "copy"}
    failing = True

    class Picky(kind):  # type: ignore[misc]
        """Refuses a row as long as it is said to."""

        def write(self, batch: pgcdc.Batch) -> None:
            if failing and any(change.new.id == 2 for change in batch.changes()):  # type: ignore[union-attr]
                raise SinkRejected("not this one")
            super().write(batch)

    def read() -> list[Any]:
        columns = "id, state, more, note"
        if kind is Postgres:
            return new_orders.execute(f"SELECT {columns} FROM copy.orders ORDER BY id")
        return read_file(tmp_path / "copy", f"SELECT {columns} FROM orders ORDER BY id")

    new_orders.execute("ALTER TABLE orders ADD COLUMN note text")
    if kind is Postgres:
        new_orders.execute("CREATE SCHEMA copy")
    pipeline = pgcdc.Pipeline("shop", new_orders.dsn, tables=["orders"])
    pipeline.add(Picky(**place), name="copy", on_failure="park", max_rows=1)
    with running(pipeline) as run:
        run.streaming()
        new_orders.execute("INSERT INTO orders VALUES (2, 'two', 'x')", "ALTER TABLE orders RENAME status TO former")
        new_orders.execute("INSERT INTO orders VALUES (3, 'three', 'x')", "ALTER TABLE orders DROP COLUMN note")
        new_orders.execute("ALTER TABLE orders ADD COLUMN more int", "INSERT INTO orders VALUES (4, 'four', 4)")
        new_orders.execute("ALTER TABLE orders RENAME former TO state", "INSERT INTO orders VALUES (5, 'five', 5)")
        run.catch_up(new_orders)
        failing = False
        pipeline.dead_letters.retry()
        until(lambda: not pipeline.dead_letters.list(), "it is delivered")
    assert read() == [
        (1, "old", None, None),
        (2, "two", None, "x"),
        (3, "three", None, "x"),
        (4, "four", 4, None),
        (5, "five", 5, None),
    ]
    pipeline.dead_letters.close()


@pytest.mark.parametrize(
    "cut", [(PostgresPositions, "move"), (PostgresDeadLetters, "rename"), (PostgresPositions, "forget")]
)
@pytest.mark.parametrize("before", [True, False])
def test_a_consumer_whose_renaming_was_cut_is_renamed_by_the_same_call(
    newest_database: Database, cut: tuple[type, str], before: bool
) -> None:
    """Its letters go along, whenever it ended, and hold what they held."""
    newest_database.execute(ORDERS)
    sink = Taking(refused="bad")

    def shop(name: str) -> pgcdc.Pipeline:
        pipeline = pgcdc.Pipeline("shop", newest_database.dsn, tables=["orders"], snapshot="never")
        pipeline.add(sink, name=name, max_rows=1, on_failure="park")
        return pipeline

    with running(shop("old")) as run:
        run.streaming()
        newest_database.execute("INSERT INTO orders VALUES (1, 'good'), (2, 'bad')")
        run.catch_up(newest_database)
    pipeline, (kind, method) = shop("new"), cut
    whole = getattr(kind, method)

    def ends(*arguments: Any) -> None:
        if not before:
            whole(*arguments)
        raise KeyboardInterrupt

    with mock.patch.object(kind, method, ends), pytest.raises(KeyboardInterrupt):
        pipeline.rename("old", "new")
    if not (before and method == "move") and not (method == "forget" and not before):
        with pytest.raises(PositionError, match="not registered") as caught:
            shop("new").run()
        assert "once more" in str(caught.value.hint)
    if method == "forget" and not before:
        with pytest.raises(PositionError, match="no stored position for consumer 'old'"):
            pipeline.rename("old", "new")  # it was done
    else:
        pipeline.rename("old", "new")
    assert [letter.consumer for letter in pipeline.dead_letters.list()] == ["new"]
    sink.refused = None
    with running(pipeline) as run:
        run.streaming()
        pipeline.dead_letters.retry()
        until(lambda: not pipeline.dead_letters.list(), "it is delivered")
    assert sink.taken == [("public.orders", "good"), ("public.orders", "bad")]
