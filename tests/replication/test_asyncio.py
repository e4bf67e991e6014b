"""What only an event loop can do to a connection: cancel it, run several at a time, and want to go on meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc.events import Insert
from pgcdc.replication import (
    AsyncConnection,
    AsyncSnapshot,
    PlanStale,
    Publication,
    PublicationTable,
    acheck_server,
    aensure_publication,
    apublished_tables,
)
from pgcdc.replication.session_async import AsyncSession
from tests.replication.reading_async import read_commits, until
from tests.replication.streams import changes, ids, new_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import Database

TABLE = ("CREATE TABLE t (id int PRIMARY KEY, note text)", "CREATE PUBLICATION p FOR TABLE t")


@pytest.fixture
async def connection(newest_database: Database) -> AsyncIterator[AsyncConnection]:
    async with pgcdc.aconnect(newest_database.dsn) as connection:
        yield connection


def sleeping(database: Database, pid: int) -> bool:
    """Whether a session runs pg_sleep."""
    return bool(database.execute(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'"))


async def test_a_cancelled_command_is_cancelled_on_the_server(newest_database: Database) -> None:
    async with await AsyncSession.connect(newest_database.dsn, replication=False) as session:
        task = asyncio.create_task(session.execute("SELECT pg_sleep(60)"))
        pid = session.pgconn.backend_pid
        await until(lambda: sleeping(newest_database, pid))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not sleeping(newest_database, pid)
        assert await session.execute("SELECT 1") == [("1",)]


async def test_a_timeout_around_a_command(newest_database: Database) -> None:
    async with await AsyncSession.connect(newest_database.dsn, replication=False) as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await session.execute("SELECT pg_sleep(60)")
        assert await session.execute("SELECT 1") == [("1",)]


async def test_a_timeout_around_reading(connection: AsyncConnection, newest_database: Database) -> None:
    """The stream goes on; at which places a read may be cancelled: see test_cancelled."""
    newest_database.execute(*TABLE)
    slot = (await connection.create_slot(new_name())).name
    seen: list[int] = []

    async def read_for_ever() -> None:
        while True:
            seen.extend(ids((await stream.read(60)).events(stream.format)))

    async def iterate() -> None:
        async for event in stream:
            seen.extend(ids([event]))

    async with connection.stream(slot, ["p"]) as stream:
        for number in range(1, 4):
            newest_database.execute(f"INSERT INTO t VALUES ({number})")
            for reading in (read_for_ever, iterate):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(reading(), 0.1)
        while len(seen) < 3:
            seen += ids((await stream.read(60)).events(stream.format))
        assert seen == [1, 2, 3]
        task = asyncio.create_task(stream.read(60))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        newest_database.execute("INSERT INTO t VALUES (4)")
        assert ids(await read_commits(stream, 1)) == [4]


async def test_cancelled_while_connecting(newest_database: Database) -> None:
    """Nothing is left: no session of ours on the server."""
    name = new_name("app")
    task = asyncio.create_task(AsyncConnection.connect(f"{newest_database.dsn} application_name={name}"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    query = f"SELECT 1 FROM pg_stat_activity WHERE application_name = '{name}'"
    await until(lambda: not newest_database.execute(query))


async def test_what_is_opened_can_be_awaited_or_entered(connection: AsyncConnection, newest_database: Database) -> None:
    newest_database.execute(*TABLE)
    slot = (await connection.create_slot(new_name())).name
    other = await pgcdc.aconnect(newest_database.dsn)
    stream = await other.stream(slot, "p")
    assert "AsyncConnection" in repr(other) and "AsyncStream" in repr(stream)
    newest_database.execute("INSERT INTO t VALUES (1)")
    assert ids(await read_commits(stream, 1)) == [1]
    await other.close()
    with pytest.raises(pgcdc.ConfigError, match="is closed"):
        await stream.read(0)


async def test_iterating(connection: AsyncConnection, newest_database: Database) -> None:
    newest_database.execute(*TABLE)
    slot = (await connection.create_slot(new_name())).name
    newest_database.execute("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)")
    seen = []
    async with connection.stream(slot, ["p"]) as stream:
        async for event in stream:
            if isinstance(event, Insert):
                seen.append(event.new.id)
            elif isinstance(event, pgcdc.Commit):
                stream.confirm(event)
                if len(seen) == 2:
                    break
    assert seen == [1, 2]
    state = await connection.slot(slot)
    assert state is not None and state.confirmed_flush_lsn == stream.flushed_lsn


async def test_several_streams_in_one_loop(newest_database: Database) -> None:
    newest_database.execute(*TABLE)
    async with pgcdc.aconnect(newest_database.dsn) as connection:
        slots = [(await connection.create_slot(new_name())).name for _ in range(4)]

    async def follow(slot: str) -> list[int]:
        async with pgcdc.aconnect(newest_database.dsn) as connection, connection.stream(slot, ["p"]) as stream:
            return ids(await read_commits(stream, 3))

    following = [asyncio.create_task(follow(slot)) for slot in slots]
    for number in (1, 2, 3):
        await asyncio.to_thread(newest_database.execute, f"INSERT INTO t VALUES ({number})")
    assert await asyncio.gather(*following) == [[1, 2, 3]] * 4


async def test_others_get_their_turn(connection: AsyncConnection, newest_database: Database) -> None:
    """There is always something to read here, and the loop goes round all the same."""
    newest_database.execute(*TABLE)
    slot = (await connection.create_slot(new_name())).name
    newest_database.execute("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i")
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with connection.stream(slot, ["p"]) as stream:
        turning = asyncio.create_task(turn())
        batches = 0
        rows = 0
        while rows < 20000:
            rows += len(changes((await stream.read(5, max_messages=100)).events()))
            batches += 1
        turning.cancel()
    assert turns >= batches > 100


async def test_slots_and_publications(connection: AsyncConnection, newest_database: Database) -> None:
    """What the tests of slots, publications and plans say of the synchronous connection, in short."""
    newest_database.execute(TABLE[0], "CREATE TABLE u (id int PRIMARY KEY)")
    plan = await connection.plan_publication(Publication("p", [PublicationTable("t", where="id > 1")]))
    await connection.apply(plan)
    with pytest.raises(PlanStale):
        await connection.apply(plan)
    found = await connection.publication("p")
    assert found is not None and found.tables == (PublicationTable("t", where="(id > 1)"),)
    more = await connection.plan_publication(Publication("p", [*found.tables, PublicationTable("u")]))
    assert [warning.kind for warning in more.warnings] == ["snapshot_needed"]
    slot, dropped = [(await connection.create_slot(new_name())).name for _ in range(2)]
    newest_database.execute("INSERT INTO t VALUES (2)")
    async with connection.stream(slot, ["p"]) as stream:
        assert ids(await read_commits(stream, 1)) == [2]
        copy = await connection.copy_slot(slot, new_name())
        state = await connection.slot(copy.name)
        assert state is not None and state.lag_bytes and state.lag_seconds is not None
    end = await connection.advance_slot(copy.name, (state.confirmed_flush_lsn or 0) + state.lag_bytes)
    assert end > copy.consistent_point
    temporary = await connection.copy_slot(slot, new_name(), temporary=True)
    assert await connection.advance_slot(temporary.name, end) == end
    wanted = await connection.plan_slots(create=[new_name()], advance={slot: end}, drop=[dropped])
    assert len(wanted.steps) == 3
    await connection.apply(wanted)
    assert {slot, copy.name, temporary.name, wanted.create[0].name} <= {s.name for s in await connection.slots()}
    with pytest.raises(PlanStale):
        await connection.apply(wanted)
    await connection.apply(await connection.plan_drop_publication("p"))
    assert await connection.publications() == []


async def test_a_snapshot(connection: AsyncConnection, newest_database: Database) -> None:
    newest_database.execute(TABLE[0], "INSERT INTO t SELECT i FROM generate_series(1, 1000) i")
    assert await aensure_publication(connection, "p", ["t"]) == [("public", "t")]
    await acheck_server(connection, need_new_slot=True)
    tables = await apublished_tables(connection, ["p"])
    slot = await connection.create_slot(new_name(), export_snapshot=True)
    newest_database.execute("DELETE FROM t")
    rows: list[Any] = []
    async with AsyncSnapshot(newest_database.dsn, slot, tables, pgcdc.Catalog()) as snapshot:
        async for batch in snapshot.batches(max_rows=100):
            rows += batch.events()
    assert ids(rows) == list(range(1, 1001))


async def test_a_copy_that_is_left_half_way_ends_on_the_server(
    connection: AsyncConnection, newest_database: Database
) -> None:
    newest_database.execute(*TABLE, "INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 50000) i")
    tables = await apublished_tables(connection, ["p"])
    slot = await connection.create_slot(new_name(), export_snapshot=True)
    async with AsyncSnapshot(newest_database.dsn, slot, tables, pgcdc.Catalog()) as snapshot:
        async for batch in snapshot.batches(max_rows=10):
            assert len(batch)
            break
    await until(lambda: not newest_database.execute("SELECT 1 FROM pg_stat_activity WHERE query ~ '^COPY'"))


async def test_a_loop_that_stands_still_for_a_while(connection: AsyncConnection, newest_database: Database) -> None:
    """A callback that computes holds up everything; within the server's patience nothing comes of it."""
    newest_database.execute(*TABLE)
    slot = (await connection.create_slot(new_name())).name
    async with connection.stream(slot, ["p"]) as stream:
        newest_database.execute("INSERT INTO t VALUES (1)")
        until_then = time.monotonic() + 0.5
        while time.monotonic() < until_then:
            pass
        assert ids(await read_commits(stream, 1)) == [1]


async def test_a_loop_that_stands_still_for_too_long(newest_database: Database) -> None:
    """Nothing can be sent meanwhile: the server gives up, which is said by the next read, or mended by another link."""
    newest_database.execute(*TABLE)
    with newest_database.server.settings(wal_sender_timeout="1s"):
        for reconnect in (False, True):
            async with pgcdc.aconnect(newest_database.dsn) as connection:
                slot = (await connection.create_slot(new_name())).name
                async with connection.stream(slot, ["p"], reconnect=reconnect) as stream:
                    await stream.read(0.1)
                    gone = f"SELECT 1 FROM pg_stat_activity WHERE pid = {connection.backend_pid}"
                    deadline = time.monotonic() + 30
                    while newest_database.execute(gone):  # all of it in one step of the loop
                        assert time.monotonic() < deadline
                    newest_database.execute(f"INSERT INTO t VALUES ({int(reconnect)})")
                    if reconnect:
                        assert ids(await read_commits(stream, 1)) == [1]
                        assert stream.reconnects == 1
                        continue
                    with pytest.raises(pgcdc.ConnectionLost) as caught:
                        await read_commits(stream, 1)
                    assert "wal_sender_timeout is 1 s" in (caught.value.hint or "")
