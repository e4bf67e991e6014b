"""What cannot be done is said in one sentence with a hint; the exit code is not 0, nothing is left on the server."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import make_conninfo

from tests.conftest import Database
from tests.demo.running import NOTHING, Ended, left_behind, run
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("duckdb", reason="duckdb is not installed: pip install 'pgcdc[demo]'")

_SECRET = "the-secret-word"


def _refused(*arguments: str, **variables: str) -> Ended:
    ended = run("demo", "--seconds", "1", "--json", *arguments, **variables)
    assert ended.code in (1, 2), ended
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert _SECRET not in ended.stderr
    [line] = [line for line in ended.stderr.splitlines() if line != "looking at the server ..."]
    told = json.loads(line)
    assert told["error"] and told["hint"], ended
    return Ended(ended.code, "", f"error: {told['error']}\nhint: {told['hint']}\n")


@pytest.fixture
def role(newest_database: Database) -> Iterator[str]:
    """A role that may log in and nothing else."""
    newest_database.execute(f"CREATE ROLE demo_visitor LOGIN PASSWORD '{_SECRET}'")
    yield "demo_visitor"
    newest_database.execute("DROP OWNED BY demo_visitor", "DROP ROLE demo_visitor")


def test_no_server() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        ended = _refused("--dsn", f"postgresql://someone:{_SECRET}@127.0.0.1:{port}/shop")
    assert "127.0.0.1" in ended.stderr


def test_dsn_that_is_none() -> None:
    assert "DSN" in _refused("--dsn", f"postgresql://someone:{_SECRET}@[").stderr


def test_no_such_database(newest_database: Database) -> None:
    assert "nowhere" in _refused("--dsn", newest_database.server.dsn("nowhere")).stderr


def test_role_that_may_not_replicate(newest_database: Database, role: str) -> None:
    ended = _refused("--dsn", make_conninfo(newest_database.dsn, user=role, password=_SECRET))
    assert "REPLICATION" in ended.stderr
    assert left_behind(newest_database) == NOTHING


def test_role_that_may_not_create_a_schema(newest_database: Database, role: str) -> None:
    newest_database.execute(f"ALTER ROLE {role} REPLICATION")
    ended = _refused("--dsn", make_conninfo(newest_database.dsn, user=role))
    assert f'GRANT CREATE ON DATABASE "{newest_database.name}" TO "{role}"' in ended.stderr
    assert left_behind(newest_database) == NOTHING


def test_role_that_may_do_just_enough(newest_database: Database, role: str) -> None:
    newest_database.execute(
        f"ALTER ROLE {role} REPLICATION", f"GRANT CREATE ON DATABASE {newest_database.name} TO {role}"
    )
    ended = run("demo", "--seconds", "1", "--json", "--dsn", make_conninfo(newest_database.dsn, user=role))
    assert ended.code == 0, ended
    assert left_behind(newest_database) == NOTHING


def test_schema_exists(newest_database: Database) -> None:
    newest_database.execute("CREATE SCHEMA pgcdc_demo", "CREATE TABLE pgcdc_demo.mine ()")
    ended = _refused("--dsn", newest_database.dsn)
    assert "DROP SCHEMA" in ended.stderr
    newest_database.execute("TABLE pgcdc_demo.mine", "DROP SCHEMA pgcdc_demo CASCADE")
    assert left_behind(newest_database) == NOTHING


def test_publication_exists(newest_database: Database) -> None:
    newest_database.execute("CREATE PUBLICATION pgcdc_demo")
    assert "DROP PUBLICATION" in _refused("--dsn", newest_database.dsn).stderr
    newest_database.execute("DROP PUBLICATION pgcdc_demo")
    assert left_behind(newest_database) == NOTHING


def test_slot_exists(newest_database: Database) -> None:
    newest_database.execute("SELECT pg_create_logical_replication_slot('pgcdc_demo', 'pgoutput')")
    assert "pg_drop_replication_slot('pgcdc_demo')" in _refused("--dsn", newest_database.dsn).stderr
    newest_database.execute("SELECT pg_drop_replication_slot('pgcdc_demo')")
    assert left_behind(newest_database) == NOTHING


def test_read_only_role(newest_database: Database) -> None:
    dsn = make_conninfo(newest_database.dsn, options="-c default_transaction_read_only=on")
    assert "read-only" in _refused("--dsn", dsn).stderr
    assert left_behind(newest_database) == NOTHING


def test_settings_of_the_server(newest_postgres: PostgresServer) -> None:
    """wal_level, slots and passwords need a server of their own."""
    with PostgresServer(newest_postgres.version, {"max_replication_slots": "1"}) as server:
        database = Database(server, "postgres")
        with server.settings(wal_level="replica", restart=True):
            assert "ALTER SYSTEM SET wal_level = logical" in _refused("--dsn", database.dsn).stderr
            assert left_behind(database) == NOTHING
        database.execute("SELECT pg_create_logical_replication_slot('taken', 'pgoutput')")
        ended = _refused("--dsn", database.dsn)
        assert "max_replication_slots" in ended.stderr and "pg_drop_replication_slot('taken')" in ended.stderr
        database.execute("SELECT pg_drop_replication_slot('taken')")
        assert left_behind(database) == NOTHING
        database.execute(f"ALTER ROLE postgres PASSWORD '{_SECRET}'")
        rules = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        (server.data / "pg_hba.conf").write_text(rules)
        server.restart()
        ended = _refused("--dsn", server.dsn("postgres", tcp=True, password="not-" + _SECRET))
        assert "password" in ended.stderr
        assert _refused("--dsn", server.dsn("postgres", tcp=True)).stderr


def test_redis_that_is_not_there(newest_database: Database) -> None:
    pytest.importorskip("redis", reason="redis is not installed: pip install 'pgcdc[redis]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        ended = _refused("--dsn", newest_database.dsn, "--redis", f"redis://127.0.0.1:{free.getsockname()[1]}/0")
    assert "Redis" in ended.stderr
    assert left_behind(newest_database) == NOTHING


def test_directory_that_cannot_be_made(newest_database: Database, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = run("demo", "--seconds", "1", "--dsn", newest_database.dsn, "--directory", str(tmp_path / "file" / "below"))
    assert ended.code == 2, ended
    assert "error: " in ended.stderr and "Traceback" not in ended.stderr
    assert left_behind(newest_database) == NOTHING
