"""Snapshots: what is folded after them is the same as without, whatever happened to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest

import pgcdc
from pgcdc.eventstore import Budget, Event, EventStore, Every
from tests.eventstore.contract import Counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database


class Sum(msgspec.Struct):
    """How many, and what they come to."""

    applied: ClassVar[int] = 0
    count: int = 0
    total: int = 0

    def apply(self, event: Event) -> Sum:
        Sum.applied += 1
        return Sum(self.count + 1, self.total + event.number) if isinstance(event, Counted) else self


@pytest.fixture
def database(newest_database: Database) -> Database:
    with EventStore(newest_database.dsn) as store:
        store.init()
        store.append("count-1", [Counted(0, number) for number in range(1, 11)])
    return newest_database


@pytest.fixture
def store(database: Database) -> Iterator[EventStore]:
    with EventStore(database.dsn, snapshots={Sum: Every(5)}) as store:
        yield store


def _applied(store: EventStore, state: Any = Sum) -> tuple[int, Any, int]:
    before = Sum.applied
    found, version = store.load("count-1", state)
    return Sum.applied - before, found, version


def _stored(database: Database) -> list[tuple[Any, ...]]:
    return database.execute("SELECT sequence FROM es.snapshots ORDER BY projector, sequence")


def test_off_by_default(database: Database) -> None:
    with EventStore(database.dsn) as store:
        assert _applied(store) == _applied(store) == (10, Sum(10, 55), 10)
    assert _stored(database) == []


def test_every_so_many_events(database: Database, store: EventStore) -> None:
    assert _applied(store) == (10, Sum(10, 55), 10)
    assert _stored(database) == [(10,)]
    store.append("count-1", [Counted(0, 1)] * 4)
    assert _applied(store) == _applied(store) == (4, Sum(14, 59), 14)
    assert _stored(database) == [(10,)]
    store.append("count-1", [Counted(0, 1)])
    assert _applied(store) == (5, Sum(15, 60), 15)
    assert _applied(store) == (0, Sum(15, 60), 15)
    assert store.append("count-1", [Counted(0, 1)], expected=15) == 16


def test_a_budget_of_time() -> None:
    assert Budget(milliseconds=5).is_due(1, 0.006)
    assert not Budget(milliseconds=5).is_due(1, 0.004)
    assert not Budget(milliseconds=5).is_due(0, 1.0), "nothing was folded: it would be the same snapshot"
    for wrong in (lambda: Budget(milliseconds=0), lambda: Every(0)):
        with pytest.raises(pgcdc.ConfigError):
            wrong()


def test_a_budget_that_is_exceeded(database: Database) -> None:
    with EventStore(database.dsn, snapshots={Sum: Budget(milliseconds=1e-9)}) as store:
        assert _applied(store) == (10, Sum(10, 55), 10)
        assert _applied(store) == (0, Sum(10, 55), 10)


def test_it_can_be_thrown_away(database: Database, store: EventStore) -> None:
    store.load("count-1", Sum)
    assert store.drop_snapshots("order") == 0
    assert store.drop_snapshots("count") == 1
    assert _applied(store) == (10, Sum(10, 55), 10)
    assert store.drop_snapshots() == 1


def test_another_shape_of_the_state(database: Database, store: EventStore) -> None:
    store.load("count-1", Sum)

    class Changed(msgspec.Struct):
        count: int = 0
        greatest: int = 0

        def apply(self, event: Event) -> Changed:
            return Changed(self.count + 1, max(self.greatest, event.number)) if isinstance(event, Counted) else self

    Changed.__module__, Changed.__qualname__ = Sum.__module__, Sum.__qualname__
    with EventStore(database.dsn, snapshots={Changed: Every(5)}) as newer:
        assert newer.load("count-1", Changed) == (Changed(10, 10), 10)
        assert _stored(database) == [(10,)], "it has taken the place of the other"
        assert newer.load("count-1", Changed) == (Changed(10, 10), 10)
    assert _applied(store) == (10, Sum(10, 55), 10)


def test_another_meaning_of_the_same_shape(
    database: Database, store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.load("count-1", Sum)
    monkeypatch.setattr(Sum, "snapshot_version", 2, raising=False)
    with EventStore(database.dsn, snapshots={Sum: Every(5)}) as newer:
        assert _applied(newer)[0] == 10
        assert _applied(newer)[0] == 0


def test_a_slow_writer_puts_no_older_one_over_it(database: Database, store: EventStore) -> None:
    """Two have folded: the one that was slower comes with version 10 when version 16 is there."""
    old, version = store.load("count-1", Sum)
    store.append("count-1", [Counted(0, 1)] * 6)
    store.load("count-1", Sum)
    with store._doing() as connection:
        store._save(connection, "count-1", Sum, old, version, is_own=True)
    assert _stored(database) == [(16,)]
    assert _applied(store) == (0, Sum(16, 61), 16)


def test_a_damaged_one_is_not_read(database: Database, store: EventStore) -> None:
    store.load("count-1", Sum)
    database.execute("UPDATE es.snapshots SET state = 'x'")
    assert _applied(store) == (10, Sum(10, 55), 10)


def test_who_reads_only(database: Database, store: EventStore) -> None:
    role = f"reader_{database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN", f"GRANT USAGE ON SCHEMA es TO {role}")
    database.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA es TO {role}")
    try:
        with EventStore(f"{database.dsn} user={role}", snapshots={Sum: Every(5)}) as reader:
            assert _applied(reader) == _applied(reader) == (10, Sum(10, 55), 10)
    finally:
        database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_no_snapshot_in_the_callers_transaction(database: Database, store: EventStore) -> None:
    with database.connect() as connection, connection.transaction():
        assert store.load("count-1", Sum, connection=connection) == (Sum(10, 55), 10)
    assert _stored(database) == []


def test_a_state_that_cannot_be_stored(database: Database) -> None:
    class Plain:
        def apply(self, event: Event) -> Plain:
            return self

    with pytest.raises(pgcdc.ConfigError, match="no snapshot can be taken"):
        EventStore(database.dsn, snapshots={Plain: Every(5)})
