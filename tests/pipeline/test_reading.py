"""Reads that come thick and fast are joined, for as short a while as nobody notices."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from pgcdc import Batch
from pgcdc.errors import ConnectionLost
from pgcdc.pipeline import reading
from pgcdc.pipeline.items import CopyEnd, Rows
from pgcdc.pipeline.queue import Lane
from pgcdc.pipeline.reading import ENOUGH_ROWS, IDLE_SECONDS, LONGEST_SECONDS, MUCH_ROWS, SOME_ROWS, Early, Reading
from tests.protocol import wire


def transaction(number: int, size: int) -> Batch:
    lsn = 1000 * number
    inserts = [wire.insert(1, [str(one)]) for one in range(size)]
    return Batch.of([wire.begin(lsn), wire.relation(1, "orders", [("id", 23)]), *inserts, wire.commit(lsn, lsn + 8)])


class Reads:
    """Gives transactions of so many rows, each after half a millisecond; then nothing, or an error."""

    def __init__(self, sizes: Sequence[int], error: Exception | None = None) -> None:
        self.now = 0.0
        self.left = [transaction(number, size) for number, size in enumerate(sizes, 1)]
        self.shown: list[Batch] = []
        self._error = error

    def __call__(self, timeout: float, early: Early | None = None) -> Batch:
        if self.left:
            self.now += 0.0005
            if early is not None:
                early(self.left[0])
            return self.left.pop(0)
        if self._error is not None:
            raise self._error
        self.now += timeout
        return Batch.of([])

    def show(self, batch: Batch) -> bool:
        self.shown.append(batch)
        return True

    def read(self, idle: Callable[[], bool] = lambda: True) -> Batch:
        return Reading(idle, lambda: self.now).read(self, 0.2)


class Parts(Reads):
    """Gives transactions in parts, and knows whether one is open."""

    def __init__(self, *transactions: Sequence[int]) -> None:
        super().__init__([])
        self.open = False
        self.closing = []
        for number, sizes in enumerate(transactions, 1):
            whole = transaction(number, sum(sizes))
            at = 2  # behind Begin and Relation
            for size in sizes:
                part, whole = whole.split_at(at + size)
                self.left.append(part)
                self.closing.append(False)
                at = 0
            self.left[-1] = Batch.concat([self.left[-1], whole])
            self.closing[-1] = True

    def __call__(self, timeout: float, early: Early | None = None) -> Batch:
        if self.left:
            self.open = not self.closing.pop(0)
        return super().__call__(timeout)


def commits(batch: Batch) -> list[int]:
    positions = [change.position for change in batch.changes()]
    return sorted({position[0] // 1000 for position in positions if isinstance(position, tuple)})


def test_large_reads_are_joined_until_nothing_comes() -> None:
    reads = Reads([MUCH_ROWS, 5, MUCH_ROWS])
    whole = [event for batch in list(reads.left) for event in batch.events()]
    begun = reads.now
    batch = reads.read()
    assert batch.events() == whole
    assert batch.end_lsn == 3008
    assert reads.now - begun < 0.003  # three reads, and one that finds nothing: not the 0.2 s of the first


def test_a_small_read_is_handed_over_at_once() -> None:
    reads = Reads([MUCH_ROWS - 1, MUCH_ROWS])
    assert commits(reads.read()) == [1]
    assert reads.now == 0.0005
    assert commits(reads.read()) == [2]


def test_small_reads_are_joined_when_one_comes_right_behind_the_other_and_nobody_waits() -> None:
    reads = Reads([SOME_ROWS] * 60)
    idle = False
    joins = Reading(lambda: idle, lambda: reads.now)
    assert commits(joins.read(reads, 0.2)) == [1]
    assert commits(joins.read(reads, 0.2)) == list(range(2, 43))  # 20 ms later
    reads.now += 0.1
    assert commits(joins.read(reads, 0.2)) == [43], "what comes after a while does not wait for more"
    idle = True
    assert commits(joins.read(reads, 0.2)) == [44], "somebody waits for it"


def test_the_rest_of_a_small_transaction_is_read_with_it() -> None:
    reads = Parts([0, 1, 3], [2], [1, 40, 1])
    joins = Reading(lambda: True, lambda: reads.now)

    def read() -> tuple[list[int], int]:
        batch = joins.read(reads, 0.2, lambda: reads.open)
        return commits(batch), batch.changes_count

    assert read() == ([1], 4)
    assert reads.now == pytest.approx(0.0015)
    assert read() == ([2], 2)
    assert read() == ([3], 42)
    assert not len(joins.read(reads, 0.2, lambda: True))


def test_rows_that_come_one_by_one_do_not_wait_for_more() -> None:
    reads = Reads([SOME_ROWS - 1] * 20)
    joins = Reading(lambda: False, lambda: reads.now)
    for number in range(1, 21):
        assert commits(joins.read(reads, 0.2)) == [number]
        assert reads.now == pytest.approx(0.0005 * number)


def test_what_is_begun_with_is_handed_over_alone() -> None:
    """It waits for nothing, and what comes behind it is not shown before it was handed over."""
    reads = Reads([SOME_ROWS, SOME_ROWS, MUCH_ROWS, SOME_ROWS])
    joins = Reading(lambda: False, lambda: reads.now)
    begun = True

    def read() -> list[int]:
        return commits(joins.read(reads, 0.2, early=reads.show, begun=lambda: begun))

    assert [read(), read(), read()] == [[1], [2], [3]]
    begun = False
    assert read() == [4]
    assert [commits(batch) for batch in reads.shown] == [[1], [2], [3], [4]]
    reads = Reads([MUCH_ROWS, MUCH_ROWS])
    assert read() == [1, 2]
    assert [commits(batch) for batch in reads.shown] == [[1]], "only what a read begins with"


def test_nothing_is_waited_for_as_long_as_may_be() -> None:
    reads = Reads([])
    assert len(reads.read()) == 0
    assert reads.now == 0.2


def test_who_has_nothing_to_do_waits_a_short_time() -> None:
    reads = Reads([MUCH_ROWS] * 100)
    assert len(commits(reads.read())) == 1 + IDLE_SECONDS / 0.0005


def test_while_all_are_busy_more_is_read_at_once_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads([MUCH_ROWS] * 100)
    assert commits(reads.read(lambda: False)) == list(range(1, ENOUGH_ROWS // MUCH_ROWS + 2))
    monkeypatch.setattr(reading, "ENOUGH_ROWS", 1_000_000)
    begun = reads.now
    reads.read(lambda: False)
    assert reads.now - begun == pytest.approx(0.0005 + LONGEST_SECONDS)


def test_a_consumer_that_becomes_idle_is_noticed() -> None:
    reads = Reads([MUCH_ROWS] * 100)
    assert len(commits(reads.read(lambda: reads.now > 0.00425))) == 9


def test_batches_stay_small_enough_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads([MUCH_ROWS] * 10)
    monkeypatch.setattr(reading, "ENOUGH_BYTES", 2 * reads.left[0].nbytes)
    assert commits(reads.read(lambda: False)) == [1, 2]


def test_an_error_is_raised_and_nothing_before_it_is_handed_over() -> None:
    with pytest.raises(ConnectionLost):
        Reads([MUCH_ROWS, MUCH_ROWS], ConnectionLost("the server is gone")).read()


def test_two_joined_reads_are_more_than_a_lane_joins() -> None:
    """So lanes that are behind give their consumers the same batches, whose rows are made once."""

    async def taken() -> list[list[object]]:
        loop, condition = asyncio.get_running_loop(), threading.Condition()
        lanes = [Lane(name, condition, 10_000, 1 << 30, loop, lambda: None) for name in ("one", "two")]
        reads = Reads([MUCH_ROWS] * 48)
        while reads.left:
            batch = reads.read(lambda: False)
            for lane in lanes:
                assert lane.offer(Rows(batch, 1, batch.nbytes))
        found = []
        for lane in lanes:
            changes: list[object] = []
            lane.close()
            while isinstance(rows := await lane.take(), Rows):
                changes += rows.batch.changes()
                lane.done()
            found.append(changes)
        return found

    one, two = asyncio.run(taken())
    assert len(one) == 48 * MUCH_ROWS
    assert all(first is second for first, second in zip(one, two, strict=True))


def test_a_lane_is_idle_while_its_consumer_waits() -> None:
    async def states() -> list[bool]:
        lane = Lane("one", threading.Condition(), 100, 1 << 20, asyncio.get_running_loop(), lambda: None)
        found = [lane.idle]
        lane.offer(CopyEnd())
        found.append(lane.idle)
        await lane.take()
        found.append(lane.idle)
        lane.done()
        return [*found, lane.idle]

    assert asyncio.run(states()) == [True, False, False, True]
