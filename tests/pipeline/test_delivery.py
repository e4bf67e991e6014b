"""Rows to consumers: fan-out, filters, the initial copy and the stream, and where a second run goes on.

Over 400 lines because each way of a row to a consumer is a few lines of its own.
"""

from __future__ import annotations

import asyncio
import random
import threading
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import pgcdc
from pgcdc.pipeline import MemoryPositions, SqlitePositions, target_handler
from pgcdc.pipeline.run import DRAIN_WITHIN
from tests.pipeline.running import DEADLINE, Running, confirmed, flushed, running, slots, until
from tests.pipeline.targets import AsyncRecorder, Recorder, SqliteMirror, logged, mirrored

if TYPE_CHECKING:
    from tests.conftest import Database

ORDERS = "CREATE TABLE orders (id bigint PRIMARY KEY, user_id bigint, status text, total numeric(12,2))"
ITEMS = "CREATE TABLE order_items (id bigint PRIMARY KEY, order_id bigint, sku text)"
DATA = "concat_ws('|', id, coalesce(user_id::text, 'None'), coalesce(status, 'None'), coalesce(total::text, 'None'))"


class Order(msgspec.Struct):
    id: int
    status: str | None
    discount: Decimal | None = None


def shop(database: Database, tables: tuple[str, ...] = ("orders", "order_items"), **settings: Any) -> pgcdc.Pipeline:
    return pgcdc.Pipeline("shop", database.dsn, tables=tables, **settings)


def source_rows(database: Database) -> list[str]:
    return [data for (data,) in database.execute(f"SELECT {DATA} FROM orders ORDER BY id")]


def test_each_consumer_gets_what_it_asked_for(database: Database) -> None:
    before = set(threading.enumerate())  # another test may have left one that hangs
    database.execute(
        ORDERS,
        ITEMS,
        "INSERT INTO orders VALUES (1, 10, 'new', 5), (2, 10, 'new', NULL)",
        "INSERT INTO order_items VALUES (1, 1, 'book')",
    )
    pipeline = shop(database)
    everything, again, items = Recorder(), AsyncRecorder(), Recorder()
    pipeline.add(everything, name="everything")
    pipeline.add(again, name="again")
    pipeline.add(items, tables=["order_items"], actions=["insert", "delete"], name="items")
    blocking: list[tuple[str, int, str]] = []
    asynchronous: list[Any] = []

    @pipeline.on("orders", "insert", "update", row=Order, name="blocking")
    def handle(change: pgcdc.Insert[Order] | pgcdc.Update[Order]) -> None:
        assert isinstance(change.new, Order)
        blocking.append((change.action, change.new.id, threading.current_thread().name))

    @pipeline.on("orders", name="asynchronous")
    async def handle_async(change: pgcdc.Change[Any]) -> None:
        await asyncio.sleep(0)
        asynchronous.append((change.action, change.snapshot, threading.current_thread().name))

    with running(pipeline) as run:
        run.streaming()
        database.execute(
            "INSERT INTO orders VALUES (3, 11, 'new', 7)",
            "UPDATE orders SET status = 'paid' WHERE id = 3",
            "INSERT INTO order_items VALUES (2, 3, 'pen')",
            "UPDATE order_items SET sku = 'pencil' WHERE id = 2",
            "DELETE FROM order_items WHERE id = 1",
            "DELETE FROM orders WHERE id = 1",
            "TRUNCATE orders",
        )
        run.catch_up(database)
        statistics = pipeline.statistics()

    streamed = ["insert", "update", "insert", "update", "delete", "delete", "truncate"]
    assert everything.actions == again.actions == ["insert"] * 3 + streamed
    assert [change.position for change in everything.changes] == [change.position for change in again.changes]
    assert [(change.table, change.action) for change in items.changes] == [
        ("order_items", "insert"),
        ("order_items", "insert"),
        ("order_items", "delete"),
    ]
    assert [entry[:2] for entry in blocking] == [("insert", 1), ("insert", 2), ("insert", 3), ("update", 3)]
    assert {entry[2] for entry in blocking} == {"pgcdc-blocking"}
    assert [entry[:2] for entry in asynchronous] == [
        ("insert", True),
        ("insert", True),
        ("insert", False),
        ("update", False),
        ("delete", False),
    ]
    assert {entry[2] for entry in asynchronous} == {"test-pipeline"}
    assert everything.opened == everything.closed == again.opened == again.closed == 1
    assert [name for name, consumer in statistics.consumers.items() if consumer.delivered == 10] == [
        "everything",
        "again",
    ]
    assert {consumer.state for consumer in statistics.consumers.values()} == {"running"}
    assert statistics.source.phase == "streaming"
    assert pipeline.statistics().source.phase == "stopped"
    assert {consumer.state for consumer in pipeline.statistics().consumers.values()} == {"stopped"}
    left = set(threading.enumerate()) - before
    assert [thread.name for thread in left if thread.name.startswith("pgcdc")] == []


def test_positions_are_a_total_order(database: Database) -> None:
    database.execute(ORDERS, "INSERT INTO orders SELECT g, g, 'old' FROM generate_series(1, 50) g")
    pipeline, sink = shop(database, ("orders",)), Recorder()
    pipeline.add(sink)
    with running(pipeline) as run:
        run.streaming()
        database.execute("INSERT INTO orders SELECT g, g, 'new' FROM generate_series(51, 100) g")
        database.execute("UPDATE orders SET status = 'x' WHERE id <= 10")
        run.catch_up(database)
    positions = [change.position for change in sink.changes]
    consistent_point = positions[0].commit_lsn
    assert positions[:50] == [(consistent_point, -1)] * 50
    assert positions[50:] == sorted(set(positions[50:]))
    assert [position.index for position in positions[50:]] == [*range(50), *range(10)]
    assert positions[50].commit_lsn >= consistent_point


@pytest.mark.parametrize("store", ["postgres", "sqlite"])
def test_copy_and_stream_make_the_table(database: Database, tmp_path: Path, store: str) -> None:
    """Writers go on from before the slot is made until after the copy; nothing is missing and nothing comes twice."""
    database.execute(ORDERS, "INSERT INTO orders SELECT g, g, 'old', g FROM generate_series(1, 3000) g")
    settings = {"positions": SqlitePositions(tmp_path / "positions.db")} if store == "sqlite" else {}
    pipeline = shop(database, ("orders",), **settings)
    pipeline.add(SqliteMirror(tmp_path / "mirror.db"), name="mirror")
    stop = threading.Event()

    def write(writer: int) -> None:
        chosen = random.Random(writer)
        key = 1_000_000 * (writer + 1)
        with database.connect() as connection:
            while not stop.is_set():
                with connection.transaction(force_rollback=chosen.random() < 0.2):
                    for _ in range(chosen.randint(1, 5)):
                        key += 1
                        connection.execute("INSERT INTO orders VALUES (%s, %s, 'written', 1.50)", (key, writer))
                    connection.execute(
                        "UPDATE orders SET total = total + 1 WHERE id = %s", (chosen.randint(1, 1500) * 2 + writer,)
                    )
                    if chosen.random() < 0.1:
                        connection.execute("DELETE FROM orders WHERE id = %s", (key,))

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(2)]
    for thread in writers:
        thread.start()
    try:
        with running(pipeline) as run:
            run.streaming()
            until(lambda: pipeline.statistics().consumers["mirror"].delivered > 3500, "some of the stream")
            stop.set()
            for thread in writers:
                thread.join()
            run.catch_up(database)
    finally:
        stop.set()
    assert mirrored(tmp_path / "mirror.db", "orders") == source_rows(database)
    positions = [position for position, *_ in logged(tmp_path / "mirror.db")]
    assert positions == sorted(positions)


def test_a_second_run_goes_on_where_the_first_ended(database: Database, tmp_path: Path) -> None:
    database.execute(ORDERS, "INSERT INTO orders VALUES (1, 1, 'old', 1)")
    handled: list[tuple[str, int]] = []

    def make() -> pgcdc.Pipeline:
        pipeline = shop(database, ("orders",))
        pipeline.add(SqliteMirror(tmp_path / "mirror.db"), name="mirror")

        @pipeline.on("orders", "insert", "delete", name="handler")
        def handle(change: pgcdc.Change[Any]) -> None:
            handled.append((change.action, change.new.id if isinstance(change, pgcdc.Insert) else 0))

        return pipeline

    for first in (2, 4, 6):
        with running(make()) as run:
            run.streaming()
            database.execute(f"INSERT INTO orders VALUES ({first}, 1, 'in a run', 1)")
            run.catch_up(database)
        # A clean stop stores and confirms everything.
        assert confirmed(database) > 0
        database.execute(f"INSERT INTO orders VALUES ({first + 1}, 1, 'between runs', 1)")
    with running(make()) as run:
        run.streaming()
        run.catch_up(database)
    assert handled == [("insert", key) for key in range(1, 8)]
    assert mirrored(tmp_path / "mirror.db", "orders") == source_rows(database)
    assert [key for *_, key in logged(tmp_path / "mirror.db")] == [2, 3, 4, 5, 6, 7]


def test_a_stop_inside_a_transaction_resumes_inside_it(newest_database: Database) -> None:
    """A handler that is given up at the end of the drain comes back to the very next change of the transaction."""
    database = newest_database
    database.execute(ORDERS)
    handled: list[int] = []
    hold = threading.Event()

    def make() -> pgcdc.Pipeline:
        pipeline = shop(database, ("orders",))

        @pipeline.on("orders", "insert", name="handler")
        def handle(change: pgcdc.Insert[Any] | pgcdc.Update[Any]) -> None:
            handled.append(change.new.id)
            if len(handled) == 30:
                hold.wait(DRAIN_WITHIN + 0.15)  # longer than the time to drain

        return pipeline

    run = Running(make())
    run.streaming()
    database.execute("INSERT INTO orders SELECT g, g, 'x', 1 FROM generate_series(1, 100) g")
    until(lambda: len(handled) == 30, "the thirtieth")
    run.stop(7)
    assert run.error is None
    assert handled == list(range(1, 31))
    with running(make()) as again:
        again.streaming()
        again.catch_up(database)
    assert handled == list(range(1, 101))


def test_a_column_is_added_while_it_runs(database: Database, tmp_path: Path) -> None:
    database.execute(ORDERS, "INSERT INTO orders VALUES (1, 1, 'old', 1)")
    pipeline, sink = shop(database, ("orders",)), Recorder()
    pipeline.add(sink)
    discounts: list[tuple[int, Decimal | None]] = []

    @pipeline.on("orders", "insert", "update", row=Order, name="typed")
    def handle(change: pgcdc.Insert[Order] | pgcdc.Update[Order]) -> None:
        discounts.append((change.new.id, change.new.discount))

    with running(pipeline) as run:
        run.streaming()
        database.execute(
            "INSERT INTO orders VALUES (2, 1, 'before', 1)",
            "ALTER TABLE orders ADD COLUMN discount numeric(10,2)",
            "INSERT INTO orders VALUES (3, 1, 'after', 1, 0.15)",
            "UPDATE orders SET discount = 0.2 WHERE id = 1",
        )
        run.catch_up(database)
    assert discounts == [(1, None), (2, None), (3, Decimal("0.15")), (1, Decimal("0.20"))]
    assert [hasattr(change.new, "discount") for change in sink.changes] == [False, False, True, True]
    with running(pipeline) as run:
        run.streaming()
        database.execute("UPDATE orders SET discount = NULL WHERE id = 1")
        run.catch_up(database)
    assert discounts[4:] == [(1, None)]


def renaming(database: Database, table: str, sink: Recorder, typed: list[Any]) -> pgcdc.Pipeline:
    """A pipeline on one table, with consumers whose names do not change with the table's."""
    pipeline = shop(database, (table,))
    pipeline.add(sink, name="sink")

    @pipeline.on(table, "insert", row=Order, name="typed")
    def handle(change: pgcdc.Insert[Order] | pgcdc.Update[Order]) -> None:
        assert isinstance(change.new, Order)
        typed.append(change.new.id)

    return pipeline


def test_what_was_written_under_a_former_name_goes_to_the_present_one(database: Database) -> None:
    database.execute(ORDERS)
    sink, typed = Recorder(), list[Any]()
    with running(renaming(database, "orders", sink, typed)) as run:
        run.streaming()
    database.execute(
        "INSERT INTO orders VALUES (1, 1, 'before', 1)",
        "ALTER TABLE orders RENAME TO purchases",
        "INSERT INTO purchases VALUES (2, 1, 'after', 1)",
    )
    with running(renaming(database, "purchases", sink, typed)) as run:
        run.streaming()
        run.catch_up(database)
    # They are told as they were.
    assert [(change.table, change.new.id) for change in sink.changes] == [("orders", 1), ("purchases", 2)]
    assert typed == [1, 2]


@pytest.mark.parametrize("follow", ["rename it back", "use the new name"])
def test_a_table_that_is_renamed_stops_it_until_the_hint_is_followed(database: Database, follow: str) -> None:
    database.execute(ORDERS)
    sink, typed = Recorder(), list[Any]()
    run = Running(renaming(database, "orders", sink, typed))
    run.streaming()
    database.execute(
        "INSERT INTO orders VALUES (1, 1, 'before', 1)",
        "ALTER TABLE orders RENAME TO purchases",
        "INSERT INTO purchases VALUES (2, 1, 'after', 1)",
    )
    error = run.ended()
    assert isinstance(error, pgcdc.SchemaError)
    assert "public.orders was renamed to public.purchases" in str(error)
    assert "rename it back" in (error.hint or "") and "'public.purchases'" in (error.hint or "")
    assert 2 not in typed
    table = "purchases"
    if follow == "rename it back":
        database.execute("ALTER TABLE purchases RENAME TO orders")
        table = "orders"
    with running(renaming(database, table, sink, typed)) as run:
        run.streaming()
        database.execute(f"INSERT INTO {table} VALUES (3, 1, 'later', 1)")
        run.catch_up(database)
    assert sorted(set(typed)) == [1, 2, 3]
    assert sorted({change.new.id for change in sink.changes}) == [1, 2, 3]


def test_names_with_full_stops_capitals_and_other_letters(newest_database: Database) -> None:
    newest_database.execute('CREATE SCHEMA "Größe.x"', 'CREATE TABLE "Größe.x"."a.b ""c""" (id int PRIMARY KEY)')
    table = ("Größe.x", 'a.b "c"')
    pipeline, sink = pgcdc.Pipeline("shop", newest_database.dsn, tables=[table]), Recorder()
    pipeline.add(sink, tables=[table])
    newest_database.execute('INSERT INTO "Größe.x"."a.b ""c""" VALUES (1)')
    with running(pipeline) as run:
        run.streaming()
        newest_database.execute('INSERT INTO "Größe.x"."a.b ""c""" VALUES (2)')
        run.catch_up(newest_database)
    assert [(change.schema, change.table, change.new.id) for change in sink.changes] == [(*table, 1), (*table, 2)]


def test_a_partitioned_table_comes_under_its_own_name(database: Database) -> None:
    database.execute(
        "CREATE TABLE orders (id bigint, year int, PRIMARY KEY (id, year)) PARTITION BY RANGE (year)",
        "CREATE TABLE orders_a PARTITION OF orders FOR VALUES FROM (2000) TO (2020)",
        "CREATE TABLE orders_b PARTITION OF orders FOR VALUES FROM (2020) TO (2040)",
        "INSERT INTO orders VALUES (1, 2010), (2, 2030)",
    )
    pipeline, sink = shop(database, ("orders",)), Recorder()
    pipeline.add(sink)
    with running(pipeline) as run:
        run.streaming()
        database.execute("INSERT INTO orders VALUES (3, 2011), (4, 2031)")
        run.catch_up(database)
    assert sorted((change.table, change.new.id) for change in sink.changes) == [("orders", key) for key in (1, 2, 3, 4)]


def test_positions_may_be_in_memory(newest_database: Database) -> None:
    database = newest_database
    database.execute(ORDERS, "INSERT INTO orders VALUES (1, 1, 'x', 1)")
    positions, sink = MemoryPositions(), Recorder()
    for key in (2, 3):
        pipeline = shop(database, ("orders",), positions=positions)
        pipeline.add(sink)
        with running(pipeline) as run:
            run.streaming()
            database.execute(f"INSERT INTO orders VALUES ({key}, 1, 'x', 1)")
            run.catch_up(database)
    assert [change.new.id for change in sink.changes] == [1, 2, 3]
    assert database.execute("SELECT to_regclass('pgcdc.positions')") == [(None,)]
    pipeline.destroy()
    assert slots(database) == []
    assert positions.load("shop") == {}


async def test_waits_on_a_loop_and_is_cancelled_with_a_drain(newest_database: Database) -> None:
    database = newest_database
    database.execute(ORDERS, "INSERT INTO orders VALUES (1, 1, 'x', 1)")
    pipeline, sink = shop(database, ("orders",)), AsyncRecorder()
    pipeline.add(sink)
    task = asyncio.create_task(pipeline.arun())
    await asyncio.wait_for(pipeline.wait(flushed(database)), 20)
    database.execute("INSERT INTO orders VALUES (2, 1, 'x', 1)")
    await asyncio.wait_for(pipeline.wait(flushed(database)), 20)
    assert [change.new.id for change in sink.changes] == [1, 2]
    waiting = asyncio.create_task(pipeline.wait(2**63))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(pgcdc.Error, match="was stopped before it was so far"):  # nobody has cancelled this one
        await waiting
    assert sink.closed == 1
    assert len(asyncio.all_tasks()) == 1
    [(stored,)] = database.execute("SELECT through_lsn::text FROM pgcdc.positions")
    assert pgcdc.parse_lsn(stored) == confirmed(database)


def test_stop_before_the_start_returns_at_once(newest_database: Database) -> None:
    newest_database.execute(ORDERS)
    pipeline = shop(newest_database, ("orders",))
    pipeline.add(Recorder())
    pipeline.stop()
    pipeline.run()
    assert slots(newest_database) == []


def test_what_a_slow_handler_has_done_is_said_before_its_batch_is(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash it does not begin again with a batch that takes minutes."""
    monkeypatch.setattr(target_handler, "SAY_EVERY", 0.0)
    database.execute(ORDERS)
    go_on = threading.Event()
    pipeline = shop(database, ("orders",))

    @pipeline.on("orders", "insert", name="slow")
    def handle(change: pgcdc.Insert[Any] | pgcdc.Update[Any]) -> None:
        assert change.new.id != 6 or go_on.wait(DEADLINE)

    with running(pipeline) as run:
        run.streaming()
        database.execute("INSERT INTO orders SELECT g, 10, 'new', 5 FROM generate_series(1, 10) g")
        until(lambda: run.pipeline.statistics().consumers["slow"].delivered == 5, "five are done, the sixth is in hand")
        go_on.set()
        run.catch_up(database)
        assert run.pipeline.statistics().consumers["slow"].delivered == 10
