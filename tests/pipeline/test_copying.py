"""The initial copy's life: starts that fail, stops and rewrites in the middle of it, and its other modes."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc import ConfigError
from tests.pipeline.running import Running, slots, until
from tests.pipeline.shop import left_behind, run_once, shop
from tests.pipeline.targets import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import psycopg

    from tests.conftest import Database

# Starts that fail.


def fails_on_open(sink: Recorder) -> None:
    def fail() -> None:
        raise RuntimeError("secret")

    sink.open = fail  # type: ignore[method-assign]


def fails_on_write(sink: Recorder) -> None:
    def fail(batch: pgcdc.Batch) -> None:
        raise pgcdc.SinkRejected("no room for such a row")

    sink.write = fail  # type: ignore[method-assign]


@pytest.mark.parametrize("spoil", [fails_on_open, fails_on_write])
def test_a_start_that_fails_leaves_nothing(orders: Database, spoil: Callable[[Recorder], None]) -> None:
    sink = Recorder()
    spoil(sink)
    with pytest.raises(pgcdc.SinkError, match="sink 'sink'") as raised:
        shop(orders, sink).run()
    assert "secret" not in str(raised.value)
    assert left_behind(orders) == ([], [], 0)


def test_no_such_table_leaves_nothing(orders: Database) -> None:
    pipeline = pgcdc.Pipeline("shop", orders.dsn, tables=["orders", "absent"])
    pipeline.add(Recorder())
    with pytest.raises(ConfigError, match="absent"):
        pipeline.run()
    assert left_behind(orders) == ([], [], 0)


def test_a_start_that_fails_keeps_the_slot_that_positions_are_of(new_orders: Database) -> None:
    new_orders.execute("CREATE TABLE other (id int)", "CREATE PUBLICATION mine FOR TABLE orders")
    run_once(new_orders, shop(new_orders, publication="mine"))
    new_orders.execute("ALTER PUBLICATION mine SET TABLE other")
    with pytest.raises(ConfigError, match="not published"):
        shop(new_orders, publication="mine", snapshot="always").run()
    assert slots(new_orders) == ["pgcdc_shop"]
    new_orders.execute("ALTER PUBLICATION mine SET TABLE orders", "INSERT INTO orders VALUES (2, 'new')")
    sink = Recorder()
    run_once(new_orders, shop(new_orders, sink, publication="mine"))
    assert sink.actions == ["truncate", "insert", "insert"], "what was not published for a while is copied anew"


def test_a_copy_that_fails_half_way_goes_on_where_it_was(orders: Database) -> None:
    """One consumer got all rows, the other refuses: the first one keeps them, and gets what was changed since."""
    refusing, taking = Recorder(), Recorder()

    def refuse(batch: pgcdc.Batch) -> None:
        query = "SELECT 1 FROM pgcdc.positions WHERE consumer = 'other' AND snapshot = 'done'"
        until(lambda: bool(orders.execute(query)), "it is stored that the other one has all rows")
        raise pgcdc.SinkRejected("no room for such a row")

    refusing.write = refuse  # type: ignore[method-assign]

    def both(one: Recorder, other: Recorder) -> pgcdc.Pipeline:
        pipeline = pgcdc.Pipeline("shop", orders.dsn, tables=["orders"])
        pipeline.add(one, name="one")
        pipeline.add(other, name="other")
        return pipeline

    with pytest.raises(pgcdc.SinkRejected, match="no room for such a row"):
        both(refusing, taking).run()
    assert taking.actions == ["insert"]
    assert left_behind(orders) == (["pgcdc_shop"], ["pgcdc_shop"], 2)
    orders.execute("DELETE FROM orders", "INSERT INTO orders VALUES (7, 'other')")
    fine = Recorder()
    run_once(orders, both(fine, taking))
    assert fine.actions == ["truncate", "insert"]
    assert taking.actions == ["insert", "delete", "insert"]


def test_a_copy_that_fails_before_anybody_has_a_table_leaves_its_mark_alone(orders: Database) -> None:
    """No slot stays, and the next start empties what was got."""
    taking = Recorder()
    write = taking.write

    def take_once(batch: pgcdc.Batch) -> None:
        taking.write = refuse  # type: ignore[method-assign]
        write(batch)

    def refuse(batch: pgcdc.Batch) -> None:
        raise pgcdc.SinkRejected("no room for such a row")

    taking.write = take_once  # type: ignore[method-assign]
    orders.execute("INSERT INTO orders SELECT g, 'x' FROM generate_series(2, 60000) g")
    with pytest.raises(pgcdc.SinkRejected, match="no room for such a row"):
        shop(orders, taking).run()
    assert 0 < len(taking.changes) < 60000
    assert left_behind(orders) == ([], [], 1)
    orders.execute("DELETE FROM orders WHERE id > 1")
    taking.write = write  # type: ignore[method-assign]
    taking.changes.clear()
    run_once(orders, shop(orders, taking))
    assert taking.actions == ["truncate", "insert"]


def test_a_stop_during_the_copy_leaves_no_slot(orders: Database) -> None:
    copying, go_on = threading.Event(), threading.Event()

    class Slow(Recorder):
        def write(self, batch: pgcdc.Batch) -> None:
            super().write(batch)
            copying.set()
            assert go_on.wait(30)

    orders.execute("INSERT INTO orders SELECT g, 'x' FROM generate_series(2, 60000) g")
    sink = Slow()
    run = Running(shop(orders, sink, max_rows_in_flight=1))
    assert copying.wait(20)
    run.pipeline.stop()
    until(lambda: slots(orders) == [], "the source has ended")
    go_on.set()
    run.stop(8)
    assert run.error is None
    assert 0 < len(sink.changes) < 60000
    assert left_behind(orders)[:2] == ([], [])


@contextlib.contextmanager
def slot_waits(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """An open transaction that has written: a slot cannot be made before its end. Use `waiting` after the start."""
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute("CREATE TABLE written (id int)")
        yield connection


def waiting(database: Database) -> bool:
    return bool(
        database.execute(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'walsender'"
            " AND wait_event_type = 'Lock'"
        )
    )


def test_a_table_rewritten_while_the_slot_is_made_is_copied_again(orders: Database) -> None:
    """A rewrite around the slot's making can leave a table empty in the snapshot, and never in the stream."""
    sink = Recorder()
    with slot_waits(orders):
        run = Running(shop(orders, sink))
        until(lambda: waiting(orders), "the slot waits")
        orders.execute("VACUUM FULL orders")
    run.streaming()
    orders.execute("INSERT INTO orders VALUES (2, 'streamed')")
    run.catch_up(orders)
    run.stop()
    assert run.error is None
    assert sink.actions[-3:] == ["truncate", "insert", "insert"]
    assert [change.new.id for change in sink.changes[-2:]] == [1, 2]
    until(lambda: slots(orders) == ["pgcdc_shop"], "the temporary slot is gone")


def test_columns_that_came_while_the_slot_was_made_are_copied(
    orders: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """By the first copy, and by that of a consumer that is added later."""
    sinks: dict[str, Recorder] = {}
    for name in ("first", "late"):
        sinks[name] = Recorder()
        pipeline = pgcdc.Pipeline("shop", orders.dsn, tables=["orders"])
        for each, sink in sinks.items():
            pipeline.add(sink, name=each)
        with slot_waits(orders):
            run = Running(pipeline)
            until(lambda: waiting(orders), "the slot waits")
            orders.execute(f"ALTER TABLE orders ADD {name} text", f"UPDATE orders SET {name} = 'x'")
        until(lambda name=name: done(orders, name), "it has all rows")  # type: ignore[misc]
        run.stop()
        assert run.error is None
        [change] = [change for change in sinks[name].changes if change.snapshot]
        assert (change.new.id, getattr(change.new, name, None)) == (1, "x")
    assert caplog.text.count("other tables, rows or columns: public.orders") == 2


def done(database: Database, consumer: str) -> bool:
    """Whether it is stored that a consumer has all rows."""
    if database.execute("SELECT to_regclass('pgcdc.positions')") == [(None,)]:
        return False
    query = f"SELECT 1 FROM pgcdc.positions WHERE consumer = '{consumer}' AND snapshot = 'done'"
    return bool(database.execute(query))


def test_rows_that_were_published_while_the_slot_was_made_are_copied(new_orders: Database) -> None:
    """On PostgreSQL 15 and newer, which have row filters."""
    new_orders.execute(
        "INSERT INTO orders VALUES (2, 'new')", "CREATE PUBLICATION mine FOR TABLE orders WHERE (id = 1)"
    )
    sink = Recorder()
    with slot_waits(new_orders):
        run = Running(shop(new_orders, sink, publication="mine"))
        until(lambda: waiting(new_orders), "the slot waits")
        new_orders.execute("ALTER PUBLICATION mine SET TABLE orders")
    run.streaming()
    new_orders.execute("INSERT INTO orders VALUES (3, 'newer')")
    run.catch_up(new_orders)
    run.stop()
    assert run.error is None
    assert sorted(change.new.id for change in sink.changes) == [1, 2, 3]


def test_a_stop_while_the_slot_is_made_leaves_nothing(orders: Database) -> None:
    with slot_waits(orders):
        run = Running(shop(orders))
        until(lambda: waiting(orders), "the slot waits")
        began = time.monotonic()
        run.stop(8)
        assert time.monotonic() - began < 6
        assert run.error is None
        assert left_behind(orders) == ([], [], 0)


def test_only_a_copy(orders: Database) -> None:
    sink = Recorder()
    for _ in range(2):
        shop(orders, sink, snapshot="only").run()
    assert sink.actions == ["insert", "insert"]
    assert left_behind(orders) == ([], [], 0)


def test_a_copy_at_every_start(new_orders: Database) -> None:
    sink = Recorder()
    for _ in range(2):
        run_once(new_orders, shop(new_orders, sink, snapshot="always"))
    assert sink.actions == ["insert", "truncate", "insert"]
