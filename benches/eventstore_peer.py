"""`eventsourcing` with psycopg, as its users call it: an application, an aggregate with a decorated method."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from benches import eventstore_events as events
from tests.servers.postgres import PostgresServer

_ITEMS = [{"sku": "A-1234567", "category": "books", "price": 1999, "qty": 2}]


class Orders(Aggregate):
    """The same event on an aggregate of theirs; what is said about it is in the event, where they keep it."""

    def __init__(self) -> None:
        self.count = 0

    @event("Ordered")
    def order(
        self, order_id: str, customer_id: str, items: list[dict[str, Any]], note: str, metadata: dict[str, str]
    ) -> None:
        self.count += 1


def _order(orders: Orders) -> None:
    orders.order("order-123456", "customer-42", _ITEMS, "fast", events.METADATA)


class Peer:
    """An application on a database of the bench's server.

    Args:
        server: The server.
        name: The database.
    """

    def __init__(self, server: PostgresServer, name: str) -> None:
        self._application: Application[UUID] = Application(
            env={
                "PERSISTENCE_MODULE": "eventsourcing.postgres",
                "POSTGRES_DBNAME": name,
                "POSTGRES_HOST": "127.0.0.1",
                "POSTGRES_PORT": str(server.port),
                "POSTGRES_USER": "postgres",
                "POSTGRES_PASSWORD": "none",
                "POSTGRES_POOL_SIZE": "33",
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._application.close()

    def append_each(self, count: int) -> None:
        """Save after each event; the aggregate is in memory."""
        orders = Orders()
        self._application.save(orders)
        for _ in range(count):
            _order(orders)
            self._application.save(orders)

    def append_hundreds(self, count: int) -> None:
        """Save after a hundred events."""
        orders = Orders()
        for _ in range(count):
            for _ in range(100):
                _order(orders)
            self._application.save(orders)

    def write_long(self, length: int) -> UUID:
        """An aggregate of so many events."""
        orders = Orders()
        for _ in range(length):
            _order(orders)
        self._application.save(orders)
        found: UUID = orders.id
        return found

    def load(self, aggregate: UUID) -> None:
        """Read it and fold it."""
        orders: Orders = self._application.repository.get(aggregate)
        assert orders.count

    def replay(self) -> int:
        """All events of all aggregates, as objects, by the recorder's pages of a thousand."""
        mapper, recorder = self._application.mapper, self._application.recorder
        start, count = 1, 0
        while notifications := recorder.select_notifications(start, 1000):
            for notification in notifications:
                mapper.to_domain_event(notification)
            count += len(notifications)
            start = notifications[-1].id + 1
        return count

    def write_at_once(self, writers: int, each: int) -> float:
        """So many threads, to an aggregate each, all beginning when each has a connection; returns seconds."""
        ready = threading.Barrier(writers + 1)

        def write() -> None:
            orders = Orders()
            self._application.save(orders)
            for _ in range(events.FIRST):
                _order(orders)
                self._application.save(orders)
            ready.wait()
            for _ in range(each):
                _order(orders)
                self._application.save(orders)

        with ThreadPoolExecutor(writers) as threads:
            done = [threads.submit(write) for _ in range(writers)]
            ready.wait()
            began = time.perf_counter()
            for future in done:
                future.result()
            return time.perf_counter() - began
