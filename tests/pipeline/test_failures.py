"""Targets that are away, refuse or are slow; handlers that raise; changes that cannot be decoded.

Over 400 lines because each way to fail is told apart from the others here.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
import pytest

import pgcdc
from pgcdc import ConfigError, DecodeError, SinkError, SinkRejected, SinkUnavailable
from pgcdc.pipeline import failure, ledger
from tests.pipeline.running import Running, confirmed, counted_saves, flushed, running, until
from tests.pipeline.targets import AsyncRecorder, Recorder

if TYPE_CHECKING:
    from tests.conftest import Database

ORDERS = "CREATE TABLE orders (id bigint PRIMARY KEY, status text)"


def shop(database: Database, **settings: Any) -> pgcdc.Pipeline:
    return pgcdc.Pipeline("shop", database.dsn, tables=["orders"], **settings)


@pytest.fixture
def orders(database: Database) -> Database:
    database.execute(ORDERS)
    return database


@pytest.fixture
def new_orders(newest_database: Database) -> Database:
    newest_database.execute(ORDERS)
    return newest_database


class Away(Recorder):
    """Not available until it is told to be."""

    def __init__(self, *, opens: bool = True) -> None:
        super().__init__()
        self.back = threading.Event()
        self.attempts = 0
        self._opens = opens

    def open(self) -> None:
        self.attempts += 1
        if not self._opens and not self.back.is_set():
            raise SinkUnavailable("nobody answers")
        super().open()

    def write(self, batch: pgcdc.Batch) -> None:
        self.attempts += 1
        if not self.back.is_set():
            raise SinkUnavailable("nobody answers")
        super().write(batch)


@pytest.mark.parametrize("opens", [True, False])
def test_a_target_that_is_away_is_tried_again_and_the_others_go_on(orders: Database, opens: bool) -> None:
    pipeline = shop(orders, snapshot="never")
    away, present = Away(opens=opens), AsyncRecorder()
    pipeline.add(away, name="away")
    pipeline.add(present, name="present")
    with counted_saves() as saves, running(pipeline) as run:
        run.streaming()
        orders.execute("INSERT INTO orders VALUES (1, 'x')", "INSERT INTO orders VALUES (2, 'x')")
        until(lambda: len(present.changes) == 2 and away.attempts >= 2, "the other one has all")
        until(lambda: pipeline.statistics().consumers["away"].state == "retrying", "retrying")
        assert pipeline.statistics().consumers["away"].last_error == "nobody answers"
        assert pipeline.statistics().consumers["away"].delivered == 0
        # The slot keeps what the one that is away has not got.
        saves(2)  # the second begins after everything above
        assert confirmed(orders) < present.changes[0].commit_lsn
        away.back.set()
        run.catch_up(orders)
        assert pipeline.statistics().consumers["away"].state == "running"
    assert [change.new.id for change in away.changes] == [1, 2]
    assert confirmed(orders) > present.changes[1].commit_lsn


def test_a_handler_may_say_later(new_orders: Database) -> None:
    """The same change comes again, not those before it."""
    pipeline = shop(new_orders)
    seen: list[int] = []

    @pipeline.on("orders", "insert")
    async def handle(change: pgcdc.Insert[Any] | pgcdc.Update[Any]) -> None:
        seen.append(change.new.id)
        if seen.count(3) in (1, 2) and change.new.id == 3:
            raise SinkUnavailable("later")

    with running(pipeline) as run:
        run.streaming()
        new_orders.execute("INSERT INTO orders SELECT g, 'x' FROM generate_series(1, 5) g")
        run.catch_up(new_orders)
    assert seen == [1, 2, 3, 3, 3, 4, 5]


def test_a_stop_does_not_wait_for_a_target_that_is_away(new_orders: Database) -> None:
    pipeline, away = shop(new_orders), Away()
    pipeline.add(away, name="away")
    run = Running(pipeline)
    run.streaming()
    new_orders.execute("INSERT INTO orders VALUES (1, 'x')")
    until(lambda: away.attempts >= 2, "an attempt")
    began = time.monotonic()
    run.stop(8)
    assert time.monotonic() - began < 5.5
    assert run.error is None
    assert away.closed == 1
    assert confirmed(new_orders) < flushed(new_orders)


@pytest.mark.parametrize("in_flight", [True, False])
def test_a_stop_does_not_wait_for_a_position_store_that_blocks(
    orders: Database, caplog: pytest.LogCaptureFixture, in_flight: bool
) -> None:
    """Also when a write of positions hangs already; what could not be stored is not confirmed and comes again."""
    pipeline, first, second = shop(orders, snapshot="never"), Recorder(), Recorder()
    pipeline.add(first, name="sink")
    run = Running(pipeline)
    run.streaming()
    orders.execute("INSERT INTO orders VALUES (1, 'x')")
    until(lambda: bool(first.changes) and confirmed(orders) > first.changes[0].commit_lsn, "stored and confirmed")
    stored = "SELECT through_lsn::text FROM pgcdc.positions"
    before = pgcdc.parse_lsn(orders.execute(stored)[0][0])
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'pgcdc.positions'::regclass"
    with psycopg.connect(orders.dsn) as locker:
        locker.execute("LOCK TABLE pgcdc.positions")
        orders.execute("INSERT INTO orders VALUES (2, 'x')")
        until(lambda: len(first.changes) == 2, "delivered")
        if in_flight:
            until(lambda: orders.execute(waiting)[0][0] == 1, "a write of positions waits")
        began = time.monotonic()
        run.stop(20)
        assert time.monotonic() - began < 8
        assert run.error is None
        assert "pipeline 'shop': its positions could not be stored within" in caplog.text
        assert confirmed(orders) <= before
        # What the server does with the forgotten write must not make the test depend on time.
        orders.execute(f"SELECT pg_terminate_backend(pid) FROM ({waiting.replace('count(*)', 'pid')}) waiting")
        until(lambda: orders.execute(waiting)[0][0] == 0, "nobody waits")
    assert pgcdc.parse_lsn(orders.execute(stored)[0][0]) == before
    again = shop(orders, snapshot="never")
    again.add(second, name="sink")
    with running(again) as next_run:
        next_run.streaming()
        next_run.catch_up(orders)
    assert [change.new.id for change in second.changes] == [2]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_handler_that_raises_stops_it_there(orders: Database, asynchronous: bool) -> None:
    handled: list[int] = []
    other = Recorder()
    broken = True

    def make() -> pgcdc.Pipeline:
        pipeline = shop(orders)
        pipeline.add(other, name="other")

        def handle(change: pgcdc.Insert[Any] | pgcdc.Update[Any]) -> None:
            if broken and change.new.id == 7:
                raise ValueError("a secret of the row")
            handled.append(change.new.id)

        async def handle_async(change: pgcdc.Insert[Any] | pgcdc.Update[Any]) -> None:
            await asyncio.sleep(0)
            handle(change)

        pipeline.on("orders", "insert", name="search")(handle_async if asynchronous else handle)
        return pipeline

    run = Running(make())
    run.streaming()
    orders.execute("INSERT INTO orders SELECT g, 'x' FROM generate_series(1, 4) g")
    orders.execute("INSERT INTO orders SELECT g, 'x' FROM generate_series(5, 10) g")
    orders.execute("INSERT INTO orders VALUES (11, 'x')")
    error = run.ended()
    assert isinstance(error, SinkRejected)
    assert str(error).startswith("handler 'search' raised ValueError on an insert of public.orders at ")
    assert str(error).endswith(", change 2")
    assert "secret" not in str(error)
    assert isinstance(error.__cause__, ValueError)
    assert error.table == "public.orders" and error.lsn is not None and error.hint
    assert handled == [1, 2, 3, 4, 5, 6]
    statistics = run.pipeline.statistics().consumers["search"]
    assert statistics.state == "failed" and statistics.last_error == str(error)
    assert confirmed(orders) <= error.lsn
    # It comes again at every start, and the one that failed alone: what was handled before it is stored.
    run = Running(make())
    assert isinstance(run.ended(), SinkRejected)
    broken = False
    with running(make()) as again:
        again.streaming()
        again.catch_up(orders)
    assert handled == list(range(1, 12))
    assert [change.new.id for change in other.changes] == list(range(1, 12))


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (SinkRejected("no such field"), SinkRejected, "no such field"),
        (KeyError("a secret of the row"), SinkError, "it raised KeyError"),
    ],
)
def test_a_sink_that_raises_stops_it(new_orders: Database, raised: Exception, kind: type[SinkError], says: str) -> None:
    class Refuses(Recorder):
        def write(self, batch: pgcdc.Batch) -> None:
            raise raised

    pipeline, sink = shop(new_orders, snapshot="never"), Refuses()
    pipeline.add(sink, name="search")
    run = Running(pipeline)
    run.streaming()
    new_orders.execute("INSERT INTO orders SELECT g, 'x' FROM generate_series(1, 4) g")
    error = run.ended()
    assert type(error) is kind
    # How many of the four one write holds depends on what had come when it was called.
    assert re.search(r"sink 'search' did not take [1-4] changes of public\.orders \(", str(error)) and says in str(
        error
    )
    assert "secret" not in str(error)
    assert error.lsn is not None
    assert confirmed(new_orders) <= error.lsn
    assert sink.closed == 1


def test_a_change_that_cannot_be_decoded_stops_it_with_its_place() -> None:
    cause = DecodeError("the text 'numeric' ends early", reason="ends early", raw=b"I", position=(0x16B374D848, 3))
    error = failure.of_handler("search", cause, cause)
    assert isinstance(error, DecodeError)
    assert str(error).startswith("consumer 'search' cannot be given a change at 16/B374D848, change 3: ")
    assert (error.raw, error.reason, error.position) == (b"I", "ends early", (0x16B374D848, 3))


def test_the_first_error_is_the_one_told(new_orders: Database) -> None:
    class Bad(Recorder):
        def write(self, batch: pgcdc.Batch) -> None:
            raise SinkRejected("first")

        def close(self) -> None:
            raise RuntimeError("second")

    pipeline = shop(new_orders, snapshot="never")
    pipeline.add(Bad(), name="bad")
    run = Running(pipeline)
    run.streaming()
    new_orders.execute("INSERT INTO orders VALUES (1, 'x')")
    error = run.ended()
    assert isinstance(error, SinkRejected) and "first" in str(error)


def test_a_close_that_fails_is_told_too(new_orders: Database) -> None:
    class Bad(Recorder):
        def close(self) -> None:
            raise RuntimeError("at the end")

    pipeline = shop(new_orders)
    pipeline.add(Bad(), name="bad")
    run = Running(pipeline)
    run.streaming()
    run.stop()
    assert isinstance(run.error, SinkError) and "cannot be closed" in str(run.error)


def test_without_reconnect_it_ends_with_the_server_and_a_new_run_goes_on(orders: Database) -> None:
    sink = Recorder()
    pipeline = shop(orders, reconnect=False)
    pipeline.add(sink)
    run = Running(pipeline)
    run.streaming()
    orders.execute("INSERT INTO orders VALUES (1, 'x')")
    run.catch_up(orders)
    orders.server.crash()
    error = run.ended()
    orders.server.start()
    assert isinstance(error, pgcdc.ReplicationError)
    orders.execute("INSERT INTO orders VALUES (2, 'x')")
    again = shop(orders)
    again.add(sink)
    with running(again) as second:
        second.streaming()
        second.catch_up(orders)
    assert [change.new.id for change in sink.changes][-1] == 2
    assert {change.new.id for change in sink.changes} == {1, 2}


# Slow consumers.


def test_a_slow_consumer_holds_the_source_within_its_limits(orders: Database) -> None:
    """200,000 rows in one transaction to a consumer that takes none: the limits hold, and so does the memory."""
    pipeline = shop(orders, snapshot="never", max_rows_in_flight=5_000, max_bytes_in_flight=1_000_000)
    go_on = threading.Event()

    class Slow(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def write(self, batch: pgcdc.Batch) -> None:
            assert go_on.wait(60)
            self.count += batch.changes_count

    slow = Slow()
    pipeline.add(slow, name="slow")
    with orders.server.settings(wal_sender_timeout="2s"), running(pipeline) as run:
        run.streaming()
        before = psutil.Process().memory_info().rss
        orders.execute("INSERT INTO orders SELECT g, repeat('x', 200) FROM generate_series(1, 200000) g")
        until(lambda: pipeline.statistics().consumers["slow"].queued_rows > 1_000, "the queue is full")
        # For longer than wal_sender_timeout, by the server's clock, it is answered though nothing is read.
        reply = "SELECT max(extract(epoch FROM reply_time)) FROM pg_stat_replication"
        [(began,)] = orders.execute(reply)
        answered = began
        while answered < began + 5:
            statistics = pipeline.statistics().consumers["slow"]
            assert statistics.queued_rows <= 5_000 and statistics.queued_bytes <= 1_000_000
            assert run.alive, run.error
            until(lambda: orders.execute(reply)[0][0] > answered, "another answer")  # noqa: B023 (called at once)
            [(answered,)] = orders.execute(reply)
        go_on.set()
        run.catch_up(orders)
        grown = psutil.Process().memory_info().rss - before
    assert slow.count == 200_000
    assert grown < 32 * 1024 * 1024, f"{grown >> 20} MiB"


def test_a_slow_handler_does_not_end_the_connection(new_orders: Database) -> None:
    """Code that blocks the event loop itself: the source answers the server from its own thread (fault F8)."""
    pipeline = shop(new_orders)
    seen: list[int] = []

    @pipeline.on("orders", "insert")
    async def handle(change: pgcdc.Insert[Any] | pgcdc.Update[Any]) -> None:
        time.sleep(4)  # noqa: ASYNC251 (as users do)
        seen.append(change.new.id)

    with new_orders.server.settings(wal_sender_timeout="1s"), running(pipeline) as run:
        run.streaming()
        new_orders.execute("INSERT INTO orders VALUES (1, 'x')")
        run.catch_up(new_orders)
    assert seen == [1]


# Quiet consumers.


def test_a_quiet_consumer_holds_no_wal(orders: Database) -> None:
    orders.execute("CREATE TABLE noise (id bigint PRIMARY KEY, filler text)")
    pipeline, quiet = pgcdc.Pipeline("shop", orders.dsn, tables=["orders", "noise"]), Recorder()
    pipeline.add(quiet, tables=["orders"], name="quiet")
    with running(pipeline) as run:
        run.streaming()
        began = confirmed(orders)
        orders.execute("INSERT INTO noise SELECT g, repeat('x', 100) FROM generate_series(1, 3000) g")
        wanted = flushed(orders)
        until(lambda: confirmed(orders) > wanted - 65536, "the slot moves past what is filtered out")
        # And past what is not published at all: only keepalives tell of it.
        orders.execute("CREATE TABLE unpublished AS SELECT g, repeat('x', 100) FROM generate_series(1, 3000) g")
        wanted = flushed(orders)
        until(lambda: confirmed(orders) > wanted - 65536, "the slot moves past what is not published")
        assert confirmed(orders) > began
    assert quiet.changes == []
    assert pipeline.statistics().consumers["quiet"].position is None


def test_an_idle_database_stays_idle(new_orders: Database) -> None:
    pipeline, sink = shop(new_orders), Recorder()
    pipeline.add(sink)
    with counted_saves() as saves, running(pipeline) as run:
        run.streaming()
        new_orders.execute("INSERT INTO orders VALUES (1, 'x')")
        run.catch_up(new_orders)
        until(lambda: confirmed(new_orders) > sink.changes[0].commit_lsn, "stored and confirmed")
        written = "SELECT xmin::text FROM pgcdc.positions"
        before = new_orders.execute(written)
        saves(4)
        assert new_orders.execute(written) == before


def test_a_slot_of_an_idle_database_does_not_get_old(new_orders: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who watches it cannot tell a slot that stands still from one whose consumer hangs."""
    monkeypatch.setattr(ledger, "QUIET_SECONDS", 0.5)
    pipeline = shop(new_orders)
    pipeline.add(Recorder())
    with running(pipeline) as run:
        run.streaming()
        new_orders.execute("CREATE TABLE unpublished (id bigint PRIMARY KEY)")  # a few KB at most
        wanted = flushed(new_orders)
        until(lambda: confirmed(new_orders) >= wanted, "it is confirmed, though it is little")


def test_the_retries_are_not_for_the_wrong_thing(new_orders: Database) -> None:
    class Misconfigured(Recorder):
        def open(self) -> None:
            raise ConfigError("no such index", hint="make it")

    pipeline = shop(new_orders)
    pipeline.add(Misconfigured(), name="search")
    with pytest.raises(ConfigError, match="no such index"):
        pipeline.run()
