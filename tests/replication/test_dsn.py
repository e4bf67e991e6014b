"""Making a connection: whatever goes wrong is one sentence without secrets, and the right kind of error."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pgcdc
from tests.replication.streams import new_name, statements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database

SECRET = "Gehe1m"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_connects_and_knows_the_server(database: Database) -> None:
    with pgcdc.connect(database.dsn) as connection:
        assert connection.server_version // 10000 == database.server.version
        assert connection.database == database.name
        assert connection.timeline == 1
        assert (
            connection.system_identifier
            == database.execute("SELECT system_identifier::text FROM pg_control_system()")[0][0]
        )
        assert connection.execute("SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()") == [
            ("pgcdc",)
        ]
    assert connection.closed
    connection.close()
    with pytest.raises(pgcdc.ConnectionLost, match="closed before"):
        connection.create_slot("s")


def test_the_application_name_can_be_given(database: Database) -> None:
    with pgcdc.connect(f"{database.dsn} application_name=shop") as connection:
        assert connection.execute("SELECT current_setting('application_name')") == [("shop",)]


def test_environment_and_service_file(
    newest_database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = newest_database.server
    service = tmp_path / "services.conf"
    service.write_text(f"[shop]\nport={server.port}\nuser=postgres\n")
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    monkeypatch.setenv("PGHOST", str(server.socket_directory))
    monkeypatch.setenv("PGDATABASE", newest_database.name)
    with pgcdc.connect("service=shop") as connection:
        assert connection.database == newest_database.name


def test_the_first_host_that_answers_is_taken(newest_database: Database, silent_port: int) -> None:
    port = newest_database.server.port
    dsn = (
        f"host=127.0.0.1,127.0.0.1,127.0.0.1 port=1,{silent_port},{port}"
        f" user=postgres dbname={newest_database.name} connect_timeout=1 sslmode=disable gssencmode=disable"
    )
    with pgcdc.connect(dsn) as connection:
        assert connection.database == newest_database.name


def test_a_uri(newest_database: Database) -> None:
    uri = f"postgresql://postgres@127.0.0.1:{newest_database.server.port}/{newest_database.name}"
    with pgcdc.connect(uri) as connection:
        assert connection.database == newest_database.name


def test_a_silent_host_is_given_up(silent_port: int) -> None:
    began = time.monotonic()
    with pytest.raises(pgcdc.ConnectionLost, match=r"no answer within 0\.3 s"):
        pgcdc.connect(
            f"host=127.0.0.1 port={silent_port} user=u sslmode=disable gssencmode=disable", connect_timeout=0.3
        )
    assert time.monotonic() - began < 5


def test_nobody_there() -> None:
    with pytest.raises(pgcdc.ConnectionLost, match=r"127\.0\.0\.1:1 failed") as caught:
        pgcdc.connect(f"host=127.0.0.1 port=1 user=u password={SECRET}")
    assert caught.value.hint
    assert SECRET not in f"{caught.value!r} {caught.value.hint}"


@pytest.mark.parametrize(
    "dsn", [f"postgresql://u:{SECRET}@ss@host:x/db", f"password {SECRET}", f"host=h password='{SECRET}"]
)
def test_a_malformed_dsn_is_not_quoted(dsn: str) -> None:
    with pytest.raises(pgcdc.ConfigError, match="not a connection string") as caught:
        pgcdc.connect(dsn)
    assert SECRET not in f"{caught.value!r} {caught.value.hint} {caught.value.__cause__!r}"
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_bad_timeout() -> None:
    with pytest.raises(pgcdc.ConfigError, match="connect_timeout"):
        pgcdc.connect("host=127.0.0.1 connect_timeout=soon")


def test_no_such_database(database: Database) -> None:
    with pytest.raises(pgcdc.ConfigError, match='database "nowhere" does not exist') as caught:
        pgcdc.connect(database.server.dsn("nowhere"))
    assert statements(caught.value) == ['CREATE DATABASE "nowhere";']


def test_no_such_role(database: Database) -> None:
    role = new_name("no body ")
    dsn = database.server.dsn(database.name, user=role)
    with pytest.raises(pgcdc.ConfigError, match=f'role "{role}" does not exist') as caught:
        pgcdc.connect(dsn)
    database.execute(*statements(caught.value))
    try:
        pgcdc.connect(dsn).close()
    finally:
        database.execute(f'DROP ROLE "{role}"')


def test_a_role_without_replication(database: Database) -> None:
    role = new_name("Plain reader ")
    dsn = database.server.dsn(database.name, user=role)
    database.execute(f'CREATE ROLE "{role}" NOLOGIN', f'REVOKE CONNECT ON DATABASE "{database.name}" FROM PUBLIC')
    try:
        # One thing after the other is missing, and each hint puts one right.
        for sqlstate, expected in (
            ("28000", f'ALTER ROLE "{role}" LOGIN;'),
            ("42501", f'ALTER ROLE "{role}" REPLICATION;'),
            ("42501", f'GRANT CONNECT ON DATABASE "{database.name}" TO "{role}";'),
        ):
            with pytest.raises(pgcdc.ConfigError) as caught:
                pgcdc.connect(dsn)
            assert (caught.value.sqlstate, statements(caught.value)[0]) == (sqlstate, expected)
            database.execute(expected)
        with pgcdc.connect(dsn) as connection:
            connection.create_slot(new_name(), temporary=True)
    finally:
        database.execute(f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"')


def test_no_walsender_free(postgres_small: Database) -> None:
    with pgcdc.connect(postgres_small.dsn), pytest.raises(pgcdc.ConnectionLost) as caught:
        pgcdc.connect(postgres_small.dsn)
    assert caught.value.sqlstate == "53300"
    assert "max_wal_senders" in (caught.value.hint or "")
