"""A slot that is lost, and what was committed until there is another one: reactors are given it from the table."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pgcdc.errors import PositionError, SinkUnavailable, SlotInUse, SlotNotFound
from pgcdc.eventstore import EventStore, Recorded, archive
from pgcdc.pipeline import ownership
from tests.eventstore.revenue import Revenue, Sold, lose_the_slot, registry, revenue, right_revenue, store_of
from tests.eventstore.test_projections import caught_up
from tests.pipeline.running import running, until

if TYPE_CHECKING:
    from pathlib import Path

    from pgcdc.eventstore.following import EventPipeline
    from pgcdc.pipeline import DeadLetter
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


def store_with_mails(
    database: Database, mailed: list[int], hook: Callable[[int], None] = lambda _amount: None, **options: Any
) -> EventStore:
    store = store_of(database, ("revenue", Revenue))

    @store.reactor("mails", **options)
    class Mails:
        def on_sold(self, event: Sold) -> None:
            hook(event.amount)
            mailed.append(event.amount)

    return store


def refusing(*amounts: int) -> Callable[[int], None]:
    def hook(amount: int) -> None:
        if amount in amounts:
            raise ValueError("no mail")

    return hook


def letters(store: EventStore) -> Sequence[DeadLetter]:
    pipeline = store.pipeline()
    try:
        return pipeline.dead_letters.list()
    finally:
        pipeline.dead_letters.close()


def append(store: EventStore, *amounts: int, stream: str = "till-1") -> None:
    for amount in amounts:
        store.append(stream, [Sold("a", amount)])


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


def test_what_waits_behind_a_dead_letter_comes_before_what_was_missed(newest_database: Database) -> None:
    """The letters stay when the pipeline is destroyed, and the order of a stream holds."""
    mailed: list[int] = []
    with store_with_mails(newest_database, mailed, refusing(3), on_failure="hold") as store:
        with running(store.pipeline()):
            caught_up(store)
            append(store, 1, 2, 3, 4, 5)
            append(store, 10, stream="till-2")
            until(lambda: len(letters(store)) == 3 and 10 in mailed, "one has failed and two wait", pause=0.1)
        lose_the_slot(newest_database)
        append(store, 6)
        store.pipeline().destroy()
        assert len(letters(store)) == 3
        with pytest.raises(PositionError, match=r"event 3 of the stream till-1, which is a dead letter.*ValueError"):
            store.pipeline().run()
        assert (mailed, len(letters(store))) == ([1, 2, 10], 3)
    with store_with_mails(newest_database, mailed, refusing(4), on_failure="hold") as store:
        with pytest.raises(PositionError, match="event 4 of the stream till-1"):
            store.pipeline().run()
        assert (mailed, len(letters(store))) == ([1, 2, 10, 3], 2), "what is given is no letter any more"
    with store_with_mails(newest_database, mailed, on_failure="hold") as store, running(store.pipeline()):
        caught_up(store)
        append(store, 7)
        until(lambda: mailed == [1, 2, 10, 3, 4, 5, 6, 7], "all come, in order")
        assert letters(store) == []


def test_dead_letters_of_reactors_stay_when_there_is_another_slot(newest_database: Database) -> None:
    mailed: list[int] = []
    with store_with_mails(newest_database, mailed, refusing(2), on_failure="park") as store:
        with running(store.pipeline()):
            caught_up(store)
            append(store, 1, 2, 3)
            until(lambda: mailed == [1, 3] and len(letters(store)) == 1, "one has failed", pause=0.1)
        lose_the_slot(newest_database)
        append(store, 4)
        store.pipeline().destroy()
    with store_with_mails(newest_database, mailed, on_failure="park") as store:
        pipeline = store.pipeline()
        with running(pipeline):
            until(lambda: mailed == [1, 3, 4], "what was missed comes")
            caught_up(store)
            assert len(pipeline.dead_letters.retry()) == 1
            until(lambda: letters(store) == [], "the letter is given, too", pause=0.1)
            assert mailed == [1, 3, 4, 2]


def test_dead_letters_go_with_a_reactor_that_is_forgotten_or_with_the_tables(newest_database: Database) -> None:
    mailed: list[int] = []
    with store_with_mails(newest_database, mailed, refusing(1), on_failure="park") as store:
        for tables in (False, True):
            with running(store.pipeline()):
                caught_up(store)
                append(store, 1)
                until(lambda: len(letters(store)) == 1, "it has failed", pause=0.1)
            store.pipeline().destroy()
            assert len(letters(store)) == 1
            if tables:
                store.pipeline().destroy(tables=True)
            else:
                store.pipeline().forget("mails")
            assert letters(store) == []


def streaming_of_its_own(pipeline: EventPipeline) -> None:
    def phases() -> list[str]:
        return [one.phase for one in pipeline.statistics().own_slots.values()]

    until(lambda: phases() == ["streaming"], "it streams on a slot of its own", pause=0.05)


def test_so_do_those_of_one_with_a_slot_of_its_own(newest_database: Database) -> None:
    mailed: list[int] = []
    with store_with_mails(newest_database, mailed, refusing(2), on_failure="park", own_slot=True) as store:
        pipeline = store.pipeline()
        with running(pipeline):
            caught_up(store)
            streaming_of_its_own(pipeline)
            append(store, 1, 2, 3)
            until(lambda: mailed == [1, 3] and len(letters(store)) == 1, "one has failed", pause=0.1)
        store.pipeline().destroy()
        assert len(letters(store)) == 1
    with store_with_mails(newest_database, mailed, on_failure="park", own_slot=True) as store:
        pipeline = store.pipeline()
        with running(pipeline):
            caught_up(store)
            assert len(pipeline.dead_letters.retry()) == 1
            until(lambda: letters(store) == [], "the letter is given", pause=0.1)
        assert mailed == [1, 3, 2]
    with store_with_mails(newest_database, mailed, refusing(4), on_failure="park", own_slot=True) as store:
        for go in ("forget", "forget what was destroyed", "destroy with the tables"):
            pipeline = store.pipeline()
            with running(pipeline):
                streaming_of_its_own(pipeline)
                append(store, 4)
                until(lambda: len(letters(store)) == 1, "it has failed", pause=0.1)
            if go == "forget what was destroyed":
                store.pipeline().destroy()
                assert len(letters(store)) == 1
            if go == "destroy with the tables":
                store.pipeline().destroy(tables=True)
            else:
                store.pipeline().forget("mails")
            assert letters(store) == [], go


def test_two_processes_at_once_do_not_give_it_twice(newest_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    mailed: list[int] = []
    other: list[int] = []
    is_given, goes_on = threading.Event(), threading.Event()

    def hook(_amount: int) -> None:
        is_given.set()
        assert goes_on.wait(60)

    with store_with_mails(newest_database, mailed, hook) as store, store_with_mails(newest_database, other) as another:
        goes_on.set()
        with running(store.pipeline()):
            caught_up(store)
        lose_the_slot(newest_database)
        append(store, 1, 2)
        store.pipeline().destroy()
        goes_on.clear()
        with running(store.pipeline()) as first:
            try:
                assert is_given.wait(60)
                with monkeypatch.context() as short:
                    short.setattr(ownership, "TAKE_OVER_WITHIN", 0.2)
                    with pytest.raises(SlotInUse):
                        another.pipeline().run()
            finally:
                goes_on.set()
            first.streaming()
            caught_up(store)
            append(store, 3)
            until(lambda: mailed == [1, 2, 3], "the stream goes on")
        with running(another.pipeline()):
            caught_up(another)
            append(store, 4)
            until(lambda: 4 in other, "the other one takes over")
        assert (mailed, other) == ([1, 2, 3], [4])


def test_what_was_missed_may_be_in_the_archive(newest_database: Database, tmp_path: Path) -> None:
    mailed: list[int] = []
    store = EventStore(newest_database.dsn, registry=registry, max_connections=8, archive=tmp_path)
    with store:
        store.init(profile="lean")
        store.retention("*", hot=timedelta(0), warm=timedelta(0))
        store.projection("revenue")(Revenue)

        @store.reactor("mails")
        class Mails:
            def on_sold(self, event: Sold) -> None:
                refusing(*refused)(event.amount)
                mailed.append(event.amount)

        refused: set[int] = set()
        with running(store.pipeline()):
            caught_up(store)
        lose_the_slot(newest_database)
        append(store, 1, 2, 3)
        store.pipeline().destroy()
        refused.add(2)
        with pytest.raises(PositionError, match="event 2 of the stream till-1"):
            store.pipeline().run()
        assert archive(store).done == 3
        assert newest_database.execute("SELECT count(*) FROM es.events") == [(0,)]
        append(store, 4)
        refused.clear()
        with running(store.pipeline()):
            caught_up(store)
            append(store, 5)
            until(lambda: mailed == [1, 2, 3, 4, 5], "all come, in order")


def test_one_that_is_to_have_a_slot_of_its_own_stops(newest_database: Database) -> None:
    mailed: list[int] = []
    with store_with_mails(newest_database, mailed) as store:
        with running(store.pipeline()):
            caught_up(store)
        lose_the_slot(newest_database)
        append(store, 1)
        store.pipeline().destroy()
    with store_with_mails(newest_database, mailed, own_slot=True) as store:
        with pytest.raises(PositionError, match=r"event 1 .*with own_slot= it is not given events") as failed:
            store.pipeline().run()
        assert failed.value.hint is not None and "pipeline.forget('mails')" in failed.value.hint
    assert mailed == []


def test_the_rest_of_a_transaction_that_was_given_in_part_comes(newest_database: Database) -> None:
    mailed: list[int] = []
    is_tried = threading.Event()

    def away(amount: int) -> None:
        if amount == 2:
            is_tried.set()
            raise SinkUnavailable("away")

    with store_with_mails(newest_database, mailed, away) as store:
        with running(store.pipeline()):
            caught_up(store)
            store.append("till-1", [Sold("a", 1), Sold("a", 2), Sold("a", 3)])
            assert is_tried.wait(60)
        assert mailed == [1]
        lose_the_slot(newest_database)
        append(store, 4)
        store.pipeline().destroy()
    with store_with_mails(newest_database, mailed) as store, running(store.pipeline()):
        until(lambda: mailed == [1, 1, 2, 3, 4], "the transaction comes whole")


def test_one_whose_target_is_away_says_that_all_wait(
    newest_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    mailed: list[int] = []
    away = [SinkUnavailable("away")]

    def once(_amount: int) -> None:
        if away:
            raise away.pop()

    with store_with_mails(newest_database, mailed, once) as store:
        with running(store.pipeline()):
            caught_up(store)
        lose_the_slot(newest_database)
        append(store, 1)
        store.pipeline().destroy()
        with running(store.pipeline()):
            until(lambda: mailed == [1], "it comes when it is tried again")
    assert "event 1 of the stream till-1, which it has missed: SinkUnavailable; all consumers wait" in caplog.text
