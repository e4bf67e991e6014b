"""A store with projections whose right contents can be computed by SQL from the table of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgcdc.eventstore import Event, EventStore, Recorded, Registry, Table
from tests.pipeline.running import until

if TYPE_CHECKING:
    from pgcdc.eventstore.projection import OnFailure
    from tests.conftest import Database

registry = Registry()


class Sold(Event, tag="Sold", version=1, registry=registry):
    """Something was sold."""

    category: str
    amount: int


class Closed(Event, tag="Closed", version=1, registry=registry):
    """An account was closed."""


class Revenue:
    """What every category has sold: right only when each event is applied once."""

    revenue = Table("category text, total bigint NOT NULL, sales integer NOT NULL", key=["category"])

    def on_sold(self, event: Sold) -> None:
        self.revenue.add(category=event.category, total=event.amount, sales=1)


class Journal:
    """Every event with its place: shows what is missing, double, or out of order."""

    journal = Table("event_id uuid, lsn text, stream text, sequence bigint, number bigserial", key=["event_id"])

    def on_sold(self, event: Sold, recorded: Recorded) -> None:
        self._write(recorded)

    def on_closed(self, event: Closed, recorded: Recorded) -> None:
        self._write(recorded)

    def _write(self, recorded: Recorded) -> None:
        self.journal.put(
            event_id=recorded.event_id,
            lsn=str(recorded.position),
            stream=recorded.stream_id,
            sequence=recorded.sequence,
        )


def store_of(database: Database, *classes: tuple[str, type], version: int = 1, **options: Any) -> EventStore:
    """A store with these projections; by default both."""
    store = EventStore(database.dsn, registry=registry, max_connections=8)
    store.init(profile="lean")
    on_failure: OnFailure = options.pop("on_failure", "park")
    for name, owner in classes or (("revenue", Revenue), ("journal", Journal)):
        store.projection(name, version=version, on_failure=on_failure)(owner)
    return store


def lose_the_slot(database: Database, slot: str = "pgcdc_es") -> None:
    """Drops a slot as soon as the server has noticed that nobody has it any more."""
    idle = f"SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'"
    until(lambda: database.execute(idle) == [(False,)], "the walsender has ended", pause=0.05)
    database.execute(f"SELECT pg_drop_replication_slot('{slot}')")


def right_revenue(database: Database) -> list[tuple[Any, ...]]:
    """What the projection has to say, from all events."""
    return database.execute(
        "SELECT payload ->> 'category', sum((payload ->> 'amount')::bigint), count(*) FROM es.events"
        " WHERE event_type = 'Sold' GROUP BY 1 ORDER BY 1"
    )


def revenue(database: Database) -> list[tuple[Any, ...]]:
    """What the projection says."""
    return database.execute("SELECT category, total, sales FROM public.revenue ORDER BY category")


def faults(database: Database, journal: str = "public.journal") -> dict[str, int]:
    """What is wrong with the journal: each event has to be there once, and behind those that committed before it."""
    [(missing, extra, disordered, streams)] = database.execute(
        f"""
        SELECT
            (SELECT count(*) FROM es.events e WHERE NOT EXISTS (SELECT FROM {journal} j WHERE j.event_id = e.event_id)),
            (SELECT count(*) FROM {journal} j WHERE NOT EXISTS (SELECT FROM es.events e WHERE e.event_id = j.event_id)),
            (SELECT count(*) FROM (SELECT lsn < lag(lsn) OVER (ORDER BY number) AS wrong FROM {journal}) o WHERE wrong),
            (SELECT count(*) FROM (SELECT sequence <> 1 + coalesce(lag(sequence) OVER
                (PARTITION BY stream ORDER BY number), 0) AS wrong FROM {journal}) s WHERE wrong)
        """
    )
    return {"missing": missing, "extra": extra, "out of order": disordered, "streams": streams}


RIGHT = {"missing": 0, "extra": 0, "out of order": 0, "streams": 0}
