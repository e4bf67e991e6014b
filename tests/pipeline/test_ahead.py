"""A sink's thread that waits for what comes: it writes what is only to be written, and everything else as ever.

Over 400 lines because who hands over may write in its place, and both are seen by the same stand.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from pgcdc import Batch, Pipeline, Position
from pgcdc.errors import SinkRejected, SinkUnavailable
from pgcdc.pipeline import Retry, StoredPosition
from pgcdc.pipeline.consumer import Consumer
from pgcdc.pipeline.items import Begin, Rows
from pgcdc.pipeline.queue import Lane
from pgcdc.pipeline.subscription import SinkSubscription
from pgcdc.pipeline.target_sink import SinkTarget
from tests.protocol import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pgcdc.pipeline.subscription import Around

RELATION = wire.relation(1, "t", [("id", 23)])


def transaction(commit_lsn: int, *numbers: int) -> Batch:
    """Some inserts."""
    inserts = [wire.insert(1, [str(number)]) for number in numbers]
    return Batch.of([RELATION, wire.begin(commit_lsn), *inserts, wire.commit(commit_lsn, commit_lsn + 8)]).select()


class Writes:
    """A sink that does not await anything; what is to be raised is raised before anything is written."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.attempts: list[list[int]] = []
        self.written: list[int] = []
        self.threads: set[str] = set()
        self.closed = False

    def open(self) -> None:
        """Nothing."""

    def write(self, batch: Batch) -> None:
        """Take it down."""
        numbers = [change.new.id for change in batch.changes()]  # type: ignore[union-attr]
        self.attempts.append(numbers)
        self.threads.add(threading.current_thread().name)
        if self.errors:
            raise self.errors.pop(0)
        self.written += numbers

    def close(self) -> None:
        """Take it down."""
        self.closed = True


class Stand:
    """A consumer that waits at its lane, without a source."""

    def __init__(
        self,
        sink: Writes,
        position: Position | None = None,
        through_lsn: int = 1,
        around: Around | None = None,
        max_rows: int | None = None,
    ) -> None:
        pipeline = Pipeline("shop", "", tables=["t"])
        pipeline.add(sink, name="sink", retry=Retry(first=0.001, longest=0.001), max_rows=max_rows)
        subscription = replace(pipeline._subscriptions["sink"], around=around)
        assert isinstance(subscription, SinkSubscription)
        self.target = SinkTarget(subscription)
        self.lane = Lane("sink", threading.Condition(), 100, 1 << 30, asyncio.get_running_loop(), lambda: None)
        self.consumer = Consumer(subscription, self.target, self.lane)
        stored = StoredPosition(
            consumer="sink",
            epoch=1,
            snapshot="done",
            position=position,
            through_lsn=through_lsn,
            slot="pgcdc_shop",
            system_identifier="1",
            timeline=1,
            fingerprint="",
        )
        assert self.lane.offer(Begin(stored, 5000, exact=True))
        self.task = asyncio.create_task(self.consumer.run())

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                if self.task.done():
                    await self.task
                await asyncio.sleep(0.001)

    async def waits(self) -> None:
        """Until the sink's thread waits at the lane."""
        await self.until(lambda: self.lane._looking)

    async def deliver(self, batch: Batch) -> None:
        """Hand a batch over to who waits for it, until it is done."""
        last = batch.last_position
        assert last is not None
        await self.waits()
        assert self.lane.offer(Rows(batch, last.commit_lsn + 8, batch.nbytes))
        await self.until(lambda: self.lane.through_lsn == last.commit_lsn + 8)

    async def end(self) -> None:
        self.lane.close()
        await self.task


async def test_what_comes_is_written_once_in_the_sinks_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[Any, str]] = []
    written = Consumer._written

    def noted(self: Consumer, batch: Batch) -> None:
        done.append((batch.last_position, threading.current_thread().name))
        written(self, batch)

    monkeypatch.setattr(Consumer, "_written", noted)
    sink = Writes()
    stand = Stand(sink)
    for number in range(1, 4):
        await stand.deliver(transaction(100 * number, number))
    assert stand.lane.position == Position(300, 0)
    assert stand.lane.delivered == 3
    await stand.end()
    assert sink.attempts == [[1], [2], [3]]
    assert len(sink.threads) == 1 and sink.closed
    # Of the first it is not known yet whether it is to be skipped.
    [thread] = sink.threads
    assert done == [((200, 0), thread), ((300, 0), thread)], "and the event loop has not heard of them"


async def test_what_is_awaited_of_a_write_is_awaited() -> None:
    """The function is no coroutine function; what it gives is to be awaited all the same."""
    sink = Writes()
    write, awaited = sink.write, list[list[int]]()

    def writes(batch: Batch) -> Any:
        async def on_the_loop() -> None:
            await asyncio.sleep(0)
            awaited.append(sink.attempts[-1])

        write(batch)
        return on_the_loop()

    sink.write = writes  # type: ignore[method-assign]
    stand = Stand(sink)
    for number in range(1, 4):
        await stand.deliver(transaction(100 * number, number))
        assert len(awaited) == number
    await stand.end()
    assert awaited == [[1], [2], [3]]


async def test_a_batch_of_several_writes_is_written_whole() -> None:
    sink = Writes()
    stand = Stand(sink, max_rows=2)
    await stand.deliver(transaction(100, 1))
    await stand.deliver(transaction(200, 2, 3, 4, 5, 6))
    await stand.deliver(transaction(300, 7, 8))
    await stand.end()
    assert sink.attempts == [[1], [2, 3], [4, 5], [6], [7, 8]]
    assert stand.lane.delivered == 8


async def test_a_batch_does_not_live_on_until_the_next_one() -> None:
    sink = Writes()
    stand = Stand(sink)
    held = [transaction(100 * number, number) for number in range(1, 4)]
    counts = [sys.getrefcount(batch) for batch in held]
    for batch in held:
        await stand.deliver(batch)
    del batch
    await stand.waits()
    assert [sys.getrefcount(batch) for batch in held] == counts
    await stand.end()


async def test_what_is_entered_around_a_write_is_entered_before_it() -> None:
    came: list[object] = []

    class Tells(Writes):
        def write(self, batch: Batch) -> None:
            super().write(batch)
            came.append(self.attempts[-1][0])

    @contextlib.contextmanager
    def around(consumer: str, batch: Batch) -> Iterator[None]:
        came.append("entered")
        yield
        came.append("left")

    stand = Stand(Tells(), around=around)
    for number in range(1, 4):
        batch = transaction(100 * number, number)
        assert stand.lane.offer(Rows(batch, 100 * number + 8, batch.nbytes))
        await stand.until(lambda reached=100 * number + 8: stand.lane.through_lsn == reached)  # type: ignore[misc]
    await stand.end()
    assert came == ["entered", 1, "left", "entered", 2, "left", "entered", 3, "left"]


async def test_an_attempt_that_has_failed_is_the_first_of_several() -> None:
    sink = Writes()
    stand = Stand(sink)
    await stand.deliver(transaction(100, 1))
    sink.errors = [SinkUnavailable("away"), SinkUnavailable("still")]
    await stand.deliver(transaction(200, 2, 3))
    assert sink.attempts == [[1], [2, 3], [2, 3], [2, 3]]
    assert stand.consumer.last_error == "still"
    await stand.deliver(transaction(300, 4))
    assert sink.written == [1, 2, 3, 4]
    assert stand.lane.delivered == 4
    await stand.end()


async def test_a_refusal_ends_the_run() -> None:
    sink = Writes()
    stand = Stand(sink)
    await stand.deliver(transaction(100, 1))
    sink.errors = [SinkRejected("never")]
    await stand.waits()
    batch = transaction(200, 2)
    stand.lane.offer(Rows(batch, 208, batch.nbytes))
    with pytest.raises(SinkRejected, match="never"):
        await stand.task
    assert sink.attempts == [[1], [2]] and sink.closed
    assert stand.lane.position == Position(100, 0)


async def test_what_is_known_is_not_written_again() -> None:
    sink = Writes()
    stand = Stand(sink, Position(200, 0), through_lsn=108)
    await stand.deliver(transaction(100, 1))
    await stand.deliver(transaction(200, 2, 3))
    await stand.deliver(transaction(300, 4))
    await stand.end()
    assert sink.written == [3, 4]


async def test_who_is_cancelled_while_it_waits_is_closed_at_once() -> None:
    sink = Writes()
    stand = Stand(sink)
    await stand.deliver(transaction(100, 1))
    await stand.waits()
    stand.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stand.task
    assert sink.closed
    assert not stand.lane._looking


class Sent:
    """A batch on its way to a sink that does not await anything."""

    def __init__(self, sink: Sends, batch: Batch) -> None:
        self._sink, self._batch = sink, batch

    def answered(self, seconds: float) -> bool:
        sink = self._sink
        sink.waits()
        if not sink.answers.pop(0):
            return False
        sink.take(self._batch, "sent")
        return True

    def finish(self) -> None:
        self._sink.write(self._batch)


class Sends(Writes):
    """A sink that can send, for each batch one of `answers`: whether it is answered in time; None: it is not sent."""

    def __init__(self, *answers: bool | None) -> None:
        super().__init__()
        self.answers = list(answers)
        self.ways: list[tuple[int, str, bool]] = []
        self.waits: Callable[[], None] = lambda: None

    def take(self, batch: Batch, way: str) -> None:
        [number] = [change.new.id for change in batch.changes()]  # type: ignore[union-attr]
        is_here = threading.current_thread() is threading.main_thread()
        self.ways.append((number, way, is_here))
        self.written.append(number)

    def write(self, batch: Batch) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.take(batch, "written")

    def send_ahead(self, batch: Batch) -> Sent | None:
        if self.answers and self.answers[0] is None:
            self.answers.pop(0)
            return None
        return Sent(self, batch)


def sends(sink: Sends) -> Stand:
    """A consumer whose small batches are sent by who hands them over: the event loop's thread here."""
    stand = Stand(sink)
    stand.consumer.be_sent_to()
    return stand


async def test_who_hands_over_sends_what_is_plain() -> None:
    sink = Sends(True, True, False, None, True)
    stand = sends(sink)
    for number in range(1, 7):
        await stand.deliver(transaction(100 * number, number))
    # Of the first it is not known yet whether it is to be skipped.
    assert sink.ways == [
        (1, "written", False),
        (2, "sent", True),
        (3, "sent", True),
        (4, "written", False),
        (5, "written", False),
        (6, "sent", True),
    ]
    assert stand.lane.position == Position(600, 0)
    assert (stand.lane.delivered, stand.lane.rows, stand.lane.bytes) == (6, 0, 0)
    await stand.end()


async def test_what_was_sent_and_failed_is_tried_again() -> None:
    sink = Sends(False, True)
    stand = sends(sink)
    await stand.deliver(transaction(100, 1))
    sink.errors = [SinkUnavailable("away"), SinkUnavailable("still")]
    await stand.deliver(transaction(200, 2))
    await stand.deliver(transaction(300, 3))
    assert sink.ways == [(1, "written", False), (2, "written", False), (3, "sent", True)]
    sink.answers, sink.errors = [False], [SinkRejected("never")]
    await stand.waits()
    batch = transaction(400, 4)
    assert stand.lane.offer(Rows(batch, 408, batch.nbytes))
    with pytest.raises(SinkRejected, match="never"):
        await stand.task
    assert stand.lane.position == Position(300, 0)


async def test_what_cannot_be_sent_is_the_consumers_failure() -> None:
    """Who hands over knows nothing of it: it is told as a failed write is, and tried again as one."""

    class Breaks(Sends):
        def write(self, batch: Batch) -> None:
            super().write(batch)

        def send_ahead(self, batch: Batch) -> Sent | None:
            if self.broken:
                raise self.broken.pop(0)
            return super().send_ahead(batch)

        broken: ClassVar[list[Exception]] = [SinkUnavailable("away"), SinkRejected("never")]

    sink = Breaks(True)
    stand = sends(sink)
    for number in range(1, 4):
        if number == 3:
            sink.answers = [True]
            Breaks.broken, after = [], Breaks.broken
        await stand.deliver(transaction(100 * number, number))
    assert stand.consumer.last_error == "away"
    assert sink.ways == [(1, "written", False), (2, "written", False), (3, "sent", True)]
    Breaks.broken = after
    await stand.waits()
    batch = transaction(400, 4)
    assert stand.lane.offer(Rows(batch, 408, batch.nbytes))
    with pytest.raises(SinkRejected, match="never"):
        await stand.task
    assert stand.lane.position == Position(300, 0)


async def test_what_comes_while_it_is_sent_is_seen_behind_it() -> None:
    """The thread that waits is not woken before, and the task does not go on."""
    sink = Sends(True, True, True, True)
    stand = sends(sink)
    await stand.deliver(transaction(100, 1))
    await stand.waits()
    for number, meanwhile in ((2, stand.lane.nudge), (3, stand.lane.hold)):
        sink.waits = meanwhile
        batch = transaction(100 * number, number)
        assert stand.lane.offer(Rows(batch, 100 * number + 8, batch.nbytes))
        assert stand.lane.through_lsn == 100 * number + 8
        sink.waits = lambda: None
        if number == 2:
            await stand.waits()
    await stand.until(lambda: stand.lane._waiting)
    assert not stand.lane._looking
    stand.lane.release()
    batch = transaction(400, 4)
    assert stand.lane.offer(Rows(batch, 408, batch.nbytes))
    await stand.waits()
    sink.waits = stand.lane.close
    batch = transaction(500, 5)
    assert stand.lane.offer(Rows(batch, 508, batch.nbytes))
    await stand.task
    assert sink.written == [1, 2, 3, 4, 5] and sink.closed
    assert [way for _, way, _ in sink.ways] == ["written", "sent", "sent", "written", "sent"]


async def test_who_is_cancelled_while_something_is_sent_is_closed_behind_it() -> None:
    sink = Sends(True)
    stand = sends(sink)
    await stand.deliver(transaction(100, 1))
    await stand.waits()
    sink.waits = stand.task.cancel  # type: ignore[assignment]
    batch = transaction(200, 2)
    assert stand.lane.offer(Rows(batch, 208, batch.nbytes))
    with pytest.raises(asyncio.CancelledError):
        await stand.task
    assert sink.written == [1, 2] and sink.closed


async def test_who_has_more_to_do_for_each_batch_is_not_sent_to() -> None:
    class More(Sends):
        def write(self, batch: Batch) -> None:
            super().write(batch)

    own = Sends()
    own.write = own.write  # type: ignore[method-assign]
    stands = [Stand(More()), Stand(own), Stand(Sends(), max_rows=2), Stand(Writes()), Stand(Sends())]
    assert [stand.target.sends for stand in stands] == [False, False, False, False, True]
    for stand in stands:
        await stand.end()
