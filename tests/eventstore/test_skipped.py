"""Events that a projection cannot take and skips: dead letters, applied again when they are asked for, once."""

from __future__ import annotations

import json
import random
import string
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pgcdc.cli.deadletter import application as deadletter
from pgcdc.errors import ConnectionLost, EventStoreError, SlotInUse
from pgcdc.eventstore import Recorded, Table, rebuild, rollback, skipping
from pgcdc.pipeline import MemoryDeadLetters
from tests.eventstore.revenue import RIGHT, Closed, Journal, Revenue, Sold, faults, revenue, right_revenue, store_of
from tests.eventstore.test_projections import caught_up
from tests.pipeline.running import running, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgcdc.eventstore import EventStore
    from pgcdc.pipeline import DeadLetter
    from pgcdc.pipeline.deadletter import Which
    from tests.conftest import Database

EVENTS = [Sold("a", 1), Sold("a", 13), Sold("a", 2), Sold("b", -5), Closed(), Sold("b", 4)]


class Mended:
    """13 was a programmer's fear; less than nothing is what the database refuses."""

    revenue = Table("category text, total bigint NOT NULL CHECK (total >= 0), sales integer NOT NULL", key=["category"])

    def on_sold(self, event: Sold) -> None:
        self.revenue.add(category=event.category, total=event.amount, sales=1)


class Afraid(Mended):
    def on_sold(self, event: Sold) -> None:
        if event.amount == 13:
            raise ValueError("thirteen")
        super().on_sold(event)


def store_with(database: Database, owner: type = Afraid, version: int = 1) -> EventStore:
    store = store_of(database, ("revenue", owner), version=version, on_failure="dead_letter")
    store.projection("journal")(Journal)
    return store


def letters(store: EventStore) -> Sequence[DeadLetter]:
    pipeline = store.pipeline()
    try:
        return pipeline.dead_letters.list()
    finally:
        pipeline.dead_letters.close()


def told(store: EventStore) -> list[tuple[str, str, str]]:
    return [(one.consumer, one.key or "", one.error_type) for one in letters(store)]


def key(sequence: int) -> str:
    return json.dumps({"stream_id": "till-1", "sequence": sequence}, separators=(",", ":"))


BOTH = [("revenue", key(2), "ValueError"), ("revenue", key(4), "CheckViolation")]


def test_what_cannot_be_taken_is_skipped_and_retried(database: Database) -> None:
    skipped_and_retried(database, before=False)


def test_so_it_is_with_what_is_read_from_the_table(newest_database: Database) -> None:
    skipped_and_retried(newest_database, before=True)


def skipped_and_retried(database: Database, *, before: bool) -> None:
    with store_with(database) as store:
        if before:
            store.append("till-1", EVENTS)
        with running(store.pipeline()):
            caught_up(store)
            if not before:
                store.append("till-1", EVENTS)
            caught_up(store)
            until(lambda: told(store) == BOTH, "they are listed", pause=0.1)
            assert revenue(database) == [("a", 3, 2), ("b", 4, 1)]
            assert faults(database) == RIGHT, "the other projection has all"
            found = store.check()[2]
            assert (found.status, found.found) == ("warning", "of 2, revenue has skipped 2 events")
    listed = CliRunner().invoke(deadletter, ["list", "--dsn", database.dsn, "--json"])
    first, second = map(json.loads, listed.stdout.splitlines())
    assert (first["consumer"], first["key"]["sequence"], first["error_type"]) == ("revenue", 2, "ValueError")
    shown = CliRunner().invoke(deadletter, ["show", str(second["id"]), "--dsn", database.dsn])
    assert "-5" in shown.stdout
    with store_with(database, Mended) as store:
        pipeline = store.pipeline()
        with running(pipeline):
            caught_up(store)
            pipeline.dead_letters.retry()
            until(lambda: [one[1] for one in told(store)] == [key(4)], "one is applied", pause=0.1)
            assert revenue(database) == [("a", 16, 3), ("b", 4, 1)]
            until(lambda: letters(store)[0].attempts == 2, "the other one has failed again", pause=0.1)
            database.execute("UPDATE public.revenue SET total = total + 10 WHERE category = 'b'")
            pipeline.dead_letters.retry()
            until(lambda: told(store) == [], "and is applied", pause=0.1)
            assert revenue(database) == [("a", 16, 3), ("b", 9, 2)]
            assert store.check(deep=True)[2].status == "ok"


def test_a_letter_that_is_retried_twice_is_applied_once(newest_database: Database) -> None:
    """As after a crash between the projection's transaction and the letter's removal."""
    with store_with(newest_database) as store, running(store.pipeline()):
        caught_up(store)
        store.append("till-1", EVENTS)
        caught_up(store)
        until(lambda: told(store) == BOTH, "they are listed", pause=0.1)
    newest_database.execute("CREATE TABLE kept AS SELECT * FROM pgcdc.dead_letters WHERE error_type = 'ValueError'")
    with store_with(newest_database, Mended) as store:
        pipeline = store.pipeline()
        for _ in range(2):
            with running(pipeline):
                caught_up(store)
                pipeline.dead_letters.retry(position=letters(store)[0].position)
                until(lambda: len(told(store)) == 1, "it is applied", pause=0.1)
            assert revenue(newest_database) == [("a", 16, 3), ("b", 4, 1)]
            newest_database.execute(
                "INSERT INTO pgcdc.dead_letters OVERRIDING SYSTEM VALUE SELECT * FROM kept ON CONFLICT DO NOTHING"
            )


def test_a_rebuild_skips_too_and_what_it_has_applied_is_no_letter(newest_database: Database) -> None:
    with store_with(newest_database) as store, running(store.pipeline()):
        caught_up(store)
        store.append("till-1", EVENTS)
        caught_up(store)
        until(lambda: told(store) == BOTH, "they are listed", pause=0.1)
    with store_with(newest_database, Mended, version=2) as store, running(store.pipeline()):
        assert rebuild(store, "revenue").done == len(EVENTS)
        assert revenue(newest_database) == [("a", 16, 3), ("b", 4, 1)]
        until(lambda: [one[1] for one in told(store)] == [key(4)], "one is no letter any more", pause=0.1)


def test_a_row_that_is_too_large_for_its_index_is_no_server_that_is_away(newest_database: Database) -> None:
    """psycopg's class for it is the same, and waiting would hold WAL for ever."""
    long = "".join(random.Random(1).choices(string.ascii_letters, k=12_000))
    with store_of(newest_database) as store, running(store.pipeline()):
        caught_up(store)
        store.append("till-1", [Sold(long, 1), Sold("a", 1)])
        until(lambda: "revenue (ProgramLimitExceeded" in store.check()[2].found, "it is parked", pause=0.1)
        with pytest.raises(EventStoreError, match="the projection revenue cannot be built: ProgramLimitExceeded"):
            rebuild(store, "revenue")
    with store_with(newest_database, Revenue) as store, running(store.pipeline()):
        until(lambda: told(store) == [("revenue", key(1), "ProgramLimitExceeded")], "it is listed", pause=0.1)
        caught_up(store)
        assert revenue(newest_database) == [("a", 1, 1)]
        assert rebuild(store, "revenue", restart=True).done == 2
        assert revenue(newest_database) == [("a", 1, 1)]


def test_after_a_rollback_they_are_letters_again(newest_database: Database) -> None:
    """Also what the generation in between has applied when it was retried."""
    with store_with(newest_database) as store, running(store.pipeline()):
        caught_up(store)
        store.append("till-1", EVENTS)
        caught_up(store)
        until(lambda: told(store) == BOTH, "they are listed", pause=0.1)
    with store_with(newest_database, Mended, version=2) as store:
        pipeline = store.pipeline()
        with running(pipeline) as run:
            run.streaming()
            rebuild(store, "revenue")
            until(lambda: [one[1] for one in told(store)] == [key(4)], "one is no letter any more", pause=0.1)
            newest_database.execute("UPDATE public.revenue SET total = total + 10 WHERE category = 'b'")
            pipeline.dead_letters.retry()
            until(lambda: told(store) == [], "and the other is applied", pause=0.1)
        rollback(store, "revenue")
    with store_with(newest_database) as store, running(store.pipeline()):
        until(lambda: told(store) == BOTH, "they are listed", pause=0.1)
        caught_up(store)
        assert revenue(newest_database) == [("a", 3, 2), ("b", 4, 1)]


def test_letters_that_cannot_be_kept_now_are_kept_later(newest_database: Database) -> None:
    class Away(MemoryDeadLetters):
        refused = 0

        def add(self, letters: Sequence[DeadLetter], epoch: int) -> None:
            if self.refused < 2:
                self.refused += 1
                raise ConnectionLost("away")
            super().add(letters, epoch)

    away = Away()
    with store_with(newest_database) as store, running(store.pipeline(dead_letters=away)):
        caught_up(store)
        store.append("till-1", EVENTS)
        until(lambda: len(away._letters) == 2, "they are listed")
        caught_up(store)
        assert away.refused == 2
        assert revenue(newest_database) == [("a", 3, 2), ("b", 4, 1)]


def test_letters_that_go_with_the_pipeline_come_again(newest_database: Database) -> None:
    with store_with(newest_database) as store:
        with running(store.pipeline()):
            caught_up(store)
            store.append("till-1", EVENTS)
            caught_up(store)
            until(lambda: told(store) == BOTH, "they are listed", pause=0.1)
        store.pipeline().destroy()
        assert told(store) == []
        with running(store.pipeline()):
            until(lambda: told(store) == BOTH, "they are listed again", pause=0.1)
        pipeline = store.pipeline()
        assert pipeline.dead_letters.drop(consumer="revenue") == 2
        pipeline.dead_letters.close()
        with running(store.pipeline()):
            caught_up(store)
            assert told(store) == [], "what was dropped stays so"
            hint = store.check()[2].hint
            assert hint is not None and "pgcdc events rebuild when their dead letters were dropped" in hint


def test_one_that_takes_nothing_at_all_is_parked(newest_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skipping, "MOST", 3)

    class Broken(Revenue):
        def on_sold(self, event: Sold, recorded: Recorded | None = None) -> None:
            raise ValueError("all wrong")

    with store_of(newest_database, ("revenue", Broken), ("journal", Journal), on_failure="dead_letter") as store:
        with running(store.pipeline()):
            caught_up(store)
            for number in range(5):
                store.append("till-1", [Sold("a", number)])
            caught_up(store, "journal")
            until(
                lambda: "revenue (EventStoreError it has skipped 3 events" in store.check()[2].found,
                "parked",
                pause=0.1,
            )
        assert newest_database.execute("SELECT count(*) FROM es.skipped") == [(3,)]
    with store_of(newest_database, ("revenue", Revenue), ("journal", Journal), on_failure="dead_letter") as store:
        pipeline = store.pipeline()
        with running(pipeline):
            until(lambda: store.check()[2].found == "of 2, revenue has skipped 3 events", "it goes on", pause=0.1)
            caught_up(store)
            pipeline.dead_letters.retry()
            until(lambda: revenue(newest_database) == right_revenue(newest_database), "all are applied", pause=0.1)


def test_what_was_dropped_does_not_count(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what was retried; one that is parked goes on when its letters were dropped."""
    monkeypatch.setattr(skipping, "MOST", 3)
    thirteen = [Sold("a", 13)]
    skipped = "SELECT count(*) FROM es.skipped"
    with store_with(database) as store:
        pipeline = store.pipeline()
        with running(pipeline):
            caught_up(store)
            for number in (2, 4):
                for _ in range(2):
                    store.append("till-1", thirteen)
                caught_up(store)
                assert database.execute(skipped) == [(number,)]
                until(lambda: len(told(store)) == 2, "they are listed", pause=0.1)
                if number == 2:
                    assert pipeline.dead_letters.drop(consumer="revenue") == 2
            store.append("till-1", [*thirteen, Sold("a", 1)])  # the third whose letter is there
            caught_up(store)
            until(lambda: len(told(store)) == 3, "it is listed", pause=0.1)
            store.append("till-1", [*thirteen, Sold("a", 2)])
            caught_up(store, "journal")
            until(lambda: "it has skipped 3 events" in store.check()[2].found, "it is parked", pause=0.1)
            assert revenue(database) == [("a", 1, 1)]
            assert pipeline.dead_letters.drop(ids=[letters(store)[0].id]) == 1
        with running(store.pipeline()):
            until(lambda: revenue(database) == [("a", 3, 2)], "it goes on", pause=0.1)
            until(lambda: len(told(store)) == 3, "the next one is listed", pause=0.1)
            caught_up(store)
            assert database.execute(skipped) == [(6,)]
            assert faults(database) == RIGHT


def test_letters_that_cannot_be_counted_now_are_counted_later(
    newest_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are kept is away when it has to be asked whether there are too many: nothing is parked."""
    monkeypatch.setattr(skipping, "MOST", 1)

    class Away(MemoryDeadLetters):
        refused = 0

        def find(self, which: Which, limit: int | None = None) -> list[DeadLetter]:
            if self._letters and self.refused < 2:
                self.refused += 1
                raise ConnectionLost("away")
            self._letters.clear()  # somebody has dropped them
            return []

    away = Away()
    with store_with(newest_database) as store, running(store.pipeline(dead_letters=away)):
        caught_up(store)
        store.append("till-1", [Sold("a", 13)])
        until(lambda: len(away._letters) == 1, "it is listed")
        store.append("till-1", [Sold("a", 13), Sold("a", 1)])
        caught_up(store)
        assert away.refused == 2
        assert revenue(newest_database) == [("a", 1, 1)]


def dropped_twice(store: EventStore, database: Database) -> None:
    """Four that are skipped, of three that may be: two were dropped, and two have letters."""
    with running(store.pipeline()):
        caught_up(store)
        for number in (2, 4):
            store.append("till-1", [Sold("a", 13), Sold("a", 1), Sold("a", 13)])
            caught_up(store)
            until(lambda: len(told(store)) == 2, "they are listed", pause=0.1)
            if number == 2:
                drop(store)
    assert database.execute("SELECT count(*) FROM es.skipped") == [(4,)]


def drop(store: EventStore, count: int = 2) -> None:
    pipeline = store.pipeline()
    assert pipeline.dead_letters.drop(consumer="revenue") == count
    pipeline.dead_letters.close()


def test_what_was_dropped_stays_so(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same class is built as far as it was live; so it is with the slot's end, and with what is put back."""
    monkeypatch.setattr(skipping, "MOST", 3)
    skipped = "SELECT count(*), count(*) FILTER (WHERE p.status = 'live') FROM es.skipped JOIN es.projections AS p"
    skipped += " USING (name, generation)"
    with store_with(database) as store:
        dropped_twice(store, database)
        both = told(store)
        assert rebuild(store, "revenue").done == 6
        assert rebuild(store, "revenue").done == 6, "once more, while no pipeline runs"
        assert database.execute(skipped) == [(8, 4)]
        for what in ("built", "put back", "put back", "destroyed"):
            if what == "put back":
                rollback(store, "revenue")
            elif what == "destroyed":
                store.pipeline().destroy()
            with running(store.pipeline()):
                caught_up(store)
                until(lambda: told(store) == both, "those that were not dropped are letters", pause=0.1)
        with running(store.pipeline()):
            store.append("till-1", [Sold("a", 13), Sold("a", 2)])
            caught_up(store)
            until(lambda: len(told(store)) == 3, "one more is not one too many", pause=0.1)
            assert revenue(database) == [("a", 4, 3)]
            with pytest.raises(SlotInUse):
                store.pipeline().destroy()
            drop(store, 3)
            store.append("till-1", [Sold("a", 13)])
            caught_up(store)
            until(lambda: len(told(store)) == 1, "nothing was taken back by what was refused", pause=0.1)


def test_a_rebuild_that_skips_too_many(newest_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops, and says what to do; it goes on there with the class that is mended."""
    monkeypatch.setattr(skipping, "MOST", 3)

    class Worse(Afraid):
        def on_sold(self, event: Sold) -> None:
            if event.amount == 1:
                raise ValueError("one")
            super().on_sold(event)

    with store_with(newest_database) as store:
        dropped_twice(store, newest_database)
        with running(store.pipeline()):
            store.append("till-1", [Sold("a", 1), Sold("a", 1), Sold("a", 2)])
            caught_up(store)
    with store_with(newest_database, Worse) as store:
        with pytest.raises(
            EventStoreError, match=r"has skipped 3 events that the live one has taken, and now event 8"
        ) as failed:
            rebuild(store, "revenue")
        assert failed.value.hint is not None and "mend the class, and rebuild it" in failed.value.hint
    with store_with(newest_database) as store:
        assert rebuild(store, "revenue").done == 9
        assert revenue(newest_database) == [("a", 6, 5)]


def test_a_letter_says_why_its_event_was_skipped_last(newest_database: Database) -> None:
    class Other(Mended):
        def on_sold(self, event: Sold) -> None:
            if event.amount == 13:
                raise KeyError("thirteen")
            super().on_sold(event)

    with store_with(newest_database) as store, running(store.pipeline()):
        caught_up(store)
        store.append("till-1", EVENTS)
        caught_up(store)
        until(lambda: told(store) == BOTH, "they are listed", pause=0.1)
    with store_with(newest_database, Other, version=2) as store, running(store.pipeline()):
        rebuild(store, "revenue")
        now = [("revenue", key(2), "KeyError"), BOTH[1]]
        until(lambda: told(store) == now, "it says what the new class has raised", pause=0.1)


def test_letters_are_not_read_again_for_each_event(newest_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where more were dropped than may be skipped."""
    monkeypatch.setattr(skipping, "MOST", 20)

    class Counting(MemoryDeadLetters):
        finds = 0

        def find(self, which: Which, limit: int | None = None) -> list[DeadLetter]:
            self.finds += 1
            return super().find(which, limit)

    kept = Counting()
    with store_with(newest_database) as store, running(store.pipeline(dead_letters=kept)):
        caught_up(store)
        for _ in range(2):
            store.append("till-1", [Sold("a", 13)] * 19)
            until(lambda: len(kept._letters) == 19, "they are listed")
            kept._letters.clear()
        caught_up(store)
        before = kept.finds
        store.append("till-1", [Sold("a", 13)] * 19)
        until(lambda: len(kept._letters) == 19, "they are listed")
        assert kept.finds - before < 5
