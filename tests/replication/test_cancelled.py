"""A read that is cancelled wherever it awaits something: the next one goes on, nothing is lost, nothing comes twice.

Each call is cancelled at the first place where it waits, made again and cancelled at the second, and so on, until one
comes to its end before it is cancelled. What came in spite of that is compared with what comes to a reader that nobody
disturbs.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pytest

import pgcdc
from pgcdc.events import Commit, Insert, Message, Relation, Update
from pgcdc.replication.stream_options import Reconnect
from tests.replication.reading_async import SECONDS, read_past, until
from tests.replication.streams import ids, new_name, wal_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from pgcdc.replication import AsyncStream
    from tests.conftest import Database

T = TypeVar("T")


class CancelledAt(Generic[T]):
    """What is awaited, and cancelled where it waits for the number-th time, as a task that is cancelled there is."""

    def __init__(self, awaited: Awaitable[T], number: int) -> None:
        self._awaited = awaited
        self._number = number

    def __await__(self) -> Generator[Any, None, T]:
        steps = self._awaited.__await__()
        try:
            for number in count(1):
                waiting = next(steps)
                if number == self._number:
                    waiting = steps.throw(asyncio.CancelledError())
                yield waiting
        except StopIteration as end:
            result: T = end.value
            return result
        raise AssertionError


class Disturbed:
    """Awaits things in spite of cancellations, and counts these."""

    def __init__(self) -> None:
        self.cancellations = 0
        self._deadline = monotonic() + SECONDS

    async def __call__(self, begin: Callable[[], Awaitable[T]]) -> T:
        for attempt in count():
            assert monotonic() < self._deadline, "what was to come did not"
            try:
                # Each number twice: what was begun before the one is what the other meets.
                return await CancelledAt(begin(), 1 + attempt // 2)
            except asyncio.CancelledError:
                self.cancellations += 1
        raise AssertionError


@pytest.fixture(autouse=True)
def waits_with_messages_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """psycopg lets the event loop run now and then, when it has already taken something: here each time."""
    monkeypatch.setattr("psycopg.waiting.MAX_BUSY_TIME", 0.0, raising=False)


async def read(stream: AsyncStream, commits: int, disturbed: Disturbed) -> list[Any]:
    events: list[Any] = []
    while sum(isinstance(event, Commit) for event in events) < commits:
        events += (await disturbed(lambda: stream.read(1.0, max_messages=7))).events(stream.format)
    return events


async def batches(stream: AsyncStream, commits: int, disturbed: Disturbed) -> list[Any]:
    events: list[Any] = []
    coming = stream.batches(max_messages=7)
    while sum(isinstance(event, Commit) for event in events) < commits:
        events += (await disturbed(coming.__anext__)).events(stream.format)
    return events


async def iterate(stream: AsyncStream, commits: int, disturbed: Disturbed) -> list[Any]:
    events: list[Any] = []
    coming = aiter(stream)
    while sum(isinstance(event, Commit) for event in events) < commits:
        events.append(await disturbed(coming.__anext__))
    return events


async def transactions(stream: AsyncStream, commits: int, disturbed: Disturbed) -> list[Any]:
    events: list[Any] = []
    coming = stream.transactions()
    while commits:
        transaction = await disturbed(coming.__anext__)
        commits -= transaction.xid > 0
        changes = aiter(transaction)
        while True:
            try:
                events.append(await disturbed(changes.__anext__))
            except StopAsyncIteration:
                break
    return events


def told(events: list[Any]) -> list[str]:
    """Events as text, which says all: each stream has made its own classes of rows.

    Relations are left out: a server tells them again whenever its caches were emptied.
    """
    return [repr(event) for event in events if not isinstance(event, Relation)]


async def test_nothing_is_lost_and_nothing_comes_twice(database: Database) -> None:
    """With what one may have in hand: a transaction that was streamed, tables whose types have to be asked for."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY, note text)", "CREATE PUBLICATION p FOR TABLE t")
    kinds = (read, batches, iterate, transactions)
    options: dict[str, Any] = {"streaming": "on", "max_memory": 10_000}
    with database.server.settings(logical_decoding_work_mem="64kB"):
        async with AsyncExitStack() as stack:
            streams = []
            for _ in range(1 + len(kinds)):
                connection = await stack.enter_async_context(pgcdc.aconnect(database.dsn))
                slot = (await connection.create_slot(new_name())).name
                streams.append(await stack.enter_async_context(connection.stream(slot, ["p"], **options)))
            database.execute(
                "INSERT INTO t VALUES (1, 'x')",
                "INSERT INTO t SELECT i, repeat('x', 300) FROM generate_series(1001, 2000) i",
                "SELECT pg_logical_emit_message(false, 'a', 'b')",
                "CREATE TYPE mood AS ENUM ('sad', 'happy')",
                "ALTER TABLE t ADD m mood",
                "INSERT INTO t VALUES (2, 'x', 'sad'), (3, 'x', 'happy')",
                "UPDATE t SET m = 'sad' WHERE id < 3",
            )
            expected = await read_past(streams[0], wal_end(database))
            commits = sum(isinstance(event, Commit) for event in expected)
            for kind, stream in zip(kinds, streams[1:], strict=True):
                assert stream.binary
                disturbed = Disturbed()
                events = await kind(stream, commits, disturbed)
                assert disturbed.cancellations > 2
                if kind is transactions:
                    expected = [event for event in expected if isinstance(event, (Insert, Update, Message))]
                assert told(events) == told(expected)
            assert "m='happy'" in repr(expected), "the type was learned"


async def check_rows(stream: AsyncStream, disturbed: Disturbed, count: int, each: Callable[[int], None]) -> None:
    """Read rows 1 to count, each once and in order."""
    came: list[int] = []
    while len(came) < count:
        batch = await disturbed(lambda: stream.read(1.0, max_messages=7))
        for number in ids(batch.events(stream.format)):
            came.append(number)
            each(number)
    assert came == list(range(1, count + 1))


async def test_while_connecting_again(newest_database: Database) -> None:
    """A connection that is just being made, or begins to stream, is in the way of no other and does not stay."""
    newest_database.execute("CREATE TABLE t (id int PRIMARY KEY, note text)", "CREATE PUBLICATION p FOR TABLE t")
    async with pgcdc.aconnect(f"{newest_database.dsn} application_name={(name := new_name())}") as connection:
        slot = (await connection.create_slot(new_name())).name
        newest_database.execute("ALTER TABLE t ALTER note SET STORAGE EXTERNAL")
        # More than is on the way at any time.
        newest_database.execute("INSERT INTO t SELECT i, repeat('x', 100000) FROM generate_series(1, 50) i")

        def terminate(number: int) -> None:
            if number in (10, 50):
                newest_database.execute(f"SELECT pg_terminate_backend({connection.backend_pid})")
            if number == 50:
                newest_database.execute("INSERT INTO t VALUES (51)")

        disturbed = Disturbed()
        async with connection.stream(slot, ["p"], reconnect=Reconnect(first=0.001, longest=0.01)) as stream:
            await check_rows(stream, disturbed, 51, terminate)
            assert stream.reconnects == 2
        assert disturbed.cancellations > 20
        query = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'"
        await until(lambda: newest_database.execute(query)[0][0] <= 2)  # the walsender and the session beside it


async def test_the_reason_for_the_end_is_not_lost(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, note text)", "CREATE PUBLICATION p FOR TABLE t")
    async with pgcdc.aconnect(database.dsn) as connection:
        slot = (await connection.create_slot(new_name())).name
        database.execute("INSERT INTO t VALUES (1)")
        disturbed = Disturbed()
        async with connection.stream(slot, ["p"]) as stream:
            await check_rows(stream, disturbed, 1, lambda number: None)
            database.execute("DROP PUBLICATION p", "INSERT INTO t VALUES (2)")
            with pytest.raises(pgcdc.PublicationNotFound):
                await check_rows(stream, disturbed, 2, lambda number: None)
            with pytest.raises(pgcdc.ConfigError):
                await stream.read(0)
        assert disturbed.cancellations


async def test_closing(newest_database: Database) -> None:
    """A stream that is being closed is closed, whatever it waited for, and its slot is free."""
    newest_database.execute("CREATE TABLE t (id int PRIMARY KEY, note text)", "CREATE PUBLICATION p FOR TABLE t")
    async with pgcdc.aconnect(newest_database.dsn) as connection:
        slot = (await connection.create_slot(new_name())).name
    free = f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{slot}' AND NOT active"
    newest_database.execute("INSERT INTO t SELECT i, repeat('x', 300) FROM generate_series(1, 1000) i")
    for number in count(1):
        async with pgcdc.aconnect(newest_database.dsn) as connection:
            stream = await connection.stream(slot, ["p"])
            assert len(await stream.read(10, max_messages=7))
            try:
                await CancelledAt(stream.close(), number)
            except asyncio.CancelledError:
                assert stream.closed and connection.closed
            else:
                break
            finally:
                await until(lambda: newest_database.execute(free))
    assert number > 1
