"""Larger writes for those who ask: transactions whole however they come, and what comes within a time."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, ClassVar

import pytest

from pgcdc import Batch, ConfigError, Pipeline
from pgcdc.pipeline.consumer import Consumer
from pgcdc.pipeline.items import Begin, Rows
from pgcdc.pipeline.positions import StoredPosition
from pgcdc.pipeline.queue import Lane
from pgcdc.pipeline.target_sink import SinkTarget
from tests.pipeline.targets import AsyncRecorder
from tests.protocol import wire

RELATION = wire.relation(1, "t", [("id", 23)])


def transaction(commit_lsn: int, count: int) -> Batch:
    """So many inserts."""
    inserts = [wire.insert(1, [str(number)]) for number in range(count)]
    return Batch.of([RELATION, wire.begin(commit_lsn), *inserts, wire.commit(commit_lsn, commit_lsn + 8)]).select()


class Stand:
    """A consumer and its lane, without a source."""

    def __init__(self, room: int = 10, **options: Any) -> None:
        self.sink = AsyncRecorder()
        pipeline = Pipeline("shop", "", tables=["t"])
        pipeline.add(self.sink, name="sink", **options)
        subscription = pipeline._subscriptions["sink"]
        self.lane = Lane("sink", threading.Condition(), room, 1 << 30, asyncio.get_running_loop(), lambda: None)
        stored = StoredPosition(
            consumer="sink",
            epoch=1,
            snapshot="done",
            position=None,
            through_lsn=1,
            slot="pgcdc_shop",
            system_identifier="1",
            timeline=1,
            fingerprint="",
        )
        assert self.lane.offer(Begin(stored, 5000, exact=True))
        self.task = asyncio.create_task(Consumer(subscription, SinkTarget(subscription), self.lane).run())  # type: ignore[arg-type]

    async def offer(self, batch: Batch, through_lsn: int) -> None:
        """Hands a batch over, when there is room."""
        while not self.lane.offer(Rows(batch, through_lsn, batch.nbytes)):
            assert not self.task.done()
            await asyncio.sleep(0)

    async def settle(self) -> None:
        """Until the consumer waits for its lane."""
        while not (self.lane._waiting and not self.lane._arrived.is_set()):
            assert not self.task.done()
            await asyncio.sleep(0)

    def written(self) -> list[list[tuple[int, int]]]:
        return [[change.position for change in batch.changes()] for batch in self.sink.batches]  # type: ignore[misc]

    async def end(self) -> None:
        self.lane.close()
        await self.task


async def test_no_write_ends_within_a_transaction_however_it_comes() -> None:
    """More of it than has room comes all the same; what is whole does not wait for it."""
    stand = Stand(transactions=True)
    large = transaction(200, 35)
    pieces = large.pieces(7)
    await stand.offer(Batch.concat([transaction(100, 2), pieces[0]]), 108)
    await stand.settle()
    assert stand.written() == [[(100, 0), (100, 1)]]
    assert stand.lane.through_lsn == 1
    for piece in pieces[1:]:
        await stand.offer(piece, 108)
    await stand.settle()
    assert len(stand.written()) == 1
    stand.lane.advance(208)
    await stand.settle()
    assert stand.written()[1] == [(200, number) for number in range(35)]
    assert (stand.lane.through_lsn, stand.lane.rows, stand.lane.bytes) == (208, 0, 0)
    await stand.offer(Batch.concat([transaction(300, 2), transaction(400, 3).pieces(2)[0]]), 308)
    await stand.offer(Batch.concat([transaction(400, 3).pieces(2)[1], transaction(500, 1)]), 508)
    await stand.settle()
    assert [place for write in stand.written()[2:] for place in write] == [
        (300, 0),
        (300, 1),
        (400, 0),
        (400, 1),
        (400, 2),
        (500, 0),
    ]
    assert not any(len({lsn for lsn, _ in write} & {400}) and (400, 2) not in write for write in stand.written()[2:])
    await stand.end()
    assert stand.lane.through_lsn == 508


async def test_a_stop_within_a_transaction_delivers_nothing_of_it() -> None:
    """It comes again."""
    stand = Stand(transactions=True)
    await stand.offer(transaction(200, 5).pieces(3)[0], 108)
    await stand.settle()
    await stand.end()
    assert stand.written() == []
    assert stand.lane.through_lsn == 1


async def test_a_transaction_that_is_too_large_is_refused() -> None:
    stand = Stand(transactions=6)
    for piece in transaction(200, 7).pieces(3):
        await stand.offer(piece, 108)
    with pytest.raises(ConfigError, match="whole transactions of 6 changes and 64 MiB at most") as caught:
        await stand.task
    assert caught.value.lsn == 200
    assert stand.written() == []


async def test_more_rows_are_waited_for() -> None:
    """Up to as many as are wanted; the time is long enough for the test to fail if it were waited for."""
    stand = Stand(max_wait=3600, max_rows=4)
    for number in range(1, 10):
        await stand.offer(transaction(100 * number, 1), 100 * number + 8)
        await stand.settle()
        assert len(stand.written()) == number // 4
    assert [len(write) for write in stand.written()] == [4, 4]
    await stand.end()
    assert [len(write) for write in stand.written()] == [4, 4, 1]


async def test_more_is_gathered_than_has_room() -> None:
    """A lane that is full while its consumer waits for more would wait until the time is over."""
    stand = Stand(room=2, max_wait=3600, max_rows=8)
    for number in range(1, 9):
        await stand.offer(transaction(100 * number, 1), 100 * number + 8)
    await stand.settle()
    assert [len(write) for write in stand.written()] == [8]
    await stand.end()


async def test_gathering_ends_at_so_many_bytes() -> None:
    size = transaction(100, 1).nbytes
    stand = Stand(max_wait=3600, max_rows=1000, max_bytes=3 * size)
    for number in range(1, 7):
        await stand.offer(transaction(100 * number, 1), 100 * number + 8)
        await stand.settle()
    assert [len(write) for write in stand.written()] == [3, 3]
    await stand.end()


async def test_a_sink_may_say_what_it_takes_at_once() -> None:
    """Where the caller says nothing."""

    class Gathers(AsyncRecorder):
        defaults: ClassVar = {"max_rows": 7, "max_wait": 3}

    pipeline = Pipeline("shop", "", tables=["t"])
    pipeline.add(Gathers(), name="own")
    pipeline.add(Gathers(), name="said", max_wait=0)
    own, said = (pipeline._subscriptions[name].options for name in ("own", "said"))
    assert (own.max_rows, own.max_wait) == (7, 3)
    assert (said.max_rows, said.max_wait) == (7, 0)


async def test_the_time_is_over_at_some_time() -> None:
    stand = Stand(max_wait=0.01, max_rows=4)
    await stand.offer(transaction(100, 1), 108)
    written = asyncio.Event()
    write = stand.sink.write

    async def write_and_tell(batch: Batch) -> None:
        await write(batch)
        written.set()

    stand.sink.write = write_and_tell  # type: ignore[method-assign]
    async with asyncio.timeout(30):
        await written.wait()
    await stand.end()


def test_what_cannot_be_meant_is_refused() -> None:
    pipeline = Pipeline("shop", "", tables=["t"])
    with pytest.raises(ConfigError, match="transactions whole and in parts at once"):
        pipeline.add(AsyncRecorder(), transactions=True, concurrency=2)
    with pytest.raises(ConfigError, match="transactions= is for sinks"):
        pipeline.on("t", transactions=True)(lambda change: None)
    meant: list[dict[str, Any]] = [
        {"max_rows": 0},
        {"max_wait": -1},
        {"where": 5},
        {"columns": {"u": ["id"]}},
        {"columns": []},
        {"key": ["id"]},
        {"concurrency": 1000},
        {"transform": 5},
    ]
    for options in meant:
        with pytest.raises(ConfigError):
            pipeline.add(AsyncRecorder(), **options)
