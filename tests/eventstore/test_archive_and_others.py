"""The archiver while others are at work, and killed: nothing is lost, doubled, or out of its order."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pgcdc.eventstore import EventStore, archive, plan_archive, rebuild
from tests.eventstore.revenue import Journal, Revenue, Sold, registry, revenue
from tests.eventstore.test_archive import LATER, leave
from tests.eventstore.test_projections import caught_up, write
from tests.pipeline.running import running
from tests.program import Program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database


def store_of(database: Database, place: Path, version: int = 1) -> EventStore:
    """A store with an archive and both projections."""
    store = EventStore(database.dsn, registry=registry, max_connections=8, archive=place)
    store.init(profile="lean")
    store.projection("revenue", version=version)(Revenue)
    store.projection("journal", version=version)(Journal)
    store.retention("*", hot=timedelta(0), warm=timedelta(0))
    return store


def right(store: EventStore) -> list[tuple[str, int, int]]:
    """What the projection has to say, from archive and table."""
    total: dict[str, tuple[int, int]] = {}
    for events in store.replay():
        for one in events:
            if isinstance(one.event, Sold):
                amount, sales = total.get(one.event.category, (0, 0))
                total[one.event.category] = amount + one.event.amount, sales + 1
    return sorted((category, *sums) for category, sums in total.items())


def assert_journal(database: Database, store: EventStore) -> None:
    """Each event of archive and table is in it once, in the order of commits and in that of its stream."""
    rows = database.execute("SELECT event_id, lsn, stream, sequence FROM public.journal ORDER BY number")
    ids = [one.event_id for events in store.replay() for one in events]
    assert len(ids) == len(set(ids))
    assert sorted(row[0] for row in rows) == sorted(ids)
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)
    numbers: dict[str, int] = {}
    for _, _, stream, sequence in rows:
        assert sequence == numbers.get(stream, 0) + 1
        numbers[stream] = sequence


def test_rebuilt_from_archive_table_and_stream_while_four_write(database: Database, tmp_path: Path) -> None:
    """With events from before the first slot in the archive, and an archiver that takes all that is noted meanwhile."""
    with store_of(database, tmp_path) as store, store_of(database, tmp_path, 2) as newer:
        write(store, 1, 30)
        assert leave(store, 25)
        write(store, 2, 20)
        ended = threading.Event()

        def go_on(seed: int) -> None:
            while not ended.is_set():
                write(store, seed, 4)

        def move() -> int:
            moved = 0
            while True:
                moved += archive(store, now=LATER, segment_events=40).done
                if ended.is_set():
                    return moved

        with running(store.pipeline(rows=50)), ThreadPoolExecutor(5) as threads:
            caught_up(store)
            assert_journal(database, store)
            others = [threads.submit(go_on, seed) for seed in range(4)]
            moving = threads.submit(move)
            try:
                for name in ("revenue", "journal"):
                    rebuild(newer, name)
            finally:
                ended.set()
            for one in others:
                one.result()
            moved = moving.result()
        with running(newer.pipeline(rows=50)):
            write(newer, 9, 10)
            caught_up(newer)
        archive(newer, now=LATER)
        assert moved > 0
        assert database.execute("SELECT count(*) FROM es.events") == [(0,)]
        assert_journal(database, newer)
        assert revenue(database) == right(newer)
        assert [finding.status for finding in newer.check(deep=True)] == ["ok"] * 8
        rebuild(newer, "journal")  # out of the archive alone
        assert_journal(database, newer)


def test_what_leaves_between_two_questions_is_in_both_answers(
    newest_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild has read the table, an archiver takes what it has read, the rebuild asks for the archive."""
    from pgcdc.eventstore.archives import Segments

    between = Segments.between
    moved: list[int] = []
    has_order = False

    def moving(self: Segments, connection: Any, after: Any, through: Any) -> Any:
        if (after[0] > 0) is has_order:
            with store_of(newest_database, tmp_path) as other:
                moved.append(archive(other, now=LATER, segment_events=5).done)
        return between(self, connection, after, through)

    with store_of(newest_database, tmp_path) as store:
        write(store, 1, 10)  # before the first slot
        leave(store, 7)
        write(store, 2, 10)
        with running(store.pipeline()):
            caught_up(store)
            with monkeypatch.context() as patch:
                patch.setattr(Segments, "between", moving)
                rebuild(store, "revenue")
            assert revenue(newest_database) == right(store)
            write(store, 3, 10)
            caught_up(store)
            leave(store, 7)
            write(store, 4, 10)
            caught_up(store)
            has_order = True
            with monkeypatch.context() as patch:
                patch.setattr(Segments, "between", moving)
                rebuild(store, "journal")
            assert_journal(newest_database, store)
        assert len([number for number in moved if number]) == 2


def test_what_no_pipeline_has_noted_stays(newest_database: Database, tmp_path: Path) -> None:
    with store_of(newest_database, tmp_path) as store:
        store.append("till-1", [Sold("toys", 1)])
        with running(store.pipeline()):
            caught_up(store)
        store.append("till-1", [Sold("toys", 2)])
        plan = plan_archive(store, now=LATER)
        assert (plan.events, plan.not_noted) == (1, 1)
        assert str(plan).splitlines()[-1] == "  1 stay until the store's pipeline has noted their commits"
        assert leave(store) == 1
        assert leave(store) == 0
        with running(store.pipeline()):
            caught_up(store)
            store.wait_for("journal", "till-1", 2, timeout=60)
        assert leave(store) == 1
        store.wait_for("journal", "till-1", 2, timeout=60)
        with newest_database.connect() as connection:
            connection.execute("UPDATE es.projections SET commit_lsn = '0/1'")
        for version in (1, 2):
            with pytest.raises(TimeoutError):
                store.wait_for("journal", "till-1", version, timeout=0.05)


def test_readers_and_writers_see_whole_streams_while_they_leave(newest_database: Database, tmp_path: Path) -> None:
    """Each writer expects the version it has seen and reads its stream back; a replay has streams without a hole."""
    with store_of(newest_database, tmp_path) as store:
        ended = threading.Event()

        def go_on(number: int) -> int:
            stream, version = f"till-{number}", 0
            for _ in range(25):
                version = store.append(stream, [Sold("toys", number)] * 3, expected=version)
                assert [one.sequence for one in store.read(stream)] == list(range(1, version + 1))
                assert len(store.read(stream, after=2, limit=4)) == min(4, version - 2)
            return version

        def replay() -> None:
            is_last = False
            while not is_last:
                is_last = ended.is_set()
                numbers: dict[str, int] = {}
                for events in store.replay(batch=7):
                    for one in events:
                        assert one.sequence == numbers.get(one.stream_id, 0) + 1
                        numbers[one.stream_id] = one.sequence

        with ThreadPoolExecutor(5) as threads:
            writing = [threads.submit(go_on, number) for number in range(3)]
            replaying = threads.submit(replay)
            try:
                while not all(one.done() for one in writing):
                    archive(store, now=LATER, segment_events=10)
                archive(store, now=LATER, segment_events=10)
            finally:
                ended.set()
            assert [one.result() for one in writing] == [75] * 3
            replaying.result()
        assert newest_database.execute("SELECT sum(events) FROM es.archive_segments") == [(225,)]


@pytest.mark.parametrize(("place", "taken", "left"), [("written", 1, 40), ("verified", 1, 40), ("recorded", 0, 20)])
def test_killed_archiver(newest_database: Database, tmp_path: Path, place: str, taken: int, left: int) -> None:
    killed_archiver(newest_database, tmp_path, place, taken, left)


def test_killed_archiver_that_has_deleted(database: Database, tmp_path: Path) -> None:
    """At the worst moment: the rows are gone, and the transaction is not committed."""
    killed_archiver(database, tmp_path, "deleted", 1, 40)


def killed_archiver(database: Database, tmp_path: Path, place: str, taken: int, left: int) -> None:
    folder = tmp_path / "archive"
    with store_of(database, folder) as store:
        for number in range(6):
            store.append(f"till-{number % 2}", [Sold("toys", number)] * 10)
        before: list[Any] = [one for events in store.replay() for one in events]
        arguments = (database.dsn, str(folder), place)
        program = Program("tests.eventstore.killed_archiver", tmp_path / "log", *arguments)
        assert program.end() == -signal.SIGKILL
        assert [one for events in store.replay() for one in events] == before
        assert store.read("till-0") == [one for one in before if one.stream_id == "till-0"]
        done = archive(store, now=LATER, segment_events=20)
        assert (done.done, done.taken) == (left, taken)
        assert [one for events in store.replay() for one in events] == before
        assert store.append("till-0", [Sold("toys", 1)], expected=30) == 31
        assert len(list((folder / "es").iterdir())) == 3
        assert database.execute("SELECT count(*), sum(events) FROM es.archive_segments") == [(3, 60)]
