"""How late a consumer is: of made commits with a clock of the test's own, and of a real pipeline."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc.pipeline import lateness
from pgcdc.pipeline.lateness import Lateness
from pgcdc.testing import Capture, FaultySink, insert, message, transaction, truncate
from tests.pipeline.running import Running, confirmed, running, until
from tests.pipeline.shop import ORDERS, shop

if TYPE_CHECKING:
    from tests.conftest import Database

NOTHING = pgcdc.Batch.of([])


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Made:
    """Transactions of one change each, and when each committed."""

    def __init__(self, count: int) -> None:
        capture = Capture.of([transaction(insert("orders", {"id": number})) for number in range(count)])
        whole = pgcdc.Batch.of([raw for _, raw in capture.messages], [lsn for lsn, _ in capture.messages])
        changes: list[Any] = list(whole.changes())
        self.lsns: list[int] = [change.commit_lsn for change in changes]
        self.times: list[float] = [change.commit_time.timestamp() for change in changes]
        self.batches = [whole.take([number]) for number in range(count)]
        self.whole = whole


def test_nothing_is_known_before_the_server_was_heard_of() -> None:
    late = Lateness(lambda: 0, Clock())
    assert late.seconds(0) is None
    late.note(NOTHING)
    assert late.seconds(0) == 0.0


def test_the_oldest_commit_that_is_not_durable_counts() -> None:
    made, clock = Made(3), Clock()
    late = Lateness(lambda: 0, clock)
    for number, batch in enumerate(made.batches):
        clock.now = made.times[number] + 0.25
        late.note(batch)
    clock.now = made.times[2] + 100
    assert late.seconds(0) == pytest.approx(clock.now - made.times[0])
    assert late.seconds(made.lsns[0] + 1) == pytest.approx(clock.now - made.times[1])
    assert late.seconds(made.lsns[1]) == pytest.approx(clock.now - made.times[1]), "it is not done, only reached"
    assert late.seconds(made.lsns[1] + 1) == pytest.approx(100)
    assert late.seconds(made.lsns[2] + 1) == pytest.approx(100), "nobody has said yet that there is no more"
    late.note(NOTHING)
    assert late.seconds(made.lsns[2] + 1) == 0.0, "the server had nothing to send"
    assert late.seconds(made.lsns[2]) == pytest.approx(100)


def test_without_a_connection_what_may_have_happened_since_counts() -> None:
    clock = Clock(1000.0)
    late = Lateness(lambda: 0, clock)
    late.note(NOTHING)
    clock.now += 70
    assert late.seconds(5) == 0.0
    assert late.seconds(5, connected=False) == 70.0


def test_a_clock_that_is_behind_makes_nobody_early() -> None:
    made = Made(1)
    late = Lateness(lambda: 0, Clock(made.times[0] - 5))
    late.note(made.batches[0])
    assert late.seconds(0) == 0.0


def test_what_was_not_marked_is_as_old_as_the_mark_before_it() -> None:
    made, clock = Made(3), Clock()
    late = Lateness(lambda: 0, clock)
    clock.now = made.times[2]
    for batch in made.batches:
        late.note(batch)  # all within a moment: only the first is marked
    assert late.seconds(made.lsns[1] + 1) == pytest.approx(made.times[2] - made.times[0])


def test_a_batch_of_several_transactions_is_as_old_as_its_first() -> None:
    made, clock = Made(3), Clock()
    late = Lateness(lambda: 0, clock)
    clock.now = made.times[2]
    late.note(made.whole)
    assert late.seconds(0) == pytest.approx(made.times[2] - made.times[0])


def test_marks_are_bounded_and_nothing_gets_younger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lateness, "MOST_MARKS", 8)
    made, clock, done = Made(200), Clock(), 0
    late = Lateness(lambda: done, clock)
    for number, batch in enumerate(made.batches):
        clock.now = made.times[number]
        late.note(batch)
        assert len(late._marks) <= 8
        for back in (0, number // 2, number):
            seconds = late.seconds(made.lsns[back])
            assert seconds is not None and seconds >= clock.now - made.times[back] - 1e-6
    assert late.seconds(0) == pytest.approx(clock.now - made.times[0])
    done = made.lsns[-1]
    clock.now += 1
    late.note(Made(201).batches[200])
    assert len(late._marks) <= 3, "what is durable everywhere is forgotten"


@pytest.mark.parametrize("change", [truncate("orders"), message("audit", "text")])
def test_changes_without_rows_have_a_time_too(change: object) -> None:
    capture = Capture.of([insert("orders", {"id": 1}), transaction(change)])  # type: ignore[arg-type]
    batch = pgcdc.Batch.of([raw for _, raw in capture.messages], [lsn for lsn, _ in capture.messages]).take([1])
    when = batch.changes()[0].commit_time.timestamp()  # type: ignore[union-attr]
    clock = Clock(when + 3)
    late = Lateness(lambda: 0, clock)
    late.note(batch)
    assert late.seconds(0) == pytest.approx(3)


def test_a_real_consumer_is_late_while_its_target_hangs(database: Database) -> None:
    database.execute(ORDERS)
    gate = threading.Event()
    gate.set()
    sink = FaultySink(gate=gate)
    pipeline = shop(database, sink)

    def lag() -> float | None:
        return pipeline.statistics().consumers["sink"].lag_seconds

    assert pipeline.statistics().consumers == {}
    with running(pipeline) as run:
        run.streaming()
        until(lambda: lag() == 0.0, "nothing to do, nothing late")
        gate.clear()
        sink.waiting.clear()
        database.execute("INSERT INTO orders VALUES (1, 'new')")
        assert sink.waiting.wait(30)
        until(lambda: (lag() or 0.0) > 0.5, "it is as old as the commit")
        gate.set()
        until(lambda: lag() == 0.0, "it has all")
        statistics = pipeline.statistics()
        assert statistics.loop_ago is not None and statistics.stored_ago is not None
        assert statistics.source.moved_ago is not None and statistics.source.kind == "slot"
    ended = pipeline.statistics()
    assert (ended.loop_ago, ended.stored_ago, ended.source.moved_ago) == (None, None, None)


def test_a_consumer_is_late_while_the_server_is_away(newest_database: Database) -> None:
    database = newest_database
    database.execute(ORDERS)
    pipeline = shop(database)
    run = Running(pipeline)
    try:
        run.streaming()
        until(lambda: pipeline.statistics().consumers["sink"].lag_seconds == 0.0, "nothing late")
        assert confirmed(database) > 0
        database.server.stop()
        until(lambda: pipeline.statistics().source.phase == "reconnecting", "it has noticed")
        until(lambda: (pipeline.statistics().consumers["sink"].lag_seconds or 0.0) > 0.5, "nobody knows what is new")
        database.server.start()
        until(lambda: pipeline.statistics().consumers["sink"].lag_seconds == 0.0, "it is back, and nothing was new")
    finally:
        database.server.start()
        run.stop()
    assert run.error is None


def test_what_is_said_outside_of_transactions_and_what_cannot_be_read_end_nothing() -> None:
    """Neither has a time of commit; whoever gets it deals with it."""
    late = Lateness(lambda: 0, Clock())
    said = Capture.of([message("note", "x", transactional=False)])
    late.note(pgcdc.Batch.of([raw for _, raw in said.messages], [lsn for lsn, _ in said.messages]))
    assert late.seconds(0) == 0.0
    whole = Capture.of([transaction(insert("orders", {"id": 7}))])
    cut = [raw[:-2] if raw[:1] == b"I" else raw for _, raw in whole.messages]
    late.note(pgcdc.Batch.of(cut, [lsn for lsn, _ in whole.messages]))
    assert late.seconds(0) is not None
