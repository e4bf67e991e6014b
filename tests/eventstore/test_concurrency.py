"""Writers at the same time: of two one wins, nothing is lost, no number is left out or there twice."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from pgcdc.eventstore import Append, ConcurrencyConflict, Event, EventStore, EventStoreError, calling
from tests.eventstore.contract import Counted, Total

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database

WRITERS = 8


@pytest.fixture
def store(database: Database) -> Iterator[EventStore]:
    with EventStore(database.dsn, max_connections=WRITERS) as store:
        store.init(profile="lean")
        yield store


def test_of_two_writers_one_wins(store: EventStore) -> None:
    """By each of the ways; all begin at once, ten times over."""
    barrier = threading.Barrier(WRITERS)

    def write(writer: int) -> list[int]:
        won = []
        for number in range(10):
            barrier.wait(120)
            try:
                if writer % 2:
                    store.append("count-1", [Counted(writer, number)], expected=number)
                else:
                    store.insert("count-1", [Counted(writer, number)], after=number)
            except ConcurrencyConflict:
                pass
            else:
                won.append(number)
            barrier.wait(120)
        return won

    with ThreadPoolExecutor(WRITERS) as threads:
        won = [number for numbers in threads.map(write, range(WRITERS)) for number in numbers]
    assert sorted(won) == list(range(10))
    assert [recorded.sequence for recorded in store.read("count-1")] == list(range(1, 11))


def test_any_number_of_writers_lose_nothing(store: EventStore) -> None:
    """Each adds to what it has read: an event that was decided on an old state would show as a wrong number."""

    def write(writer: int) -> None:
        def decide(total: Total) -> list[Event]:
            return [Counted(writer, len(total.seen))]

        for _ in range(5):
            store.retry("count-1", Total, decide, stream_type="count", attempts=200)

    with ThreadPoolExecutor(WRITERS) as threads:
        list(threads.map(write, range(WRITERS)))
    recorded = store.read("count-1")
    assert [one.sequence for one in recorded] == list(range(1, 5 * WRITERS + 1))
    assert [one.event.number for one in recorded if isinstance(one.event, Counted)] == list(range(5 * WRITERS))


def test_appends_to_several_streams_never_wait_for_each_other_in_a_circle(store: EventStore) -> None:
    """Whatever order they are named in: half name them forward, half backward. A deadlock would be an error here."""
    names = [f"count-{number}" for number in range(6)]

    def write(writer: int) -> None:
        order = names if writer % 2 else names[::-1]
        for number in range(8):
            store.append_many([Append(stream=name, events=[Counted(writer, number)] * 2) for name in order])

    with ThreadPoolExecutor(WRITERS) as threads:
        list(threads.map(write, range(WRITERS)))
    for name in names:
        recorded = store.read(name)
        assert [one.sequence for one in recorded] == list(range(1, 16 * WRITERS + 1))
        # What one transaction has appended is together, and those of one writer are in their order.
        events = [one.event for one in recorded if isinstance(one.event, Counted)]
        assert events[::2] == events[1::2]
        for writer in range(WRITERS):
            assert [event.number for event in events[::2] if event.writer == writer] == list(range(8))


def test_one_append_that_is_tried_by_many_is_done_once(store: EventStore) -> None:
    """By all at the same time, ten times over; the first also makes the stream."""
    rounds = [[uuid.UUID(int=2 * number), uuid.UUID(int=2 * number + 1)] for number in range(10)]
    barrier = threading.Barrier(WRITERS)

    def write(_writer: int) -> list[int]:
        versions = []
        try:
            for ids in rounds:
                barrier.wait(120)
                versions.append(store.append("count-1", [Counted(0, 1), Counted(0, 2)], event_ids=ids))
        except BaseException:
            barrier.abort()  # or the others would wait for this one
            raise
        return versions

    with ThreadPoolExecutor(WRITERS) as threads:
        assert list(threads.map(write, range(WRITERS))) == [list(range(2, 21, 2))] * WRITERS
    assert [recorded.event_id for recorded in store.read("count-1")] == [one for ids in rounds for one in ids]


def test_one_append_that_many_repeat_behind_its_events_is_done_once(store: EventStore) -> None:
    """Its answer was lost: each has read the stream, some before and some behind it, and expects what it has seen."""
    ids = [uuid.UUID(int=7)]
    barrier = threading.Barrier(WRITERS)

    def write(writer: int) -> list[int]:
        barrier.wait(120)
        return [
            store.append("count-1", [Counted(0, 1)], expected=expected, event_ids=ids)
            for expected in ((0, 1) if writer % 2 else (0, "any", 1))
        ]

    with ThreadPoolExecutor(WRITERS) as threads:
        assert {version for versions in threads.map(write, range(WRITERS)) for version in versions} == {1}
    assert len(store.read("count-1")) == 1


def test_a_statement_whose_preparing_was_interrupted_is_prepared_again(store: EventStore) -> None:
    """The server has it under a name that is not noted; the connection is used again."""
    connection = store._connections.take()
    for number in range(3):
        calling.prepared(connection, "SELECT %s::text, 1")
        connection.prepared.clear()
        assert calling.ask(connection, "SELECT %s::text, 1", (str(number),)) == (str(number), 1)
        connection.prepared.clear()
    store._connections.give(connection)


def test_who_gives_way_in_a_deadlock_is_told_so(store: EventStore) -> None:
    """Two transactions of one's own that append to the same streams, one forward and one backward."""
    for name in ("count-1", "count-2"):
        store.append(name, [Counted(0, 0)])
    barrier = threading.Barrier(2)

    def write(names: tuple[str, str]) -> list[tuple[str | None, str | None]]:
        with psycopg.connect(store._dsn) as connection:
            store.append(names[0], [Counted(0, 1)], connection=connection)
            barrier.wait(120)
            try:
                store.append(names[1], [Counted(0, 1)], connection=connection)
            except EventStoreError as error:
                connection.rollback()
                return [(error.sqlstate, error.hint)]
        return []

    with ThreadPoolExecutor(2) as threads:
        both = threads.map(write, [("count-1", "count-2"), ("count-2", "count-1")])
        [(sqlstate, hint)] = [one for told in both for one in told]
    assert sqlstate == "40P01"
    assert hint is not None
    assert "do it again" in hint
