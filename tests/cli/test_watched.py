"""`pgcdc run --metrics` and `pgcdc exporter` as processes: where they say that they listen, somebody answers."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pgcdc
from pgcdc.cli.building import build
from pgcdc.cli.redaction import Redactor
from tests.demo.running import finish, run, start
from tests.observe.answers import ask, samples, value
from tests.pipeline.running import until

if TYPE_CHECKING:
    import subprocess

    from tests.conftest import Database

REPOSITORY = Path(__file__).parents[2]
PASSWORD = "hunter2-and-more"
FILE = """
[pipeline]
name = "shop"
dsn = "{dsn} password={password}"
tables = ["orders"]

[metrics]
listen = "127.0.0.1:0"
late = 30

[consumers.sink]
sink = "tests.pipeline.targets:Recorder"
"""


def where(process: subprocess.Popen[str]) -> str:
    """What the log says: where it is served."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"served on (http://127\.0\.0\.1:\d+)/metrics", line):
            return found[1]
    raise AssertionError("it did not say")


@pytest.fixture
def file(newest_database: Database, tmp_path: Path) -> Path:
    newest_database.execute("CREATE TABLE orders (id bigint PRIMARY KEY)", "INSERT INTO orders VALUES (1)")
    path = tmp_path / "pgcdc.toml"
    path.write_text(FILE.format(dsn=newest_database.dsn, password=PASSWORD))
    return path


@pytest.mark.parametrize("arguments", [(), ("--metrics", "0")])
def test_a_run_is_watched(file: Path, arguments: tuple[str, ...]) -> None:
    path = f"{REPOSITORY / 'python'}:{REPOSITORY}"
    process = start("run", str(file), *arguments, PYTHONPATH=path)
    try:
        url = where(process)
        until(lambda: ask(url, "/readyz").status == 200, "it is ready", 120, pause=0.1)
        found = samples(url)
        assert value(found, "pgcdc_consumer_delivered_changes_total", consumer="sink") == 1.0
        assert ask(url, "/healthz").json == {"healthy": True, "reasons": []}
        assert PASSWORD.encode() not in ask(url, "/statistics").body
    finally:
        process.send_signal(signal.SIGTERM)
        ended = finish(process)
    assert ended.code == 0, ended


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metrics", "nowhere"), "error: 'nowhere' is not where to listen\nhint: PORT or HOST:PORT"),
        (("--metrics", "192.0.2.1:80"), "error: cannot listen on 192.0.2.1:80: "),
    ],
)
def test_where_nobody_can_listen(file: Path, arguments: tuple[str, ...], message: str) -> None:
    ended = run("run", str(file), *arguments, PYTHONPATH=f"{REPOSITORY / 'python'}:{REPOSITORY}")
    assert ended.code == 2 and message in ended.stderr, ended


@pytest.mark.parametrize(
    ("was", "written", "message"),
    [
        ("late = 30", "latest = 30", "metrics.latest is not a setting"),
        ('"127.0.0.1:0"', '"nowhere"', "metrics.listen: 'nowhere' is not where to listen"),
        ('"127.0.0.1:0"', "true", "metrics.listen must be a whole number or a string, and is true or false"),
    ],
)
def test_a_section_is_checked(file: Path, was: str, written: str, message: str) -> None:
    file.write_text(file.read_text().replace(was, written))
    with pytest.raises(pgcdc.ConfigError) as raised:
        build(str(file), Redactor({}))
    assert str(raised.value) == f"{file}: {message}"


def test_slots_without_a_pipeline(newest_database: Database) -> None:
    name = f"left_{newest_database.name}"
    newest_database.execute(f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
    process = start("exporter", "0", "--dsn", f"{newest_database.dsn} password={PASSWORD}")
    try:
        url = where(process)
        until(lambda: ask(url, "/readyz").status == 200, "it has the server", 60, pause=0.1)
        assert value(samples(url), "pgcdc_slot_active", slot=name) == 0.0
    finally:
        process.send_signal(signal.SIGTERM)
        ended = finish(process)
    assert ended.code == 0 and PASSWORD not in ended.stderr, ended


def test_an_exporter_that_makes_no_sense() -> None:
    ended = run("exporter", "somewhere")
    assert ended.code == 2 and ended.stderr.startswith("error: 'somewhere' is not where to listen\n"), ended
    ended = run("exporter", "0", "--dsn", "host=localhost nonsense")
    assert ended.code == 2 and ended.stderr.startswith("error: "), ended
