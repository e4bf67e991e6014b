"""A shop on a server, and its changes as batches, without a pipeline: the targets are tested by themselves."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pgcdc import Batch, parse_lsn
from pgcdc.demo import shop
from tests.servers.programs import ServerUnavailable
from tests.servers.redis import program

if TYPE_CHECKING:
    from tests.conftest import Database

Changes = Callable[[], Batch]


@pytest.fixture
def changes(newest_database: Database) -> Changes:
    """Gives everything that was written since the shop was made, as one batch."""
    with newest_database.connect() as connection:
        shop.create(connection, "public", 0)
        connection.execute("CREATE PUBLICATION changes FOR ALL TABLES")
        connection.execute(
            "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (f"{newest_database.name}_changes",)
        )

    def read() -> Batch:
        rows = newest_database.execute(
            f"""
            SELECT lsn, data FROM pg_logical_slot_peek_binary_changes('{newest_database.name}_changes', NULL, NULL,
                'proto_version', '1', 'publication_names', 'changes', 'binary', 'true')
            """
        )
        return Batch.of([data for _, data in rows], [parse_lsn(lsn) for lsn, _ in rows])

    return read


@pytest.fixture(scope="session")
def redis_program(pytestconfig: pytest.Config) -> str:
    """The program; where nothing may skip it is installed, when that can be done."""
    strict = bool(pytestconfig.getoption("--all")) or os.environ.get("CI", "").lower() in {"1", "true"}
    try:
        return program(install=strict)
    except ServerUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def redis_url(redis_program: str, tmp_path: Path) -> Iterator[str]:
    """A Redis of its own; the test is skipped where the machine has no redis-server."""
    redis = pytest.importorskip("redis", reason="redis is not installed: pip install 'pgcdc[redis]'")
    path = tmp_path / "redis.sock"
    arguments = ["--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no", "--dir", str(tmp_path)]
    with subprocess.Popen([redis_program, *arguments], stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            with redis.Redis(unix_socket_path=str(path)) as client:
                while True:
                    try:
                        client.ping()
                        break
                    except redis.ConnectionError:
                        assert process.poll() is None and time.monotonic() < deadline, "redis-server did not start"
                        time.sleep(0.02)
            yield f"unix://{path}"
        finally:
            process.terminate()
