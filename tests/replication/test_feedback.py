# Made from test_feedback_async.py by ./dev lint --fix: change that file, not this one.
"""What the server is told while nobody reads, and of WAL that has nothing for us; and that it can be stopped."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc.events import Commit, Message
from tests.replication.reading import SECONDS, read_commits, read_past, until
from tests.replication.streams import confirmed, ids, new_name, wal_end

if TYPE_CHECKING:
    from pgcdc.replication import Connection, Stream
    from tests.conftest import Database


def read_empty(stream: Stream, lsn: int) -> None:
    """Reads until everything up to an LSN has come, which must be nothing."""
    assert [event for event in read_past(stream, lsn) if not isinstance(event, (pgcdc.Begin, Commit))] == []


def confirm_commits(stream: Stream) -> None:
    """What a plain consumer does."""
    for event in stream:
        if isinstance(event, Commit):
            stream.confirm(event)


def test_the_reader_may_sleep(database: Database) -> None:
    """For three times the server's patience nobody reads; then the stream goes on, and nothing was confirmed."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
    with database.server.settings(wal_sender_timeout="1s"), pgcdc.connect(database.dsn) as connection:
        slot = connection.create_slot(new_name())
        with connection.stream(slot.name, ["p"]) as stream:
            database.execute("INSERT INTO t VALUES (1)")
            events = read_commits(stream, 1)
            assert ids(events) == [1]
            database.execute("INSERT INTO t VALUES (2)")
            time.sleep(3)
            # What the server wrote of its own before it is as good as confirmed.
            first = next(one for one in events if isinstance(one, Commit))
            assert confirmed(database, slot.name) <= first.commit_lsn
            assert ids(read_commits(stream, 1)) == [2]


def test_a_confirmation_goes_out_while_nobody_reads(connection: Connection, database: Database, slot: str) -> None:
    database.execute("INSERT INTO t VALUES (1)")
    with connection.stream(slot, ["p"]) as stream:
        commit = read_commits(stream, 1)[-1]
        stream.confirm(commit)
        until(lambda: confirmed(database, slot) >= commit.end_lsn)


def test_a_slot_that_gets_nothing_moves_on(connection: Connection, database: Database, slot: str) -> None:
    database.execute("CREATE TABLE other (id int)", "INSERT INTO other SELECT generate_series(1, 1000)")
    end = wal_end(database)
    with connection.stream(slot, ["p"]) as stream:
        read_empty(stream, end)
        if connection.server_version >= 150000:  # 14 sends empty transactions, which nobody has confirmed
            until(lambda: confirmed(database, slot) >= end)


def test_a_slot_moves_on_when_what_came_is_confirmed(connection: Connection, database: Database, slot: str) -> None:
    database.execute("INSERT INTO t VALUES (1)", "CREATE TABLE other (id int)")
    with connection.stream(slot, ["p"]) as stream:
        events = read_past(stream, wal_end(database))
        assert ids(events) == [1]
        assert stream.flushed_lsn < next(event.end_lsn for event in events if isinstance(event, Commit))
        stream.confirm([event for event in events if isinstance(event, Commit)][-1])
        database.execute("SELECT txid_current()")
        end = wal_end(database)
        read_empty(stream, end)
        assert stream.flushed_lsn >= end
        until(lambda: confirmed(database, slot) >= end)


def test_it_does_not_move_past_what_is_not_confirmed(connection: Connection, database: Database, slot: str) -> None:
    for number, statement in enumerate(
        ("INSERT INTO t VALUES (1)", "SELECT pg_logical_emit_message(false, 'm', 'side')"), 1
    ):
        database.execute(statement)
        with connection.stream(slot, ["p"]) as stream:
            events: list[Any] = read_past(stream, wal_end(database))
            durable: list[Any] = [event for event in events if isinstance(event, (Commit, Message))]
            for event in durable[:-1]:
                stream.confirm(event)
            database.execute("SELECT txid_current()")
            read_empty(stream, wal_end(database))
            assert stream.flushed_lsn < (durable[-1].lsn if number == 2 else durable[-1].end_lsn)
            stream.confirm(durable[-1])
            database.execute("SELECT txid_current()")
            end = wal_end(database)
            read_empty(stream, end)
            assert stream.flushed_lsn >= end


def test_confirm_idle_off(connection: Connection, database: Database, slot: str) -> None:
    with connection.stream(slot, ["p"], confirm_idle=False) as stream:
        read_empty(stream, wal_end(database))
        assert stream.flushed_lsn == 0


def test_a_fast_stop_does_not_wait_for_a_stream_that_confirms_commits(
    connection: Connection, database: Database, slot: str
) -> None:
    database.execute("INSERT INTO t VALUES (1)")
    with connection.stream(slot, ["p"]) as stream:
        for event in read_commits(stream, 1):
            stream.confirm(event)
        database.execute("CREATE TABLE other (id int)")
        began = time.monotonic()
        stopping = threading.Thread(target=database.server.stop)
        stopping.start()
        with pytest.raises(pgcdc.ConnectionLost):
            confirm_commits(stream)
        stopping.join()
        assert time.monotonic() - began < 5
    database.server.start()


def test_a_fast_stop_does_not_wait_for_ever_for_a_confirmation(
    connection: Connection, database: Database, slot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server asks again and again, and is let go."""
    monkeypatch.setattr("pgcdc.replication.link._PRESSED_SECONDS", 1.5)
    database.execute("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)")
    with connection.stream(slot, ["p"]) as stream:
        events = read_commits(stream, 2)
        stream.confirm(next(event for event in events if isinstance(event, Commit)))
        # Who never confirms anything is not waited for at all: what was received counts then.
        until(lambda: confirmed(database, slot) == stream.flushed_lsn)
        stopping = threading.Thread(target=database.server.stop)
        stopping.start()
        with pytest.raises(pgcdc.ConnectionLost, match="is being stopped") as caught:
            read_past(stream, 1 << 60)
        stopping.join()
        told = stream.flushed_lsn  # before 17 a server that stops does not keep what was confirmed last
        assert "comes again" in (caught.value.hint or "")
        assert stream.questions < 100, "an answer that says nothing new takes its time"
    database.server.start()
    with pgcdc.connect(database.dsn) as again, again.stream(slot, ["p"], start_lsn=told) as stream:
        assert ids(read_commits(stream, 1)) == [2]


def test_a_heartbeat(connection: Connection, database: Database, slot: str) -> None:
    """WAL is written in a database that nobody writes to, and is confirmed; the messages are for nobody."""
    with connection.stream(slot, ["p"], heartbeat=0.05) as stream:
        first = stream.received_lsn
        deadline = time.monotonic() + SECONDS
        seen: set[int] = set()
        while len(seen) < 5:
            assert time.monotonic() < deadline
            assert not len(stream.read(0.1))
            if stream.flushed_lsn > first:
                seen.add(stream.flushed_lsn)
    with connection.stream(slot, ["p"], heartbeat=0.05, messages=True) as stream:
        for event in stream:
            assert isinstance(event, Message) and event.prefix == "pgcdc.heartbeat"
            break
