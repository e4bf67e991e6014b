"""A projection rebuilt from a long history while writers append and its pipeline follows; and what it has then.

The history is written by pgcdc, half of it before there is a slot. The rebuild is a process of its own, begun when the
writers are at work. Whether every event was applied once and in order is asked of PostgreSQL by one query over the
events' table and the projection's: for each event the projection has counted how often it was applied, and numbered
when. The order is that of the transactions' commits, and of each stream's numbers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import threading
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg

from benches import eventstore_events as events
from benches.eventstore_projections import await_running
from benches.report import Section, aligned
from pgcdc.eventstore import EventStore, Recorded, Table, rebuild
from tests.servers.postgres import PostgresServer

VERSION = 18
WHAT = (
    "A projection that notes every event is built anew beside the live one, from the table, while writers append one "
    "event after another as fast as they can and the pipeline keeps the live one up to date; then they change places."
)
READ = (
    "missing, duplicate, out of order: by a query over the events' table and the projection's rows, after writers and "
    "pipeline have ended. events/s: applied by the rebuild, of the wall-clock time until the new one is live; client: "
    "user and system time of the rebuild's process for each event; memory: its resident memory at most, and before the "
    "rebuild. Server, writers, pipeline and rebuild share the machine."
)
SKIPPED: list[str] = []
AT_ONCE = 1000
"""Events of a transaction of the history."""
SECONDS = 1800.0
"""The longest that writers write."""
FAULTS = """
    WITH ordered AS (
        SELECT l.stream, l.sequence, c.commit_lsn,
            lag(c.commit_lsn) OVER (ORDER BY l.number) AS before,
            lag(l.sequence, 1, 0::bigint) OVER (PARTITION BY l.stream ORDER BY l.number) AS last
        FROM public.ledger AS l
        JOIN es.events AS e ON (e.stream_id, e.sequence) = (l.stream, l.sequence)
        LEFT JOIN es.commits AS c ON c.xid = e.xid
    )
    SELECT
        (SELECT count(*) FROM es.events),
        (SELECT count(*) FROM es.events AS e LEFT JOIN public.ledger AS l
            ON (e.stream_id, e.sequence) = (l.stream, l.sequence) WHERE l.stream IS NULL),
        (SELECT coalesce(sum(times - 1), 0)::bigint FROM public.ledger)
            + (SELECT count(*) FROM public.ledger AS l LEFT JOIN es.events AS e
                ON (e.stream_id, e.sequence) = (l.stream, l.sequence) WHERE e.stream_id IS NULL),
        (SELECT count(*) FROM ordered WHERE coalesce(commit_lsn, '0/0') < coalesce(before, '0/0')
            OR sequence <> last + 1)
"""
"""What was committed before the slot was made has no LSN, and comes before all that has."""


class Ledger:
    """Every event: how often it was applied, and when the first time."""

    ledger = Table("stream text, sequence bigint, times integer, number bigserial", key=["stream", "sequence"])

    def on_bench_ordered(self, event: events.Ordered, recorded: Recorded) -> None:
        """Count it."""
        self.ledger.add(stream=recorded.stream_id, sequence=recorded.sequence, times=1)


@dataclass(frozen=True)
class Line:
    """One rebuild."""

    history: int
    writers: int
    rebuilt: int
    appended: int
    checked: int
    missing: int
    duplicate: int
    out_of_order: int
    seconds: float
    events_per_second: float
    client_microseconds: float
    megabytes: float
    megabytes_before: float


def measure(arguments: list[str]) -> tuple[list[Section], list[dict[str, object]]]:
    """Rebuild, and look at what has come of it.

    Args:
        arguments: Of the command line.

    Returns:
        The sections of the report, and the same as data.
    """
    parser = argparse.ArgumentParser(prog="./dev bench eventstore_rebuild", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="how often, in fresh databases (%(default)s)")
    parser.add_argument("--history", type=int, default=1_000_000, help="events that there are before (%(default)s)")
    parser.add_argument("--writers", type=int, default=4, help="that append meanwhile (%(default)s)")
    parser.add_argument("--synchronous", default="on", help="synchronous_commit of the writers (%(default)s)")
    options = parser.parse_args(arguments)
    settings = {"fsync": "on", "shared_buffers": "256MB", "max_wal_size": "4GB"}
    with PostgresServer(VERSION, settings, say=_say) as server:
        lines = [_round(server, options) for _ in range(options.rounds)]
    section = Section(
        f"{options.history:,} events, {options.writers} writers, synchronous_commit {options.synchronous}",
        "Each line is a rebuild in a database of its own.",
        _table(lines),
    )
    return [section], [asdict(line) for line in lines]


def _say(what: str) -> None:
    print(what, file=sys.stderr)


def store_of(dsn: str, **options: Any) -> EventStore:
    """The store with its projection.

    Args:
        dsn: Its database.
        options: Of the store.

    Returns:
        The store.
    """
    store = EventStore(dsn, **options)
    store.projection("ledger")(Ledger)
    return store


def _follow(dsn: str, stop: threading.Event) -> None:
    """Run the pipeline, in a process of its own, until it is stopped."""
    with store_of(dsn) as store:
        pipeline = store.pipeline()
        thread = threading.Thread(target=pipeline.run)
        thread.start()
        while thread.is_alive() and not stop.wait(0.2):
            pass
        pipeline.stop()
        thread.join()


def _rebuild(dsn: str) -> tuple[int, float, float, float, float]:
    """Rebuild, in a process of its own: events, seconds, seconds of the processor, and MB at most and before."""
    with store_of(dsn) as store:
        store.lsn()
        before = _megabytes()
        cpu, wall = time.process_time(), time.perf_counter()
        done = rebuild(store, "ledger")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return done.done, wall, cpu, _megabytes(), before


def _megabytes() -> float:
    """Resident memory at most, of this program: what getrusage says begins with that of the process it was made by."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _round(server: PostgresServer, options: argparse.Namespace) -> Line:
    name = f"bench_{uuid.uuid4().hex[:8]}"
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}")
    dsn = f"{server.dsn(name, tcp=True)} options='-c synchronous_commit={options.synchronous}'"
    half = options.history // 2
    context = multiprocessing.get_context("spawn")
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(options.writers + 2, context) as pool,
        store_of(dsn) as store,
    ):
        store.init()
        stop, ended = manager.Event(), manager.Event()
        _append(store, "early", half)
        following = pool.submit(_follow, dsn, stop)
        try:
            await_running(store, "ledger", SECONDS)
            _append(store, "late", options.history - half)
            store.wait("ledger", store.lsn(), timeout=SECONDS)
            _say(f"{options.history:,} events are there: the rebuild begins")
            writing = [
                pool.submit(events.write_until, dsn, f"beside-{writer}", ended, SECONDS)
                for writer in range(options.writers)
            ]
            try:
                for writer in range(options.writers):
                    while not store.read(f"beside-{writer}"):
                        time.sleep(0.01)
                rebuilt, seconds, cpu, megabytes, before = pool.submit(_rebuild, dsn).result()
            finally:
                ended.set()
            appended = sum(future.result() for future in writing)
            store.wait("ledger", store.lsn(), timeout=SECONDS)
        finally:
            stop.set()
            following.result()
    with psycopg.connect(dsn) as connection:
        row = connection.execute(FAULTS.encode()).fetchone()
    assert row is not None, "it counts"
    with server.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(active_pid, 30000) FROM pg_replication_slots WHERE active_pid IS NOT NULL"
        )
        connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    checked, missing, duplicate, out_of_order = row
    line = Line(
        history=options.history,
        writers=options.writers,
        rebuilt=rebuilt,
        appended=appended,
        checked=checked,
        missing=missing,
        duplicate=duplicate,
        out_of_order=out_of_order,
        seconds=seconds,
        events_per_second=rebuilt / seconds,
        client_microseconds=cpu * 1e6 / max(rebuilt, 1),
        megabytes=megabytes,
        megabytes_before=before,
    )
    _say(f"{line.rebuilt:,} events rebuilt, {line.events_per_second:,.0f} events/s")
    return line


def _append(store: EventStore, name: str, count: int) -> None:
    for first in range(0, count, AT_ONCE):
        given = [events.ORDERED] * min(AT_ONCE, count - first)
        store.append(f"{name}-{first // AT_ONCE}", given, expected=0, metadata=events.METADATA)


def _table(found: list[Line]) -> str:
    rows = [
        [
            f"{line.rebuilt:,}",
            f"{line.appended:,}",
            f"{line.checked:,}",
            f"{line.missing:,}",
            f"{line.duplicate:,}",
            f"{line.out_of_order:,}",
            f"{line.events_per_second:,.0f}",
            f"{line.client_microseconds:.2f}",
            f"{line.megabytes:.0f} ({line.megabytes_before:.0f})",
        ]
        for line in found
    ]
    header = ["rebuilt", "appended meanwhile", "checked", "missing", "duplicate", "out of order", "events/s"]
    return aligned([*header, "client µs/event", "MB (before)"], rows, left=0)
