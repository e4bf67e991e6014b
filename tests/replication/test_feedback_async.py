"""What the server is told while nobody reads, and of WAL that has nothing for us; and that it can be stopped."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc.events import Commit, Message
from tests.replication.reading_async import SECONDS, read_commits, read_past, until
from tests.replication.streams import confirmed, ids, new_name, wal_end

if TYPE_CHECKING:
    from pgcdc.replication import AsyncConnection, AsyncStream
    from tests.conftest import Database


async def read_empty(stream: AsyncStream, lsn: int) -> None:
    """Reads until everything up to an LSN has come, which must be nothing."""
    assert [event for event in await read_past(stream, lsn) if not isinstance(event, (pgcdc.Begin, Commit))] == []


async def confirm_commits(stream: AsyncStream) -> None:
    """What a plain consumer does."""
    async for event in stream:
        if isinstance(event, Commit):
            stream.confirm(event)


async def test_the_reader_may_sleep(database: Database) -> None:
    """For three times the server's patience nobody reads; then the stream goes on, and nothing was confirmed."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
    with database.server.settings(wal_sender_timeout="1s"):
        async with pgcdc.aconnect(database.dsn) as connection:
            slot = await connection.create_slot(new_name())
            async with connection.stream(slot.name, ["p"]) as stream:
                database.execute("INSERT INTO t VALUES (1)")
                events = await read_commits(stream, 1)
                assert ids(events) == [1]
                database.execute("INSERT INTO t VALUES (2)")
                await asyncio.sleep(3)
                # What the server wrote of its own before it is as good as confirmed.
                first = next(one for one in events if isinstance(one, Commit))
                assert confirmed(database, slot.name) <= first.commit_lsn
                assert ids(await read_commits(stream, 1)) == [2]


async def test_a_confirmation_goes_out_while_nobody_reads(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    database.execute("INSERT INTO t VALUES (1)")
    async with connection.stream(slot, ["p"]) as stream:
        commit = (await read_commits(stream, 1))[-1]
        stream.confirm(commit)
        await until(lambda: confirmed(database, slot) >= commit.end_lsn)


async def test_a_slot_that_gets_nothing_moves_on(connection: AsyncConnection, database: Database, slot: str) -> None:
    database.execute("CREATE TABLE other (id int)", "INSERT INTO other SELECT generate_series(1, 1000)")
    end = wal_end(database)
    async with connection.stream(slot, ["p"]) as stream:
        await read_empty(stream, end)
        if connection.server_version >= 150000:  # 14 sends empty transactions, which nobody has confirmed
            await until(lambda: confirmed(database, slot) >= end)


async def test_a_slot_moves_on_when_what_came_is_confirmed(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    database.execute("INSERT INTO t VALUES (1)", "CREATE TABLE other (id int)")
    async with connection.stream(slot, ["p"]) as stream:
        events = await read_past(stream, wal_end(database))
        assert ids(events) == [1]
        assert stream.flushed_lsn < next(event.end_lsn for event in events if isinstance(event, Commit))
        stream.confirm([event for event in events if isinstance(event, Commit)][-1])
        database.execute("SELECT txid_current()")
        end = wal_end(database)
        await read_empty(stream, end)
        assert stream.flushed_lsn >= end
        await until(lambda: confirmed(database, slot) >= end)


async def test_it_does_not_move_past_what_is_not_confirmed(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    for number, statement in enumerate(
        ("INSERT INTO t VALUES (1)", "SELECT pg_logical_emit_message(false, 'm', 'side')"), 1
    ):
        database.execute(statement)
        async with connection.stream(slot, ["p"]) as stream:
            events: list[Any] = await read_past(stream, wal_end(database))
            durable: list[Any] = [event for event in events if isinstance(event, (Commit, Message))]
            for event in durable[:-1]:
                stream.confirm(event)
            database.execute("SELECT txid_current()")
            await read_empty(stream, wal_end(database))
            assert stream.flushed_lsn < (durable[-1].lsn if number == 2 else durable[-1].end_lsn)
            stream.confirm(durable[-1])
            database.execute("SELECT txid_current()")
            end = wal_end(database)
            await read_empty(stream, end)
            assert stream.flushed_lsn >= end


async def test_confirm_idle_off(connection: AsyncConnection, database: Database, slot: str) -> None:
    async with connection.stream(slot, ["p"], confirm_idle=False) as stream:
        await read_empty(stream, wal_end(database))
        assert stream.flushed_lsn == 0


async def test_a_fast_stop_does_not_wait_for_a_stream_that_confirms_commits(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    database.execute("INSERT INTO t VALUES (1)")
    async with connection.stream(slot, ["p"]) as stream:
        for event in await read_commits(stream, 1):
            stream.confirm(event)
        database.execute("CREATE TABLE other (id int)")
        began = time.monotonic()
        stopping = threading.Thread(target=database.server.stop)
        stopping.start()
        with pytest.raises(pgcdc.ConnectionLost):
            await confirm_commits(stream)
        stopping.join()
        assert time.monotonic() - began < 5
    database.server.start()


async def test_a_fast_stop_does_not_wait_for_ever_for_a_confirmation(
    connection: AsyncConnection, database: Database, slot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server asks again and again, and is let go."""
    monkeypatch.setattr("pgcdc.replication.link_async._PRESSED_SECONDS", 1.5)
    database.execute("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)")
    async with connection.stream(slot, ["p"]) as stream:
        events = await read_commits(stream, 2)
        stream.confirm(next(event for event in events if isinstance(event, Commit)))
        # Who never confirms anything is not waited for at all: what was received counts then.
        await until(lambda: confirmed(database, slot) == stream.flushed_lsn)
        stopping = threading.Thread(target=database.server.stop)
        stopping.start()
        with pytest.raises(pgcdc.ConnectionLost, match="is being stopped") as caught:
            await read_past(stream, 1 << 60)
        stopping.join()
        told = stream.flushed_lsn  # before 17 a server that stops does not keep what was confirmed last
        assert "comes again" in (caught.value.hint or "")
        assert stream.questions < 100, "an answer that says nothing new takes its time"
    database.server.start()
    async with pgcdc.aconnect(database.dsn) as again, again.stream(slot, ["p"], start_lsn=told) as stream:
        assert ids(await read_commits(stream, 1)) == [2]


async def test_a_heartbeat(connection: AsyncConnection, database: Database, slot: str) -> None:
    """WAL is written in a database that nobody writes to, and is confirmed; the messages are for nobody."""
    async with connection.stream(slot, ["p"], heartbeat=0.05) as stream:
        first = stream.received_lsn
        deadline = time.monotonic() + SECONDS
        seen: set[int] = set()
        while len(seen) < 5:
            assert time.monotonic() < deadline
            assert not len(await stream.read(0.1))
            if stream.flushed_lsn > first:
                seen.add(stream.flushed_lsn)
    async with connection.stream(slot, ["p"], heartbeat=0.05, messages=True) as stream:
        async for event in stream:
            assert isinstance(event, Message) and event.prefix == "pgcdc.heartbeat"
            break
