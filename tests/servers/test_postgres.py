"""The servers that all other tests stand on: of the version asked for, set up for logical decoding, able to crash."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from tests.conftest import Database


def show(connection: psycopg.Connection[tuple[str, ...]], name: str) -> str:
    row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return row[0]


def test_server_is_the_version_asked_for_and_decodes_logically(postgres: PostgresServer) -> None:
    with postgres.connect() as connection:
        assert connection.info.server_version // 10_000 == postgres.version
        assert show(connection, "wal_level") == "logical"
        assert show(connection, "max_replication_slots") == "20"
        assert show(connection, "synchronous_commit") == "on"


def test_pgoutput_reads_a_change(database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE PUBLICATION p FOR TABLE t",
        "SELECT pg_create_logical_replication_slot('pgoutput_reads', 'pgoutput')",
        "INSERT INTO t VALUES (1)",
    )
    rows = database.execute(
        "SELECT get_byte(data, 0) FROM pg_logical_slot_get_binary_changes("
        "'pgoutput_reads', NULL, NULL, 'proto_version', '1', 'publication_names', 'p')"
    )
    assert bytes(kind for (kind,) in rows) in {b"BRIC", b"BCBRIC", b"BCBCBRIC"}


def test_restart_keeps_the_port_and_the_rows(database: Database) -> None:
    database.execute("CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)")
    port, pid = database.server.port, database.server.pid
    database.server.restart()
    assert database.server.port == port
    assert database.server.pid != pid
    assert database.execute("SELECT id FROM t") == [(1,)]


def test_crash_is_followed_by_recovery_and_loses_nothing_committed(database: Database) -> None:
    database.execute("CREATE TABLE t (id int)", "CHECKPOINT", "INSERT INTO t VALUES (1)")
    database.server.crash()
    assert not database.server.running
    with pytest.raises(psycopg.OperationalError):
        database.connect()
    database.server.start()
    assert database.execute("SELECT id FROM t") == [(1,)]
    assert "automatic recovery in progress" in database.server.log.read_text()


def test_tcp_and_socket_reach_the_same_server(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.dsn(tcp=True)) as tcp, psycopg.connect(postgres.dsn()) as local:
        started = "SELECT pg_postmaster_start_time()"
        assert tcp.execute(started).fetchone() == local.execute(started).fetchone()


def test_settings_hold_for_the_block_only(newest_postgres: PostgresServer) -> None:
    with newest_postgres.settings(wal_sender_timeout="2s"), newest_postgres.connect() as connection:
        assert show(connection, "wal_sender_timeout") == "2s"
    with newest_postgres.connect() as connection:
        assert show(connection, "wal_sender_timeout") == "1min"


def test_own_server_with_own_settings_leaves_nothing_behind() -> None:
    with PostgresServer(18, {"wal_level": "replica"}) as server:
        folder, pid = server.folder, server.pid
        with server.connect() as connection:
            assert show(connection, "wal_level") == "replica"
        if os.geteuid() == 0:
            assert folder.owner() == "nobody"
    assert not folder.exists()
    assert not Path(f"/proc/{pid}").exists()


def test_database_goes_with_its_slot_its_sessions_and_its_prepared_transactions(database: Database) -> None:
    """What a failed test leaves behind must not fail the next one: the fixture drops it all when this test ends."""
    database.execute(
        "CREATE TABLE t (id int)",
        "SELECT pg_create_logical_replication_slot('left_behind', 'pgoutput')",
        "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'left behind'",
    )
    assert database.execute("SELECT count(*) FROM pg_prepared_xacts") == [(1,)]


def test_nothing_was_left_by_the_test_before(postgres: PostgresServer) -> None:
    with postgres.connect() as connection:
        left = connection.execute("SELECT slot_name FROM pg_replication_slots").fetchall()
        assert left == []
        assert connection.execute("SELECT gid FROM pg_prepared_xacts").fetchall() == []
        assert connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'test\\_%'").fetchall() == []
