"""The archive: what has left the table is read as before, by everything that reads.

Over 400 lines because everything that reads is tried over both.
"""

from __future__ import annotations

import asyncio
import stat
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
import pytest

import pgcdc
from examples.order import Order, OrderCancelled, OrderPaid, OrderShipped
from pgcdc.eventstore import (
    Append,
    Archive,
    AsyncEventStore,
    Event,
    EventStore,
    EventStoreError,
    Every,
    Registry,
    archive,
    plan_archive,
    upcast,
)
from pgcdc.eventstore.leaving import Leaving
from pgcdc.eventstore.segments import content_of, decode
from tests.eventstore.contract import BOOKS, CREATED, PAID, StoreContract
from tests.eventstore.test_store import Waited, _empty, made_on_the_newest
from tests.servers.buckets import STORES, new_bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Database

__all__ = ["made_on_the_newest"]
LATER = datetime(2099, 1, 1, tzinfo=UTC)
"""Then everything is cold."""


def leave(store: EventStore | AsyncEventStore, segment_events: int = 20_000) -> int:
    """Moves all events that are in the table; returns how many."""
    store.retention("*", hot=timedelta(0), warm=timedelta(0))
    return archive(store, now=LATER, segment_events=segment_events).done


class Moving:
    """A store whose events leave the table before, or after, each append."""

    def __init__(self, store: Any, moved: EventStore, *, before: bool) -> None:
        self._store = store
        self._moved = moved
        self._before = before

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)

        def call(*arguments: Any, **named: Any) -> Any:
            writes = name in ("append", "append_many", "insert", "retry")
            if writes and self._before:
                leave(self._moved, 1)
            try:
                return method(*arguments, **named)
            finally:
                if writes and not self._before:
                    leave(self._moved)

        return call


@pytest.fixture
def place(made_on_the_newest: str, tmp_path: Path) -> Path:
    _empty(made_on_the_newest)
    with psycopg.connect(made_on_the_newest) as connection:
        connection.execute("TRUNCATE es.archive_segments, es.archived_streams RESTART IDENTITY")
    return tmp_path / "archive"


class TestAllArchived(StoreContract):
    @pytest.fixture
    def store(self, made_on_the_newest: str, place: Path) -> Iterator[Moving]:
        with EventStore(made_on_the_newest, archive=place) as store:
            yield Moving(store, store, before=False)

    @pytest.fixture
    def other(self, made_on_the_newest: str, place: Path) -> Iterator[EventStore]:
        with EventStore(made_on_the_newest, archive=place) as store:
            yield store


class TestBeginningsArchived(StoreContract):
    """By the asynchronous store; what was appended last is in the table."""

    @pytest.fixture
    def store(self, made_on_the_newest: str, place: Path) -> Iterator[Moving]:
        with asyncio.Runner() as runner, EventStore(made_on_the_newest, archive=place) as moved:
            waited = Waited(AsyncEventStore(made_on_the_newest, archive=place), runner)
            yield Moving(waited, moved, before=True)
            waited.close()

    @pytest.fixture
    def other(self, made_on_the_newest: str, place: Path) -> Iterator[EventStore]:
        with EventStore(made_on_the_newest, archive=place) as store:
            yield store


@pytest.fixture
def store(newest_database: Database, tmp_path: Path) -> Iterator[EventStore]:
    with EventStore(newest_database.dsn, archive=tmp_path / "archive") as store:
        store.init()
        yield store


def everything(store: EventStore) -> list[Any]:
    """All that a store says of the streams order-0 to order-4."""
    names = [f"order-{number}" for number in range(5)]
    return [
        [one for events in store.replay(batch=4) for one in events],
        [(one.event, one.stream_id, one.sequence) for events in store.scan(after_id=3, batch=4) for one in events],
        [store.read(name) for name in names],
        [store.read(name, after=1, limit=2) for name in names],
        [[step.changes for step in store.history(name)] for name in names],
        [[step.changes for step in store.history(name, at=2)] for name in names],
    ]


def test_archive_and_table_are_what_was_before(database: Database, tmp_path: Path) -> None:
    """On each version; in segments that cut streams in the middle, in several runs with appends between them."""
    with EventStore(database.dsn, archive=tmp_path / "archive") as store:
        store.init()
        for limit in (100, 2, 3):
            for number in range(12):
                store.append(f"order-{number % 5}", [OrderPaid(BOOKS, Decimal(number))], metadata={"run": limit})
            store.append("order-0", [CREATED, OrderShipped("Elm Street 1")])
            said = everything(store)
            assert leave(store, limit) == 14
            assert database.execute("SELECT count(*) FROM es.events") == [(0,)]
            assert everything(store) == said
            assert [finding.status for finding in store.check(deep=True)][5] == "ok"
        files = list((tmp_path / "archive").rglob("*"))
        modes = {(path.is_file(), stat.S_IMODE(path.stat().st_mode)) for path in (tmp_path / "archive", *files)}
        assert modes == {(False, 0o700), (True, 0o600)}, "events are nobody else's"
        assert len(said[0]) == 42
        assert store.append("order-4", [OrderCancelled()], expected=6) == 7
        moment = said[2][4][5].occurred_at
        assert store.state("order-4", Paid, at=moment)[1] == 6
        assert store.state("order-4", Paid, at=said[2][4][1].occurred_at)[1] == 2
        assert store.load("order-4", Paid) == (Paid(6), 7)


class Paid(msgspec.Struct, frozen=True):
    """How often something was paid."""

    times: int = 0

    def apply(self, event: Event) -> Paid:
        return Paid(self.times + isinstance(event, OrderPaid))


def insert(database: Database, stream: str, *events: tuple[int, str]) -> None:
    """Events so many days old, and of these classes."""
    with database.connect() as connection:
        for sequence, (days, name) in enumerate(events, 1):
            connection.execute(
                "INSERT INTO es.events (stream_id, stream_type, event_type, payload, sequence, occurred_at,"
                " retention_class) VALUES (%s, %s, 'OrderShipped', '{}', %s, now() - make_interval(days => %s), %s)",
                (stream, stream.partition("-")[0], sequence, days, name),
            )


def test_what_stays_is_not_copied(newest_database: Database, store: EventStore) -> None:
    """A table of millions of events of which none leaves yet costs reading, and no temporary table of their number."""
    store.append_many([Append(stream=f"order-{number}", events=[OrderShipped()] * 10) for number in range(50)])
    insert(newest_database, "order-old", (1000, "hot"), (1000, "hot"))
    store.retention("order", hot="90 days")
    with newest_database.connect() as connection:
        plan = Leaving(connection, store._statements, store.rules).plan(None, "the archive")
        assert [(one.retention_class, one.events, one.leaving) for one in plan.lines] == [
            ("hot", 500, 0),
            ("warm", 2, 2),
        ]
        size, block = "pg_relation_size('pgcdc_leaving')", "current_setting('block_size')::int"
        assert connection.execute(f"SELECT {size} = {block}").fetchone() == (True,), "two rows are in one block"


def test_the_rules_say_what_leaves(newest_database: Database, store: EventStore) -> None:
    hot, warm, cold = (1, "hot"), (100, "hot"), (1000, "hot")
    insert(newest_database, "order-fresh", hot, hot)
    insert(newest_database, "order-rests", cold, warm, warm)  # leaves as a whole
    insert(newest_database, "order-goes-on", warm, warm, hot)  # stays as a whole
    insert(newest_database, "order-is-long", cold, cold, warm, hot)  # loses what is cold
    insert(newest_database, "order-turns", warm, cold, hot)  # what is cold is behind what is not
    insert(newest_database, "order-early", (1, "cold"), (1, "warm"), hot)  # was appended as cold
    insert(newest_database, "cart-1", cold)
    insert(newest_database, "visit-1", warm)
    store.retention("order", hot="90 days", warm="2 years")
    store.retention("visit", hot="4 weeks")
    plan = plan_archive(store)
    assert [(one.stream_type, one.retention_class, one.events, one.leaving) for one in plan.lines] == [
        ("order", "hot", 6, 0),
        ("order", "warm", 7, 2),
        ("order", "cold", 5, 4),
        ("visit", "warm", 1, 1),
    ]
    assert (plan.without_rule, plan.not_noted, plan.events) == (["cart"], 0, 7)
    assert str(plan).splitlines()[1:4] == [
        "  order: hot for 90 days, then warm, cold after 2 years",
        "  visit: hot for 28 days, then warm",
        "  order, hot: 0 of 6 leave",
    ]
    assert newest_database.execute("SELECT count(*) FROM es.archive_segments") == [(0,)]
    assert archive(store).done == 7
    assert newest_database.execute(
        "SELECT stream_id, archived_through FROM es.streams WHERE archived_through > 0 ORDER BY 1"
    ) == [("order-early", 1), ("order-is-long", 2), ("order-rests", 3), ("visit-1", 1)]
    assert plan_archive(store).events == archive(store).done == 0
    assert store.stats().archived_events == 7
    assert "7 of these events in 1 segments" in str(store.stats())
    with pytest.raises(pgcdc.ConfigError, match="zone"):
        plan_archive(store, now=datetime(2026, 1, 1))


def test_what_is_missing_is_said(newest_database: Database, store: EventStore, tmp_path: Path) -> None:
    with pytest.raises(pgcdc.ConfigError, match="no rule"):
        plan_archive(store)
    with EventStore(newest_database.dsn) as bare:
        bare.retention("*", hot="1 day")
        with pytest.raises(pgcdc.ConfigError, match="has no archive"):
            archive(bare)
        store.append("order-1", [CREATED, PAID])
        leave(store)
        for call in (
            lambda: bare.read("order-1"),
            lambda: bare.load("order-1", Order),
            lambda: bare.state("order-1", Order, at=datetime(2020, 1, 1, tzinfo=UTC)),
            lambda: list(bare.replay()),
        ):
            with pytest.raises(EventStoreError, match="the store was not told where that is") as raised:
                call()
            assert raised.value.hint is not None and "archive=" in raised.value.hint
        assert bare.read("order-1", after=2) == []
        assert bare.append("order-1", [OrderShipped()], expected=2) == 3
        assert [one.sequence for one in bare.read("order-1", after=2)] == [3]
        assert bare.check(deep=True)[5].status == "warning"
    with EventStore(newest_database.dsn, archive=tmp_path / "other") as other:
        with pytest.raises(EventStoreError, match="the archive cannot be read: the folder"):
            other.read("order-1")
        (tmp_path / "other").mkdir()
        with pytest.raises(EventStoreError, match="is not there: es/"):
            other.read("order-1")
    [file] = (tmp_path / "archive" / "es").iterdir()
    file.write_bytes(file.read_bytes()[:-9] + b"x" * 9)
    with EventStore(newest_database.dsn, archive=Archive(tmp_path / "archive")) as again:
        with pytest.raises(EventStoreError, match="is not what was written"):
            again.load("order-1", Order)
        assert again.check(deep=True)[5].status == "failed"
        assert again.check()[5].status == "ok"


def test_ids_are_looked_for_in_the_archive_too(store: EventStore) -> None:
    first, second, third = (uuid.UUID(int=number) for number in range(3))
    store.append("order-1", [CREATED, PAID], expected=0, event_ids=[first, second])
    leave(store)
    for expected in (0, 2, "any", "exists"):
        assert store.append("order-1", [CREATED, PAID], expected=expected, event_ids=[first, second]) == 2
    assert store.append("order-1", [OrderShipped()], expected=2, event_ids=[third]) == 3
    again = Append(stream="order-1", events=[CREATED, PAID], expected=3, event_ids=[first, second])
    new = Append(stream="order-2", events=[CREATED], expected=0, event_ids=[first])
    assert store.append_many([again, new]) == {"order-1": 2, "order-2": 1}
    with pytest.raises(EventStoreError, match="some of these events"):
        store.append("order-1", [CREATED, PAID], expected=3, event_ids=[second, uuid.UUID(int=9)])
    with pytest.raises(EventStoreError, match="events of these ids"):
        store.insert("order-1", [CREATED], after=3, event_ids=[first])
    assert len(store.read("order-1")) == 3


@pytest.mark.parametrize("fault", ["one is missing", "one is another", "it is no file"])
def test_nothing_leaves_before_it_was_read_back(
    newest_database: Database, store: EventStore, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    from pgcdc.eventstore import archiving, segments

    def encode(events: list[segments.ArchivedEvent]) -> bytes:
        if fault == "it is no file":
            return b"nothing"
        rest = events[:-1]
        return segments.encode(rest if fault == "one is missing" else [*rest, events[-1]._replace(payload="{}")])

    store.append("order-1", [CREATED, PAID])
    with monkeypatch.context() as patch:
        patch.setattr(archiving, "encode", encode)
        with pytest.raises(EventStoreError, match="that can be read" if "no file" in fault else "not what was written"):
            leave(store)
    assert newest_database.execute("SELECT count(*) FROM es.events") == [(2,)]
    assert len(store.read("order-1")) == 2


def test_the_trigger_gives_way_to_nobody_else(newest_database: Database, store: EventStore) -> None:
    store.append("order-1", [CREATED])
    leave(store)
    store.append("order-1", [PAID])
    with newest_database.connect() as connection:
        for statement in ("DELETE FROM es.events", "UPDATE es.events SET payload = '{}'"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
                connection.execute(statement)
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(
                "INSERT INTO es.events (stream_id, stream_type, event_type, payload, sequence)"
                " VALUES ('order-1', 'order', 'OrderPaid', '{}', 1)"
            )


def test_one_archiver_at_a_time_and_no_circle_with_writers(newest_database: Database, store: EventStore) -> None:
    store.append("order-1", [CREATED])
    with newest_database.connect() as connection, pytest.MonkeyPatch.context() as patch:
        patch.setattr("pgcdc.eventstore.archiving._ENDED_WITHIN", 0.0)
        connection.execute("SELECT pg_advisory_lock(hashtextextended('pgcdc archive es', 0))")
        with pytest.raises(pgcdc.ConfigError, match="another archiver"):
            leave(store)
    with psycopg.connect(newest_database.dsn) as writer, pytest.MonkeyPatch.context() as patch:
        store.append("order-1", [PAID], connection=writer)
        patch.setattr("pgcdc.eventstore.archiving.LOCK_WITHIN", 0.05)
        patch.setattr("pgcdc.eventstore.archiving._ATTEMPTS", 2)
        with pytest.raises(EventStoreError, match="locked for so long"):
            leave(store)
    assert leave(store) == 2


def test_a_replay_in_somebody_elses_transaction_misses_nothing(newest_database: Database, store: EventStore) -> None:
    """The archiver waits for one that reads the segments and the table in two statements; not for one of our own."""
    store.append("order-1", [CREATED, PAID])
    with psycopg.connect(newest_database.dsn) as connection:
        replaying = store.replay(batch=1, connection=connection)
        assert next(replaying)[0].sequence == 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pgcdc.eventstore.archiving.LOCK_WITHIN", 0.05)
            patch.setattr("pgcdc.eventstore.archiving._ATTEMPTS", 1)
            with pytest.raises(EventStoreError, match="locked for so long"):
                leave(store)
        assert [one.sequence for some in replaying for one in some] == [2]
    with newest_database.connect() as connection:
        replaying = store.replay(batch=1, connection=connection)
        assert next(replaying)[0].sequence == 1
        assert leave(store) == 2
        assert [one.sequence for some in replaying for one in some] == [2]
        replaying = store.replay(batch=1, connection=connection)
        next(replaying)
        del replaying  # in the middle
        assert connection.execute("SELECT now() = now()").fetchone() == (True,)
        assert connection.info.transaction_status.name == "IDLE"


def test_upcasters_and_snapshots(newest_database: Database, tmp_path: Path) -> None:
    old, new = Registry(), Registry()

    class Counted(Event, tag="Counted", version=1, registry=old):
        number: int

    class CountedTwice(Event, tag="Counted", version=2, registry=new):
        numbers: list[int]

        @upcast(1)
        @staticmethod
        def as_list(payload: dict[str, Any]) -> dict[str, Any]:
            return {"numbers": [payload["number"]] * 2}

    class Sum(msgspec.Struct):
        total: int = 0

        def apply(self, event: CountedTwice) -> Sum:
            return Sum(self.total + sum(event.numbers))

    with EventStore(newest_database.dsn, registry=old, archive=tmp_path) as store:
        store.init()
        store.append("count-1", [Counted(1), Counted(2)])
        leave(store)
        store.append("count-1", [Counted(3)])
    with EventStore(newest_database.dsn, registry=new, archive=tmp_path, snapshots={Sum: Every(1)}) as store:
        assert [one.event for one in store.read("count-1")] == [CountedTwice([n, n]) for n in (1, 2, 3)]
        assert [one.event for some in store.replay() for one in some] == [CountedTwice([n, n]) for n in (1, 2, 3)]
        assert store.load("count-1", Sum) == (Sum(12), 3)
    with EventStore(newest_database.dsn, registry=new, snapshots={Sum: Every(1)}) as store:
        assert store.load("count-1", Sum) == (Sum(12), 3)  # from the snapshot, and no archive is needed


@pytest.mark.parametrize("name", list(STORES))
def test_on_an_object_store(newest_database: Database, request: pytest.FixtureRequest, name: str) -> None:
    bucket = new_bucket(name, request)
    place = Archive(f"{bucket.url}/shop", **bucket.options())
    with EventStore(newest_database.dsn, archive=place) as store:
        store.init()
        store.append("order-1", [CREATED, PAID])
        before = store.read("order-1")
        assert leave(store) == 2
        assert store.read("order-1") == before
        assert newest_database.execute("SELECT place FROM es.archive_segments") == [(f"{bucket.url}/shop",)]


def test_any_tool_reads_the_files(newest_database: Database, store: EventStore, tmp_path: Path) -> None:
    import pyarrow.parquet  # type: ignore[import-untyped]

    store.append("order-2", [CREATED], metadata={"actor": "anna"})
    store.append("order-1", [PAID])
    leave(store)
    [file] = (tmp_path / "archive" / "es").iterdir()
    rows = pyarrow.parquet.read_table(file)
    assert rows.column("stream_id").to_pylist() == ["order-1", "order-2"]
    assert rows.column("metadata").to_pylist() == ["{}", '{"actor": "anna"}']
    [(content,)] = newest_database.execute("SELECT content FROM es.archive_segments")
    assert content_of(decode(file.read_bytes())) == bytes(content)
    assert content.hex()[:32] in file.name
