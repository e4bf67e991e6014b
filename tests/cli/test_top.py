"""`pgcdc top`: what it shows of a server and of a process, the worst first, and how it ends."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from rich.console import Console

import pgcdc
from pgcdc import observe
from pgcdc.cli.frames import Frame, check_url, drawn
from pgcdc.errors import ConfigError
from pgcdc.observe.overview import Overview, StoredConsumer
from pgcdc.pipeline import ConsumerStatistics, PipelineStatistics, SourceStatistics
from pgcdc.replication.slot import state_of
from tests.demo.running import environment, run, start
from tests.pipeline.running import running
from tests.pipeline.targets import Recorder

if TYPE_CHECKING:
    from tests.conftest import Database

if sys.platform != "win32":
    import pty

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


def slot(name: str, **facts: Any) -> Any:
    row = {"slot_name": name, "plugin": "pgoutput", "database": "shop", "active": True, "active_pid": 7} | facts
    return state_of(msgspec.json.encode(row).decode())


def overview(wal_lsn: int, seconds: float, slots: list[Any], *consumers: StoredConsumer) -> Overview:
    return Overview(
        at=NOON + timedelta(seconds=seconds),
        server_version="18.4",
        database="shop",
        wal_lsn=wal_lsn,
        slots=slots,
        consumers=list(consumers),
    )


def process(delivered: int, **facts: Any) -> dict[str, Any]:
    """What `/statistics` answers."""
    consumer = ConsumerStatistics(
        delivered=delivered, position=None, through_lsn=0, queued_rows=3, queued_bytes=9, last_error=None, **facts
    )
    source = SourceStatistics(phase="streaming", received_lsn=9, confirmed_lsn=9, binary=True, lag=0)
    statistics = PipelineStatistics(name="shop", source=source, consumers={"search": consumer})
    return dict(msgspec.to_builtins({"statistics": statistics, "ready": False, "reasons": [{"text": "it is slow"}]}))


def test_rates_and_the_worst_first() -> None:
    first = [slot("a", confirmed_flush_lsn="0/1000", wal_end="0/2000", safe_wal_size=4096)]
    second = [
        slot("a", confirmed_flush_lsn="0/3000", restart_lsn="0/3000", wal_end="0/4000", safe_wal_size=4096),
        slot("b", active=False, active_pid=None, restart_lsn="0/1", wal_end="0/4000"),
        slot("c", active=False, active_pid=None, wal_status="lost"),
    ]
    letters = StoredConsumer(pipeline="shop", consumer="cache", failed_letters=2, waiting_letters=1)
    stored = StoredConsumer(pipeline="shop", consumer="search", through_lsn=0x3000, behind_bytes=0x1000, stored_at=NOON)
    before = Frame.of(overview(0x2000, 0, first), process(100, state="running"), [], None)
    frame = Frame.of(
        overview(0x4000, 2, second, stored, letters), process(300, state="retrying", failures=4), ["the cat"], before
    )
    assert (frame.wal_rate, frame.slot_rates) == (4096.0, {"a": 4096.0})
    slots, consumers, running = frame.tables
    assert [row.cells[0] for row in slots.rows] == ["c", "b", "a"]
    assert slots.rows[2].cells == ("a", "pid 7", "4.0 kB", "", "4.0 kB", "4.0 kB, 1 s", "4.0 kB/s")
    assert [row.bad for row in slots.rows] == [True, True, False]
    assert [row.cells for row in consumers.rows] == [
        ("shop/cache", "", "", "", "", "2 (+1 behind them)"),
        ("shop/search", "0/3000", "4.0 kB", "2 s ago", "", "0"),
    ]
    assert running.rows[0].cells[:2] == ("search", "retrying") and running.rows[0].bad
    text = frame.as_text()
    assert "WAL at 0/4000, 4.0 kB/s, 12:00:02 UTC" in text and "not known: the cat" in text and "not ready" in text
    told = frame.as_json()
    assert told["slots"][0]["seconds_until_lost"] == 1.0 and told["slots"][0]["confirmed_flush_lsn"] == "0/3000"
    assert json.loads(msgspec.json.encode(told))["delivered_per_second"].keys() == {"search"}


def test_a_projection_that_is_parked() -> None:
    told = process(7, state="running", parked="the projection search is parked: ValueError at event 2")
    frame = Frame.of(overview(0x2000, 0, []), told, [], None)
    [row] = frame.tables[-1].rows
    assert row.bad and row.cells[1] == "parked" and "ValueError at event 2" in row.cells[-1]


def test_a_terminal_is_shown_the_same() -> None:
    lost = slot("lost_one", active=False, active_pid=None, wal_status="lost")
    frame = Frame.of(overview(0x2000, 0, [slot("fine"), lost]), process(7, state="failed"), ["sesame"], None)
    written = io.StringIO()
    console = Console(file=written, width=120, force_terminal=True, color_system="standard")
    console.print(drawn(frame, lambda text: text.replace("sesame", "***")))
    shown = written.getvalue()
    assert "not known: ***" in shown and "fine" in shown
    assert re.search("\x1b\\[1;31m *lost_one", shown), "what somebody should look at is red"
    assert re.search("\x1b\\[1;31m *search", shown)


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/statistics"])
def test_url(url: str) -> None:
    assert check_url(url) == "http://h:1/statistics"


@pytest.mark.parametrize("url", ["h:1", "file:///etc/passwd", "http://"])
def test_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="--url"):
        check_url(url)


def test_once(database: Database) -> None:
    """A pipeline of this process, as the database and its endpoint tell of it."""
    pytest.importorskip("prometheus_client", reason="prometheus-client is not installed: pip install 'pgcdc[metrics]'")
    database.execute("CREATE TABLE orders (id int PRIMARY KEY)", "INSERT INTO orders VALUES (1), (2)")
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    pipeline.add(Recorder(), name="search")
    with observe.serving(pipeline, 0) as endpoint, running(pipeline) as one:
        one.streaming()
        told = run("top", database.dsn, "--once", "--json", "--url", endpoint.url).report
    [seen] = [slot for slot in told["slots"] if slot["database"] == database.name]
    assert seen["name"] == "pgcdc_shop" and seen["active"] is True and told["database"] == database.name
    [consumer] = told["consumers"]
    assert (consumer["consumer"], consumer["snapshot"], consumer["failed_letters"]) == ("search", "done", 0)
    assert told["process"]["statistics"]["consumers"]["search"]["delivered"] == 2 and told["troubles"] == []
    pipeline.destroy()


def test_again_and_again_until_ctrl_c(newest_database: Database) -> None:
    newest_database.execute("SELECT pg_create_logical_replication_slot('late', 'pgoutput')")
    process = start("top", newest_database.dsn, "--interval", "0.1", "--json")
    with process:
        assert process.stdout is not None and process.stderr is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        process.send_signal(signal.SIGINT)
        rest, errors = process.stdout.read(), process.stderr.read()
    assert (process.returncode, errors) == (0, "")
    assert first["wal_bytes_per_second"] is None and second["wal_bytes_per_second"] >= 0
    assert all(json.loads(line)["slots"] for line in rest.splitlines())


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_live_on_a_terminal(newest_database: Database) -> None:
    newest_database.execute("SELECT pg_create_logical_replication_slot('late', 'pgoutput')")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pgcdc.cli", "top", newest_database.dsn, "--interval", "0.1"],
        env=environment(TERM="xterm", COLUMNS="150", LINES="40"),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    shown = b""
    with process:
        assert process.stderr is not None
        try:
            while shown.count(b"late") < 2:
                shown += os.read(ours, 65536)
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(OSError):  # the end of a terminal
                while more := os.read(ours, 65536):
                    shown += more
            assert (process.wait(120), process.stderr.read()) == (0, b"")
        finally:
            process.kill()
            os.close(ours)
    assert b"\x1b[?1049l" in shown, "the screen is as it was before"


def test_what_cannot_be_asked(newest_database: Database) -> None:
    ended = run("top", "host=127.0.0.1 port=1 password=hush-hush", "--once")
    assert (
        ended.code == 1 and "hush" not in ended.stderr and ended.stderr.startswith("error: the server cannot be asked")
    )
    ended = run("top", newest_database.dsn, "--once", "--url", "http://me:hush-hush@127.0.0.1:1")
    assert (
        ended.code == 0 and "not known: no process of a pipeline answers" in ended.stdout and "hush" not in ended.stdout
    )
