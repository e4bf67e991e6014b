"""Streaming: rows in text and binary, keepalives, confirmation, and going on exactly where it stopped.

Over 400 lines, because what a stream promises is one list; faults have a file of their own.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc.events import Begin, Commit, Insert, Message, Relation, Truncate
from pgcdc.replication.pace import Pace
from tests.replication.reading_async import SECONDS, read_commits, read_past, until
from tests.replication.streams import changes, commit_ends, confirmed, ids, new_name, wal_end

if TYPE_CHECKING:
    from pgcdc import Batch
    from pgcdc.replication import AsyncConnection
    from tests.conftest import Database

VALUES = {
    "smallint": ["-32768", "7"],
    "int": ["2147483647"],
    "bigint": ["-9223372036854775808"],
    "real": ["0.1", "'NaN'", "'-Infinity'", "1e-40"],
    "double precision": ["0.1", "1e300", "'Infinity'"],
    "numeric": ["12345678901234567890.123456789", "'NaN'", "-0.00", "1e-20"],
    "boolean": ["true", "false"],
    "text": ["'Zürich'", "''"],
    "varchar(10)": ["'abc'"],
    "char(5)": ["'ab'"],
    "bytea": ["'\\x00ff'", "''"],
    "date": ["'2026-11-20'", "'infinity'", "'0044-03-15 BC'"],
    "time": ["'23:59:59.999999'", "'24:00:00'"],
    "timetz": ["'10:00+02'"],
    "timestamp": ["'2026-11-20 10:00:00.000001'", "'-infinity'"],
    "timestamptz": ["'2026-11-20 10:00+05'"],
    "uuid": ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"],
    "json": ["'{\"a\": [1, 2.5, null]}'"],
    "jsonb": ["'{\"b\": 0.1000000000000000055}'"],
    "int[]": ["'{1,NULL,3}'", "'{{1,2},{3,4}}'", "'{}'"],
    "text[]": ["'{\"a,b\",NULL}'"],
    "mood": ["'happy'"],
    "mood[]": ["'{happy,sad}'"],
    "short": ["'dom'"],
}


async def test_every_everyday_type_in_text_and_binary(connection: AsyncConnection, database: Database) -> None:
    columns = ", ".join(f'"{kind}" {kind}' for kind in VALUES)
    longest = max(map(len, VALUES.values()))
    rows = [
        "(" + ", ".join(values[n] if n < len(values) else "NULL" for values in VALUES.values()) + ")"
        for n in range(longest)
    ]
    database.execute(
        "CREATE TYPE mood AS ENUM ('sad', 'happy')",
        "CREATE DOMAIN short AS varchar(5)",
        f"CREATE TABLE t (place serial, {columns})",
        "CREATE PUBLICATION p FOR TABLE t",
    )
    names = [(await connection.create_slot(new_name())).name for _ in range(2)]
    listed = ", ".join(f'"{kind}"' for kind in VALUES)
    database.execute(f"INSERT INTO t ({listed}) VALUES {', '.join(rows)}")
    given = []
    for name, binary in zip(names, (True, False), strict=True):
        async with pgcdc.aconnect(database.dsn) as other, other.stream(name, ["p"], binary=binary) as stream:
            assert stream.binary is binary
            given.append([repr(event.new) for event in changes(await read_commits(stream, 1))])
    assert len(given[0]) == longest
    assert given[0] == given[1]
    assert "b'" in given[0][0] and "Decimal" in given[0][0] and "'happy'" in given[0][0]


async def test_binary_is_chosen_when_every_type_allows_it(
    connection: AsyncConnection, database: Database, slot: str, caplog: pytest.LogCaptureFixture
) -> None:
    database.execute("INSERT INTO t VALUES (1, 'x')")
    with caplog.at_level(logging.INFO, "pgcdc.replication"):
        async with connection.stream(slot, ["p"]) as stream:
            assert stream.binary
            assert ids(await read_commits(stream, 1)) == [1]
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("definition", "value", "said"),
    [
        ("aclitem[]", "NULL", "pg_catalog._aclitem of column public.odd.strange has no binary form"),
        ("pair", "ROW(1, 'pg_class')", "public.pair of column public.odd.strange is not decoded from binary"),
    ],
)
async def test_one_odd_type_makes_it_text_with_one_line(
    connection: AsyncConnection,
    database: Database,
    slot: str,
    caplog: pytest.LogCaptureFixture,
    definition: str,
    value: str,
    said: str,
) -> None:
    database.execute(
        "CREATE TYPE pair AS (a int, b regclass)",
        f"CREATE TABLE odd (id int, strange {definition}, also {definition})",
        "ALTER PUBLICATION p ADD TABLE odd",
        f"INSERT INTO odd VALUES (1, {value})",
    )
    with caplog.at_level(logging.INFO, "pgcdc.replication"):
        async with connection.stream(slot, ["p"]) as stream:
            assert not stream.binary
            assert ids(await read_commits(stream, 1)) == [1]
    assert caplog.messages == [f"streaming in text: type {said}"]


async def test_a_type_without_a_send_function_ends_a_binary_stream_with_a_hint(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    database.execute(
        "CREATE TABLE odd (id int, strange aclitem[])",
        "ALTER PUBLICATION p ADD TABLE odd",
        "INSERT INTO odd VALUES (1, '{=r/postgres}')",
    )
    async with connection.stream(slot, ["p"], binary=True) as stream:
        with pytest.raises(pgcdc.ReplicationError) as caught:
            await read_commits(stream, 1)
    assert caught.value.sqlstate == "42883"
    assert "binary=False" in (caught.value.hint or "")
    async with connection.stream(slot, ["p"]) as stream:
        assert ids(await read_commits(stream, 1)) == [1]


async def test_iterating_gives_events_in_order(connection: AsyncConnection, database: Database, slot: str) -> None:
    database.execute("INSERT INTO t VALUES (1, 'x')", "TRUNCATE t")
    kinds = []
    async with connection.stream(slot, ["p"]) as stream:
        async for event in stream:
            kinds.append(type(event))
            stream.confirm(event)
            if kinds.count(Commit) == 2:
                break
    expected = [Begin, Relation, Insert, Commit, Begin, Truncate, Commit]
    assert [kind for kind in kinds if kind is not Relation] == [kind for kind in expected if kind is not Relation]
    assert stream.flushed_lsn == event.end_lsn  # type: ignore[union-attr]


async def test_messages(connection: AsyncConnection, database: Database, slot: str) -> None:
    database.execute(
        "SELECT pg_logical_emit_message(true, 'in', 'side')", "SELECT pg_logical_emit_message(false, 'out', 'side')"
    )
    async with connection.stream(slot, ["p"]) as stream:
        messages: list[Message] = []

        deadline = time.monotonic() + SECONDS
        while len(messages) < 2:
            assert time.monotonic() < deadline
            messages += [event for event in (await stream.read(0.1)).events() if isinstance(event, Message)]
        assert [(m.transactional, m.prefix, m.content) for m in messages] == [
            (True, "in", b"side"),
            (False, "out", b"side"),
        ]
        stream.confirm(messages[1])
        assert stream.flushed_lsn == messages[1].lsn


async def test_a_format(connection: AsyncConnection, database: Database, slot: str) -> None:
    database.execute(
        "CREATE TYPE mood AS ENUM ('sad')", "ALTER TABLE t ADD m mood", "INSERT INTO t VALUES (1, 'x', 'sad')"
    )
    async with connection.stream(slot, ["p"], format=pgcdc.RowFormat("dict")) as stream:
        async for event in stream:
            if isinstance(event, Insert):
                assert event.new == {"id": 1, "note": "x", "m": "sad"}
                break


async def test_reading_nothing_takes_the_time_given(connection: AsyncConnection, slot: str) -> None:
    async with connection.stream(slot, ["p"]) as stream:
        began = time.monotonic()
        batch = await stream.read(0.3)
        assert len(batch) == 0
        assert 0.3 <= time.monotonic() - began < 2
        assert len(await anext(stream.batches(idle=0.05))) == 0


async def test_batches_are_bounded(connection: AsyncConnection, database: Database, slot: str) -> None:
    database.execute("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 5000) i")
    async with connection.stream(slot, ["p"]) as stream:
        seen: list[Any] = []
        while not (seen and isinstance(seen[-1], Commit)):
            batch = await stream.read(5, max_messages=64)
            assert len(batch) <= 64
            assert stream.in_transaction is not isinstance(batch.events()[-1], Commit)
            seen += batch.events()
            if len(seen) in range(1000, 1100):
                batch = await stream.read(5, max_bytes=10_000)
                assert batch.nbytes < 20_000
                seen += batch.events()
        assert ids(seen) == list(range(1, 5001))


async def test_whole_transactions_are_shown_before_they_are_taken_down(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    shown: list[tuple[Batch, int]] = []
    async with connection.stream(slot, ["p"]) as stream:

        def show(batch: Batch) -> bool:
            shown.append((batch, stream.received_lsn))
            return False

        database.execute("INSERT INTO t SELECT i FROM generate_series(1, 40) i")
        parts = [await stream.read(5, max_messages=16, early=show)]
        while stream.in_transaction:
            assert not shown
            parts.append(await stream.read(5, max_messages=16, early=show))
        assert len(parts) > 1
        assert shown[0][0] is parts[-1]
        for number in (41, 42):
            database.execute(f"INSERT INTO t VALUES ({number})")
            end = wal_end(database)
            while stream.received_lsn < end:  # and keepalives, which are nothing to be shown
                before = len(shown)
                stream.send_status(reply_requested=True)
                batch = await stream.read(0.1, early=show)
                is_whole = len(batch) > 0 and not stream.in_transaction
                assert [one is batch for one, _ in shown[before:]] == [True] * is_whole
                assert all(received < stream.received_lsn for _, received in shown[before:]), "nothing is taken down"
        assert all(len(batch) for batch, _ in shown)


async def test_reads_behind_what_is_begun_early_are_not_put_off(
    connection: AsyncConnection, database: Database, slot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever works on it as it comes sets the pace; while much comes for nobody else, reads find more at once."""
    noted: list[bool] = []
    note = Pace.read

    def read(pace: Pace, now: float, messages: int, *, more: bool) -> None:
        noted.append(more)
        note(pace, now, messages, more=more)

    monkeypatch.setattr(Pace, "read", read)
    async with connection.stream(slot, ["p"]) as stream:
        database.execute("INSERT INTO t VALUES (1)")
        end = wal_end(database)
        begun: list[int] = []

        def begin(_: Batch) -> bool:
            begun.append(len(noted))
            return True

        while not begun or stream.received_lsn < end:
            stream.send_status(reply_requested=True)
            await stream.read(0.1, early=begin)
        assert noted[begun[0]], "nothing is waited for behind it"
        assert not any(noted[: begun[0]])
        while noted[-1]:
            await stream.read(0.01)
        assert len(noted) - begun[-1] > 2
        await stream.read(0.01)
        assert not noted[-1]


async def test_nothing_is_confirmed_by_itself(connection: AsyncConnection, database: Database, slot: str) -> None:
    database.execute("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)")
    for _ in range(2):
        async with connection.stream(slot, ["p"]) as stream:
            events = await read_commits(stream, 2)
            assert ids(events) == [1, 2]
            await read_past(stream, wal_end(database))
            assert stream.flushed_lsn <= changes(events)[0].commit_lsn


async def test_what_was_confirmed_does_not_come_again(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    for number in range(1, 6):
        database.execute(f"INSERT INTO t VALUES ({number})")
    left = [1, 2, 3, 4, 5]
    while left:
        async with connection.stream(slot, ["p"]) as stream:
            events = await read_commits(stream, len(left))
            assert ids(events) == left
            stream.confirm(next(event for event in events if isinstance(event, Commit)))
        state = await connection.slot(slot)
        assert state is not None and state.confirmed_flush_lsn == stream.flushed_lsn
        left = left[1:]


async def test_a_row_confirms_what_is_before_its_transaction(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    for number in (1, 2, 3):
        database.execute(f"INSERT INTO t VALUES ({number}), ({number + 10})")
    async with connection.stream(slot, ["p"]) as stream:
        rows = changes(await read_commits(stream, 3))
        stream.confirm(rows[3])
        stream.confirm(rows[0])
    async with connection.stream(slot, ["p"]) as stream:
        assert ids(await read_commits(stream, 2)) == [2, 12, 3, 13]


async def test_every_kind_of_event_can_be_confirmed(connection: AsyncConnection, database: Database, slot: str) -> None:
    database.execute("INSERT INTO t VALUES (1)", "UPDATE t SET note = 'y'", "DELETE FROM t", "TRUNCATE t")
    async with connection.stream(slot, ["p"]) as stream:
        done: list[int] = []
        events = await read_commits(stream, 4)
        ends = commit_ends(events)
        for event in events:
            stream.confirm(event)
            done.append(stream.flushed_lsn)
            # Only a Commit confirms its own transaction.
            assert (done[-1] >= ends[0]) is isinstance(event, Commit)
            ends = ends[1:] if isinstance(event, Commit) else ends
    assert done == sorted(done)
    assert done[-1] == commit_ends(events)[-1]


async def test_never_above_what_was_received(connection: AsyncConnection, database: Database, slot: str) -> None:
    database.execute("INSERT INTO t VALUES (1)")
    async with connection.stream(slot, ["p"]) as stream:
        events = await read_commits(stream, 1)
        far = stream.received_lsn + 1
        with pytest.raises(pgcdc.PositionError, match="only the WAL up to") as caught:
            stream.confirm(far)
        assert caught.value.lsn == far and caught.value.slot == slot
        assert stream.flushed_lsn <= changes(events)[0].commit_lsn
        stream.confirm(stream.received_lsn)


async def test_start_in_the_middle(connection: AsyncConnection, database: Database, slot: str) -> None:
    for number in (1, 2, 3):
        database.execute(f"INSERT INTO t VALUES ({number})")
    async with connection.stream(slot, ["p"]) as stream:
        ends = commit_ends(await read_commits(stream, 3))
    async with connection.stream(slot, ["p"], start_lsn=ends[1]) as stream:
        assert ids(await read_commits(stream, 1)) == [3]
        stream.confirm(ends[1])
    async with connection.stream(slot, ["p"], start_lsn=ends[0]) as stream:
        assert ids(await read_commits(stream, 1)) == [3], "the slot is confirmed beyond the start"


async def test_a_start_beyond_the_wal_is_refused(connection: AsyncConnection, database: Database, slot: str) -> None:
    with pytest.raises(pgcdc.PositionError, match="the server's WAL ends at"):
        await connection.stream(slot, ["p"], start_lsn=wal_end(database) + (1 << 32))
    assert await connection.execute("SELECT 1") == [("1",)]


async def test_options_that_cannot_be_meant_are_refused(connection: AsyncConnection, slot: str) -> None:
    wrong: list[dict[str, Any]] = [
        {"start_lsn": "0/1"},
        {"start_lsn": -5},
        {"start_lsn": 1 << 64},
        {"heartbeat": 0},
        {"heartbeat": -1.0},
        {"receive_timeout": 0},
        {"two_phase": "no"},
        {"messages": "yes"},
        {"reconnect": 5},
        {"max_memory": -1},
    ]
    for options in wrong:
        (name,) = options
        with pytest.raises(pgcdc.ConfigError, match=f"^{name}="):
            await connection.stream(slot, ["p"], **options)


async def test_one_slot_one_stream(connection: AsyncConnection, database: Database, slot: str) -> None:
    async with connection.stream(slot, ["p"]), pgcdc.aconnect(database.dsn) as other:
        with pytest.raises(pgcdc.SlotInUse) as caught:
            await other.stream(slot, ["p"])
        assert caught.value.sqlstate == "55006" and caught.value.slot == slot
        assert str(connection.backend_pid) in (caught.value.hint or "")
        assert await other.execute("SELECT 1") == [("1",)]


async def test_a_connection_that_streams_takes_sql_but_no_commands(connection: AsyncConnection, slot: str) -> None:
    async with connection.stream(slot, ["p"]) as stream:
        with pytest.raises(pgcdc.ConfigError, match="is streaming"):
            await connection.create_slot(new_name())
        with pytest.raises(pgcdc.ConfigError, match="is streaming"):
            await connection.stream(slot, ["p"])
        assert await connection.execute("SELECT 1") == [("1",)]
        state = await connection.slot(slot)
        assert state is not None and state.active_pid == connection.backend_pid
    assert await connection.execute("SELECT 1") == [("1",)]
    with pytest.raises(pgcdc.ConfigError, match="is closed"):
        await stream.read(0)
    with pytest.raises(pgcdc.ConfigError, match="is closed"):
        stream.send_status()
    await stream.close()


async def test_no_such_slot(connection: AsyncConnection, database: Database) -> None:
    with pytest.raises(pgcdc.SlotNotFound, match='slot "not_there" does not exist') as caught:
        await connection.stream("not_there", ["p"])
    assert "create_slot" in (caught.value.hint or "")


async def test_a_temporary_slot_can_be_streamed_once(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    await connection.create_slot(name := new_name(), temporary=True)
    async with connection.stream(name, ["p"]):
        pass
    with pytest.raises(pgcdc.ConfigError, match="lasts only as long"):
        await connection.stream(name, ["p"])


async def test_closing_in_the_middle_of_a_large_transaction(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    database.execute("INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 50000) i")
    async with connection.stream(slot, ["p"]) as stream:
        assert len(await stream.read(10, max_messages=10))
        began = time.monotonic()
    assert time.monotonic() - began < 30
    await until(
        lambda: database.execute(f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{slot}' AND NOT active")
    )


async def test_keepalives_are_answered_while_idle(database: Database) -> None:
    """Nobody writes for four times the server's patience; the stream lives, and the slot moves when it is told to."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
    with database.server.settings(wal_sender_timeout="1s"):
        async with pgcdc.aconnect(database.dsn) as connection:
            await connection.create_slot(name := new_name())
            async with connection.stream(name, ["p"]) as stream:
                deadline = time.monotonic() + 4
                while time.monotonic() < deadline:
                    assert len(await stream.read(4)) == 0
                assert stream.idle_lsn > 0
                database.execute("INSERT INTO t VALUES (1)")
                assert ids(await read_commits(stream, 1)) == [1]


async def test_a_keepalive_that_asks_is_answered(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
    with database.server.settings(wal_sender_timeout="1s"):
        async with pgcdc.aconnect(database.dsn) as connection:
            await connection.create_slot(name := new_name())
            async with connection.stream(name, ["p"], feedback=False) as stream:
                monkeypatch.setattr(stream._link, "interval", 1000.0)
                deadline = time.monotonic() + 3
                while time.monotonic() < deadline:
                    await stream.read(3)
                database.execute("INSERT INTO t VALUES (1)")
                assert ids(await read_commits(stream, 1)) == [1]


async def test_status_updates_go_out_by_an_own_timer(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server never asks when its time-out is off, and still hears from us."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
    monkeypatch.setattr("pgcdc.replication.link_async.STATUS_SECONDS", 0.1)
    with database.server.settings(wal_sender_timeout="0"):
        async with pgcdc.aconnect(database.dsn) as connection:
            await connection.create_slot(name := new_name())
            async with connection.stream(name, ["p"]) as stream:
                query = f"SELECT reply_time FROM pg_stat_replication WHERE pid = {connection.backend_pid}"
                heard: set[Any] = set()

                deadline = time.monotonic() + SECONDS
                while len(heard) <= 4:
                    assert time.monotonic() < deadline
                    await stream.read(0.1)
                    heard.update(row[0] for row in database.execute(query))


async def test_an_idle_slot_moves_on_when_told(connection: AsyncConnection, database: Database, slot: str) -> None:
    async with connection.stream(slot, ["p"]) as stream:
        database.execute("CREATE TABLE other (id int)", "INSERT INTO other SELECT generate_series(1, 1000)")
        end = wal_end(database)
        await read_past(stream, end)
        stream.confirm(stream.idle_lsn)
        stream.send_status()
        await until(lambda: confirmed(database, slot) >= end)


async def test_queries_before_a_stream_do_not_change_what_it_decodes(
    connection: AsyncConnection, database: Database, slot: str
) -> None:
    """A walsender that ran SQL has the present shape of tables in its caches, and would decode old rows with it."""
    database.execute(
        "INSERT INTO t VALUES (1, 'x')", "ALTER TABLE t ADD n int DEFAULT 5", "INSERT INTO t VALUES (2, 'y')"
    )
    assert await connection.execute("SELECT * FROM public.t") == [("1", "x", "5"), ("2", "y", "5")]
    await pgcdc.replication.apublished_tables(connection, ["p"])
    async with connection.stream(slot, ["p"]) as stream:
        first, second = changes(await read_commits(stream, 2))
    assert [column.name for column in first.relation.columns] == ["id", "note"]
    assert [column.name for column in second.relation.columns] == ["id", "note", "n"]


async def test_schema_changes_in_the_stream(connection: AsyncConnection, database: Database, slot: str) -> None:
    database.execute("INSERT INTO t VALUES (1, 'x')", "ALTER TABLE t ADD n int", "INSERT INTO t VALUES (2, 'y', 3)")
    async with connection.stream(slot, ["p"]) as stream:
        rows = changes(await read_commits(stream, 2))
    assert [column.name for column in rows[0].relation.columns] == ["id", "note"]
    assert (rows[1].new.id, rows[1].new.note, rows[1].new.n) == (2, "y", 3)
