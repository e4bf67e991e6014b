"""`pgcdc run` as a process: signals, exit codes, who holds the slot, the log; nothing lost and no secret shown."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pgcdc.cli.run import _summary
from pgcdc.pipeline.statistics import PipelineStatistics, SourceStatistics
from tests.demo.running import environment
from tests.pipeline.running import confirmed, slots, until
from tests.pipeline.test_kill import Writers, catch_up, copied_positions, judge

if TYPE_CHECKING:
    from tests.conftest import Database

REPOSITORY = Path(__file__).parents[2]
PGCDC = Path(sys.executable).with_name("pgcdc")
PASSWORD = "hunter2-and-more"
PATIENCE = 120.0
"""Seconds: a process that has a twentieth of a core takes a while to begin."""
HANDLERS = f'''
import logging, os, threading, warnings
import pgcdc

handled = os.open("handled.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def handle(change):
    row = change.old if change.action == "delete" else change.new
    os.write(handled, f"{{change.position}} {{change.action}} {{row.id}}\\n".encode())

def show(change):
    print(change.action, flush=True)

def fail(change):
    logging.getLogger("driver").error("cannot log in to %s", os.environ["TARGET"])
    warnings.warn("{PASSWORD} is in a warning")
    thread = threading.Thread(target=int, args=("{PASSWORD} in a thread",))
    thread.start()
    thread.join()
    raise LookupError("{PASSWORD} and " + change.new.status)

def make():
    pipeline = pgcdc.Pipeline("shop", os.environ["SOURCE"], tables=["orders"])
    pipeline.on("orders", name="handler")(handle)
    return pipeline
'''
FILE = """
[pipeline]
name = "shop"
dsn = "${SOURCE}"
tables = ["orders"]

[consumers.mirror]
sink = "tests.pipeline.targets:SqliteMirror"
options = { path = "mirror.db" }

[consumers.handler]
handler = "handlers:handle"
table = "orders"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a configuration file and a module of handlers."""
    (tmp_path / "pgcdc.toml").write_text(FILE)
    (tmp_path / "handlers.py").write_text(HANDLERS)
    return tmp_path


class Command:
    """The installed command, running."""

    def __init__(self, place: Path, database: Database, *arguments: str) -> None:
        variables = environment(
            SOURCE=f"{database.dsn} password={PASSWORD}",
            TARGET=f"redis://me:{PASSWORD}@cache",
            PYTHONWARNINGS="default",
        )
        variables["PYTHONPATH"] += f":{REPOSITORY}"
        self._place = place
        self._stdout, self._stderr = (place / "stdout.log").open("wb"), (place / "stderr.log").open("wb")
        self.process = subprocess.Popen(
            [str(PGCDC), "run", *arguments],
            cwd=place,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=self._stdout,
            stderr=self._stderr,
        )

    def end(self, number: signal.Signals | None = None) -> int:
        """Sends a signal, waits for the end, and gives the exit code."""
        try:
            if number is not None:
                self.process.send_signal(number)
            return self.process.wait(PATIENCE)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._stdout.close()
            self._stderr.close()
            assert PASSWORD not in self.stdout + self.stderr

    @property
    def stdout(self) -> str:
        return (self._place / "stdout.log").read_text()

    @property
    def stderr(self) -> str:
        return (self._place / "stderr.log").read_text()


@pytest.fixture
def orders(newest_database: Database) -> Database:
    newest_database.execute(
        "CREATE TABLE orders (id bigint PRIMARY KEY, status text)", "INSERT INTO orders VALUES (1, 'the cell')"
    )
    return newest_database


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_signals_under_load_end_it_and_nothing_is_lost(newest_database: Database, place: Path) -> None:
    database = newest_database
    database.execute(
        "CREATE TABLE orders (id bigint PRIMARY KEY, writer int, amount numeric(12,2))",
        "INSERT INTO orders SELECT g, 0, 1 FROM generate_series(1, 100) g",
    )
    writers = Writers(database, 1, large=False)
    try:
        command = Command(place, database, "pgcdc.toml")
        until(lambda: copied_positions(database)[1] == 2, "the copy is over", PATIENCE, 0.25)
        wanted = lines(place / "handled.log") + 200
        until(lambda: lines(place / "handled.log") > wanted, "some changes", PATIENCE)
        writers.copied()
        assert command.end(signal.SIGTERM) == 0, command.stderr
        assert command.stdout == ""
        last = command.stderr.splitlines()[-1]
        assert " INFO pgcdc.run: pipeline 'shop' ended after " in last
        # It says so when a machine that has no time for it lets the seconds go by that a stop may take.
        in_time = " WARNING " not in command.stderr
        if in_time:
            assert "; confirmed up to " in last
            assert confirmed(database) == copied_positions(database)[0], "what is durable is confirmed"
        command = Command(place, database, "pgcdc.toml")
    finally:
        writers.stop()
    try:
        catch_up(database, place, PATIENCE, 0.25)
    finally:
        code = command.end(signal.SIGINT)
    assert code == 0, command.stderr
    judge(database, place, writers)
    handled = (place / "handled.log").read_text().splitlines()
    assert not in_time or len(handled) == len(set(handled)), "nothing was delivered twice after a stop"


def test_what_is_said_at_the_end_of_a_run_on_kafka() -> None:
    for lsn, said in ((0, "no offsets stored"), (256, "offsets stored up to 0/100")):
        source = SourceStatistics("stopped", lsn, lsn, None, 0, kind="kafka")
        assert _summary(PipelineStatistics("shop", source, {})) == f"; {said}"


def test_a_second_process_says_who_has_the_slot(orders: Database, place: Path) -> None:
    (place / "second").mkdir()
    (place / "second" / "handlers.py").write_text(HANDLERS)
    first = Command(place, orders, "handlers:make")
    try:
        until(lambda: lines(place / "handled.log") == 1, "the row that was there", PATIENCE)
        [(pid,)] = orders.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted")
        second = Command(place / "second", orders, "handlers:make")
        assert second.end() == 4, second.stderr
        error = f"error: another process runs the pipeline of slot 'pgcdc_shop' (server process {pid})\nhint: "
        assert error in second.stderr
        assert "handler 0 changes; nothing confirmed" in second.stderr.splitlines()[-1]
    finally:
        code = first.end(signal.SIGTERM)
    assert code == 0, first.stderr
    assert "handler 1 changes" in first.stderr.splitlines()[-1]


def test_a_handler_that_raises(orders: Database, place: Path) -> None:
    (place / "pgcdc.toml").write_text(FILE.replace(":handle", ":fail"))
    command = Command(place, orders, "pgcdc.toml")
    assert command.end() == 1
    assert "error: handler 'handler' raised LookupError on an insert of public.orders at " in command.stderr
    assert "hint: nothing was confirmed past it" in command.stderr
    assert "where LookupError was raised:" in command.stderr
    assert re.search(r"handlers\.py, line \d+, in fail\n", command.stderr), command.stderr
    assert "cannot log in to redis://me:***@cache" in command.stderr
    assert "*** is in a warning" in command.stderr
    assert "literal for int() with base 10: '*** in a thread'" in command.stderr
    assert "the cell" not in command.stderr


def test_a_copy_alone_with_lines_of_json(orders: Database, place: Path) -> None:
    (place / "pgcdc.toml").write_text(
        FILE.replace(":handle", ":show").replace("[pipeline]", '[pipeline]\nsnapshot = "only"')
    )
    command = Command(place, orders, "--json", "pgcdc.toml")
    assert command.end() == 0, command.stderr
    assert command.stdout == "insert\n", "stdout is the handlers' own"
    records = [json.loads(line) for line in command.stderr.splitlines()]
    assert all({"time", "level", "logger", "message"} <= record.keys() for record in records)
    assert {name: consumer["delivered"] for name, consumer in records[-1]["statistics"]["consumers"].items()} == {
        "mirror": 1,
        "handler": 1,
    }
    assert slots(orders) == []


def test_errors_as_lines_of_json(orders: Database, place: Path) -> None:
    orders.execute("DROP TABLE orders")
    command = Command(place, orders, "--json", "--log-level=error", "pgcdc.toml")
    assert command.end() == 1
    [record] = [json.loads(line) for line in command.stderr.splitlines()]
    assert record["level"] == "error"
    assert "orders" in record["message"]
    assert record["hint"]


def test_check_connects_to_nothing(newest_database: Database, place: Path) -> None:
    (place / "pgcdc.toml").write_text(FILE.replace("${SOURCE}", "host=${NOWHERE:-localhost} port=1"))
    command = Command(place, newest_database, "--check", "pgcdc.toml")
    assert command.end() == 0, command.stderr
    assert command.stdout == "pgcdc.toml: pipeline 'shop' is in order; its consumers: mirror, handler\n"
    assert command.stderr == ""
    assert not (place / "mirror.db").exists()


def test_a_configuration_that_is_wrong(newest_database: Database, place: Path) -> None:
    (place / "pgcdc.toml").write_text(FILE.replace("tables", "tabels"))
    command = Command(place, newest_database, "pgcdc.toml")
    assert command.end() == 2
    assert command.stderr == "error: pgcdc.toml: pipeline.tabels is not a setting\nhint: did you mean 'tables'?\n"
    assert command.stdout == ""
