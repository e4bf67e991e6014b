"""A stream from a standby that is behind the position at which it is to start: late is not the same as wrong."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc.observe import examine
from pgcdc.pipeline import MemoryPositions
from pgcdc.replication.stream_options import Reconnect
from tests.conftest import Database
from tests.pipeline.targets import Recorder
from tests.replication.reading import read_commits, until
from tests.replication.streams import commit_ends, ids, new_name
from tests.servers.standby import primary_and_standby

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.postgres import PostgresServer


@pytest.fixture(scope="module")
def pair(newest_postgres: PostgresServer) -> Iterator[tuple[Database, Database]]:
    """A primary and its standby, of a version whose standbys decode."""
    version = newest_postgres.version
    if version < 16:
        pytest.skip("a standby has logical slots since PostgreSQL 16")
    made = ("CREATE TABLE t (id int PRIMARY KEY, note text)", "CREATE PUBLICATION p FOR TABLE t")
    with primary_and_standby(version, *made) as (primary, standby):
        yield Database(primary, "postgres"), Database(standby, "postgres")


@pytest.fixture
def slot(pair: tuple[Database, Database]) -> Iterator[str]:
    """A slot on the standby, which needs to hear from the primary what transactions are running."""
    primary, standby = pair
    made = threading.Event()

    def tell() -> None:
        while not made.wait(0.1):
            primary.execute("SELECT pg_log_standby_snapshot()")

    telling = threading.Thread(target=tell)
    telling.start()
    try:
        with pgcdc.connect(standby.dsn) as connection:
            name = connection.create_slot(new_name()).name
    finally:
        made.set()
        telling.join()
    yield name
    standby.execute("SELECT pg_wal_replay_resume()")


def ends_at(primary: Database) -> int:
    """Where the primary's WAL ends, and a position somebody may have stored."""
    [(lsn,)] = primary.execute("SELECT pg_current_wal_flush_lsn()::text")
    return pgcdc.parse_lsn(lsn)


def replayed(standby: Database) -> int:
    [(lsn,)] = standby.execute("SELECT pg_last_wal_replay_lsn()::text")
    return pgcdc.parse_lsn(lsn)


def pause(standby: Database) -> None:
    standby.execute("SELECT pg_wal_replay_pause()")
    until(lambda: standby.execute("SELECT pg_get_wal_replay_pause_state()") == [("paused",)])


def test_a_slot_of_the_primary_is_missed_on_the_standby(pair: tuple[Database, Database]) -> None:
    """As when the primary is restarted, and the DSN names both: nothing is lost, and nothing is to be made anew."""
    with pgcdc.connect(pair[1].dsn) as connection, pytest.raises(pgcdc.SlotNotFound) as caught:
        connection.stream("of_the_primary", ["p"])
    assert "target_session_attrs=read-write" in (caught.value.hint or "")


def test_a_standby_that_is_late(pair: tuple[Database, Database], slot: str, caplog: pytest.LogCaptureFixture) -> None:
    primary, standby = pair
    pause(standby)
    primary.execute("INSERT INTO t VALUES (1)")
    start = ends_at(primary)
    assert replayed(standby) < start
    primary.execute("INSERT INTO t VALUES (2)")
    resuming = threading.Thread(target=resume_when_said, args=(standby, caplog))
    with caplog.at_level(logging.WARNING, "pgcdc.replication"), pgcdc.connect(standby.dsn) as connection:
        resuming.start()
        with connection.stream(slot, ["p"], start_lsn=start) as stream:
            resuming.join()
            assert ids(read_commits(stream, 1)) == [2]
    primary.execute("DELETE FROM t")


def resume_when_said(standby: Database, caplog: pytest.LogCaptureFixture) -> None:
    until(lambda: "waiting for it" in caplog.text)
    standby.execute("SELECT pg_wal_replay_resume()")


def test_a_standby_that_does_not_get_there(
    pair: tuple[Database, Database], slot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, standby = pair
    monkeypatch.setattr("pgcdc.replication.starting._LATE_SECONDS", 0.5)
    with pgcdc.connect(standby.dsn) as connection:
        with pytest.raises(pgcdc.PositionError, match=r"the standby has in 0\.5 s replayed") as caught:
            connection.stream(slot, ["p"], start_lsn=ends_at(primary) + (1 << 40))
        assert caught.value.slot == slot and "pg_stat_wal_receiver" in (caught.value.hint or "")
    with pgcdc.connect(primary.dsn) as connection:
        connection.create_slot(name := new_name())
        with pytest.raises(pgcdc.PositionError, match="the server's WAL ends at"):
            connection.stream(name, ["p"], start_lsn=ends_at(primary) + (1 << 40))
        connection.drop_slot(name)


def test_a_stream_that_goes_on_at_a_late_standby(pair: tuple[Database, Database], slot: str) -> None:
    """As after the restart of a standby, which begins further back than it was."""
    primary, standby = pair
    with (
        pgcdc.connect(standby.dsn) as connection,
        connection.stream(slot, ["p"], reconnect=Reconnect(first=0.02, longest=0.2)) as stream,
    ):
        primary.execute("INSERT INTO t VALUES (1)")
        events = read_commits(stream, 1)
        assert ids(events) == [1]
        pause(standby)
        # It is as if it had been further: nobody can have a position that was not there.
        stream._progress.done_lsn = ahead = ends_at(primary) + 1
        primary.execute("INSERT INTO t SELECT 2", "INSERT INTO t SELECT 3")
        standby.execute(f"SELECT pg_terminate_backend({connection.backend_pid})")
        assert commit_ends(events)[0] < ahead > replayed(standby)
        until(lambda: not len(stream.read(0.1)) and not stream.connected and "replayed" in str(stream._lost))
        standby.execute("SELECT pg_wal_replay_resume()")
        assert ids(read_commits(stream, 2)) == [2, 3]
        assert stream.reconnects == 1
    primary.execute("DELETE FROM t")


def test_the_doctor_on_a_standby(pair: tuple[Database, Database]) -> None:
    """What a pipeline makes on a primary cannot be made here: positions go elsewhere, and the publication is there."""
    _, standby = pair

    def failed(publication: str, **settings: Any) -> set[str]:
        pipeline = pgcdc.Pipeline("shop", standby.dsn, tables=["t"], publication=publication, **settings)
        pipeline.add(Recorder(), name="sink")
        return {one.check for one in examine(standby.dsn, pipeline.outline()) if one.status == "failed"}

    assert failed("nowhere") == {"own_tables", "publication"}
    assert failed("p", positions=MemoryPositions()) == {"positions"}
