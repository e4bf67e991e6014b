"""Redis and OpenSearch: how long the target works on a row, and how long pgcdc does.

A pipeline in a process of its own reads a copy of one slot and writes to a server of its own. What is compared is time
on a processor: of the pipeline, of the server that it writes to, and of the walsender.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from benches import stream_server
from benches.capture import VERSION
from benches.report import Section, aligned
from benches.sinks_clients import Shared, Task
from benches.stream_server import PUBLICATION, Source
from tests.servers.programs import ServerUnavailable
from tests.servers.redis import RedisServer
from tests.servers.search import OpenSearchServer

WHAT = (
    "Each form of the sink Redis, and the sink OpenSearch, on the same WAL. There is no other program to compare with: "
    "the yardstick is the target itself, which cannot be made faster from here."
)
READ = (
    "Medians over the rounds, from a third of the rows on, in µs for each row change: user and system time of "
    "pgcdc's process, of the target's, and the walsender's (over all rows). share: of what pgcdc and the target take "
    "together, the target's; rows/s: how many came through."
)
SKIPPED: list[str] = []

REDIS: dict[str, dict[str, Any]] = {
    "Redis, JSON": {"key": "orders:{id}"},
    "Redis, hashes": {"key": "orders:{id}", "form": "hash"},
    "Redis, deleted keys": {"key": "orders:{id}", "form": "delete"},
    "Redis, counters": {"key": "orders-of:{status}", "form": "count"},
    "Redis, a stream": {"key": "changes", "form": "stream", "max_entries": 100_000},
}


@dataclass(frozen=True)
class Line:
    """One sink in one round, or the medians of several; microseconds for each row."""

    contestant: str
    client: float
    target: float
    walsender: float
    share: float
    rows_per_second: float
    rounds: int = 1


def measure(arguments: list[str]) -> tuple[list[Section], list[dict[str, object]]]:
    """Run all in turns.

    Args:
        arguments: Of the command line.

    Returns:
        The sections of the report, and the same as data.
    """
    parser = argparse.ArgumentParser(prog="./dev bench sinks_servers", description=__doc__)
    parser.add_argument("--rows", type=int, default=150_000, help="row changes (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each has its turn (%(default)s)")
    parser.add_argument("--only", default="", help="only those whose names begin so, as redis")
    options = parser.parse_args(arguments)
    SKIPPED.clear()
    found: dict[str, list[Line]] = {}
    with Source(VERSION) as source:
        rows = stream_server.write_rows(source, options.rows // 1000 * 1000, 1000)
        source.end()
        for _ in range(options.rounds):
            for name, at in _targets(options.only.lower()):
                try:
                    with source.slot() as slot, at as (process, sink, made_with):
                        task = Task(source.dsn, slot, PUBLICATION, rows, rows // 3, sink, made_with, process)
                        watched = stream_server.watch(source, slot, task.command())
                except ServerUnavailable as error:
                    if str(error) not in SKIPPED:
                        SKIPPED.append(str(error))
                    continue
                taken = msgspec.json.decode(watched.output, type=Shared)
                client, target = (seconds / taken.rows * 1e6 for seconds in (taken.cpu_seconds, taken.target_seconds))
                line = Line(
                    name,
                    client,
                    target,
                    watched.walsender_seconds / rows * 1e6,
                    target / (client + target),
                    taken.rows / taken.seconds,
                )
                found.setdefault(name, []).append(line)
                print(f"{name}: {client:.1f} µs, target {target:.1f} µs", file=sys.stderr, flush=True)
    lines = [_median(turns) for turns in found.values()]
    about = f"{rows:,} changes of the ten columns of `./dev bench decode`, its mix, 1,000 a transaction."
    return [Section("Redis and OpenSearch", about, _table(lines))], [asdict(line) for line in lines]


_Target = contextlib.AbstractContextManager[tuple[int, str, dict[str, Any]]]


def _targets(only: str) -> Iterator[tuple[str, _Target]]:
    """Who has a turn, each with a server of its own that has nothing yet."""
    for name, made_with in REDIS.items():
        if name.lower().startswith(only):
            yield name, _redis(made_with)
    if "opensearch".startswith(only):
        yield "OpenSearch", _opensearch()


@contextlib.contextmanager
def _redis(options: dict[str, Any]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    with RedisServer() as server:
        yield server.pid, "Redis", {"url": server.url, **options}


@contextlib.contextmanager
def _opensearch() -> Iterator[tuple[int, str, dict[str, Any]]]:
    # With the heap and the compilers of a server that has something to do.
    with OpenSearchServer(options=("-Xmx1g", "-Xms1g")) as server:
        yield server.pid, "OpenSearch", {"url": server.url}


def _median(lines: list[Line]) -> Line:
    return Line(
        lines[0].contestant,
        statistics.median(line.client for line in lines),
        statistics.median(line.target for line in lines),
        statistics.median(line.walsender for line in lines),
        statistics.median(line.share for line in lines),
        statistics.median(line.rows_per_second for line in lines),
        len(lines),
    )


def _table(lines: list[Line]) -> str:
    rows = [
        [
            line.contestant,
            f"{line.client:.1f}",
            f"{line.target:.1f}",
            f"{line.share:.0%}",
            f"{line.walsender:.1f}",
            f"{line.rows_per_second:,.0f}",
        ]
        for line in lines
    ]
    return aligned(["sink", "pgcdc µs", "target µs", "share", "walsender µs", "rows/s"], rows, 1)
