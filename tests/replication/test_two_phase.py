"""A slot with two_phase: what a stream gives, and what is lost when one confirms past a prepared transaction."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc.errors import ConfigError
from pgcdc.events import BeginPrepare, Commit, CommitPrepared, Insert, Prepare
from tests.replication.reading import SECONDS
from tests.replication.streams import new_name

if TYPE_CHECKING:
    from pgcdc.replication import Connection, Stream
    from tests.conftest import Database


def read_until(stream: Stream, kind: type) -> list[Any]:
    """All events up to the first of a kind."""
    events: list[Any] = []
    deadline = time.monotonic() + SECONDS
    while not any(isinstance(event, kind) for event in events):
        assert time.monotonic() < deadline, f"no {kind.__name__} came: {events}"
        events += stream.read(1.0).events(stream.format)
    return events


def kinds(events: list[Any]) -> list[str]:
    """What came, without the shapes of tables."""
    return [name for name in (type(event).__name__ for event in events) if name != "Relation"]


def make_slot(connection: Connection, database: Database) -> str | None:
    """A slot with two_phase and a transaction that is prepared since; None where there can be none (14)."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
    slot = new_name()
    if connection.server_version < 150000:
        with pytest.raises(ConfigError, match="needs PostgreSQL 15"):
            connection.create_slot(slot, two_phase=True)
        return None
    connection.create_slot(slot, two_phase=True)
    with database.connect() as session:
        session.execute("BEGIN")
        session.execute("INSERT INTO t VALUES (1)")
        session.execute("PREPARE TRANSACTION 'one'")
    database.execute("INSERT INTO t VALUES (2)")
    return slot


def test_what_was_prepared_comes_again_while_only_the_idle_lsn_is_confirmed(database: Database) -> None:
    """Protocol fact 17: `idle_lsn` stays where the transaction was prepared, whatever is committed after it."""
    with pgcdc.connect(database.dsn) as connection:
        if (slot := make_slot(connection, database)) is None:
            return
        with connection.stream(slot, ["p"]) as stream:
            events = read_until(stream, Commit)
            assert kinds(events) == ["BeginPrepare", "Insert", "Prepare", "Begin", "Insert", "Commit"]
            prepared = next(event for event in events if isinstance(event, Prepare))
            assert stream.idle_lsn == prepared.prepare_lsn < prepared.end_lsn < events[-1].end_lsn
            stream.confirm(stream.idle_lsn)
        with connection.stream(slot, ["p"]) as stream:
            assert kinds(read_until(stream, Commit)) == kinds(events)
            database.execute("COMMIT PREPARED 'one'")
            (committed,) = read_until(stream, CommitPrepared)
            assert stream.idle_lsn == committed.end_lsn


def test_after_its_prepare_was_confirmed_only_the_end_of_a_transaction_comes(database: Database) -> None:
    """Whoever confirms an event after BeginPrepare has to keep the changes (protocol fact 17)."""
    with pgcdc.connect(database.dsn) as connection:
        if (slot := make_slot(connection, database)) is None:
            return
        with connection.stream(slot, ["p"]) as stream:
            events = read_until(stream, Prepare)
            assert next(event.new.id for event in events if isinstance(event, Insert)) == 1
            stream.confirm(next(event for event in events if isinstance(event, BeginPrepare)))
        with connection.stream(slot, ["p"]) as stream:
            again = read_until(stream, Prepare)
            assert isinstance(again[0], BeginPrepare), "its own beginning is as far as one may go without keeping it"
            stream.confirm(next(event for event in again if isinstance(event, Prepare)))
        database.execute("COMMIT PREPARED 'one'")
        with connection.stream(slot, ["p"]) as stream:
            later = read_until(stream, CommitPrepared)
            assert kinds(later) == ["Begin", "Insert", "Commit", "CommitPrepared"]
            assert [event.new.id for event in later if isinstance(event, Insert)] == [2]


def ids(stream: Stream, count: int) -> list[int]:
    """The next rows, each transaction confirmed as soon as it is whole."""
    got: list[int] = []
    deadline = time.monotonic() + SECONDS
    while len(got) < count:
        assert time.monotonic() < deadline, f"only {got} came"
        for event in stream.read(1.0).events(stream.format):
            if isinstance(event, Insert):
                got.append(event.new.id)
            elif isinstance(event, Commit):
                stream.confirm(event)
    return got


@pytest.mark.parametrize("again", ["restart", "reconnect"])
def test_overlapping_prepared_transactions(database: Database, again: str) -> None:
    """The first ends while the second is prepared: all that came is confirmed, and the slot still gives the second."""
    with pgcdc.connect(database.dsn) as connection:
        if (slot := make_slot(connection, database)) is None:
            return
        with database.connect() as session:
            session.execute("BEGIN")
            session.execute("INSERT INTO t VALUES (3)")
            session.execute("PREPARE TRANSACTION 'two'")
        database.execute("COMMIT PREPARED 'one'", "INSERT INTO t VALUES (4)")
        with connection.stream(slot, ["p"], two_phase=True, reconnect=True) as stream:
            assert ids(stream, 3) == [2, 1, 4]
            if again == "reconnect":
                database.execute(
                    f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}'",
                    "COMMIT PREPARED 'two'",
                )
                assert ids(stream, 1) == [3]
        if again == "restart":
            database.execute("COMMIT PREPARED 'two'")
            with connection.stream(slot, ["p"], two_phase=True) as stream:
                assert sorted(ids(stream, 4)) == [1, 2, 3, 4], (
                    "nothing may be missing, what was confirmed may come again"
                )
