"""A rebuild that reads, applies and writes at once, in many stretches: what goes wrong in one of them, and in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from pgcdc.errors import ConnectionLost
from pgcdc.eventstore import (
    EventStore,
    EventStoreError,
    RebuildProgress,
    Recorded,
    Table,
    commits,
    plan_rebuild,
)
from pgcdc.eventstore import rebuild as build
from pgcdc.eventstore.ahead import Ahead
from pgcdc.eventstore.projecting import connect
from tests.eventstore.revenue import RIGHT, Closed, Journal, Revenue, Sold, faults, store_of
from tests.eventstore.test_changing_places import Twice
from tests.eventstore.test_projections import caught_up, write
from tests.pipeline.running import running, until

if TYPE_CHECKING:
    from tests.conftest import Database

STRETCH = 20
ROUNDS = 50
"""Of each writer, at most: a live projection with small batches falls behind four that never pause."""


@pytest.fixture(autouse=True)
def few_events_in_a_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "STRETCH", STRETCH)


class Balance:
    """What each till has after each event: read back, so that it is wrong when an event comes too early or twice."""

    balance = Table("till text, total bigint NOT NULL", key=["till"])
    steps = Table("till text, sequence bigint, total bigint NOT NULL", key=["till", "sequence"])

    def on_sold(self, event: Sold, recorded: Recorded) -> None:
        before = self.balance.get(till=recorded.stream_id)
        total = event.amount + (before["total"] if before else 0)
        self.balance.put(till=recorded.stream_id, total=total)
        self.steps.put(till=recorded.stream_id, sequence=recorded.sequence, total=total)


WRONG_STEPS = """
    SELECT count(*) FROM (
        SELECT stream_id, sequence, sum((payload ->> 'amount')::bigint)
            OVER (PARTITION BY stream_id ORDER BY sequence) AS total
        FROM es.events WHERE event_type = 'Sold'
    ) e FULL JOIN public.steps s ON (s.till, s.sequence) = (e.stream_id, e.sequence)
    WHERE s.total IS DISTINCT FROM e.total
"""


def filled(store: EventStore, events: int) -> None:
    """A pipeline that was run, before and behind these events; half of them have a transaction of their own."""
    half = events // 2
    with running(store.pipeline()):
        caught_up(store)
    for first in range(0, half, 25):
        store.append(f"till-{first % 3}", [Sold("toys", number) for number in range(25)])
    for number in range(half):
        store.append(f"till-{number % 3}", [Sold("books", number)])
    with running(store.pipeline()):
        caught_up(store)


def place(database: Database, name: str = "journal") -> int:
    """How many events the one that is being built has."""
    [(events,)] = database.execute(f"SELECT events FROM es.projections WHERE name = '{name}' AND status = 'building'")
    return int(events)


def test_many_stretches_while_four_write(database: Database) -> None:
    """Before the first slot, behind it, and meanwhile; one reads rows back that the stretch before has written."""
    with store_of(database, ("balance", Balance), ("journal", Journal)) as store:
        write(store, 1, 100)
        filled(store, 400)
        ended = threading.Event()

        def go_on(seed: int) -> None:
            for _ in range(ROUNDS):  # what the live one does not keep up with has to be waited for at the end
                if ended.is_set():
                    break
                write(store, seed, 5)

        with running(store.pipeline(rows=50)), ThreadPoolExecutor(4) as threads:
            writing = [threads.submit(go_on, seed) for seed in range(4)]
            try:
                told: list[RebuildProgress] = []
                for name in ("balance", "journal"):
                    build(store, name, told=told.append)
            finally:
                ended.set()
            for one in writing:
                one.result()
            caught_up(store)
        assert faults(database) == RIGHT
        assert database.execute(WRONG_STEPS) == [(0,)]
        done = [one.done for one in told if one.name == "journal"]
        assert len(done) > 20
        assert done == sorted(done)


def test_what_fails_in_the_middle_leaves_all_before_it(database: Database) -> None:
    """The handlers, the database behind them, and reading; each is said once, as it would be one after the other."""

    class Failing(Journal):
        def on_closed(self, event: Closed, recorded: Recorded) -> None:
            raise ValueError

    class Refused(Journal):
        def on_closed(self, event: Closed, recorded: Recorded) -> None:
            self.journal.put(event_id="no uuid")

    with store_of(database, ("journal", Journal)) as store:
        filled(store, 200)
        store.append("till-1", [Closed()])
        for number in range(STRETCH * 3):
            store.append("till-2", [Sold("toys", number)])
        with running(store.pipeline()):
            caught_up(store)
    for owner, what in ((Failing, "ValueError at event"), (Refused, "InvalidTextRepresentation")):
        with (
            store_of(database, ("journal", owner)) as store,
            pytest.raises(EventStoreError, match=f"the projection journal cannot be built: {what}") as failed,
        ):
            build(store, "journal")
        assert failed.value.hint is not None and "mend the class" in failed.value.hint
        assert place(database) == 200, "all stretches before it, and nothing behind"
    with store_of(database, ("journal", Journal)) as store:
        assert plan_rebuild(store, "journal").done == 200
        gone = "DELETE FROM es.events WHERE stream_id = 'till-2' AND sequence = (SELECT max(sequence) FROM es.events"
        database.execute(
            "BEGIN",
            "SET LOCAL pgcdc.maintenance = 'on'",
            "CREATE TABLE kept AS SELECT * FROM es.events",
            f"{gone} WHERE stream_id = 'till-2')",
            "COMMIT",
        )
        with pytest.raises(EventStoreError, match=r"1 events of transactions up to .* are neither in the table"):
            build(store, "journal")
        assert place(database) == 260, "all stretches before the one with a hole"
        database.execute(
            "SET session_replication_role = replica",  # no trigger gives it another transaction
            "INSERT INTO es.events SELECT * FROM kept ON CONFLICT DO NOTHING",
            "RESET session_replication_role",
        )
        build(store, "journal")
    assert faults(database) == RIGHT


def test_what_is_skipped_is_skipped_alone(database: Database) -> None:
    class Careful(Journal):
        def on_sold(self, event: Sold, recorded: Recorded) -> None:
            if event.amount in (7, 50):
                raise ValueError("seven, or fifty")
            super().on_sold(event, recorded)

    with store_of(database, ("journal", Careful), on_failure="dead_letter") as store:
        filled(store, 400)
        build(store, "journal")
    count = "SELECT count(*) FROM es.events WHERE (payload ->> 'amount')::integer IN (7, 50)"
    [(skipped,)] = database.execute(count)
    assert faults(database)["missing"] == skipped > 2
    assert {**faults(database), "missing": 0, "streams": 0} == RIGHT
    same = "SELECT count(*) FROM es.skipped s JOIN es.events e USING (stream_id, sequence) WHERE s.generation = 2"
    assert database.execute(f"{same} AND (e.payload ->> 'amount')::integer IN (7, 50)") == [(skipped,)]


@pytest.mark.parametrize("whose", ["idle", "active"])
def test_a_connection_that_is_lost(newest_database: Database, whose: str) -> None:
    """That of the reader, and that of what is written."""
    with store_of(newest_database, ("journal", Journal)) as store:
        filled(store, 400)
        told: list[int] = []

        def end_it(progress: RebuildProgress) -> None:
            told.append(progress.done)
            if len(told) == 3:
                newest_database.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'pgcdc event store' AND datname = current_database() AND "
                    + ("backend_xid IS NULL" if whose == "idle" else "backend_xid IS NOT NULL")
                )

        with pytest.raises(ConnectionLost):
            build(store, "journal", told=end_it)
        assert told[-1] <= place(newest_database) < 400
        build(store, "journal")
    assert faults(newest_database) == RIGHT


def test_interrupted_it_goes_on_where_it_was(newest_database: Database) -> None:
    """As by Ctrl-C, while a stretch is being written, the next one applied, and another one read."""
    with store_of(newest_database, ("journal", Journal)) as store:
        filled(store, 400)

        def interrupt(progress: RebuildProgress) -> None:
            if progress.done >= 100:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build(store, "journal", told=interrupt)
        assert not [thread for thread in threading.enumerate() if thread.name == "pgcdc-rebuild-journal"]
        assert 100 <= place(newest_database) < 400
        build(store, "journal")
    assert faults(newest_database) == RIGHT


def test_somebody_else_who_builds_it_too_is_noticed(newest_database: Database) -> None:
    """Behind a pooler of transactions the lock of the session does not say so."""
    with store_of(newest_database, ("journal", Journal)) as store:
        filled(store, 400)
        moved: list[int] = []

        def move(progress: RebuildProgress) -> None:
            if progress.done >= 100 and not moved:
                moved.append(progress.done)
                threads.submit(
                    newest_database.execute,
                    # The lock of the table has a queue: of the row alone the next stretch could take it first.
                    "BEGIN; LOCK TABLE es.projections IN EXCLUSIVE MODE;"
                    " UPDATE es.projections SET base_id = base_id + 1 WHERE status = 'building'; COMMIT",
                )
                until(
                    lambda: (
                        newest_database.execute(
                            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                            " AND datname = current_database()"
                        )
                        == [(1,)]
                    ),
                    "it waits for the row",
                    pause=0.01,
                )

        elsewhere = pytest.raises(EventStoreError, match="the projection journal is being rebuilt by somebody else")
        with ThreadPoolExecutor(1) as threads, elsewhere:
            build(store, "journal", told=move)


def test_a_libpq_without_pipelines(newest_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psycopg.Pipeline, "is_supported", lambda: False)
    with store_of(newest_database, ("journal", Journal), ("revenue", Revenue)) as store:
        filled(store, 100)
        build(store, "journal")
    assert faults(newest_database) == RIGHT


def test_no_more_than_one_is_read_ahead(newest_database: Database) -> None:
    """And in order; what reading raises comes behind all before it."""
    read = 0

    def numbers(connection: psycopg.Connection[Any], _ended: object) -> Iterator[int]:
        nonlocal read
        for number in range(50):
            connection.execute("SELECT 1")
            read += 1
            yield number
        raise ValueError("fifty")

    with Ahead(newest_database.dsn, numbers, "numbers") as items:
        for number in range(50):
            assert next(items) == number
            assert read <= number + 2
        with pytest.raises(ValueError, match="fifty"):
            next(items)
        assert next(items, None) is None, "it is raised once"


def test_who_leaves_early_does_not_wait_for_what_is_read(newest_database: Database) -> None:
    def numbers(connection: psycopg.Connection[Any], _ended: object) -> Iterator[int]:
        yield 1
        connection.execute("SELECT pg_sleep(600)")
        yield 2

    with Ahead(newest_database.dsn, numbers, "sleeping numbers") as items:
        assert next(items) == 1
        until(
            lambda: (
                newest_database.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == [(1,)]
            ),
            "the server is at work",
            pause=0.01,
        )
    assert not [thread for thread in threading.enumerate() if thread.name == "sleeping numbers"]


def test_who_leaves_early_does_not_wait_for_a_commit_that_is_not_visible(newest_database: Database) -> None:
    """No statement is under way then that could be cancelled."""
    with store_of(newest_database) as store, newest_database.connect() as other:
        filled(store, 50)
        other.execute("BEGIN")
        [(xid,)] = other.execute("SELECT pg_current_xact_id()::text").fetchall()
        newest_database.execute(
            f"INSERT INTO es.commits SELECT '{xid}', max(commit_lsn) + 1, 1, 51, 51 FROM es.commits"
        )
        order, waits = commits.Commits(store._statements), threading.Event()

        def read(connection: psycopg.Connection[Any], ended: Callable[[], bool]) -> Iterator[commits.Stretch]:
            def asked() -> bool:
                waits.set()
                return ended()

            return order.after(connection, commits.BEGINNING, 2**60, asked)

        with Ahead(newest_database.dsn, read, "waiting reader") as stretches:
            count = 0
            while count < 50:
                count += len(next(stretches).rows)
            assert waits.wait(60)
        assert not [thread for thread in threading.enumerate() if thread.name == "waiting reader"]
        ended = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%es.commits%' AND pid <> pg_backend_pid()"
        until(lambda: newest_database.execute(ended) == [(0,)], "its connection is closed", pause=0.01)


def test_a_stretch_of_large_events_is_shorter(newest_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three stretches are in memory during a rebuild; and it is as long again when events are small again."""
    monkeypatch.setattr(commits, "STRETCH_BYTES", 20_000)
    with store_of(newest_database, ("journal", Journal)) as store:
        with running(store.pipeline()):
            caught_up(store)
        for size in (10, 4_000, 10):
            for number in range(100):
                store.append("till-1", [Sold("x" * size, number)])
        with running(store.pipeline()):
            caught_up(store)
        with connect(newest_database.dsn) as connection:
            order = commits.Commits(store._statements)
            through = order.through(connection)
            lengths = [len(one.rows) for one in order.after(connection, commits.BEGINNING, through)]
        assert sum(lengths) == 300
        assert max(lengths) == STRETCH
        assert lengths.count(2) > 30, "four at most of the large ones, in powers of two of it"
        build(store, "journal")
    assert faults(newest_database) == RIGHT


@pytest.mark.parametrize("on_failure", ["park", "dead_letter"])
def test_a_handler_that_goes_past_an_error_of_the_database(newest_database: Database, on_failure: str) -> None:
    """And reads again: the server has not gone away, though libpq's pipeline says nothing else."""

    class Swallowing(Twice):
        def on_sold(self, event: Sold, recorded: Recorded) -> None:
            if event.amount == 7:
                with suppress(psycopg.Error):
                    self.second.get(event_id="no uuid")
                self.first.get(event_id=recorded.event_id)
            super().on_sold(event, recorded)

    with store_of(newest_database, ("twice", Twice)) as store:
        filled(store, 50)
    with store_of(newest_database, ("twice", Swallowing), on_failure=on_failure) as store:
        if on_failure == "park":
            with pytest.raises(EventStoreError, match="cannot be built: InFailedSqlTransaction"):
                build(store, "twice")
        else:
            build(store, "twice")
            skipped = "SELECT generation, count(*), max(error_type) FROM es.skipped GROUP BY 1"
            assert newest_database.execute(skipped) == [(2, 2, "InFailedSqlTransaction")]
