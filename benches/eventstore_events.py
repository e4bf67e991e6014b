"""What the bench of the event store appends, a state that counts it, and many writers of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Self

import msgspec

from pgcdc.eventstore import Event, EventStore

METADATA = {
    "correlation_id": "7b3d3f1e-7b6e-4e6e-8f4b-2f3e4c5d6e7f",
    "causation_id": "7b3d3f1e-7b6e-4e6e-8f4b-2f3e4c5d6e70",
    "actor": "alice@example.com",
}


class Line(msgspec.Struct, frozen=True, gc=False):
    """What is bought."""

    sku: str
    category: str
    price: int
    qty: int


class Ordered(Event, tag="bench.Ordered"):
    """Somebody has ordered."""

    order_id: str
    customer_id: str
    items: list[Line]
    note: str


FIRST = 10
"""Events of each of many writers before time is taken: connections, plans and caches are made at the first ones."""
ORDERED = Ordered("order-123456", "customer-42", [Line("A-1234567", "books", 1999, 2)], "fast")


class Orders(msgspec.Struct):
    """How many there were."""

    count: int = 0

    def apply(self, event: Event) -> Self:
        """One more."""
        match event:
            case Ordered():
                self.count += 1
        return self


def write_until(dsn: str, stream: str, ended: threading.Event, seconds: float) -> int:
    """Append to one stream, one event after another.

    Args:
        dsn: Of the store.
        stream: The stream.
        ended: Ends it.
        seconds: So long at most.

    Returns:
        How many.
    """
    until, version = time.monotonic() + seconds, 0
    with EventStore(dsn, max_connections=1) as store:
        while time.monotonic() < until and (version % 50 or not ended.is_set()):
            version = store.append(stream, [ORDERED], expected=version, metadata=METADATA)
    return version


def write_at_once(dsn: str, writers: list[int], each: int, barrier: threading.Barrier) -> tuple[float, float]:
    """What one process of many writers does, by a store with a single connection: what waits for it goes together.

    Args:
        dsn: Of the store.
        writers: Their numbers, each of a stream.
        each: How many events each appends.
        barrier: Where the processes meet.

    Returns:
        Seconds, and seconds of the processor.
    """
    return _write("writer", 1, dsn, writers, each, barrier)


def write_by_a_connection_each(
    dsn: str, writers: list[int], each: int, barrier: threading.Barrier
) -> tuple[float, float]:
    """As `write_at_once`, but with a connection for each writer: nothing waits, and each append goes by itself.

    Args:
        dsn: Of the store.
        writers: Their numbers, each of a stream.
        each: How many events each appends.
        barrier: Where the processes meet.

    Returns:
        Seconds, and seconds of the processor.
    """
    return _write("alone", len(writers), dsn, writers, each, barrier)


def _write(
    name: str, connections: int, dsn: str, writers: list[int], each: int, barrier: threading.Barrier
) -> tuple[float, float]:
    with EventStore(dsn, max_connections=connections) as store:

        @contextmanager
        def writing(writer: int) -> Iterator[Callable[[int], object]]:
            stream, given = f"{name}-{writer}", [ORDERED]
            yield lambda version: store.append(stream, given, expected=version, metadata=METADATA)

        return together(writing, writers, each, barrier)


def together(
    writing: Callable[[int], AbstractContextManager[Callable[[int], object]]],
    writers: list[int],
    each: int,
    barrier: threading.Barrier,
) -> tuple[float, float]:
    """A thread for each writer of this process, all beginning with those of the other processes.

    Args:
        writing: Opens what a writer needs; it gives what appends one event behind a version.
        writers: Their numbers.
        each: How many events each appends, after some for which no time is taken.
        barrier: Where the processes meet.

    Returns:
        Seconds, and seconds of the processor.
    """
    ready = threading.Barrier(len(writers) + 1)

    def write(writer: int) -> None:
        with writing(writer) as append:
            for version in range(FIRST):
                append(version)
            ready.wait()
            ready.wait()
            for version in range(FIRST, FIRST + each):
                append(version)

    with ThreadPoolExecutor(len(writers)) as threads:
        done = [threads.submit(write, writer) for writer in writers]
        ready.wait()
        barrier.wait()
        cpu, wall = time.process_time(), time.perf_counter()
        ready.wait()
        for future in done:
            future.result()
        return time.perf_counter() - wall, time.process_time() - cpu
