"""What happens when the server, the network, a publication or the user ends a stream: the right error, and no loss."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

import pgcdc
from tests.replication.reading import read_commits, read_past, until
from tests.replication.streams import changes, commit_ends, confirmed, ids, new_name, refuses_column_lists, wal_end

if TYPE_CHECKING:
    from pgcdc.replication import Connection
    from tests.conftest import Database


def read_for_ever(stream: pgcdc.replication.Stream) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        stream.read(1)


def confirm_for_ever(stream: pgcdc.replication.Stream) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        stream.read(0.05)
        stream.confirm(stream.idle_lsn)
        stream.send_status()


def test_the_walsender_is_terminated(connection: Connection, database: Database, slot: str) -> None:
    with connection.stream(slot, ["p"]) as stream:
        database.execute(f"SELECT pg_terminate_backend({connection.backend_pid})")
        with pytest.raises(pgcdc.ConnectionLost) as caught:
            read_for_ever(stream)
    assert caught.value.sqlstate == "57P01"
    assert caught.value.slot == slot


def test_a_crash_and_a_restart(connection: Connection, database: Database, slot: str) -> None:
    database.execute("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)")
    stream = connection.stream(slot, ["p"])
    stream.confirm(commit_ends(read_commits(stream, 2))[0])
    stream.send_status()
    until(lambda: confirmed(database, slot) == stream.flushed_lsn)
    database.server.crash()
    with pytest.raises(pgcdc.ConnectionLost) as caught:
        read_for_ever(stream)
    assert caught.value.hint
    stream.close()
    with pytest.raises(pgcdc.ConnectionLost):
        pgcdc.connect(database.dsn)
    database.server.start()
    with pgcdc.connect(database.dsn) as again:
        database.execute("INSERT INTO t VALUES (3)")
        # The confirmation may not have been on disk: then the server starts further back, and we say where to.
        with again.stream(slot, ["p"], start_lsn=stream.flushed_lsn) as resumed:
            assert ids(read_commits(resumed, 2)) == [2, 3]


def test_a_clean_stop(connection: Connection, database: Database, slot: str) -> None:
    """A server that stops waits for its streams to confirm everything, and then ends them."""
    stopping = threading.Thread(target=database.server.stop)
    with connection.stream(slot, ["p"]) as stream:
        stopping.start()
        with pytest.raises(pgcdc.ConnectionLost) as caught:
            confirm_for_ever(stream)
        stopping.join()
    assert caught.value.slot == slot
    database.server.start()
    with pgcdc.connect(database.dsn) as again:
        database.execute("INSERT INTO t VALUES (1)")
        with again.stream(slot, ["p"]) as stream:
            assert ids(read_commits(stream, 1)) == [1]


def test_a_reader_that_sleeps_too_long(database: Database) -> None:
    """The server gives up without a word; the error says what it probably was."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
    with database.server.settings(wal_sender_timeout="1s"), pgcdc.connect(database.dsn) as connection:
        connection.create_slot(name := new_name())
        with connection.stream(name, ["p"], feedback=False) as stream:
            stream.read(0.1)
            pid = connection.backend_pid
            until(lambda: not database.execute(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}"))
            with pytest.raises(pgcdc.ConnectionLost) as caught:
                read_for_ever(stream)
    assert caught.value.sqlstate is None
    assert "wal_sender_timeout is 1 s" in (caught.value.hint or "")


def test_a_c_call_that_holds_the_interpreter(newest_database: Database) -> None:
    """No thread of ours can run meanwhile; the server gives up, and another connection goes on."""
    newest_database.execute("CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
    usleep = ctypes.PyDLL(None).usleep  # PyDLL: with the GIL held
    with newest_database.server.settings(wal_sender_timeout="1s"), pgcdc.connect(newest_database.dsn) as connection:
        connection.create_slot(name := new_name())
        with connection.stream(name, ["p"], reconnect=True) as stream:
            stream.read(0.1)
            usleep(2_500_000)
            newest_database.execute("INSERT INTO t VALUES (1)")
            assert ids(read_commits(stream, 1)) == [1]
            assert stream.reconnects == 1


def test_a_stream_that_nobody_holds_ends(connection: Connection, database: Database, slot: str) -> None:
    """Its thread does not keep it."""
    other = pgcdc.connect(database.dsn)
    stream = other.stream(slot, ["p"])
    query = f"SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'"
    assert stream.connected
    until(lambda: database.execute(query) == [(True,)])
    threads = {thread.name for thread in threading.enumerate()}
    assert f"pgcdc-{slot}-status" in threads
    del stream, other
    gc.collect()
    until(lambda: database.execute(query) == [(False,)])
    until(lambda: f"pgcdc-{slot}-status" not in {thread.name for thread in threading.enumerate()})


def test_ctrl_c_while_reading(connection: Connection, database: Database, slot: str) -> None:
    with connection.stream(slot, ["p"]) as stream:
        timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            stream.read(60)
        assert time.monotonic() - began < 2
        timer.join()
        with pytest.raises(pgcdc.ConfigError, match="interrupted"):
            stream.read(0)
    assert connection.execute("SELECT 1") == [("1",)]


def test_a_publication_that_is_dropped(
    connection: Connection, database: Database, slot: str, caplog: pytest.LogCaptureFixture
) -> None:
    with connection.stream(slot, ["p"]) as stream:
        database.execute("INSERT INTO t VALUES (1)")
        events = read_commits(stream, 1)
        assert ids(events) == [1]
        database.execute("DROP PUBLICATION p", "INSERT INTO t VALUES (2)")
        with pytest.raises(pgcdc.PublicationNotFound) as caught:
            read_for_ever(stream)
        assert caught.value.sqlstate == ("55000" if connection.server_version >= 180000 else "42704")
        assert caught.value.publication == "p" and caught.value.slot == slot
        if connection.server_version >= 180000:
            assert any("55000" in message for message in caplog.messages), "the server's warning is logged"
        assert stream.flushed_lsn < commit_ends(events)[0]
        with pytest.raises(pgcdc.ConfigError):
            stream.read(0)
    with pytest.raises(pgcdc.PublicationNotFound):
        connection.stream(slot, ["p"])


def test_a_publication_created_too_late(connection: Connection, database: Database) -> None:
    """The slot is older than the publication, and so is a change: 14 to 17 fail for ever, 18 leaves it out."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    connection.create_slot(name := new_name())
    database.execute("INSERT INTO t VALUES (1)", "CREATE PUBLICATION p FOR TABLE t", "INSERT INTO t VALUES (2)")
    with connection.stream(name, ["p"]) as stream, pytest.raises(pgcdc.PublicationNotFound) as caught:
        read_for_ever(stream)
    assert "new slot with a new snapshot" in (caught.value.hint or "")


def test_contradicting_column_lists(connection: Connection, database: Database, slot: str) -> None:
    if connection.server_version < 150000:
        refuses_column_lists(database)
        return
    database.execute("CREATE PUBLICATION q FOR TABLE t (id)", "INSERT INTO t VALUES (1)")
    with pytest.raises(pgcdc.ConfigError, match="different lists of columns") as caught:
        connection.stream(slot, ["p", "q"])
    assert caught.value.table == "public.t"
    with connection.stream(slot, ["p", "q"], binary=False) as stream, pytest.raises(pgcdc.ConfigError) as caught:
        read_for_ever(stream)
    assert caught.value.sqlstate == "0A000"


def test_nothing_is_lost_over_many_reconnects(connection: Connection, database: Database, slot: str) -> None:
    """A stream that is cut off again and again, sometimes within a transaction, gives every row once in order."""
    writers = [threading.Thread(target=write, args=(database, number)) for number in range(2)]
    for writer in writers:
        writer.start()
    seen: list[int] = []
    durable = 0
    rounds = 0
    while len(seen) < 2 * 40 * 3:
        rounds += 1
        assert rounds < 500
        with pgcdc.connect(database.dsn) as other, other.stream(slot, ["p"], start_lsn=durable) as stream:
            open_rows: list[int] = []
            for _ in range(3):
                for event in stream.read(1, max_messages=7).events(stream.format):
                    open_rows += ids([event])
                    if isinstance(event, pgcdc.Commit):
                        seen += open_rows
                        open_rows = []
                        durable = event.end_lsn
                        if rounds % 3:
                            stream.confirm(event)
    for writer in writers:
        writer.join()
    assert sorted(seen) == sorted(row[0] for row in database.execute("SELECT id FROM t"))
    assert len(set(seen)) == len(seen)


def write(database: Database, number: int) -> None:
    with database.connect() as connection:
        for n in range(40):
            first = number * 1000 + n * 3
            connection.execute(f"INSERT INTO t VALUES ({first}), ({first + 1}), ({first + 2})")
            connection.execute("BEGIN; INSERT INTO t VALUES (-1); ROLLBACK")


def test_a_status_update_from_another_thread(connection: Connection, database: Database, slot: str) -> None:
    """One thread reads, another confirms and sends; the rows are whole and the confirmation arrives."""
    stop = threading.Event()
    with connection.stream(slot, ["p"]) as stream:

        def send() -> None:
            while not stop.is_set():
                stream.confirm(stream.received_lsn)
                stream.send_status(reply_requested=True)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            database.execute("INSERT INTO t SELECT i, repeat('x', 50) FROM generate_series(1, 20000) i")
            events = read_commits(stream, 1)
        finally:
            stop.set()
            sender.join()
        assert ids(events) == list(range(1, 20001))
        assert len(changes(events)) == 20000
        read_past(stream, wal_end(database))
