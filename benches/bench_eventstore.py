"""The event store beside `eventsourcing`, on one server: append, load, replay, many writers; projections, rebuilds.

Both keep the same event (an order's, 140 bytes of JSON) with the same metadata and take turns, with synchronous_commit
off and on. `eventsourcing` locks its table for each append, so that those who poll it see no gap. What that alone costs
shows pgcdc's own store in transactions that lock the table ("table lock"), and the most that this can be ("table lock,
one call"); what a row costs on this machine and disk, an INSERT through libpq ("bare INSERT"), alone and by as many
writers. Before anything is read, both databases are vacuumed and a checkpoint is made, so that
neither is met by autovacuum in the middle.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from benches import eventstore_events as events
from benches import eventstore_floor as floor
from benches import eventstore_projections as projections
from benches.report import Section, aligned
from pgcdc import EventStore
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from benches.eventstore_peer import Peer

VERSION = 18
WHAT = (
    "pgcdc appends by one statement with the version that it expects; `eventsourcing` saves an aggregate through "
    "psycopg, as its users do."
)
READ = (
    "Medians over the rounds, for a long stream over five loads in each. events/s: of the wall-clock time (25 ms "
    "for a stream of 10,000 are 400,000); client: user and system time of the client's process for each event; x:"
    " how many times as fast as eventsourcing, and what part of its client time, the medians of the ratios within"
    " each round. Server and clients share the machine. 32 writers, pgcdc: a single connection in each process, "
    "so that appends that wait go together; no group: a connection for each writer, by which each goes by itself."
    " bare INSERT: a row and its COMMIT by libpq, with no version and no stream: the most that there can be here "
    "by a connection each. table lock: LOCK TABLE … IN EXCLUSIVE MODE before each append, in four turns; in one "
    "call: by one function, the most that a lock of the table allows."
)
SKIPPED: list[str] = []
WRITERS, PROCESSES = 32, 2
LOADS = 5
"""A long stream is loaded so often by each in a round: one takes some 20 ms, in which anything can come between."""


@dataclass(frozen=True)
class Line:
    """One contestant's work in one round, or the medians of several."""

    work: str
    synchronous: str
    contestant: str
    events_per_second: float
    client_microseconds: float
    rounds: int = 1
    times: float | None = None
    part: float | None = None


def measure(arguments: list[str]) -> tuple[list[Section], list[dict[str, object]]]:
    """Let both do all work, in turns.

    Args:
        arguments: Of the command line.

    Returns:
        The sections of the report, and the same as data.
    """
    parser = argparse.ArgumentParser(prog="./dev bench eventstore", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each has its turn (%(default)s)")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="of the many writers (%(default)s)")
    parser.add_argument("--synchronous", default="off,on", help="settings of synchronous_commit (%(default)s)")
    parser.add_argument("--events", type=int, default=10_000, help="events of the long stream (%(default)s)")
    parser.add_argument("--projected", type=int, default=30_000, help="events that are projected (%(default)s)")
    parser.add_argument("--history", type=int, default=100_000, help="events that are rebuilt (%(default)s)")
    options = parser.parse_args(arguments)
    SKIPPED.clear()
    peer_class: Any = None
    try:
        from benches.eventstore_peer import Peer as peer_class  # noqa: N813
    except ModuleNotFoundError as error:
        SKIPPED.append(f"eventsourcing: the package {error.name} is not installed")
    found: dict[tuple[str, str, str], list[Line]] = defaultdict(list)
    settings = {
        "fsync": "on",
        "shared_buffers": "256MB",
        "max_wal_size": "4GB",
        "max_connections": "200",
    }
    with PostgresServer(VERSION, settings, say=lambda line: print(line, file=sys.stderr)) as server:
        for _ in range(options.rounds):
            for synchronous in options.synchronous.split(","):
                with server.connect() as connection:
                    connection.execute(f"ALTER SYSTEM SET synchronous_commit = {synchronous}")
                    connection.execute("SELECT pg_reload_conf()")
                for line in _round(server, synchronous, peer_class, options):
                    found[line.work, line.synchronous, line.contestant].append(line)
                    print(
                        f"{line.work}, {line.synchronous}, {line.contestant}: {line.events_per_second:,.0f} events/s",
                        file=sys.stderr,
                    )
    lines = [_median(lines, found.get((*key[:2], "eventsourcing"), [])) for key, lines in found.items()]
    sections = [
        Section(
            f"synchronous_commit {synchronous}",
            f"The long stream has {options.events:,} events; {WRITERS} writers write to a stream each, all but those"
            f" of eventsourcing in {options.processes} processes.",
            _table([line for line in lines if line.synchronous == synchronous]),
        )
        for synchronous in options.synchronous.split(",")
    ]
    return sections, [asdict(line) for line in lines]


def _round(
    server: PostgresServer, synchronous: str, peer_class: type[Peer] | None, options: argparse.Namespace
) -> list[Line]:
    """One round of all work, in fresh databases."""
    length: int = options.events
    lines: list[Line] = []
    names = [f"bench_{uuid.uuid4().hex[:8]}" for _ in range(2)]
    with server.connect() as connection:
        for name in names:
            connection.execute(f"CREATE DATABASE {name}")
    one, many = max(1, length // 10), max(1, length // 100)
    dsn = f"{server.dsn(names[0], tcp=True)} options='-c synchronous_commit={synchronous}'"

    def time_it(work: str, contestant: str, count: int, function: Callable[[], Any], times: int = 1) -> None:
        walls, cpus = [], []
        for _ in range(times):
            cpu, wall = time.process_time(), time.perf_counter()
            function()
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
        wall, cpu = statistics.median(walls), statistics.median(cpus)
        lines.append(Line(work, synchronous, contestant, count / wall, cpu * 1e6 / count))

    with EventStore(dsn) as store:
        store.init()
        store.append("warm-1", [events.ORDERED] * 10, metadata=events.METADATA)
        time_it("append 1", "pgcdc", one, lambda: _append_each(store, one))
        time_it("append 1, plain INSERT", "pgcdc", one, lambda: _insert_each(store, one))
        time_it("append 100", "pgcdc", many * 100, lambda: _append_hundreds(store, many))
        bare = floor.BareTable(dsn)
        bare.append_each(10)
        time_it("append 1", "bare INSERT", one, lambda: bare.append_each(one))
        bare.close()
        store.append("long-1", [events.ORDERED] * length, metadata=events.METADATA)
        _settle(server, names[0])
        time_it("load a long stream", "pgcdc", length, lambda: _load(store, length), LOADS)
        total = sum(map(len, store.replay()))
        time_it("full replay", "pgcdc", total, lambda: sum(map(len, store.scan())))
        time_it("full replay with envelopes", "pgcdc", total, lambda: sum(map(len, store.replay())))
        each = max(1, one // WRITERS)
        lines.append(_writers(dsn, 4 * each, synchronous, options.processes, "pgcdc", events.write_at_once))
        by_itself = events.write_by_a_connection_each
        lines.append(_writers(dsn, 4 * each, synchronous, options.processes, "pgcdc, no group", by_itself))
        lines.append(_writers(dsn, 4 * each, synchronous, options.processes, "bare INSERT", floor.write_bare))
        lines.append(_writers(dsn, each, synchronous, options.processes, "table lock", floor.write_under_a_lock))
        floor.make_locked_append(dsn)
        call = floor.write_under_a_lock_in_one_call
        lines.append(_writers(dsn, each, synchronous, options.processes, "table lock, one call", call))
        recorded = [(entry.stream_id, entry.sequence) for batch in store.replay() for entry in batch]
        written = [place for place in recorded if place[0].startswith("writer-")]
        numbers = range(1, events.FIRST + 4 * each + 1)
        expected = [(f"writer-{writer}", number) for writer in range(WRITERS) for number in numbers]
        assert sorted(written) == sorted(expected), "an event is lost, or there is a hole"
    if options.projected:
        lines += _projections(server, synchronous, options.projected, options.history)
    if peer_class is not None:
        with peer_class(server, names[1]) as peer:
            peer.append_each(10)
            time_it("append 1", "eventsourcing", one, lambda: peer.append_each(one))
            time_it("append 100", "eventsourcing", many * 100, lambda: peer.append_hundreds(many))
            aggregate = peer.write_long(length)
            _settle(server, names[1])
            time_it("load a long stream", "eventsourcing", length, lambda: peer.load(aggregate), LOADS)
            total = peer.replay()
            time_it("full replay", "eventsourcing", total, peer.replay)
            few = max(1, one // WRITERS)
            wall = peer.write_at_once(WRITERS, few)
            lines.append(Line(f"{WRITERS} writers", synchronous, "eventsourcing", WRITERS * few / wall, 0.0))
    with server.connect() as connection:
        for name in names:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    return lines


def _projections(server: PostgresServer, synchronous: str, count: int, history: int) -> list[Line]:
    """A projection from the stream, and one rebuilt from the table, in a database of their own."""
    name = f"bench_{uuid.uuid4().hex[:8]}"
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}")
    dsn = f"{server.dsn(name, tcp=True)} options='-c synchronous_commit={synchronous}'"
    lines: list[Line] = []
    with EventStore(dsn) as store:
        store.init()
        store.projection("sold")(projections.Sold)
        pipeline = store.pipeline()
        thread = threading.Thread(target=pipeline.run)
        thread.start()
        store.wait("sold", store.lsn(), timeout=60)
        pipeline.stop()
        thread.join()
        for together in (1, 100):
            measured = projections.project(store, dsn, max(count // together, 1) * together, together)
            lines.append(Line(f"project, {together} a transaction", synchronous, "pgcdc", *measured))
        many = max(1, history // 1000)
        for number in range(many):
            store.append(f"history-{number}", [events.ORDERED] * 1000, metadata=events.METADATA)
        store.projection("journal")(projections.Journal)
        measured = projections.rebuild_while_written(store, dsn)
        lines.append(Line("rebuild while 4 append", synchronous, "pgcdc", *measured))
    with server.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(active_pid, 30000) FROM pg_replication_slots WHERE active_pid IS NOT NULL"
        )
        connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    return lines


def _append_each(store: EventStore, count: int) -> None:
    for version in range(count):
        store.append("each-1", [events.ORDERED], expected=version, metadata=events.METADATA)


def _insert_each(store: EventStore, count: int) -> None:
    for version in range(count):
        store.insert("plain-1", [events.ORDERED], after=version, metadata=events.METADATA)


def _append_hundreds(store: EventStore, count: int) -> None:
    for number in range(count):
        store.append("hundreds-1", [events.ORDERED] * 100, expected=100 * number, metadata=events.METADATA)


def _load(store: EventStore, length: int) -> None:
    state, version = store.load("long-1", events.Orders)
    assert (state.count, version) == (length, length)


def _settle(server: PostgresServer, name: str) -> None:
    """What the server would do by itself within a minute."""
    with server.connect(name) as connection:
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")


def _writers(
    dsn: str,
    each: int,
    synchronous: str,
    processes: int,
    contestant: str,
    write: Callable[[str, list[int], int, threading.Barrier], tuple[float, float]],
) -> Line:
    """Many at once, in several processes, to a stream each."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(processes, context) as pool:
        barrier = manager.Barrier(processes)
        mine = [range(first, WRITERS, processes) for first in range(processes)]
        done = [pool.submit(write, dsn, list(writers), each, barrier) for writers in mine]
        took = [future.result() for future in done]
    return Line(
        f"{WRITERS} writers",
        synchronous,
        contestant,
        WRITERS * each / max(wall for wall, _ in took),
        sum(cpu for _, cpu in took) * 1e6 / (WRITERS * each),
    )


def _median(lines: list[Line], yardstick: list[Line]) -> Line:
    pairs = list(zip(lines, yardstick, strict=False))
    parts = [
        a.client_microseconds / b.client_microseconds
        for a, b in pairs
        if b.client_microseconds and a.client_microseconds
    ]
    return replace(
        lines[0],
        rounds=len(lines),
        events_per_second=statistics.median(line.events_per_second for line in lines),
        client_microseconds=statistics.median(line.client_microseconds for line in lines),
        times=statistics.median(a.events_per_second / b.events_per_second for a, b in pairs) if pairs else None,
        part=statistics.median(parts) if parts else None,
    )


def _table(found: list[Line]) -> str:
    rows = [
        [
            line.work,
            line.contestant,
            f"{line.events_per_second:,.0f}",
            "" if line.times is None else f"{line.times:.1f}",
            f"{line.client_microseconds:.2f}" if line.client_microseconds else "",
            "" if line.part is None else f"{line.part:.2f}",
        ]
        for line in found
    ]
    return aligned(["work", "contestant", "events/s", "x", "client µs/event", "part"], rows, left=2)
