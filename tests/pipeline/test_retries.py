"""What is tried again, how often, and when a target is left alone."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
import stamina

import pgcdc
from pgcdc import ConfigError, SinkError, SinkUnavailable
from pgcdc.pipeline.breaker import Breaker
from tests.pipeline.running import Running, running, until
from tests.pipeline.targets import Recorder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.conftest import Database

QUICK: dict[str, Any] = {"first": 0.001, "longest": 0.002}


@pytest.fixture
def empty(newest_database: Database) -> Database:
    newest_database.execute("CREATE TABLE orders (id bigint PRIMARY KEY, status text)")
    return newest_database


def handled(
    database: Database,
    fails: Mapping[int, Sequence[type[Exception]]],
    retry: pgcdc.Retry,
    rows: int = 5,
    **options: Any,
) -> tuple[pgcdc.Pipeline, list[int], list[int], BaseException | None]:
    """Runs a handler that raises what is written for a key, once for each; gives all attempts and what was handled."""
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    attempts: list[int] = []
    done: list[int] = []
    left = {key: list(fails.get(key, ())) for key in range(1, rows + 1)}

    @pipeline.on("orders", "insert", retry=retry, **options)
    async def handle(change: Any) -> None:
        attempts.append(change.new.id)
        if left[change.new.id]:
            raise left[change.new.id].pop(0)("a secret")
        done.append(change.new.id)

    run = Running(pipeline)
    run.streaming()
    database.execute(f"INSERT INTO orders SELECT g, 'x' FROM generate_series(1, {rows}) g")
    until(lambda: not run.alive or len(done) + len(pipeline.dead_letters.list()) == rows, "all")
    run.stop()
    letters = pipeline.dead_letters.list()
    pipeline.dead_letters.close()
    assert [one.position.index + 1 for one in letters] == sorted({*attempts} - {*done}) or run.error is not None
    return pipeline, attempts, done, run.error


def test_exceptions_of_ones_own_are_tried_again_by_class_and_counted_for_each_change(empty: Database) -> None:
    retry = pgcdc.Retry(attempts=3, on=(OSError,), **QUICK)
    fails: dict[int, list[type[Exception]]] = {
        1: [TimeoutError, TimeoutError],
        2: [ConnectionError, ConnectionError, ConnectionError],
        3: [OSError, SinkUnavailable],
        4: [ValueError],
        5: [TimeoutError],
    }
    _, attempts, done, error = handled(empty, fails, retry, on_failure="park")
    assert error is None
    assert attempts == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5, 5]
    assert done == [1, 3, 5]


def test_attempts_are_in_the_letter(empty: Database) -> None:
    pipeline, *_ = handled(
        empty, {2: 9 * [TimeoutError], 3: 9 * [KeyError]}, pgcdc.Retry(attempts=4, on=(OSError,), **QUICK),
        on_failure="park",
    )  # fmt: skip
    letters = pipeline.dead_letters.list()
    assert [(one.attempts, one.error_type) for one in letters] == [(4, "TimeoutError"), (1, "KeyError")]
    pipeline.dead_letters.close()


def test_attempts_are_no_lines_of_the_log_but_a_program_s_own_are(
    empty: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """They would have what was raised, and so values of rows."""
    _, attempts, _, _ = handled(empty, {2: 3 * [SinkUnavailable]}, pgcdc.Retry(**QUICK), rows=3)
    assert attempts == [1, 2, 2, 2, 2, 3]
    assert not [record for record in caplog.records if record.name == "stamina"]
    assert "available again" in caplog.text
    for attempt in stamina.retry_context(on=ValueError, wait_initial=0.001, wait_max=0.002, wait_jitter=0.001):
        with attempt:
            if attempt.num == 1:
                raise ValueError
    assert len([record for record in caplog.records if record.name == "stamina"]) == 1


def test_time_is_a_budget_too(empty: Database) -> None:
    retry = pgcdc.Retry(give_up=0.05, breaker_pause=0.001, **QUICK)
    _, attempts, done, error = handled(empty, {2: 100_000 * [SinkUnavailable]}, retry, on_failure="park", rows=3)
    assert done == [1, 3] and error is None and 2 in attempts


def test_when_attempts_are_spent_it_stops_where_that_is_what_was_said(empty: Database) -> None:
    _, attempts, done, error = handled(empty, {2: 9 * [SinkUnavailable]}, pgcdc.Retry(attempts=2, **QUICK))
    assert isinstance(error, SinkError) and error.table == "public.orders"
    assert attempts == [1, 2, 2] and done == [1]


def test_a_stop_waits_for_no_target_that_is_away(empty: Database, caplog: pytest.LogCaptureFixture) -> None:
    class Away(Recorder):
        calls = 0

        async def write(self, batch: pgcdc.Batch) -> None:  # type: ignore[override]
            Away.calls += 1
            raise SinkUnavailable("no")

    pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"])
    pipeline.add(Away(), name="away", retry=pgcdc.Retry(first=3600, longest=3600))
    run = Running(pipeline)
    run.streaming()
    empty.execute("INSERT INTO orders VALUES (1, 'x')")
    until(lambda: pipeline.statistics().consumers["away"].state == "retrying", "a pause")
    run.stop()
    assert run.error is None and Away.calls == 1
    assert "did not finish in time" not in caplog.text


def test_a_sink_s_batch_whose_attempts_are_spent_is_parked_whole(empty: Database) -> None:
    class Away(Recorder):
        def write(self, batch: pgcdc.Batch) -> None:
            if any(change.new.id < 3 for change in batch.changes()):  # type: ignore[union-attr]
                raise TimeoutError("a secret")
            super().write(batch)

    pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"])
    sink = Away()
    pipeline.add(sink, name="sink", retry=pgcdc.Retry(attempts=2, on=(TimeoutError,), **QUICK), on_failure="park")
    with running(pipeline) as run:
        run.streaming()
        empty.execute("INSERT INTO orders VALUES (1, 'x'), (2, 'x')")
        run.catch_up(empty)
        empty.execute("INSERT INTO orders VALUES (3, 'x')")
        run.catch_up(empty)
    assert [change.new.id for change in sink.changes] == [3]
    assert [(one.error_type, one.attempts) for one in pipeline.dead_letters.list()] == 2 * [("TimeoutError", 2)]
    pipeline.dead_letters.close()


def test_a_target_that_fails_often_is_left_alone(empty: Database, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each change of state, none for an attempt; and no attempt while it is open."""
    caplog.set_level(logging.INFO, "pgcdc.pipeline")
    pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"])

    class Away(Recorder):
        attempts = 0
        back = False

        def write(self, batch: pgcdc.Batch) -> None:
            self.attempts += 1
            if not self.back:
                raise SinkUnavailable("nobody answers")
            super().write(batch)

    sink = Away()
    retry = pgcdc.Retry(breaker_after=3, breaker_pause=0.2, **QUICK)
    pipeline.add(sink, name="sink", retry=retry)
    with running(pipeline) as run:
        run.streaming()
        empty.execute("INSERT INTO orders VALUES (1, 'x')")
        until(lambda: pipeline.statistics().consumers["sink"].breaker == "open", "open")
        statistics = pipeline.statistics().consumers["sink"]
        assert statistics.state == "retrying" and statistics.failures >= 3
        assert statistics.next_attempt_in is None or 0 <= statistics.next_attempt_in <= 0.2
        until(lambda: sink.attempts >= 5, "it is tried now and then")
        sink.back = True
        run.catch_up(empty)
        statistics = pipeline.statistics().consumers["sink"]
        assert (statistics.breaker, statistics.failures, statistics.state) == ("closed", 0, "running")
    lines = [record.message for record in caplog.records if record.name == "pgcdc.pipeline"]
    assert sum("not available" in line for line in lines) == 1
    assert sum("its breaker is open" in line for line in lines) == sink.attempts - 3
    assert sum("is half-open" in line for line in lines) == sink.attempts - 3
    assert sum("closed again" in line for line in lines) == 1


def test_a_target_that_takes_a_little_at_a_time_is_not_left_alone(
    empty: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """An attempt that has got further begins a new row of failures: a rate limit is none."""
    caplog.set_level(logging.INFO, "pgcdc.pipeline")
    pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"])
    known: list[int] = []
    attempts: list[bool] = []

    class Limited(Recorder):
        def write(self, batch: pgcdc.Batch) -> None:
            changes: list[Any] = list(batch.changes())
            left = [change.new.id for change in changes if change.new.id not in known]
            takes = len(attempts) % 2 == 0  # every other attempt
            attempts.append(takes)
            if takes:
                known.append(left.pop(0))
            if left:
                raise SinkUnavailable("that is enough for now", partly=takes)

    retry = pgcdc.Retry(attempts=3, breaker_after=3, breaker_pause=60, **QUICK)
    pipeline.add(Limited(), name="sink", retry=retry)
    with running(pipeline) as run:
        run.streaming()
        empty.execute("INSERT INTO orders SELECT g, 'x' FROM generate_series(1, 10) g")
        run.catch_up(empty)
        assert pipeline.statistics().consumers["sink"].breaker == "closed"
    assert known == list(range(1, 11)) and len(attempts) == 19
    assert not any("breaker" in record.message for record in caplog.records)


def test_a_breaker_counts_failures_in_a_row() -> None:
    async def play() -> None:
        breaker = Breaker("sink", pgcdc.Retry(breaker_after=2, breaker_pause=0.01))
        for _ in range(3):
            breaker.failed()
            assert breaker.state == "closed" and breaker.next_attempt_in is None
            breaker.answered()
        breaker.failed()
        breaker.failed()
        assert breaker.state == "open" and 0 <= (breaker.next_attempt_in or 0) <= 0.01
        await breaker.ready()
        assert str(breaker.state) == "half-open"
        breaker.failed()
        assert str(breaker.state) == "open"
        await breaker.ready()
        breaker.answered()
        assert str(breaker.state) == "closed" and breaker.failures == 0

    asyncio.run(play())


@pytest.mark.parametrize(
    "wrong",
    [{"attempts": 0}, {"attempts": 1.5}, {"give_up": 0}, {"first": -1}, {"longest": "1"}, {"breaker_after": 0},
     {"breaker_pause": 0}, {"on": OSError}, {"on": (BaseException,)}, {"on": ("OSError",)}],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"Retry\\({next(iter(wrong))}="):
        pgcdc.Retry(**wrong)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"retry": 3}, "is no pgcdc.Retry"),
        ({"on_failure": "skip"}, "on_failure='skip' of consumer 'sink' does not exist"),
        ({"max_dead_letters": 0}, "max_dead_letters of consumer 'sink'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(option: Any, says: str) -> None:
    pipeline = pgcdc.Pipeline("shop", "", tables=["orders"])
    with pytest.raises(ConfigError, match=says):
        pipeline.add(Recorder(), name="sink", **option)
