"""Types that come while a binary stream runs: learned, or named once and given as bytes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

import pgcdc
from tests.replication.reading import read_commits
from tests.replication.streams import changes, ids, new_name

if TYPE_CHECKING:
    from pgcdc.replication import Connection
    from tests.conftest import Database


def test_types_that_a_table_gets_later(
    connection: Connection, database: Database, slot: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "pgcdc.replication"), connection.stream(slot, ["p"]) as stream:
        assert stream.binary
        database.execute("INSERT INTO t VALUES (1, 'x')")
        assert ids(read_commits(stream, 1)) == [1]
        # What the connection's own session sees is from before.
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        database.execute(
            "CREATE TYPE mood AS ENUM ('sad', 'happy')",
            "CREATE DOMAIN feeling AS mood",
            "ALTER TABLE t ADD m mood, ADD f feeling, ADD l mood[]",
            "INSERT INTO t VALUES (2, 'x', 'sad', 'happy', '{sad,NULL}')",
        )
        (row,) = (event.new for event in changes(read_commits(stream, 1)))
        assert (row.id, row.m, row.f, row.l) == (2, "sad", "happy", ["sad", None])
        assert caplog.messages == []
        database.execute(
            "ALTER TABLE t ADD took regclass",
            "INSERT INTO t VALUES (3, 'x', 'sad', 'happy', NULL, 'pg_class')",
            "INSERT INTO t VALUES (4, 'x', 'sad', 'happy', NULL, 'pg_class')",
            "ALTER TABLE t ADD more int",
            "INSERT INTO t VALUES (5, 'x', 'sad', 'happy', NULL, 'pg_class')",
        )
        rows = [event.new for event in changes(read_commits(stream, 3))]
        assert [(row.id, row.m, type(row.took)) for row in rows] == [(n, "sad", bytes) for n in (3, 4, 5)]
        assert caplog.messages == [
            "type regclass of column public.t.took is not decoded from binary: its values come as the bytes that the"
            " server sent until the stream is started again; then all values come as text"
        ]
        # What is gone by the time that it is read has no name any more.
        caplog.clear()
        database.execute(
            "CREATE TYPE brief AS (n int)",
            "ALTER TABLE t ADD b brief",
            "INSERT INTO t VALUES (6, 'x', 'sad', 'happy', NULL, 'pg_class', 1, ROW(1))",
        )
        ((oid,),) = database.execute("SELECT 'brief'::regtype::oid::bigint")
        database.execute("ALTER TABLE t DROP b", "DROP TYPE brief")
        read_commits(stream, 1)
        assert [message.partition(" of column")[0] for message in caplog.messages] == [f"type with OID {oid}"]
        connection.execute("ROLLBACK")
    with connection.stream(slot, ["p"]) as stream:
        assert not stream.binary


def test_a_server_that_cannot_be_asked(database: Database, slot: str, caplog: pytest.LogCaptureFixture) -> None:
    role = new_name("r")
    database.execute(f"CREATE ROLE {role} LOGIN REPLICATION")
    try:
        with (
            caplog.at_level(logging.WARNING, "pgcdc.replication"),
            pgcdc.connect(database.server.dsn(database.name, user=role)) as connection,
            connection.stream(slot, ["p"], binary=True) as stream,
        ):
            database.execute(
                f"ALTER ROLE {role} NOLOGIN",
                "CREATE TYPE mood AS ENUM ('sad')",
                "ALTER TABLE t ADD m mood",
                "INSERT INTO t VALUES (1, 'x', 'sad')",
            )
            ((oid,),) = database.execute("SELECT 'mood'::regtype::oid::bigint")
            (row,) = (event.new for event in changes(read_commits(stream, 1)))
            assert row.m == b"sad"
    finally:
        database.execute(f"DROP ROLE {role}")
    assert caplog.messages == [
        f"type with OID {oid} of column public.t.m is not decoded from binary: its values come as the bytes that the"
        " server sent until the stream is started again with binary=False"
    ]
