"""What the bench of the event store appends, a state that counts it, and many writers of it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
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
    """What one process of many writers does: a thread for each, all beginning with those of the other processes.

    Args:
        dsn: Of the store.
        writers: Their numbers, each of a stream.
        each: How many events each appends.
        barrier: Where the processes meet.

    Returns:
        Seconds, and seconds of the processor.
    """
    with EventStore(dsn, max_connections=len(writers)) as store, ThreadPoolExecutor(len(writers)) as threads:
        ready = threading.Barrier(len(writers) + 1)

        def write(writer: int) -> None:
            for version in range(FIRST):
                store.append(f"writer-{writer}", [ORDERED], expected=version, metadata=METADATA)
            ready.wait()
            ready.wait()
            for version in range(FIRST, FIRST + each):
                store.append(f"writer-{writer}", [ORDERED], expected=version, metadata=METADATA)

        done = [threads.submit(write, writer) for writer in writers]
        ready.wait()
        barrier.wait()
        cpu, wall = time.process_time(), time.perf_counter()
        ready.wait()
        for future in done:
            future.result()
        return time.perf_counter() - wall, time.process_time() - cpu
