"""A slot that is lost, and what was committed until there is another one: reactors are given it from the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pgcdc.errors import PositionError, SlotNotFound
from pgcdc.eventstore import EventStore, Recorded
from tests.eventstore.revenue import Revenue, Sold, lose_the_slot, revenue, right_revenue, store_of
from tests.eventstore.test_projections import caught_up
from tests.pipeline.running import running, until

if TYPE_CHECKING:
    from pgcdc.eventstore.following import EventPipeline
    from tests.conftest import Database

Seen = list[tuple[str, int, int]]


def store_with(database: Database, seen: Seen, *, fails_at: int = 0) -> EventStore:
    store = store_of(database, ("revenue", Revenue))

    @store.reactor("mails")
    class Mails:
        def on_sold(self, event: Sold, recorded: Recorded) -> None:
            if event.amount == fails_at:
                raise ValueError("no mail")
            assert recorded.position is not None
            seen.append((recorded.stream_id, recorded.sequence, recorded.position.commit_lsn))

    @store.reactor("calls")
    class Calls:
        async def on_sold(self, event: Sold, recorded: Recorded) -> None:
            seen.append((f"call {recorded.stream_id}", recorded.sequence, 0))

    return store


def sold(seen: Seen, stream: str) -> list[int]:
    return [sequence for name, sequence, _ in seen if name == stream]


def test_nothing_is_missed_between_two_slots(database: Database) -> None:
    """Also of what no slot has ever brought; each once, in the order of commits, by coroutines, too."""
    seen: Seen = []
    with store_with(database, seen) as store:
        store.append("till-1", [Sold("a", 1)])  # from before the reactor was first run: not for it
        with running(store.pipeline()):
            caught_up(store)
            store.append("till-1", [Sold("a", 2)])
            until(lambda: sold(seen, "till-1") == sold(seen, "call till-1") == [2], "both have it")
        store.append("till-1", [Sold("a", 3), Sold("a", 4)])
        lose_the_slot(database)
        store.append("till-2", [Sold("b", 5)])
        with pytest.raises(SlotNotFound) as failed:
            store.pipeline().run()
        assert failed.value.hint is not None
        assert "no event is lost" in failed.value.hint
        store.pipeline().destroy()
        store.append("till-1", [Sold("a", 6)])
        with running(store.pipeline()):
            caught_up(store)
            store.append("till-1", [Sold("a", 7)])
            until(lambda: 6 in sold(seen, "till-1") and 6 in sold(seen, "call till-1"), "the stream goes on")
            caught_up(store)
        for kind in ("", "call "):
            assert sold(seen, f"{kind}till-1") == [2, 3, 4, 5, 6]
            assert sold(seen, f"{kind}till-2") == [1]
        assert revenue(database) == right_revenue(database)
        places = [lsn for name, _, lsn in seen if not name.startswith("call")]
        assert places == sorted(places)


def test_one_that_fails_on_what_it_has_missed_stops_the_run_and_goes_on_there(newest_database: Database) -> None:
    seen: Seen = []
    with store_with(newest_database, seen) as store:
        with running(store.pipeline()):
            caught_up(store)
        lose_the_slot(newest_database)
        for amount in range(1, 5):
            store.append("till-1", [Sold("a", amount)])
        store.pipeline().destroy()
    with store_with(newest_database, seen, fails_at=3) as store:
        with pytest.raises(PositionError, match=r"event 3 of the stream till-1.*ValueError") as failed:
            store.pipeline().run()
        assert failed.value.hint is not None
        assert "pipeline.forget('mails')" in failed.value.hint
        assert sold(seen, "till-1") == [1, 2]
    with store_with(newest_database, seen) as store, running(store.pipeline()):
        until(lambda: sold(seen, "till-1") == sold(seen, "call till-1") == [1, 2, 3, 4], "it goes on there")
        caught_up(store)


def test_one_that_is_forgotten_begins_with_what_is_appended_from_then_on(newest_database: Database) -> None:
    seen: Seen = []
    with store_with(newest_database, seen) as store:
        with running(store.pipeline()):
            caught_up(store)
        lose_the_slot(newest_database)
        store.append("till-1", [Sold("a", 1)])
        store.pipeline().destroy()
        store.pipeline().forget("mails")
        with running(store.pipeline()):
            caught_up(store)
            store.append("till-1", [Sold("a", 2)])
            until(lambda: sold(seen, "till-1") == [2] and sold(seen, "call till-1") == [1, 2], "only the other has it")


def test_a_sink_that_was_added_misses_nothing_without_a_word(newest_database: Database) -> None:
    seen: Seen = []
    with store_with(newest_database, seen) as store:

        def pipeline() -> EventPipeline:
            made = store.pipeline()

            @made.on("es.events", "insert", name="added")
            def added(change: Any) -> None:
                seen.append(("added", change.new.sequence, 0))

            return made

        with running(pipeline()):
            caught_up(store)
            store.append("till-1", [Sold("a", 1)])
            until(lambda: sold(seen, "added") == [1], "it follows")
        lose_the_slot(newest_database)
        pipeline().destroy()
        with running(pipeline()):
            caught_up(store)  # nothing was committed in between
        lose_the_slot(newest_database)
        store.append("till-1", [Sold("a", 2)])
        pipeline().destroy()
        with pytest.raises(PositionError, match=r"consumer 'added' has missed event 2 of the stream till-1") as failed:
            pipeline().run()
        assert failed.value.hint is not None and "store.replay()" in failed.value.hint
        pipeline().forget("added")
        with running(pipeline()):
            caught_up(store)
            store.append("till-1", [Sold("a", 3)])
            until(lambda: sold(seen, "added") == [1, 3], "it goes on")
