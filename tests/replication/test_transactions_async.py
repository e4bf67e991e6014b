"""Whole transactions: as they are committed, streamed while under way, prepared; and what may be confirmed then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc.events import Begin, Commit, Insert, Message
from tests.replication.reading_async import SECONDS, read_commits, read_past, until
from tests.replication.streams import changes, confirmed, ids, new_name, wal_end

if TYPE_CHECKING:
    from pgcdc.replication import AsyncConnection
    from tests.conftest import Database


async def test_transactions(connection: AsyncConnection, database: Database, slot: str) -> None:
    database.execute(
        "INSERT INTO t SELECT i FROM generate_series(1, 30000) i",
        "SELECT pg_logical_emit_message(false, 'out', 'side')",
        "INSERT INTO t VALUES (40000), (40001)",
        "UPDATE t SET note = 'x' WHERE id = 1",
    )
    seen: list[tuple[int, int]] = []
    async with connection.stream(slot, ["p"]) as stream:
        async for transaction in stream.transactions():
            if not seen:
                with pytest.raises(pgcdc.ConfigError, match="not read to its end"):
                    stream.confirm(transaction)
            rows: list[Any] = []
            async for change in transaction:
                rows.append(change)
                if len(rows) == 1 and len(seen) == 2:
                    break  # the rest is passed over
            seen.append((len(rows), min(transaction.xid, 1)))
            if len(seen) != 3:
                stream.confirm(transaction)
                assert stream.flushed_lsn == transaction.end_lsn
            assert all(row.commit_lsn == transaction.commit_lsn for row in rows if not isinstance(row, Message))
            if len(seen) == 4:
                break
    assert seen == [(30000, 1), (1, 0), (1, 1), (1, 1)]


async def test_leaving_a_loop_loses_nothing(connection: AsyncConnection, database: Database, slot: str) -> None:
    """What came in one batch with the event at which the loop was left is given to the next loop."""
    database.execute("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (3)")
    seen: list[int] = []
    async with connection.stream(slot, ["p"]) as stream:
        while len(seen) < 3:
            async for event in stream:
                if isinstance(event, Insert):
                    seen.append(event.new.id)
                    break
    assert seen == [1, 2, 3]


def write_large(database: Database) -> None:
    """Two large transactions under way at the same time, one with a part that is rolled back, and a third."""
    with database.connect() as one, database.connect() as two, database.connect() as three:
        for connection, first in ((one, 10_000), (two, 20_000), (three, 30_000)):
            connection.execute("BEGIN")
            connection.execute(f"INSERT INTO t SELECT {first} + i, repeat('x', 100) FROM generate_series(1, 2000) i")
        one.execute("SAVEPOINT a")
        one.execute("INSERT INTO t SELECT 15000 + i, repeat('y', 100) FROM generate_series(1, 2000) i")
        one.execute("ROLLBACK TO a")
        one.execute("SELECT pg_logical_emit_message(true, 'in', 'side')")
        database.execute("INSERT INTO t VALUES (1)")
        two.execute("INSERT INTO t SELECT 25000 + i, repeat('z', 100) FROM generate_series(1, 2000) i")
        two.execute("COMMIT")
        three.execute("ROLLBACK")
        one.execute("COMMIT")


@pytest.mark.parametrize("streaming", ["on", "parallel"])
async def test_streamed_transactions_come_as_others_do(
    connection: AsyncConnection, database: Database, slot: str, streaming: Any
) -> None:
    other = (await connection.create_slot(new_name())).name
    with database.server.settings(logical_decoding_work_mem="64kB"):
        write_large(database)
        end = wal_end(database)
        given: list[list[Any]] = []
        for name, options in ((slot, {}), (other, {"streaming": streaming, "max_memory": 100_000})):
            async with pgcdc.aconnect(database.dsn) as reader, reader.stream(name, ["p"], **options) as stream:
                events = await read_past(stream, end)
                given.append([event for event in events if isinstance(event, (Insert, Message, Commit))])
                # What was idle before the first of them could be confirmed, and nothing else.
                assert stream.flushed_lsn < min(event.commit_lsn for event in events if isinstance(event, Commit))
        query = f"SELECT stream_txns FROM pg_stat_replication_slots WHERE slot_name = '{other}'"
        await until(lambda: database.execute(query)[0][0] >= 2)
    whole, streamed = ([event for event in events if not isinstance(event, Commit)] for events in given)
    assert len(whole) == 1 + 4000 + 2000 + 1
    assert [event.position for event in streamed] == [event.position for event in whole]
    assert [event.new.id for event in changes(streamed)] == [event.new.id for event in changes(whole)]
    commits = [{event.end_lsn for event in events if isinstance(event, Commit)} for events in given]
    assert commits[1] <= commits[0]  # 14 says empty ones, too


async def test_a_streamed_transaction_under_way_is_in_flight(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    """Nothing of it has come out, and keepalives tell of WAL beyond its beginning: that is not confirmed."""
    with database.server.settings(logical_decoding_work_mem="64kB"), database.connect() as writer:
        writer.autocommit = True
        async with pgcdc.aconnect(database.dsn) as reader, reader.stream(slot, ["p"], streaming="on") as stream:
            writer.execute("BEGIN")
            writer.execute("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 3000) i")
            before = wal_end(database)
            database.execute("SELECT txid_current()")  # its commit brings all of it to the disk
            deadline = time.monotonic() + SECONDS
            while stream.received_lsn < before:
                assert time.monotonic() < deadline
                stream.send_status(reply_requested=True)
                assert not len(await stream.read(0.05))
            assert stream.received_lsn >= before > stream.flushed_lsn
            writer.execute("COMMIT")
            assert ids(await read_commits(stream, 1)) == list(range(1, 3001))


async def test_a_transaction_on_its_way_out_is_in_flight(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    """All of it was received, a part was handed over, and what came before is confirmed."""
    with database.server.settings(logical_decoding_work_mem="64kB"):
        database.execute("INSERT INTO t VALUES (1)")
        async with pgcdc.aconnect(database.dsn) as reader, reader.stream(slot, ["p"], streaming="on") as stream:
            stream.confirm((await read_commits(stream, 1))[-1])
            database.execute("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(2, 5000) i")
            end = wal_end(database)
            events: list[Any] = []
            batches = 0
            deadline = time.monotonic() + SECONDS
            while not any(isinstance(event, Commit) for event in events):
                assert time.monotonic() < deadline
                stream.send_status(reply_requested=True)
                batch = await stream.read(1)
                events += batch.events()
                batches += len(batch) > 0
                if changes(events) and not any(isinstance(event, Commit) for event in events):
                    assert changes(events)[0].commit_lsn > max(stream.flushed_lsn, stream.idle_lsn)
                    with pytest.raises(pgcdc.PositionError, match="was received"):
                        stream.confirm(changes(events)[0].commit_lsn + 1)  # the rest of it is not there yet
            assert batches > 2 and ids(events) == list(range(2, 5001))
            stream.confirm(events[-1])
            assert await read_past(stream, end) == []
            assert stream.flushed_lsn >= end


async def test_who_comes_back_passes_over_the_rest(connection: AsyncConnection, database: Database, slot: str) -> None:
    """Another call begins with the next transaction; one that was left can still be read to its end before that."""
    database.execute(*(f"INSERT INTO t VALUES ({10 * i}), ({10 * i + 1}), ({10 * i + 2})" for i in range(1, 4)))
    seen: list[int] = []
    async with connection.stream(slot, ["p"]) as stream:
        async for transaction in stream.transactions():
            async for change in transaction:
                assert isinstance(change, Insert) and change.new.id == 10
                break
            break
        async for transaction in stream.transactions():
            async for change in transaction:
                assert isinstance(change, Insert) and change.new.id == 20
                break
            for _ in range(2):  # at its end there is nothing more
                seen += [change.new.id async for change in transaction if isinstance(change, Insert)]
            assert seen == [21, 22]
            stream.confirm(transaction)
            break
        third = await anext(aiter(stream.transactions()))
        assert [change.new.id async for change in third if isinstance(change, Insert)] == [30, 31, 32]


async def test_a_stream_abort_alone_is_no_transaction(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    """PostgreSQL 18 sends one to a client that streams nothing, when a large transaction is rolled back."""
    with database.server.settings(logical_decoding_work_mem="64kB"):
        with database.connect() as writer:
            writer.execute("BEGIN; INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 2000) i")
            writer.execute("SAVEPOINT a")
            writer.execute("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(3001, 5000) i")
            writer.execute("ROLLBACK")
        database.execute("INSERT INTO t VALUES (1)")
        async with pgcdc.aconnect(database.dsn) as reader, reader.stream(slot, ["p"]) as stream:
            async for transaction in stream.transactions():
                rows = [change async for change in transaction if isinstance(change, Insert)]
                if rows:  # 14 says empty ones, too
                    break
            assert ids(rows) == [1]


async def test_two_phase(connection: AsyncConnection, database: Database, slot: str) -> None:
    """A prepared transaction comes out when it is committed, also after a restart: nothing is confirmed past it."""
    if connection.server_version < 150000:
        with pytest.raises(pgcdc.ConfigError, match="needs PostgreSQL 15"):
            await connection.stream(slot, ["p"], two_phase=True)
        return
    async with pgcdc.aconnect(database.dsn) as reader, reader.stream(slot, ["p"], two_phase=True) as stream:
        database.execute("INSERT INTO t VALUES (1)")
        first = await read_commits(stream, 1)
        stream.confirm(first[-1])
        database.execute("BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'one'", "INSERT INTO t VALUES (3)")
        second = await read_commits(stream, 1)
        assert ids(second) == [3]
        stream.confirm(second[-1])
        assert first[-1].end_lsn <= stream.flushed_lsn < second[-1].commit_lsn
        stream.send_status()
        await until(lambda: confirmed(database, slot) == stream.flushed_lsn)
    async with pgcdc.aconnect(database.dsn) as reader, reader.stream(slot, ["p"], two_phase=True) as stream:
        assert ids(await read_commits(stream, 1)) == [3]
        database.execute("COMMIT PREPARED 'one'")
        last = await read_commits(stream, 1)
        assert ids(last) == [2]
        stream.confirm(last[-1])
        assert stream.flushed_lsn == last[-1].end_lsn
        database.execute("BEGIN; INSERT INTO t VALUES (4); PREPARE TRANSACTION 'two'", "ROLLBACK PREPARED 'two'")
        assert ids(await read_past(stream, wal_end(database))) == []


async def test_what_is_kept_holds_back_also_after_a_reconnect(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    """Until the PREPARE has come again, nothing is confirmed past it: it might not come a third time."""
    if connection.server_version < 150000:
        with pytest.raises(pgcdc.ConfigError, match="needs PostgreSQL 15"):
            await connection.stream(slot, ["p"], two_phase=True)
        return
    async with (
        pgcdc.aconnect(database.dsn) as reader,
        reader.stream(slot, ["p"], two_phase=True, reconnect=True) as stream,
    ):
        database.execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'one'", "INSERT INTO t VALUES (2)")
        events = await read_commits(stream, 1)
        assert ids(events) == [2]
        stream.confirm(events[-1])
        hold = stream.flushed_lsn
        for number in (3, 4):
            database.execute(f"SELECT pg_terminate_backend({reader.backend_pid}, 10000)")
            database.execute(f"INSERT INTO t VALUES ({number})")
            events = await read_commits(stream, 1)
            assert ids(events) == [number] and isinstance(events[0], Begin)
            assert [type(event) for event in events].count(Commit) == 1, "nothing of the one before comes again"
            stream.confirm(events[-1])
            assert stream.flushed_lsn == hold < events[-1].commit_lsn
            assert confirmed(database, slot) <= hold
        assert stream.reconnects == 2
        database.execute("COMMIT PREPARED 'one'")
        events = await read_commits(stream, 1)
        assert ids(events) == [1]
        stream.confirm(events[-1])
        assert stream.flushed_lsn == events[-1].end_lsn


async def test_what_was_prepared_holds_until_it_is_confirmed(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    """Also when it has come out: told of more, the server would send that it was committed, and not what it changed."""
    if connection.server_version < 150000:
        with pytest.raises(pgcdc.ConfigError, match="needs PostgreSQL 15"):
            await connection.stream(slot, ["p"], two_phase=True)
        return
    async with pgcdc.aconnect(database.dsn) as reader, reader.stream(slot, ["p"], two_phase=True) as stream:
        database.execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'one'", "INSERT INTO t VALUES (2)")
        between = await read_commits(stream, 1)
        assert ids(between) == [2]
        database.execute("COMMIT PREPARED 'one'")
        assert ids(await read_commits(stream, 1)) == [1]
        stream.confirm(between[-1])
        assert stream.flushed_lsn < between[-1].commit_lsn
        stream.send_status()
        await until(lambda: confirmed(database, slot) == stream.flushed_lsn)
    async with pgcdc.aconnect(database.dsn) as reader, reader.stream(slot, ["p"], two_phase=True) as stream:
        events = await read_commits(stream, 2)
        assert ids(events) == [2, 1]
        stream.confirm(events[-1])
        assert stream.flushed_lsn == events[-1].end_lsn


async def test_a_rolled_back_prepared_transaction_lets_go_of_nothing_else(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    """What was committed while it was prepared, and is not confirmed yet, stays unconfirmed when it is gone."""
    if connection.server_version < 150000:
        with pytest.raises(pgcdc.ConfigError, match="needs PostgreSQL 15"):
            await connection.stream(slot, ["p"], two_phase=True)
        return
    async with pgcdc.aconnect(database.dsn) as reader, reader.stream(slot, ["p"], two_phase=True) as stream:
        database.execute("INSERT INTO t VALUES (1)")
        stream.confirm((await read_commits(stream, 1))[-1])
        database.execute("BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'one'", "INSERT INTO t VALUES (3)")
        events = await read_commits(stream, 1)
        assert ids(events) == [3]
        database.execute("SELECT pg_logical_emit_message(false, 'm', 'side')", "ROLLBACK PREPARED 'one'")
        database.execute("SELECT txid_current()")
        end = wal_end(database)
        (message,) = await read_past(stream, end)
        assert stream.flushed_lsn <= events[-1].commit_lsn
        stream.confirm(events[-1])
        assert await read_past(stream, end) == []
        database.execute("SELECT txid_current()")
        assert await read_past(stream, wal_end(database)) == []
        assert stream.flushed_lsn == events[-1].end_lsn, "the message is not confirmed yet"
        stream.confirm(message)
        database.execute("SELECT txid_current()")
        assert await read_past(stream, wal_end(database)) == []
        assert stream.flushed_lsn >= end


async def test_prepared_transactions_are_refused_where_nobody_keeps_them(
    connection: AsyncConnection, database: Database
) -> None:
    if connection.server_version < 150000:
        with pytest.raises(pgcdc.ConfigError, match="needs PostgreSQL 15"):
            await connection.create_slot(new_name(), two_phase=True)
        return
    database.execute("CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
    slot = (await connection.create_slot(new_name(), two_phase=True)).name
    database.execute("BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'one'")
    async with connection.stream(slot, ["p"]) as stream:
        with pytest.raises(pgcdc.ConfigError, match="not committed yet"):
            await anext(stream.transactions())
