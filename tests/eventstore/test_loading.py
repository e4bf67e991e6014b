"""A long stream, folded while the server reads it: how it is read, and what becomes of events of several kinds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from unittest import mock

import msgspec
import psycopg
import pytest

import pgcdc
from pgcdc.eventstore import Event, EventStore, Registry, states, upcast
from pgcdc.eventstore.statements import Statements

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Database

registry = Registry()


class Gone(Event, tag="Gone", registry=registry):
    """Nothing takes it."""


class Added(Event, tag="Added", version=2, registry=registry):
    """Was in cents once."""

    amount: int

    @upcast(1)
    @staticmethod
    def _euros(payload: dict[str, Any]) -> dict[str, Any]:
        return {"amount": payload["amount"] * 100}


class Named(Event, tag="Named", registry=registry):
    """Another kind."""

    name: str


class Seen(msgspec.Struct):
    """What has come, in its order, and when the first name was given."""

    seen: list[int | str] = msgspec.field(default_factory=list)
    at: datetime | None = None

    def on_added(self, event: Added) -> None:
        self.seen.append(event.amount)

    def on_named(self, event: Named, occurred_at: datetime) -> None:
        if event.name == "bad":
            raise ValueError("bad")
        self.at = self.at or occurred_at
        self.seen.append(event.name)


ROWS = """
    INSERT INTO es.events (stream_id, stream_type, event_type, event_version, payload, sequence, occurred_at)
    SELECT 'a-1', 'a', CASE n % 4 WHEN 3 THEN 'Named' WHEN 2 THEN 'Unknown' ELSE 'Added' END,
        CASE n % 4 WHEN 1 THEN 2 ELSE 1 END,
        CASE n % 4 WHEN 3 THEN jsonb_build_object('name', n::text) ELSE jsonb_build_object('amount', n) END,
        n, '2026-11-28 00:00:00+00'
    FROM generate_series(1, {count}) AS n
"""


def test_it_is_read_by_the_index(database: Database) -> None:
    """However much of the table a stream is: what is sorted first is sent only when all of it was read."""
    with EventStore(database.dsn, registry=registry) as store:
        store.init()
        store.append("b-1", [Gone()] * 100)
        for _ in range(10):
            store.append("a-1", [Named("a" * 200)] * 500)
        database.execute("VACUUM ANALYZE es.events")
        for query in (Statements("es").load, Statements("es").load_timed):
            with psycopg.connect(database.dsn) as connection:
                lines = connection.execute(f"EXPLAIN {query}".encode(), ("a-1", 0, 2**63 - 1, 20_000)).fetchall()
            plan = "\n".join(line for (line,) in lines)
            assert "Index Scan using events_stream_sequence" in plan
            assert "Sort" not in plan


def test_events_of_several_kinds_take_turns(database: Database) -> None:
    with EventStore(database.dsn, registry=registry) as store:
        store.init()
        database.execute(ROWS.format(count=1203))
        state, version = store.load("a-1", Seen)
        wanted: dict[int, Callable[[int], int | str]] = {0: lambda n: n * 100, 1: lambda n: n, 3: str}
        assert state.seen == [wanted[n % 4](n) for n in range(1, 1204) if n % 4 != 2]
        assert (version, state.at) == (1203, datetime(2026, 11, 28, tzinfo=UTC))


@pytest.mark.parametrize("place", [3, 7, 903])
def test_what_fails_says_where(database: Database, place: int) -> None:
    """The first of its kind, another one, and one that comes in a later piece."""
    with EventStore(database.dsn, registry=registry) as store:
        store.init()
        database.execute(ROWS.format(count=1000))
        change = (
            "BEGIN; SET LOCAL pgcdc.maintenance = on; UPDATE es.events SET payload = '{}' WHERE sequence = {}; COMMIT"
        )
        database.execute(change.replace("{}", '{"name": "bad"}', 1).replace("{}", str(place)))
        with pytest.raises(ValueError, match="bad") as raised:
            store.load("a-1", Seen)
        assert raised.value.__notes__ == [f"at event {place} of the stream a-1, Named"]
        database.execute(change.replace("{}", '{"name": 7}', 1).replace("{}", str(place)))
        with pytest.raises(pgcdc.InvalidEvent, match=f"event {place} of the stream a-1") as invalid:
            store.load("a-1", Seen)
        assert (invalid.value.stream, invalid.value.sequence) == ("a-1", place)
        assert store.append("a-1", [Gone()], expected=1000) == 1001, "the connection can be used again"


@pytest.mark.parametrize("count", [9, 10, 11])
def test_more_than_are_in_memory_at_once(newest_database: Database, count: int) -> None:
    with EventStore(newest_database.dsn, registry=registry) as store, mock.patch.object(states, "_ROWS", 5):
        store.init()
        newest_database.execute(ROWS.format(count=count))
        assert store.load("a-1", Seen)[1] == count
        assert store.state("a-1", Seen, at=8)[1] == 8


@pytest.mark.parametrize("missing", [1, 500, 999])
def test_an_event_that_is_missing_is_not_left_out(newest_database: Database, missing: int) -> None:
    """Without it the state would be another one, and nobody would know."""
    with EventStore(newest_database.dsn, registry=registry) as store:
        store.init()
        newest_database.execute(
            ROWS.format(count=1000),
            f"BEGIN; SET LOCAL pgcdc.maintenance = on; DELETE FROM es.events WHERE sequence = {missing}; COMMIT",
        )
        for call in (
            lambda: store.load("a-1", Seen),
            lambda: store.state("a-1", Seen, at=1000),
            lambda: store.read("a-1"),
            lambda: store.history("a-1"),
        ):
            with pytest.raises(pgcdc.EventStoreError, match=f"behind {missing - 1} is missing"):
                call()
        assert [one.sequence for one in store.read("a-1", after=missing)] == list(range(missing + 1, 1001))
