"""The lane between the source and one consumer: what waits is taken together, and nothing is done too early."""

from __future__ import annotations

import asyncio
import threading

from pgcdc import Batch
from pgcdc.pipeline.items import CopyBegin, CopyEnd, Expected, Item, Nudge, Rows, TableEnd
from pgcdc.pipeline.queue import MERGED_ROWS, Lane
from tests.protocol import wire

TABLE = wire.relation(1, "t", [("id", 23)])


def rows(commit_lsn: int, count: int = 1) -> Rows:
    """A transaction of some inserts, done at the end of its commit."""
    inserts = [wire.insert(1, [str(number)]) for number in range(count)]
    batch = Batch.of([TABLE, wire.begin(commit_lsn), *inserts, wire.commit(commit_lsn, commit_lsn + 8)])
    return Rows(batch.select(), commit_lsn + 8, batch.nbytes)


def lane(max_rows: int = 100_000) -> Lane:
    """An empty lane on the running loop."""
    return Lane("c", threading.Condition(), max_rows, 1 << 30, asyncio.get_running_loop(), lambda: None)


async def taken(lane: Lane) -> Item:
    """The next item, which must not be the end."""
    item = await lane.take()
    assert item is not None
    return item


async def test_batches_that_wait_are_taken_together_in_order() -> None:
    """And are in flight, in rows and in bytes, until all of them are durable."""
    queue = lane()
    for number in range(1, 4):
        assert queue.offer(rows(100 * number))
    waiting = (queue.rows, queue.bytes)
    item = await taken(queue)
    assert isinstance(item, Rows)
    assert [change.position for change in item.batch.changes()] == [(100, 0), (200, 0), (300, 0)]
    assert (queue.rows, queue.bytes) == waiting
    assert queue.through_lsn == 0
    queue.done()
    assert (queue.rows, queue.bytes, queue.through_lsn) == (0, 0, 308)


async def test_what_is_taken_together_has_a_limit() -> None:
    """A long queue becomes several large writes, and a batch above the limit is taken alone."""
    queue = lane()
    for number, count in enumerate((MERGED_ROWS - 1, 1, 1, MERGED_ROWS + 5, 1), start=1):
        assert queue.offer(rows(100 * number, count))
    sizes = []
    for _ in range(4):
        item = await taken(queue)
        assert isinstance(item, Rows)
        sizes.append(item.batch.changes_count)
        queue.done()
    assert sizes == [MERGED_ROWS, 1, MERGED_ROWS + 5, 1]
    assert queue.through_lsn == 508


async def test_marks_are_not_jumped_over() -> None:
    """Rows of the copy and rows of the stream are not put together across the mark between them."""
    queue = lane()
    for item in (rows(100), CopyEnd(), rows(200)):
        assert queue.offer(item)
    kinds = []
    for _ in range(3):
        kinds.append(type(await taken(queue)).__name__)
        queue.done()
    assert kinds == ["Rows", "CopyEnd", "Rows"]


async def test_wal_without_rows_is_done_only_after_the_rows_before_it() -> None:
    """`advance` while rows wait, or are worked on, moves with them and not ahead of them."""
    queue = lane()
    assert queue.offer(rows(100))
    assert queue.offer(rows(200))
    queue.advance(500)
    await taken(queue)
    queue.advance(900)
    assert queue.through_lsn == 0
    queue.done()
    assert queue.through_lsn == 900
    queue.advance(1000)
    assert queue.through_lsn == 1000


async def test_no_room_is_no() -> None:
    """A lane that is full takes nothing until something is durable; a batch above the limit passes alone."""
    queue = lane(max_rows=2)
    assert queue.offer(rows(100, 5))
    assert not queue.offer(rows(200))
    await taken(queue)
    assert not queue.offer(rows(200))
    queue.done()
    assert queue.offer(rows(200))


async def test_a_copy_is_over_when_it_was_taken_and_not_before() -> None:
    """Also the second one of a lane, before anything of it was taken: the first one's end is not its own."""
    queue = lane()
    for lsn in (500, 900):
        for item in (CopyBegin([], lsn, again=False), TableEnd(lsn, lsn), CopyEnd()):
            assert queue.offer(item)
            assert not queue.copied
        for _ in range(3):
            assert not queue.copied
            await taken(queue)
            queue.done()
        assert queue.copied
        assert queue.tables[lsn] == lsn
        assert queue.through_lsn == lsn, "who has a table's rows has all that committed before them"


async def in_a_thread(queue: Lane) -> Expected | None:
    return await asyncio.to_thread(queue.expect)


async def looked_for(queue: Lane) -> asyncio.Task[Expected | None]:
    """Somebody waits in a thread."""
    task = asyncio.create_task(in_a_thread(queue))
    while not queue._looking:  # noqa: ASYNC110 (a thread does it)
        await asyncio.sleep(0)
    return task


async def test_what_is_expected_in_a_thread_is_what_is_taken_next() -> None:
    queue = lane()
    waits = await looked_for(queue)
    idle = [queue.idle]
    assert queue.offer(rows(100))
    expected = await waits
    assert [*idle, queue.idle] == [True, False]
    item = await taken(queue)
    assert expected is not None and expected.sending is None
    assert isinstance(item, Rows) and item.batch is expected.batch
    queue.done()
    for number in (2, 3):
        assert queue.offer(rows(100 * number))
    both = await in_a_thread(queue)
    assert both is not None and both.batch.changes_count == 2
    item = await taken(queue)
    assert isinstance(item, Rows) and item.batch is both.batch
    queue.done()
    assert (queue.rows, queue.bytes, queue.through_lsn) == (0, 0, 308)


async def test_nothing_is_expected_but_rows() -> None:
    """Whatever else comes ends the wait, and is taken as ever."""
    queue = lane()
    for item in (CopyBegin([], 5, again=False), CopyEnd()):
        waits = await looked_for(queue)
        queue.offer(item)
        assert await waits is None
        assert await taken(queue) is item
        queue.done()
    waits = await looked_for(queue)
    queue.nudge()
    assert await waits is None
    assert isinstance(await taken(queue), Nudge)
    waits = await looked_for(queue)
    queue.hold()
    assert await waits is None
    queue.offer(rows(100))
    assert await in_a_thread(queue) is None
    queue.release()
    assert await in_a_thread(queue) is not None
    await taken(queue)
    queue.done()
    waits = await looked_for(queue)
    queue.close()
    assert await waits is None
    assert await queue.take() is None


async def test_who_is_cancelled_expects_nothing_more() -> None:
    queue = lane()
    waits = await looked_for(queue)
    queue.expect_nothing()
    assert await waits is None
    queue.offer(rows(100))
    assert await in_a_thread(queue) is None
    assert isinstance(await taken(queue), Rows)
