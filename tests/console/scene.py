"""A shop that is followed, with something for every page of the console."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

import pgcdc
from pgcdc.console import Console, Serving, Subject
from pgcdc.eventstore import Event, EventStore, Registry, Table
from tests.pipeline.running import running, until
from tests.pipeline.targets import Recorder
from tests.pipeline.test_dead_letters import Picky

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database
    from tests.pipeline.running import Running

__all__ = ["SECRET", "Order", "Scene", "scene"]

SECRET = "a-cell-that-no-list-may-show"
registry = Registry()


class OrderCreated(Event, tag="OrderCreated", version=1, registry=registry):
    """An order was made."""

    order_id: str
    total: int


class OrderPaid(Event, tag="OrderPaid", version=1, registry=registry):
    """It was paid."""

    amount: int


class OrderShipped(Event, tag="OrderShipped", version=1, registry=registry):
    """It was sent."""

    address: str


class Order(msgspec.Struct):
    """The state of an order."""

    status: str = "new"
    total: int = 0
    paid: int = 0
    address: str | None = None

    def on_order_created(self, event: OrderCreated) -> Order:
        return msgspec.structs.replace(self, status="pending", total=event.total)

    def on_order_paid(self, event: OrderPaid) -> Order:
        return msgspec.structs.replace(self, status="paid", paid=self.paid + event.amount)

    def on_order_shipped(self, event: OrderShipped) -> Order:
        return msgspec.structs.replace(self, status="shipped", address=event.address)


class Revenue:
    """What was paid."""

    revenue = Table("name text, total bigint NOT NULL DEFAULT 0", key=["name"])

    def on_order_paid(self, event: OrderPaid) -> None:
        self.revenue.add(name="all", total=event.amount)


class Scene:
    """What tests look at."""

    def __init__(
        self, database: Database, pipeline: pgcdc.Pipeline, run: Running, picky: Picky, store: EventStore
    ) -> None:
        self.database, self.pipeline, self.run, self.picky, self.store = database, pipeline, run, picky, store

    def subject(self, **more: Any) -> Subject:
        """All of it, with the process that runs the pipeline."""
        options: dict[str, Any] = {
            "pipeline": self.pipeline,
            "running": True,
            "store": self.store,
            "states": {"order": Order},
        }
        return Subject(self.database.dsn, **options | more)

    def serving(self, subject: Subject | None = None, **more: Any) -> Serving:
        """A console of it, on a free port."""
        return Serving(Console(subject or self.subject(), every=0.2), "127.0.0.1", 0, **more)

    def letters(self, row: int) -> list[int]:
        """The numbers of the dead letters of an order, those that have failed first."""
        found = [one for one in self.pipeline.dead_letters.list() if one.key == f'{{"id": "{row}"}}']
        return [letter.id for letter in sorted(found, key=lambda letter: (letter.state != "failed", letter.id))]


@contextlib.contextmanager
def scene(database: Database) -> Iterator[Scene]:
    """Make it in a database, and run its pipeline."""
    database.execute(
        "CREATE TABLE orders (id bigint PRIMARY KEY, status text, note text)",
        "INSERT INTO orders SELECT g, 'new' FROM generate_series(1, 5) g",
    )
    with EventStore(database.dsn, registry=registry, max_connections=4) as store:
        store.init(profile="lean")
        store.projection("revenue")(Revenue)
        with pgcdc.eventstore.context(actor="anna"):
            store.append("order-1", [OrderCreated("1", 30)], expected="none")
            store.append("order-1", [OrderPaid(30)], expected=1)
            store.append("order-1", [OrderShipped("Lane 1")], expected=2)
        picky = Picky()
        pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
        pipeline.add(Recorder(), name="search", on_failure="hold")
        pipeline.add(picky, name="webhook", on_failure="hold")
        with running(store.pipeline("events")) as events, running(pipeline) as run:
            events.streaming()
            events.catch_up(database)
            run.streaming()
            database.execute(
                f"INSERT INTO orders VALUES (11, 'poison', '{SECRET}'), (12, 'new', '{SECRET}')",
                "ALTER TABLE orders ADD COLUMN discount numeric(10,2)",
                "UPDATE orders SET discount = 1 WHERE id = 11",
                f"INSERT INTO orders VALUES (13, 'poison', '{SECRET}', 3)",
            )
            run.catch_up(database)
            until(lambda: len(pipeline.dead_letters.list()) == 3, "two dead letters and one that waits", pause=0.1)
            yield Scene(database, pipeline, run, picky, store)
