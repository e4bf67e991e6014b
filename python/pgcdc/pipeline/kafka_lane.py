"""One partition of one consumer: its queue, whose numbers are offsets, and its task, which stops at barriers."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

import msgspec

from pgcdc.lsn import Position
from pgcdc.pipeline.consumer import Consumer
from pgcdc.pipeline.items import Begin, Rows
from pgcdc.pipeline.kafka_records import Barrier, Mark
from pgcdc.pipeline.queue import Lane
from pgcdc.protocol import Batch

__all__ = ["Offsets", "PartitionConsumer", "PartitionLane"]


class PartitionLane(Lane):
    """The queue of one partition. What a lane calls `through_lsn` is here the offset of the next record to be done.

    Args:
        consumer: The consumer's name, with the partition.
        topic: The topic.
        partition: The partition's number.
        start: The offset of the record that it begins with.
        mark: What was stored with that.
        condition: Shared by all lanes of a run.
        max_rows: As for `Lane`, like all that follow.
        max_bytes: Likewise.
        loop: Likewise.

    Attributes:
        stored: The offset and the mark that the group has.
        begins: The offset of the first change that is to be delivered.
        place: Gives the offset up to which all is done when so many changes of what is being written are; 0: offsets do
            not tell that.
    """

    def __init__(
        self,
        consumer: str,
        topic: str,
        partition: int,
        start: int,
        mark: Mark,
        condition: threading.Condition,
        max_rows: int,
        max_bytes: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(consumer, condition, max_rows, max_bytes, loop, lambda: None)
        self.topic = topic
        self.partition = partition
        self.through_lsn = start
        self.stored: tuple[int, Mark] | None = None
        self.begins = start
        self.place: Callable[[int], int] = lambda _: 0
        self._mark = mark
        self._flight: deque[tuple[Batch, Sequence[int], int]] = deque()
        self._coming: deque[tuple[Batch, Sequence[int]]] = deque()

    def offer_rows(self, batch: Batch, offsets: Sequence[int], through: int, nbytes: int) -> bool:
        """Hand changes over, when there is room.

        Args:
            batch: The changes.
            offsets: That of each one's record.
            through: The offset of the first record behind them.
            nbytes: What they take.

        Returns:
            Whether they were taken.
        """
        with self._condition:
            if not self.offer(Rows(batch, through, nbytes)):
                return False
            self._flight.append((batch, offsets, through))
            self._coming.append((batch, offsets))
            return True

    def begin_at(self, offset: int, mark: Mark) -> None:
        """Begin further on: the target has more than the group knows of.

        Args:
            offset: That of the first record that is not done.
            mark: What belongs to it.
        """
        with self._condition:
            if offset > self.begins:
                self.begins = offset
                own = self._mark
                self._mark = msgspec.structs.replace(mark, partitions=own.partitions, epoch=own.epoch, topic=own.topic)

    def prove(self) -> None:
        """The target was asked, and where it begins is right."""
        with self._condition:
            self._mark = msgspec.structs.replace(self._mark, new=False)

    def end_at(self, offset: int) -> None:
        """Nothing is left, and there are no records up to an offset.

        Args:
            offset: The offset.
        """
        with self._condition:
            self.through_lsn = max(self.through_lsn, offset)
            self.begins = max(self.begins, offset)  # where its task has not begun yet

    def keep(self, offset: int) -> None:
        """The target has said that all is done up to an offset.

        Args:
            offset: The offset.
        """
        with self._condition:
            self._mark = msgspec.structs.replace(self._mark, kept=max(offset, self._mark.kept))

    @property
    def mark(self) -> Mark:
        """What belongs to what is done."""
        with self._condition:
            self._settle_flight()
            return self._mark

    def come_to(self, count: int) -> list[tuple[Batch, Sequence[int]]]:
        """The consumer comes to changes that were handed over.

        Args:
            count: How many.

        Returns:
            They, as they were handed over, with the offsets of their records: in each batch positions do not go back.
        """
        found: list[tuple[Batch, Sequence[int]]] = []
        with self._condition:
            while count > 0:
                found.append(self._coming.popleft())
                count -= len(found[-1][1])
        return found

    def reach(self, position: Position, delivered: int, behind: int = 0) -> None:
        """Record how far the item being worked on is, by the offsets of its records.

        Positions do not tell that: all rows of a copy have one, and a dead letter that was delivered again an old one.

        Args:
            position: As for `Lane`, like all that follow.
            delivered: Likewise.
            behind: Likewise.
        """
        with self._condition:
            super().reach(position, delivered)
            offset = self.place(behind) if behind else 0
            if offset > self.through_lsn:
                self.through_lsn = offset
                self._settle_flight()
                self._mark = self._mark.after(str(position))

    def done(self) -> None:
        """Record that what is worked on is done."""
        begins = isinstance(self._working, Begin)
        super().done()
        if begins:
            # What is stored there is of another place: an LSN, and a position of before.
            self.position, self.through_lsn = None, self.begins

    def stand(self, barrier: Barrier) -> None:
        """Everything before a barrier is done.

        Args:
            barrier: The barrier.
        """
        with self._condition:
            self._settle_flight()
            self.through_lsn = barrier.offset
            self._mark = msgspec.structs.replace(self._mark, at=barrier.id)

    def go_past(self, barrier: Barrier) -> None:
        """A barrier is done.

        Args:
            barrier: The barrier.
        """
        with self._condition:
            self._settle_flight()
            self.through_lsn = barrier.offset + 1
            self._mark = self._mark.after(barrier.position, barrier)

    def progress(self) -> tuple[int, Mark]:
        """How far it is: the offset of the first record that is not done, and what is to be stored with it."""
        with self._condition:
            self._settle_flight()
            return self.through_lsn, self._mark

    def _settle_flight(self) -> None:
        while self._flight and self._flight[0][2] <= self.through_lsn:
            batch, _, _ = self._flight.popleft()
            if batch.last_position is not None:
                self._mark = self._mark.after(str(batch.last_position))

    @property
    def letters_through(self) -> int:
        """Dead letters of what committed below this do not come again by themselves."""
        stored = self.stored
        if stored is None:
            return 0
        if stored == self.progress() and not self.rows:
            return 2**63 - 1
        return Position.parse(stored[1].position).commit_lsn if stored[1].position else 0


class Offsets:
    """Which record each change of what is delivered stands in.

    Args:
        lane: The partition.
    """

    def __init__(self, lane: PartitionLane) -> None:
        self._lane = lane
        self._barrier: Barrier | None = None
        # What was come to and is not passed on yet: the offset of each change, and the one behind them. And what is
        # passed on now.
        self._offsets: list[int] = []
        self._of_batch: list[int] = []
        self._numbers: Callable[[], Sequence[int]] = tuple

    def come_to(self, batch: Batch, skip: Position | None) -> Batch:
        """Leave out what is done already, of what comes next.

        Args:
            batch: What comes next.
            skip: Changes up to here were had from the slot.

        Returns:
            The rest.
        """
        self._barrier = None
        came, begins = self._lane.come_to(batch.changes_count), self._lane.begins
        offsets = [offset for _, those in came for offset in those]
        end = offsets[-1] + 1 if offsets else begins
        if offsets and offsets[0] < begins:
            wanted = [number for number, offset in enumerate(offsets) if offset >= begins]
            batch, offsets = batch.take(wanted), [offsets[number] for number in wanted]
        first = batch.first_position
        if skip is not None and first is not None and first <= skip:
            batch = batch.after(skip)
            # Old ones may stand between new ones, but not within what came together: the end of that is left.
            left = [those[len(those) - one.after(skip).changes_count :] for one, those in came]
            offsets = [offset for those in left for offset in those if offset >= begins]
        self._offsets = [*offsets, end]
        return batch

    def pass_on(self, batch: Batch, numbers: Callable[[], Sequence[int]]) -> None:
        """Some of what was come to is given to the target now.

        Args:
            batch: The next of it.
            numbers: Gives the numbers, among those of its changes, of what is being written: one part after the other,
                where there are dead letters.
        """
        count = batch.changes_count
        self._of_batch, self._numbers = self._offsets[: count + 1], numbers
        self._offsets = self._offsets[count:]

    def at(self, barrier: Barrier) -> None:
        """What comes next stands in a barrier.

        Args:
            barrier: The barrier.
        """
        self._barrier = barrier

    def of(self, number: int) -> int | None:
        """The offset of a change's record; None when it stands in a barrier.

        Args:
            number: The change's, in what is passed on now.
        """
        return None if self._barrier is not None else self._of_batch[number]

    def behind(self, done: int) -> int:
        """The offset up to which all is done when some changes are; 0 of what stands in a barrier.

        Args:
            done: How many, from the first on, of those whose numbers are given; of all where none are.
        """
        if self._barrier is not None:
            return 0
        numbers = self._numbers()
        if not numbers:
            return self._of_batch[done]
        # What lies between two of them is among the dead letters.
        return self._of_batch[numbers[done] if done < len(numbers) else numbers[-1] + 1]


class PartitionConsumer(Consumer):
    """The task of one partition.

    Attributes:
        learn: Called with each batch before it is delivered: learns tables that nothing is known of.
        offsets: Say which record each change stands in.
    """

    lane: PartitionLane
    has_target_alone: ClassVar = False
    learn: Callable[[Batch], Awaitable[None]] | None = None
    offsets: Offsets

    def follow(self, offsets: Offsets) -> None:
        """Tell apart by their records what positions do not tell apart.

        Args:
            offsets: Those of the partition.
        """
        self.offsets = offsets
        self.lane.place = offsets.behind
        if self.delivery.parking is not None:
            self.delivery.parking.place = offsets.of

    def _begin(self, item: Begin) -> None:
        super()._begin(item)
        # Who is past what came from the slot leaves nothing out any more: a dead letter of the sink that writes the
        # topic stands there with the position that it had.
        reached = self.lane.mark.position
        if self._skip is not None and reached and Position.parse(reached) > self._skip:
            self._skip = None

    async def deliver(self, batch: Batch, barrier: Barrier) -> None:
        """Deliver what stands in a barrier, as any other change.

        Args:
            batch: The change.
            barrier: The barrier.
        """
        self.offsets.at(barrier)
        await self._pass_through(batch)

    async def clear(self) -> None:
        """Deliver dead letters that were asked for, while nothing else goes on."""
        await self.delivery.again(2**63 - 1, self._read)

    @property
    def holds(self) -> bool:
        """Whether changes of some row wait behind a dead letter."""
        parking = self.delivery.parking
        return parking is not None and parking.holds and parking.held_keys > 0

    async def _deliver(self, batch: Batch) -> None:
        batch = self.offsets.come_to(batch, self._skip)
        if batch.changes_count:
            await self._pass_through(batch)

    async def _pass_through(self, batch: Batch) -> None:
        if self.learn is not None and batch.versions is None:
            await self.learn(batch)
        await super()._deliver(batch)

    async def _write(self, batch: Batch) -> None:
        self.offsets.pass_on(batch, lambda: self.delivery.numbers)
        await super()._write(batch)
