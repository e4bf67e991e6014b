"""A stream that gets another connection: whatever ends the first, every row comes once, in order, and none is lost."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import pgcdc
from pgcdc.events import Begin, Commit, Insert, Message
from pgcdc.replication.stream_options import Reconnect
from tests.replication.reading_async import SECONDS, until
from tests.replication.streams import confirmed, ids, new_name
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgcdc import Batch
    from pgcdc.replication import AsyncConnection, AsyncStream
    from tests.conftest import Database

SOON = Reconnect(first=0.02, longest=0.2)


async def read_rows(stream: AsyncStream, count: int, each: Callable[[int], None] = lambda rows: None) -> list[Any]:
    """Events until so many rows and the end of their transaction have come."""
    events: list[Any] = []
    rows = 0
    deadline = time.monotonic() + SECONDS
    async for event in stream:
        assert time.monotonic() < deadline, f"only {rows} of {count} rows came"
        events.append(event)
        if isinstance(event, Insert):
            rows += 1
            each(rows)
        elif isinstance(event, Commit):
            stream.confirm(event)
            if rows >= count:
                break
    return events


def check(events: list[Any], count: int) -> None:
    """Every row once and in order, and transactions that begin and end once."""
    assert ids(events) == list(range(1, count + 1))
    state = None
    for event in events:
        if isinstance(event, Begin):
            assert state is None
            state = event.final_lsn
        elif isinstance(event, Commit):
            assert state == event.commit_lsn
            state = None
        elif isinstance(event, Insert):
            assert state == event.commit_lsn
    assert state is None


def without_begins_again(events: list[Any]) -> list[Any]:
    """Who reads batches gets a Begin a second time when the connection was lost within its transaction."""
    kept: list[Any] = []
    begun_lsn = 0
    for event in events:
        if isinstance(event, Begin):
            if event.final_lsn == begun_lsn:
                continue
            begun_lsn = event.final_lsn
        kept.append(event)
    return kept


def insert(database: Database, first: int, last: int, size: int = 100) -> None:
    database.execute(f"INSERT INTO t SELECT i, repeat('x', {size}) FROM generate_series({first}, {last}) i")


async def test_the_walsender_is_terminated_within_a_transaction(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    for n in range(3):
        insert(database, n * 10_000 + 1, (n + 1) * 10_000)

    def terminate(rows: int) -> None:
        if rows in (5000, 20_000, 20_001):
            database.execute(
                f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}'"
            )

    async with connection.stream(slot, ["p"], reconnect=SOON) as stream:
        check(await read_rows(stream, 30_000, terminate), 30_000)
        assert stream.reconnects >= 2
        assert stream.connected


async def test_a_status_update_fails_when_something_has_come(
    connection: AsyncConnection, database: Database, slot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a standstill: what the socket still has is read, and the server is gone. It is handed over, and once."""
    insert(database, 1, 5)
    async with pgcdc.aconnect(database.dsn) as reader, reader.stream(slot, ["p"], reconnect=SOON) as stream:
        link = stream._link

        def send(reply_requested: bool) -> None:
            raise psycopg.OperationalError("the server is gone")

        monkeypatch.setattr(link, "_send", send)
        events: list[Any] = []
        deadline = time.monotonic() + SECONDS
        while not ids(events):
            assert time.monotonic() < deadline
            link._status_due = 0.0
            events += (await stream.read(1)).events(stream.format)
        insert(database, 6, 10)
        events += await read_rows(stream, 10 - len(ids(events)))
        check(without_begins_again(events), 10)
        assert stream.reconnects == 1


async def test_what_may_come_again_is_not_shown_early(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    shown: list[Any] = []
    async with pgcdc.aconnect(database.dsn) as reader, reader.stream(slot, ["p"], reconnect=SOON) as stream:

        def show_it(batch: Batch) -> bool:
            shown.extend(ids(batch.events()))
            return False

        async def read(number: int) -> None:
            events: list[Any] = []
            deadline = time.monotonic() + SECONDS
            while ids(events) != [number] or stream.in_transaction:
                assert time.monotonic() < deadline
                events += (await stream.read(1, early=show_it)).events()

        async def show(first: int) -> int:
            """Transactions until one is shown: what comes in two parts is not, as a rule."""
            for number in range(first, first + 100):
                insert(database, number, number)
                await read(number)
                if shown[-1:] == [number]:
                    return number
            raise AssertionError("nothing is shown")

        last = await show(1)
        database.execute(f"SELECT pg_terminate_backend({reader.backend_pid}, 10000)")
        insert(database, last + 1, last + 1)
        await read(last + 1)
        assert stream.reconnects == 1
        assert last + 1 not in shown
        await show(last + 2)


async def test_a_commit_that_begins_where_a_message_ends(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    """The stream goes on behind the message, and not behind the beginning of the commit."""
    async with pgcdc.aconnect(database.dsn) as reader, reader.stream(slot, ["p"], reconnect=SOON) as stream:
        with database.connect() as writer:
            writer.execute("BEGIN; INSERT INTO t VALUES (1)")
            database.execute("SELECT pg_logical_emit_message(false, 'm', 'x')")
            async for event in stream:
                if isinstance(event, Message):
                    break
            database.execute(f"SELECT pg_terminate_backend({reader.backend_pid}, 10000)")
            writer.execute("COMMIT")
        check(await read_rows(stream, 1), 1)
        assert stream.reconnects == 1


async def test_without_reconnect_it_is_an_error(connection: AsyncConnection, database: Database, slot: str) -> None:
    insert(database, 1, 10)
    async with connection.stream(slot, ["p"]) as stream:
        database.execute(f"SELECT pg_terminate_backend({connection.backend_pid})")
        with pytest.raises(pgcdc.ConnectionLost):
            await read_rows(stream, 20)
        assert stream.closed and not stream.connected


async def test_a_crash_and_a_restart(connection: AsyncConnection, database: Database, slot: str) -> None:
    """What was confirmed may be forgotten by the server; it does not come again all the same."""
    insert(database, 1, 5)
    async with connection.stream(slot, ["p"], reconnect=SOON) as stream:
        events = await read_rows(stream, 5)
        database.server.crash()
        assert not len(await stream.read(0.3))
        assert not len(await stream.read(0.3)), "it comes back to its caller in time"
        assert not stream.connected and not stream.closed
        stream.confirm(events[-1])
        stream.send_status()
        database.server.start()
        insert(database, 6, 10)
        check(events + await read_rows(stream, 5), 10)
        assert stream.reconnects == 1
        restarting = threading.Thread(target=database.server.restart)  # waits until what it sends is read and confirmed
        restarting.start()
        while restarting.is_alive():
            assert not len(await stream.read(0.1))
        insert(database, 11, 12)
        events += await read_rows(stream, 2)
        await until(lambda: confirmed(database, slot) >= events[-1].end_lsn)


async def test_streamed_transactions(connection: AsyncConnection, database: Database, slot: str) -> None:
    """What was kept of a transaction under way is thrown away with the connection, and comes again."""
    with database.server.settings(logical_decoding_work_mem="64kB"), database.connect() as writer:
        writer.execute("BEGIN")
        async with (
            pgcdc.aconnect(database.dsn) as reader,
            reader.stream(slot, ["p"], streaming="on", reconnect=SOON) as stream,
        ):
            writer.execute("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 5000) i")
            insert(database, 10_001, 10_001)
            first = await read_rows(stream, 1)
            assert ids(first) == [10_001]
            database.execute(f"SELECT pg_terminate_backend({reader.backend_pid}, 10000)")
            writer.execute("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(5001, 6000) i")
            writer.execute("COMMIT")
            check(await read_rows(stream, 6000), 6000)
            assert stream.reconnects == 1


async def test_whole_transactions(connection: AsyncConnection, database: Database, slot: str) -> None:
    insert(database, 1, 20_000)
    insert(database, 20_001, 20_002)
    rows: list[int] = []
    async with connection.stream(slot, ["p"], reconnect=SOON) as stream:
        async for transaction in stream.transactions():
            async for change in transaction:
                assert isinstance(change, Insert)
                rows.append(change.new.id)
                if len(rows) == 3000:
                    database.execute(f"SELECT pg_terminate_backend({connection.backend_pid})")
            stream.confirm(transaction)
            if len(rows) >= 20_002:
                break
    assert rows == list(range(1, 20_003))
    assert stream.reconnects == 1


@pytest.mark.parametrize("fault", ["close", "reset", "half_close"])
async def test_the_network(connection: AsyncConnection, database: Database, slot: str, fault: Any) -> None:
    insert(database, 1, 20_000, size=100)
    with Proxy(database.server.port) as proxy:

        def strike(rows: int) -> None:
            if rows % 3000 == 500:
                # In the middle of some frame.
                proxy.cut_after, proxy.cut_by = proxy.cut_after or 100_003, fault

        dsn = proxy.dsn(database.dsn)
        async with pgcdc.aconnect(dsn) as reader, reader.stream(slot, ["p"], reconnect=SOON) as stream:
            strike(500)
            check(await read_rows(stream, 20_000, strike), 20_000)
            assert stream.reconnects >= 1
        await until(lambda: proxy.open == 0)


async def test_the_network_is_slow(connection: AsyncConnection, database: Database, slot: str) -> None:
    """A byte at a time: no frame is read before it is whole."""
    insert(database, 1, 20)
    with Proxy(database.server.port) as proxy:
        dsn = proxy.dsn(database.dsn)
        async with pgcdc.aconnect(dsn) as reader, reader.stream(slot, ["p"]) as stream:
            proxy.bite = 1
            check(await read_rows(stream, 20), 20)
            proxy.bite = None


async def test_a_black_hole(connection: AsyncConnection, database: Database, slot: str) -> None:
    """Nothing comes and nothing is refused: the silence is noticed, and when the network is back the stream goes on."""
    options: dict[str, Any] = {"reconnect": SOON, "receive_timeout": 1.0}
    with database.server.settings(wal_sender_timeout="2s"), Proxy(database.server.port) as proxy:
        dsn = f"{proxy.dsn(database.dsn)} connect_timeout=1"
        async with pgcdc.aconnect(dsn) as reader, reader.stream(slot, ["p"], **options) as stream:
            insert(database, 1, 5)
            events = await read_rows(stream, 5)
            proxy.hole = True
            insert(database, 6, 10)
            deadline = time.monotonic() + SECONDS
            while stream.connected:
                assert time.monotonic() < deadline
                assert not len(await stream.read(0.2))
            # The slot is in use until the server has lost its patience.
            proxy.close()
            proxy.hole = False
            check(events + await read_rows(stream, 5), 10)


async def test_giving_up(connection: AsyncConnection, database: Database, slot: str) -> None:
    with Proxy(database.server.port) as proxy:
        dsn = proxy.dsn(database.dsn)
        policy = Reconnect(first=0.05, longest=0.1, give_up=0.5)
        async with pgcdc.aconnect(dsn) as reader, reader.stream(slot, ["p"], reconnect=policy) as stream:
            proxy.refuse = True
            proxy.close()
            began = time.monotonic()
            with pytest.raises(pgcdc.ConnectionLost):
                await stream.read(20)
            assert 0.5 <= time.monotonic() - began < 5


@pytest.mark.parametrize("gone", ["slot", "publication", "slot made again"])
async def test_what_cannot_be_mended_is_raised_at_once(
    connection: AsyncConnection, database: Database, slot: str, gone: str
) -> None:
    expected = {"slot": pgcdc.SlotNotFound, "publication": pgcdc.PublicationNotFound}.get(gone, pgcdc.PositionError)
    async with pgcdc.aconnect(database.dsn) as reader, reader.stream(slot, ["p"], reconnect=SOON) as stream:
        database.execute(f"SELECT pg_terminate_backend({reader.backend_pid}, 10000)")
        if gone == "slot":
            database.execute(f"SELECT pg_drop_replication_slot('{slot}')")
        elif gone == "publication":
            database.execute("DROP PUBLICATION p")
        else:
            database.execute(
                f"SELECT pg_drop_replication_slot('{slot}')",
                "INSERT INTO t VALUES (1)",  # this is lost
                f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')",
            )
        began = time.monotonic()
        with pytest.raises(expected) as caught:
            await stream.read(20)
        assert caught.value.hint
        assert time.monotonic() - began < 5
        with pytest.raises(pgcdc.ConfigError):
            await stream.read(0)


async def test_a_temporary_slot_cannot_be_reconnected_to(connection: AsyncConnection, slot: str) -> None:
    name = (await connection.create_slot(new_name(), temporary=True)).name
    with pytest.raises(pgcdc.ConfigError, match="temporary"):
        await connection.stream(name, ["p"], reconnect=True)


async def test_another_consumer_has_the_slot(connection: AsyncConnection, database: Database, slot: str) -> None:
    """It waits for its turn, and never takes the slot by force."""
    async with pgcdc.aconnect(database.dsn) as reader, reader.stream(slot, ["p"], reconnect=SOON) as stream:
        insert(database, 1, 5)
        events = await read_rows(stream, 5)
        stream.send_status()
        database.execute(f"SELECT pg_terminate_backend({reader.backend_pid}, 10000)")
        async with connection.stream(slot, ["p"]):
            assert not len(await stream.read(0.5))
            assert not stream.connected
        insert(database, 6, 10)
        check(events + await read_rows(stream, 5), 10)


async def test_another_server_is_refused(connection: AsyncConnection, database: Database, slot: str) -> None:
    async with pgcdc.aconnect(database.dsn) as reader, reader.stream(slot, ["p"], reconnect=SOON) as stream:
        reader.system_identifier = "7000000000000000001"
        database.execute(f"SELECT pg_terminate_backend({reader.backend_pid}, 10000)")
        with pytest.raises(pgcdc.PositionError, match="system identifier") as caught:
            await stream.read(20)
        assert caught.value.slot == slot
    async with pgcdc.aconnect(database.dsn) as reader, reader.stream(slot, ["p"], reconnect=SOON) as stream:
        reader.timeline = 7
        database.execute(f"SELECT pg_terminate_backend({reader.backend_pid}, 10000)")
        with pytest.raises(pgcdc.PositionError, match="timeline"):
            await stream.read(20)


async def test_nothing_is_lost_while_writers_write_and_the_network_breaks(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    """Set arithmetic over what the writers wrote: all of it once, in commit order, and nothing that was rolled back."""
    count = 3 * 60 * 5

    def write(number: int) -> None:
        with database.connect() as writer:
            for n in range(60):
                first = number * 10_000 + n * 5
                writer.execute(f"INSERT INTO t SELECT {first} + i, repeat('x', 500) FROM generate_series(0, 4) i")
                writer.execute("BEGIN; INSERT INTO t VALUES (-1); ROLLBACK")

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    with Proxy(database.server.port) as proxy:
        strikes: list[Callable[[], None]] = [proxy.close, proxy.reset, proxy.half_close]

        def strike(rows: int) -> None:
            if rows % 100 == 50:
                strikes[rows // 100 % 3]()
            elif rows % 100 == 0:
                proxy.cut_after = 2003

        dsn = proxy.dsn(database.dsn)
        async with pgcdc.aconnect(dsn) as reader, reader.stream(slot, ["p"], reconnect=SOON) as stream:
            for writer in writers:
                writer.start()
            events = await read_rows(stream, count, strike)
            assert stream.reconnects >= 1
    for writer in writers:
        writer.join()
    seen = ids(events)
    assert len(seen) == count and set(seen) == {row[0] for row in database.execute("SELECT id FROM t")}
    commits = [event.commit_lsn for event in events if isinstance(event, Commit)]
    assert commits == sorted(commits)
