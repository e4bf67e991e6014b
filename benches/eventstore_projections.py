"""Projections in the bench of the event store: from the live stream, and rebuilt while writers append."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import psycopg

from benches import eventstore_events as events
from pgcdc.eventstore import EventStore, EventStoreError, Recorded, Table, rebuild

__all__ = ["Journal", "Measured", "Sold", "declare", "follow", "project", "rebuild_while_written"]

WRITERS = 4


class Measured(NamedTuple):
    """Events a second, and microseconds of this process for each."""

    events_per_second: float
    client_microseconds: float


class Sold:
    """What was sold of each thing, and to whom."""

    sold = Table("sku text, category text, pieces bigint, total bigint", key=["sku", "category"])
    customers = Table("id text, orders integer", key=["id"])

    def on_bench_ordered(self, event: events.Ordered) -> None:
        """Add each line."""
        self.customers.add(id=event.customer_id, orders=1)
        for line in event.items:
            self.sold.add(sku=line.sku, category=line.category, pieces=line.qty, total=line.price * line.qty)


class Journal:
    """Every event with its place."""

    journal = Table("stream text, sequence bigint, lsn text, number bigserial", key=["stream", "sequence"])

    def on_bench_ordered(self, event: events.Ordered, recorded: Recorded) -> None:
        """Put it down."""
        self.journal.put(stream=recorded.stream_id, sequence=recorded.sequence, lsn=str(recorded.position))


def project(store: EventStore, dsn: str, count: int, together: int) -> Measured:
    """Let a projection take what was appended while it was away, from the stream.

    Args:
        store: The store, whose pipeline was run before.
        dsn: Its database.
        count: How many events.
        together: How many of them are in one transaction.

    Returns:
        What was measured, from the first batch to the last.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        asked = "SELECT (SELECT events FROM es.projections WHERE name = 'sold'), (SELECT sum(orders) FROM customers)"

        def done() -> tuple[int, int]:
            row = connection.execute(asked).fetchone()
            assert row is not None
            return row[0], row[1] or 0

        before, ordered = done()
        _append(store, count, together)
        pipeline = store.pipeline()
        thread = threading.Thread(target=pipeline.run)
        thread.start()
        try:
            while (first := done()[0]) == before:
                time.sleep(0.01)
            cpu, wall = time.process_time(), time.perf_counter()
            while (last := done()[0]) < before + count:
                time.sleep(0.01)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        finally:
            pipeline.stop()
            thread.join()
        assert done() == (before + count, ordered + count), "an event was applied twice, or not"
        left = max(last - first, 1)
        return Measured(left / wall, cpu * 1e6 / left)


def _append(store: EventStore, count: int, together: int) -> None:
    version = store.append("projected-1", [])
    for first in range(0, count, together):
        store.append("projected-1", [events.ORDERED] * together, expected=version + first, metadata=events.METADATA)


def declare(store: EventStore) -> None:
    """Both projections."""
    store.projection("sold")(Sold)
    store.projection("journal")(Journal)


def follow(dsn: str, stop: threading.Event) -> None:
    """Run the pipeline of both projections, in a process of its own, as it is where a rebuild is called for.

    Args:
        dsn: Of the store.
        stop: Ends it.
    """
    with EventStore(dsn) as store:
        declare(store)
        pipeline = store.pipeline()
        thread = threading.Thread(target=pipeline.run)
        thread.start()
        while thread.is_alive() and not stop.wait(0.2):
            pass
        pipeline.stop()
        thread.join()


def await_running(store: EventStore, name: str, seconds: float) -> None:
    """Wait until a projection is there, and has what was appended so far."""
    until = time.monotonic() + seconds
    while True:
        try:
            store.wait(name, store.lsn(), timeout=seconds)
        except EventStoreError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return


def rebuild_while_written(store: EventStore, dsn: str, seconds_of_writing: float = 600.0) -> Measured:
    """Rebuild a projection while others append, and the pipeline follows.

    Args:
        store: The store, with a projection `journal`.
        dsn: Its database.
        seconds_of_writing: The longest that others write.

    Returns:
        What was measured.
    """
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(WRITERS + 1, context) as pool:
        stop, ended = manager.Event(), manager.Event()
        following = pool.submit(follow, dsn, stop)
        try:
            await_running(store, "journal", seconds_of_writing)
            writing = [
                pool.submit(events.write_until, dsn, f"beside-{writer}", ended, seconds_of_writing)
                for writer in range(WRITERS)
            ]
            try:
                cpu = time.process_time()
                done = rebuild(store, "journal")
                cpu = time.process_time() - cpu
            finally:
                ended.set()
            for future in writing:
                future.result()
            store.wait("journal", store.lsn(), timeout=120)
        finally:
            stop.set()
            following.result()
    with psycopg.connect(dsn) as connection:
        row: Any = connection.execute(
            "SELECT (SELECT count(*) FROM es.events e FULL JOIN journal j"
            " ON (j.stream, j.sequence) = (e.stream_id, e.sequence) WHERE j.stream IS NULL OR e.stream_id IS NULL),"
            " (SELECT count(*) FROM (SELECT lsn < lag(lsn) OVER (ORDER BY number) AS wrong FROM journal) o"
            " WHERE wrong),"
            " (SELECT count(*) FROM (SELECT sequence <> 1 + coalesce(lag(sequence) OVER (PARTITION BY stream ORDER BY"
            " number), 0) AS wrong FROM journal) s WHERE wrong)"
        ).fetchone()
    assert row == (0, 0, 0), "an event is missing, there twice, or out of order"
    return Measured(done.rate, cpu * 1e6 / max(done.done, 1))
