"""Projections from the stream: each event once, in the order of commits, whatever stops, fails or joins."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import pgcdc
from pgcdc.eventstore import Append, EventStore, EventStoreError, Recorded, Table, following
from pgcdc.eventstore.projecting import Projecting
from tests.eventstore.revenue import RIGHT, Closed, Journal, Revenue, Sold, faults, revenue, right_revenue, store_of
from tests.pipeline.running import Running, confirmed, running, until

if TYPE_CHECKING:
    from tests.conftest import Database

CATEGORIES = ["books", "music", "toys"]


def write(store: EventStore, seed: int, appends: int) -> None:
    """Appends to few streams, several events or streams at a time."""
    chance = random.Random(seed)

    def events(count: int) -> list[Sold | Closed]:
        sold = [Sold(chance.choice(CATEGORIES), chance.randrange(1000)) for _ in range(count)]
        return [*sold, Closed()] if chance.random() < 0.2 else list(sold)

    for _ in range(appends):
        streams = chance.sample(range(6), 2)
        if chance.random() < 0.3:
            store.append_many([Append(stream=f"till-{stream}", events=events(2)) for stream in streams])
        else:
            store.append(f"till-{streams[0]}", events(chance.randrange(1, 4)))


def caught_up(store: EventStore, *names: str) -> None:
    """Waits until projections have everything."""
    for name in names or [projection.name for projection in store.projections]:
        store.wait(name, store.lsn(), timeout=60)


def test_events_from_before_from_meanwhile_and_after_a_restart(database: Database) -> None:
    """The table has events when the pipeline is first run; writers go on all the time, and it is stopped in between."""
    with store_of(database) as store:
        write(store, 1, 60)
        with ThreadPoolExecutor(4) as threads:
            writing = [threads.submit(write, store, seed, 60) for seed in range(2, 6)]
            for _ in range(2):
                with running(store.pipeline(rows=50)):
                    caught_up(store)
            for one in writing:
                one.result()
        with running(store.pipeline(rows=50)):
            caught_up(store)
            assert faults(database) == RIGHT
            assert revenue(database) == right_revenue(database)
        # Nothing is done again by a start that has nothing to do.
        with running(store.pipeline()):
            write(store, 7, 1)
            caught_up(store)
        assert revenue(database) == right_revenue(database)


def test_a_projection_that_fails_is_parked_and_comes_back(database: Database) -> None:
    """The others go on meanwhile and no WAL is held for it; mended, it goes on behind what it has applied."""

    class Failing(Revenue):
        def on_closed(self, event: Closed, recorded: Recorded) -> None:
            raise ValueError("secret value")

    with store_of(database, ("revenue", Failing), ("journal", Journal)) as store:
        with running(store.pipeline(rows=7)):
            for number in range(20):
                store.append("till-1", [Sold("books", number)])
            caught_up(store)
            both = [Append(stream="till-1", events=[Sold("toys", 1)]), Append(stream="till-2", events=[Closed()])]
            store.append_many(both)
            write(store, 1, 30)
            caught_up(store, "journal")
            failed = "parked: ValueError at event 1 of the stream till-2, Closed"
            with pytest.raises(EventStoreError, match=failed) as told:
                store.wait("revenue", store.lsn(), timeout=60)
            assert "secret" not in str(told.value)
            with pytest.raises(EventStoreError, match="parked"):
                store.wait_for("revenue", "till-2", 1, timeout=60)
            store.wait_for("revenue", "till-1", 20, timeout=60)
            assert revenue(database) == [("books", 190, 20)]  # nothing of the transaction that failed
            # All have passed the transaction that failed, and what came behind it.
            [(failed_at,)] = database.execute(
                "SELECT c.commit_lsn::text FROM es.commits AS c JOIN es.events AS e USING (xid)"
                " WHERE e.stream_id = 'till-2' AND e.sequence = 1"
            )
            passed = pgcdc.parse_lsn(failed_at)
            until(lambda: confirmed(database, "pgcdc_es") > passed, "the slot is confirmed")
        with running(store.pipeline()):  # it fails again
            write(store, 2, 5)
            caught_up(store, "journal")
            assert revenue(database) == [("books", 190, 20)]
    with store_of(database) as mended, running(mended.pipeline(rows=7)):
        write(mended, 3, 10)
        until(
            lambda: not database.execute("SELECT name FROM es.projections WHERE error IS NOT NULL"), "it is tried again"
        )
        caught_up(mended)
        assert revenue(database) == right_revenue(database)
        assert faults(database) == RIGHT


def test_a_row_that_the_database_refuses_parks_it_too(newest_database: Database) -> None:
    class Small:
        small = Table("stream text, last smallint", key=["stream"])

        def on_sold(self, event: Sold, recorded: Recorded) -> None:
            self.small.put(stream=recorded.stream_id, last=event.amount)

    with store_of(newest_database, ("small", Small), ("journal", Journal)) as store, running(store.pipeline()):
        for number in range(50):
            store.append("till-1", [Sold("toys", number)])
        caught_up(store)
        store.append("till-1", [Sold("toys", 40_000)])
        store.append("till-2", [Sold("toys", 50)])
        caught_up(store, "journal")
        with pytest.raises(EventStoreError, match="parked: NumericValueOutOfRange"):
            store.wait("small", store.lsn(), timeout=60)
        assert newest_database.execute("SELECT * FROM small") == [("till-1", 49)]


def test_on_failure_stop(newest_database: Database) -> None:
    class Failing(Revenue):
        def on_closed(self, event: Closed) -> None:
            raise ValueError

    with store_of(newest_database, ("revenue", Failing), on_failure="stop") as store:
        store.append("till-1", [Sold("toys", 1)])
        run = Running(store.pipeline())
        caught_up(store)
        store.append("till-1", [Closed()])
        error = run.ended()
        assert isinstance(error, pgcdc.SinkRejected)
        assert "cannot apply an event: ValueError at event 2 of the stream till-1, Closed" in str(error)
        assert revenue(newest_database) == [("toys", 1, 1)]


def test_one_that_is_added_later_begins_at_the_beginning(database: Database) -> None:
    with store_of(database, ("revenue", Revenue)) as store:
        write(store, 1, 20)
        with running(store.pipeline()):
            write(store, 2, 20)
            caught_up(store)
    with store_of(database) as store:
        write(store, 3, 20)  # while nothing runs
        with running(store.pipeline()):
            write(store, 4, 20)
            caught_up(store)
        assert faults(database) == RIGHT
        assert revenue(database) == right_revenue(database)


def test_a_class_may_say_another_table_than_its_parent(newest_database: Database) -> None:
    class Smaller(Revenue):
        revenue = Table("category text, total bigint NOT NULL", key=["category"])

        def on_sold(self, event: Sold) -> None:
            self.revenue.add(category=event.category, total=event.amount)

    with store_of(newest_database, ("revenue", Smaller)) as store, running(store.pipeline()):
        store.append("till-1", [Sold("toys", 1)])
        caught_up(store)
        assert newest_database.execute("SELECT * FROM public.revenue") == [("toys", 1)]


def test_another_version_waits_for_its_rebuild(newest_database: Database) -> None:
    with store_of(newest_database, ("revenue", Revenue)) as store, running(store.pipeline()):
        store.append("till-1", [Sold("toys", 1)])
        caught_up(store)
    with store_of(newest_database, ("revenue", Revenue), version=2) as store, running(store.pipeline()):
        store.append("till-1", [Sold("toys", 2)])
        with pytest.raises(TimeoutError, match="did not come to version 2 of the stream till-1 within"):
            store.wait_for("revenue", "till-1", 2, timeout=1)
        with pytest.raises(TimeoutError):
            store.wait("revenue", store.lsn(), timeout=2.5)
        assert revenue(newest_database) == [("toys", 1, 1)]
    with store_of(newest_database, ("revenue", Revenue)) as store, running(store.pipeline()):  # the old one is back
        caught_up(store)
        assert revenue(newest_database) == [("toys", 3, 2)]


def test_a_slot_that_was_lost_is_made_anew(newest_database: Database) -> None:
    """What was written without a slot is in no stream: it is read from the table, behind what is known to be before."""
    with store_of(newest_database) as store:
        write(store, 1, 20)
        with running(store.pipeline()):
            write(store, 2, 20)
            caught_up(store)
        write(store, 3, 20)
        newest_database.execute("SELECT pg_drop_replication_slot('pgcdc_es')")
        write(store, 4, 20)
        with pytest.raises(pgcdc.SlotNotFound):
            store.pipeline().run()
        store.pipeline().destroy()
        with running(store.pipeline(rows=10)):
            write(store, 5, 20)
            caught_up(store)
            assert faults(newest_database) == RIGHT
            assert revenue(newest_database) == right_revenue(newest_database)


def test_a_second_pipeline_needs_the_first(newest_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed before its slot was made only the first one knows."""
    with store_of(newest_database) as store:
        with running(store.pipeline("one", projections=["revenue"])):
            write(store, 1, 20)
            caught_up(store, "revenue")
        write(store, 2, 20)
        two = store.pipeline("two", projections=["journal"])
        with monkeypatch.context() as patch:
            patch.setattr(following, "NOTED_WITHIN", 0.5)
            with pytest.raises(
                pgcdc.ConfigError, match=r"the second one of its store, and the first \(slot pgcdc_one\)"
            ):
                two.run()
        with running(store.pipeline("one", projections=["revenue"])):
            write(store, 3, 20)
            with running(two):
                caught_up(store)
        with running(two):
            write(store, 4, 20)
            caught_up(store, "journal")
        assert faults(newest_database) == RIGHT
        with running(store.pipeline("one", projections=["revenue"])):
            caught_up(store, "revenue")
        assert revenue(newest_database) == right_revenue(newest_database)


def test_two_streams_follow_one_store(newest_database: Database) -> None:
    """Pipelines of two names, one projection each: both know the order of commits."""
    with store_of(newest_database) as store:
        write(store, 1, 20)
        one = store.pipeline("one", projections=["revenue"])
        two = store.pipeline("two", projections=["journal"])
        with running(one), running(two):
            write(store, 2, 40)
            caught_up(store)
        assert faults(newest_database) == RIGHT
        assert revenue(newest_database) == right_revenue(newest_database)


def test_reactors_get_what_is_new_with_its_position(database: Database) -> None:
    seen: list[tuple[str, int, pgcdc.Position | None]] = []
    again = threading.Event()

    class Mails:
        def on_sold(self, event: Sold, recorded: Recorded) -> None:
            if event.amount == 3 and not again.is_set():
                again.set()
                raise pgcdc.SinkUnavailable("away")
            seen.append((recorded.stream_id, event.amount, recorded.position))

    class Calls:
        async def on_closed(self, event: Closed, recorded: Recorded) -> None:
            seen.append((recorded.stream_id, -1, recorded.position))

    with store_of(database, ("revenue", Revenue)) as store:
        store.append("till-1", [Sold("toys", 1)])
        store.reactor("mails")(Mails)
        store.reactor("calls", concurrency=2)(Calls)
        with running(store.pipeline()) as run:
            run.streaming()
            store.append("till-1", [Sold("toys", 2), Sold("toys", 3), Closed()])
            run.catch_up(database)
        with running(store.pipeline()) as run:
            run.streaming()
            run.catch_up(database)
        assert len(seen) == 3
        assert {(stream, amount) for stream, amount, _ in seen} == {("till-1", 2), ("till-1", 3), ("till-1", -1)}
        assert len({position for _, _, position in seen}) == 3


def test_any_sink_follows_too(newest_database: Database) -> None:
    from pgcdc.testing import RecordingSink

    sink = RecordingSink()
    with store_of(newest_database, ("revenue", Revenue)) as store:
        pipeline = store.pipeline()
        pipeline.add(sink, tables=["es.events"], name="search")
        with running(pipeline) as run:
            run.streaming()
            store.append("till-1", [Sold("toys", 2)])
            run.catch_up(newest_database)
    assert [change.new.event_type for change in sink.changes] == ["Sold"]


async def test_an_asynchronous_store(newest_database: Database) -> None:
    import asyncio

    async with pgcdc.AsyncEventStore(newest_database.dsn, events=[Sold, Closed], registry=Sold.__registry__) as store:
        await store.init()
        store.projection("revenue")(Revenue)
        pipeline = store.pipeline()
        run = asyncio.create_task(pipeline.arun())
        version = await store.append("till-1", [Sold("toys", 2)])
        await store.wait_for("revenue", "till-1", version, timeout=30)
        await store.wait("revenue", await store.lsn(), timeout=30)
        assert revenue(newest_database) == [("toys", 2, 1)]
        pipeline.stop()
        await run


def test_a_wait_in_vain(newest_database: Database) -> None:
    with store_of(newest_database) as store:
        with pytest.raises(EventStoreError, match="there is no projection revenue"):
            store.wait("revenue", 1, timeout=0)
        with pytest.raises(pgcdc.ConfigError, match="named revenue already"):
            store.projection("revenue")(Revenue)


def test_a_transaction_that_is_too_large_waits_for_a_larger_limit(newest_database: Database) -> None:
    """It stops before it, and says with what it goes on; then it has each event once."""
    with store_of(newest_database, ("journal", Journal)) as store:
        with running(store.pipeline()):
            caught_up(store)
        # Some megabytes: more than is handed over at once, however it is read.
        store.append("till-1", [Sold("x" * 200_000, number) for number in range(40)])
        store.append("till-2", [Sold("toys", 1)])
        for limited in (store.pipeline(transactions=3), store.pipeline(max_transaction_bytes=600_000)):
            with pytest.raises(pgcdc.ConfigError, match="has more") as raised:
                limited.run()
            assert raised.value.hint is not None and "transactions=N and max_transaction_bytes=N" in raised.value.hint
        with running(store.pipeline(transactions=40)):
            caught_up(store)
        assert faults(newest_database) == RIGHT


def test_a_commit_whose_answer_is_lost_is_not_done_again(
    newest_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline gives the batch again: what is behind the place that is stored is applied, and nothing else."""
    apply, lost = Projecting._apply, list[str]()

    def losing(self: Projecting, run: Any, *, is_live: bool, again: bool = False) -> bool:
        is_applied = apply(self, run, is_live=is_live, again=again)
        if self.name == "revenue" and is_live and run.rows and len(lost) < 3:
            lost.append(self.name)
            raise psycopg.OperationalError("the connection is closed")
        return is_applied

    monkeypatch.setattr(Projecting, "_apply", losing)
    with store_of(newest_database) as store, running(store.pipeline(rows=5)):
        caught_up(store)
        write(store, 1, 40)
        caught_up(store)
    assert len(lost) == 3
    assert revenue(newest_database) == right_revenue(newest_database)
    assert faults(newest_database) == RIGHT
