"""Appends that wait for a connection go together; none of them is hurt by another, whatever becomes of that one.

Over 400 lines because each way in which one can fail is looked at beside others that do not, by threads and by tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any
from unittest import mock

import psycopg
import pytest

from pgcdc import ConnectionLost
from pgcdc.eventstore import (
    AsyncEventStore,
    ConcurrencyConflict,
    EventStore,
    EventStoreError,
    calling,
    grouping,
)
from pgcdc.eventstore import connections as connections_module
from pgcdc.eventstore.statements import Statements
from pgcdc.eventstore.waiters import MOST
from tests.eventstore.contract import Counted
from tests.pipeline.running import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database

COLOURS = ("threads", "tasks")
MANY = 2 * MOST
SLEEPING = (
    "CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(3600); RETURN NULL; END $$",
    "CREATE TRIGGER sleeping AFTER INSERT ON es.events"
    " FOR EACH ROW WHEN (NEW.payload ->> 'number' = '13') EXECUTE FUNCTION sleep()",
)


@pytest.fixture(autouse=True)
def _nobody_looks() -> Iterator[None]:
    """Who was not woken would find that out by itself after some seconds; here it does not."""
    with mock.patch.object(connections_module, "LOOK_AFTER", 1000.0):
        yield


class Writers:
    """Any number of appends at once, by threads or by tasks of one loop."""

    def __init__(self, database: Database, colour: str, connections: int) -> None:
        self.database = database
        self._ending = contextlib.ExitStack()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.store: EventStore | AsyncEventStore
        if colour == "threads":
            self._threads = self._ending.enter_context(ThreadPoolExecutor(MANY + 10))
            self.store = self._ending.enter_context(EventStore(database.dsn, max_connections=connections))
        else:
            loop = self.loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever)
            thread.start()
            self._ending.callback(loop.close)
            self._ending.callback(thread.join)
            self._ending.callback(loop.call_soon_threadsafe, loop.stop)
            store = self.store = AsyncEventStore(database.dsn, max_connections=connections)
            self._ending.callback(lambda: asyncio.run_coroutine_threadsafe(store.close(), loop).result(30))

    def append(
        self, stream: str, number: int = 0, *, expected: int = 1, text: str = "", stream_type: str | None = None
    ) -> Future[int]:
        """Begins an append of one event behind a version."""
        events = [Counted(len(text), number) for _ in range(1)]
        if isinstance(self.store, EventStore):
            return self._threads.submit(
                self.store.append, stream, events, stream_type=stream_type, expected=expected, metadata={"text": text}
            )
        assert self.loop is not None
        appending = self.store.append(
            stream, events, stream_type=stream_type, expected=expected, metadata={"text": text}
        )
        return asyncio.run_coroutine_threadsafe(appending, self.loop)

    def hold(self) -> Future[int]:
        """Has the only connection wait for the lock of `count-0`."""
        first = self.append("count-0")
        until(lambda: locks_waited_for(self.database) == 1, "the first one has the connection")
        return first

    def waiting(self) -> int:
        """How many wait for a connection."""
        connections: Any = self.store._connections
        return len(connections.waiters._line if isinstance(self.store, EventStore) else connections.waiting)

    def stands(self, count: int) -> None:
        """Waits until so many wait for a connection."""
        until(lambda: self.waiting() == count, f"{count} wait")

    def close(self) -> None:
        """Ends threads or loop."""
        self._ending.close()


@contextlib.contextmanager
def made(
    database: Database, colour: str, *statements: str, connections: int = 1, streams: int = MANY
) -> Iterator[Writers]:
    """What the statements make, writers, and streams of one event each, from `count-0` on."""
    with EventStore(database.dsn) as store:
        store.init()
        for number in range(streams):
            store.append(f"count-{number}", [Counted(0, 0)])
    for statement in statements:
        database.execute(statement)
    with contextlib.closing(Writers(database, colour, connections)) as writers:
        yield writers


class Lock:
    """Somebody else's transaction, which has appended to a stream."""

    def __init__(self, database: Database, stream: str) -> None:
        self.stream = stream
        self.connection = psycopg.connect(database.dsn)
        with EventStore(database.dsn) as store:
            store.append(stream, [Counted(0, 0)], connection=self.connection)

    def __enter__(self) -> Lock:
        return self

    def release(self) -> None:
        """Undoes it."""
        self.connection.rollback()

    def __exit__(self, *_: object) -> None:
        self.connection.close()


def locks_waited_for(database: Database) -> int:
    """How many of the store's backends wait for a lock."""
    query = "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return int(database.execute(query)[0][0])


def versions(database: Database, *streams: str) -> list[int]:
    """The versions of some streams, in order."""
    found: dict[str, int] = dict(database.execute("SELECT stream_id, version FROM es.streams"))
    return [found[stream] for stream in streams]


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize("colour", COLOURS)
def test_what_waits_goes_in_one_transaction(database: Database, colour: str) -> None:
    """Behind one that waits for a lock; but no more than a number, nothing large, and each of its own stream."""
    with made(database, colour) as writers, Lock(database, "count-0") as lock:
        first = writers.hold()
        futures = [writers.append(f"count-{number}") for number in range(1, MOST + 6)]
        writers.stands(MOST + 5)
        large = writers.append(f"count-{MOST + 6}", text="x" * 20_000)
        lock.release()
        assert [future.result(30) for future in [first, large, *futures]] == [2] * (MOST + 7)
        shared = database.execute(
            "SELECT count(*)::int FROM es.events WHERE sequence = 2 GROUP BY xid HAVING count(*) > 1 ORDER BY 1 DESC"
        )
        assert shared == [(MOST,), (5,)]


def test_the_plan_that_is_kept_takes_the_index(database: Database) -> None:
    """Also on a new store, of which nothing is known: it would be kept while the table grows."""
    statements = Statements("es")
    with EventStore(database.dsn) as store, database.connect() as connection:
        store.init()
        connection.execute("SET plan_cache_mode = force_generic_plan")
        numbered = calling._numbered(statements.append_each).decode()
        connection.execute(f"PREPARE each AS {numbered}")
        nothing = ", ".join(["NULL"] * statements.append_each.count("%s"))
        plan = "\n".join(line for (line,) in connection.execute(f"EXPLAIN EXECUTE each({nothing})"))
    assert "Index Scan using streams_pkey" in plan
    assert "Seq Scan" not in plan


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize("colour", COLOURS)
def test_one_that_comes_too_late_hurts_nobody(database: Database, colour: str) -> None:
    with made(database, colour) as writers, Lock(database, "count-0") as lock:
        first = writers.hold()
        late = writers.append("count-1", expected=7)
        futures = [writers.append(f"count-{number}") for number in range(2, 6)]
        twice = [writers.append("count-6", number) for number in range(2)]
        writers.stands(7)
        lock.release()
        assert [future.result(30) for future in [first, *futures]] == [2] * 5
        with pytest.raises(ConcurrencyConflict, match="it is at version 1"):
            late.result(30)
        outcomes = [future.exception(30) for future in twice]
        assert sorted(map(type, outcomes), key=str) == sorted([type(None), ConcurrencyConflict], key=str)
        assert versions(database, "count-1", "count-6") == [1, 2]


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize("colour", COLOURS)
def test_what_goes_together_is_written_and_refused_as_by_itself(database: Database, colour: str) -> None:
    """Texts that an array could take for its own, types of streams, closed streams; and nothing is left set."""
    texts = [
        "NULL",
        "",
        '{"a": "\\\\\\"}',
        "{a,b}",
        "back\\slash",
        "Gr\u00fc\u00dfe \u4e2d \U0001f600",
        "'; --",
        "%s $1",
    ]
    with made(database, colour, "UPDATE es.streams SET state = 'closed' WHERE stream_id = 'count-20'") as writers:
        with Lock(database, "count-0") as lock:
            first = writers.hold()
            futures = [writers.append(f"count-{number}", text=text) for number, text in enumerate(texts, 1)]
            futures.append(writers.append("count-18", stream_type="count"))
            closed, other = writers.append("count-20"), writers.append("count-19", stream_type="order")
            writers.stands(len(futures) + 2)
            lock.release()
            assert [future.result(30) for future in [first, *futures]] == [2] * (len(futures) + 1)
            with pytest.raises(EventStoreError, match="is closed"):
                closed.result(30)
            with pytest.raises(EventStoreError, match="of another stream_type"):
                other.result(30)
        assert database.execute("SELECT count(DISTINCT xid)::int FROM es.events WHERE sequence = 2") == [(2,)]
        written = dict(database.execute("SELECT stream_id, metadata ->> 'text' FROM es.events WHERE sequence = 2"))
        assert [written[f"count-{number}"] for number in range(1, len(texts) + 1)] == texts
        # A stream that is locked for longer than a group waits: who is by itself waits on.
        with Lock(database, "count-30") as lock:
            alone = writers.append("count-30")
            until(lambda: locks_waited_for(database) == 1, "it waits for the lock")
            waited = (
                "SELECT clock_timestamp() - query_start > '0.2 s' FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            )
            until(lambda: database.execute(waited) == [(True,)], "it waits for longer")
            lock.release()
            assert alone.result(30) == 2


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize("at", ["the statement", "COMMIT"])
@pytest.mark.parametrize("colour", COLOURS)
def test_what_the_server_refuses_is_refused_alone(database: Database, colour: str, at: str) -> None:
    refusing = (
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not thirteen'; END $$",
        f"CREATE {'CONSTRAINT' if at == 'COMMIT' else ''} TRIGGER refusing AFTER INSERT ON es.events"
        f" {'DEFERRABLE INITIALLY DEFERRED' if at == 'COMMIT' else ''}"
        " FOR EACH ROW WHEN (NEW.payload ->> 'number' = '13') EXECUTE FUNCTION refuse()",
    )
    with made(database, colour, *refusing) as writers, Lock(database, "count-0") as lock:
        first = writers.hold()
        futures = [writers.append(f"count-{number}", number) for number in range(10, 20)]
        writers.stands(10)
        lock.release()
        outcomes = [future.exception(30) for future in [first, *futures]]
        refused = outcomes.pop(4)
        assert outcomes == [None] * 10
        assert isinstance(refused, EventStoreError)
        assert "not thirteen" in str(refused)
        assert versions(database, "count-12", "count-13", "count-14") == [2, 1, 2]
        assert writers.append("count-13").result(30) == 2, "the connection can be used"


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize("colour", COLOURS)
def test_a_row_that_a_trigger_swallows_is_not_confirmed(database: Database, colour: str) -> None:
    """Together or by itself."""
    swallowing = (
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        "CREATE TRIGGER swallowing BEFORE INSERT ON es.events"
        " FOR EACH ROW WHEN (NEW.payload ->> 'number' = '13') EXECUTE FUNCTION swallow()",
    )
    with made(database, colour, *swallowing) as writers, Lock(database, "count-0") as lock:
        first = writers.hold()
        futures = [writers.append(f"count-{number}", number) for number in range(10, 20)]
        writers.stands(10)
        lock.release()
        outcomes = [type(future.exception(30)) for future in [first, *futures]]
        assert outcomes.pop(4) is ConcurrencyConflict
        assert outcomes == [type(None)] * 10


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize("colour", COLOURS)
def test_nobody_waits_for_a_stream_that_is_locked_but_its_own_writer(database: Database, colour: str) -> None:
    """The others are done while it is locked."""
    with contextlib.ExitStack() as stack:
        writers = stack.enter_context(made(database, colour, connections=3))
        locks = [stack.enter_context(Lock(database, f"count-{number}")) for number in range(4)]
        holders = [writers.append(f"count-{number}") for number in range(3)]
        until(lambda: locks_waited_for(database) == 3, "all connections are in use")
        locked = writers.append("count-3")
        futures = [writers.append(f"count-{number}") for number in range(4, 10)]
        writers.stands(7)
        for lock in locks[:2]:
            lock.release()
        assert [future.result(30) for future in futures] == [2] * 6
        assert not locked.done()
        for lock in locks[2:]:
            lock.release()
        assert [future.result(30) for future in [locked, *holders]] == [2] * 4


@pytest.mark.parametrize("colour", COLOURS)
def test_whose_connection_is_lost_is_told_so(database: Database, colour: str) -> None:
    """All that went together: whether it was done is not known. Here it was not; and the store goes on."""
    with made(database, colour, *SLEEPING) as writers, Lock(database, "count-0") as lock:
        first = writers.hold()
        futures = [writers.append(f"count-{number}", number) for number in range(10, 20)]
        writers.stands(10)
        lock.release()
        ended = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event = 'PgSleep'"
        )
        until(lambda: database.execute(ended) == [(True,)], "they sleep")
        outcomes = [future.exception(30) for future in futures]
        assert [type(outcome) for outcome in outcomes] == [ConnectionLost] * 10
        assert len({id(outcome.__cause__) for outcome in outcomes if outcome}) == 10, "an error of its own"
        assert all("is not known" in str(getattr(outcome, "hint", "")) for outcome in outcomes)
        assert first.result(30) == 2
        names = [f"count-{number}" for number in range(10, 20)]
        assert versions(database, *names) == [1] * 10
        assert [writers.append(name).result(30) for name in names] == [2] * 10


@pytest.mark.parametrize("places", [("_send",), ("_send", "_interrupted")], ids=["once", "again while it tells"])
def test_a_ctrl_c_of_who_sends_is_told_to_all(newest_database: Database, places: tuple[str, ...]) -> None:
    """Who waits looks whether somebody is at it."""
    with (
        made(newest_database, "threads") as writers,
        Lock(newest_database, "count-0") as lock,
        mock.patch.object(connections_module, "LOOK_AFTER", 0.01),
    ):
        first = writers.hold()
        futures = [writers.append(f"count-{number}") for number in range(1, 8)]
        writers.stands(7)
        with contextlib.ExitStack() as stack:
            for place in places:
                at_work = getattr(grouping, place)
                interrupted = chain([KeyboardInterrupt], repeat(mock.DEFAULT))
                stack.enter_context(mock.patch.object(grouping, place, wraps=at_work, side_effect=interrupted))
            lock.release()
            outcomes = [type(future.exception(30)) for future in futures]
        assert sorted(outcomes, key=str) == [KeyboardInterrupt] + [ConnectionLost] * 6
        assert first.result(30) == 2
        assert writers.append("count-50").result(30) == 2
        assert not writers.waiting()


def test_a_task_that_is_cancelled_stops_no_other(newest_database: Database) -> None:
    with made(newest_database, "tasks") as writers, Lock(newest_database, "count-0") as lock:
        first = writers.hold()
        futures = [writers.append(f"count-{number}") for number in range(1, 9)]
        writers.stands(8)
        assert futures[0].cancel()
        assert futures[5].cancel()
        lock.release()
        kept = [future for future in futures if not future.cancelled()]
        assert [future.result(30) for future in [first, *kept]] == [2] * 7
        assert versions(newest_database, "count-1", "count-6") == [1, 1], "nobody waited for them when they were sent"


def test_what_fails_behind_the_answer_is_not_done_again(newest_database: Database) -> None:
    """It was done; sent once more by itself, each would be told that another writer was first."""
    execute = psycopg.AsyncConnection.execute

    async def failing(self: psycopg.AsyncConnection[Any], query: Any, *arguments: Any, **named: Any) -> Any:
        answer = await execute(self, query, *arguments, **named)
        if "unnest" in str(query):
            raise OSError("too many open files")
        return answer

    with made(newest_database, "tasks") as writers, Lock(newest_database, "count-0") as lock:
        first = writers.hold()
        with mock.patch.object(psycopg.AsyncConnection, "execute", failing):
            futures = [writers.append(f"count-{number}") for number in range(1, 5)]
            writers.stands(4)
            lock.release()
            assert [type(future.exception(30)) for future in futures] == [ConnectionLost] * 4
        assert first.result(30) == 2
        assert versions(newest_database, *(f"count-{number}" for number in range(1, 5))) == [2] * 4


def test_the_stores_own_task_may_be_cancelled(newest_database: Database) -> None:
    """By who ends all tasks that there are: before it began, and while it waits; others go on."""
    with made(newest_database, "tasks") as writers, Lock(newest_database, "count-0") as lock:
        first = writers.hold()
        store, loop = writers.store, writers.loop
        assert isinstance(store, AsyncEventStore)
        assert loop is not None
        connections: Any = store._connections

        async def appended() -> list[int]:
            appending = [asyncio.create_task(store.append("count-1", [Counted(0, 1)], expected=1))]
            await asyncio.sleep(0)
            for task in connections.tasks:  # it has not begun
                task.cancel()
            await asyncio.sleep(0)
            appending.append(asyncio.create_task(store.append("count-2", [Counted(0, 1)], expected=1)))
            for _ in range(3):
                await asyncio.sleep(0)
            for task in connections.tasks:  # it waits
                task.cancel()
            await asyncio.sleep(0)
            lock.release()
            return await asyncio.gather(*appending)

        assert asyncio.run_coroutine_threadsafe(appended(), loop).result(30) == [2, 2]
        assert first.result(30) == 2
        assert not connections.tasks


def test_what_was_under_way_in_a_cancelled_task_is_not_sent_again(newest_database: Database) -> None:
    """Whether it was done is not known."""
    with made(newest_database, "tasks", *SLEEPING) as writers, Lock(newest_database, "count-0") as lock:
        first = writers.hold()
        futures = [writers.append(f"count-{number}", 13) for number in range(1, 5)]
        writers.stands(4)
        lock.release()
        asleep = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        until(lambda: newest_database.execute(asleep) == [(1,)], "they sleep")
        loop, connections = writers.loop, writers.store._connections
        assert loop is not None

        def cancel() -> None:
            for task in getattr(connections, "tasks", ()):
                task.cancel()

        loop.call_soon_threadsafe(cancel)
        assert [type(future.exception(30)) for future in futures] == [ConnectionLost] * 4
        assert first.result(30) == 2


@pytest.mark.parametrize("colour", COLOURS)
def test_behind_a_server_that_is_gone_nobody_waits(newest_database: Database, colour: str) -> None:
    """Each is told, also those that have not come to a connection."""
    with made(newest_database, colour) as writers, Lock(newest_database, "count-0"):
        first = writers.hold()
        futures = [writers.append(f"count-{number}") for number in range(1, 9)]
        writers.stands(8)
        with mock.patch.object(
            connections_module if colour == "threads" else psycopg.AsyncConnection,
            "OwnConnection" if colour == "threads" else "connect",
            side_effect=psycopg.OperationalError("connection refused"),
        ) as connecting:
            if colour == "threads":
                connecting.connect.side_effect = psycopg.OperationalError("connection refused")
            newest_database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            outcomes = [type(future.exception(30)) for future in [first, *futures]]
        assert outcomes == [ConnectionLost] * 9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("colour", COLOURS)
def test_what_was_confirmed_is_there_once(newest_database: Database, colour: str, seed: int) -> None:
    """Many writers of few streams by few connections, which are ended now and then, and which wait for locks."""
    chance = random.Random(seed)
    confirmed: set[tuple[str, int, int]] = set()
    unknown: set[int] = set()
    with made(newest_database, colour, connections=chance.randint(1, 3), streams=12) as writers:
        known = [1] * 12
        number = 0
        for _ in range(30):
            sent: list[tuple[int, int, int, Future[int]]] = []
            for _ in range(chance.randint(1, MANY)):
                number += 1
                place = chance.randrange(12)
                expected = known[place] + chance.choice((0, 0, 0, 1))
                sent.append((place, number, expected, writers.append(f"count-{place}", number, expected=expected)))
            if chance.random() < 0.3:
                newest_database.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                    " AND datname = current_database() AND application_name = 'pgcdc event store'"
                )
            for place, given, expected, future in sent:
                error = future.exception(60)
                if error is None:
                    assert future.result() == expected + 1
                    confirmed.add((f"count-{place}", expected + 1, given))
                elif isinstance(error, ConnectionLost):
                    unknown.add(given)
                else:
                    assert isinstance(error, ConcurrencyConflict), error
            for stream, version in newest_database.execute("SELECT stream_id, version FROM es.streams"):
                known[int(stream.removeprefix("count-"))] = version
    found = newest_database.execute("SELECT stream_id, sequence, (payload ->> 'number')::int FROM es.events")
    written = [(stream, sequence, given) for stream, sequence, given in found if given]
    assert len({given for *_, given in written}) == len(written), "each is there once"
    assert confirmed <= set(written)
    assert {given for *_, given in set(written) - confirmed} <= unknown
    assert len(confirmed) > 100
    for place in range(12):
        sequences = sorted(sequence for stream, sequence, _ in found if stream == f"count-{place}")
        assert sequences == list(range(1, known[place] + 1))


def test_a_statement_that_is_not_prepared_where_it_is_sent(newest_database: Database) -> None:
    """As behind a pooler: it is sent by itself, and prepared again."""
    with made(newest_database, "threads") as writers:
        assert writers.append("count-0").result(30) == 2
        connections: Any = writers.store._connections
        connection = connections.take()
        connection.execute("DEALLOCATE ALL")
        futures = [writers.append(f"count-{number}") for number in range(1, 6)]
        writers.stands(5)
        connections.give(connection)
        assert [future.result(30) for future in futures] == [2] * 5
        assert calling.prepared(connection, "SELECT 1")
