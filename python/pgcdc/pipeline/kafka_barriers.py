"""Barriers: what concerns all partitions of a topic is done once, when all of them have done everything before it.

A TRUNCATE, an update that changes a key, and a table's new shape stand in every partition. Each partition that comes to
one stores "I stand before it" with its group's offset; when all have, the one with the lowest number does it and stores
that, and then the others go on. What is stored is durable before anybody acts on it, so any process may die at any
moment: whoever gets its partitions finds the barrier as the next record.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from pgcdc.errors import PositionError, SchemaError
from pgcdc.events import Relation
from pgcdc.pipeline.kafka_lane import PartitionConsumer, PartitionLane
from pgcdc.pipeline.kafka_records import Barrier, Mark
from pgcdc.pipeline.kafka_reshaping import PartitionReshaping
from pgcdc.pipeline.subscription import Subscription, Table
from pgcdc.pipeline.target import GaveUp
from pgcdc.protocol import Batch
from pgcdc.schema import SchemaChange

__all__ = ["Barriers", "Marks"]

logger = logging.getLogger("pgcdc.pipeline")

LOOK_FIRST = 0.01
"""Seconds before the second look at how far partitions are that other processes have; the pauses double."""
LOOK_EVERY = 0.2
"""Seconds between two looks, at most."""
SAY_AFTER = 30.0
"""Seconds after which it is said that a partition is waited for."""


class Marks(Protocol):
    """What is stored of a consumer's partitions."""

    async def commit(self, lane: PartitionLane) -> bool:
        """Store how far a partition is; whether it was stored."""

    async def marks(self, topic: str, count: int, *, again: bool) -> Mapping[int, Mark]:
        """What is stored of the partitions of a topic; asks the broker where that is needed, or `again`."""

    async def told(self, topic: str, count: int) -> Mapping[int, Mark] | None:
        """The same, asked again; None when the broker does not say it now."""

    async def changed(self, seconds: float) -> None:
        """Wait until something was stored by this process, or the time is over."""


class Barriers:
    """The barriers that one partition of a consumer comes to.

    Args:
        subscription: The consumer.
        table: The table of the topic.
        lane: The partition.
        consumer: Its task.
        reshaping: What it does where the table changes shape.
        marks: What is stored.
        learn: Looks up what a new shape may need: types that were made since.
        topic: Says which topic a table has.
    """

    def __init__(
        self,
        subscription: Subscription,
        table: Table | None,
        lane: PartitionLane,
        consumer: PartitionConsumer,
        reshaping: PartitionReshaping,
        marks: Marks,
        learn: Callable[[Relation], Awaitable[None]],
        topic: Callable[[Table], str],
    ) -> None:
        self._subscription = subscription
        self._table = table
        self._lane = lane
        self._consumer = consumer
        self._reshaping = reshaping
        self._marks = marks
        self._learn = learn
        self._topic = topic

    def concerns(self, barrier: Barrier) -> bool:
        """Whether the consumer has anything to do with it.

        Args:
            barrier: The barrier.
        """
        if barrier.kind == "schema":
            return True
        return self._subscription.takes("truncate" if barrier.kind == "truncate" else "update")

    async def keep(self, barrier: Barrier) -> None:
        """Meet the other partitions.

        Args:
            barrier: The barrier.

        Raises:
            GaveUp: When it is to end.
            Error: When what is to be done there fails.
        """
        lane = self._lane
        if barrier.offset < lane.begins:
            return  # its target has kept that it is done
        if not self.concerns(barrier) or lane.progress()[1].has_passed(barrier):
            lane.go_past(barrier)
            return
        await self._clear("comes to")
        lane.stand(barrier)
        await self._store()
        everybody = range(barrier.partitions)
        if lane.partition == 0:
            marks = await self._wait(barrier, everybody, Mark.has_reached)
            # Nobody goes past it before this one has: when somebody has, it was done, and this one was set back since.
            if not any(mark.has_passed(barrier) for number, mark in marks.items() if number):
                await self._do(barrier)
                await self._clear("stands at")
        else:
            await self._wait(barrier, [0], Mark.has_passed)
            if barrier.change is not None:
                await self._learn(barrier.change.new)
                await self._reshaping.settle(barrier.change, self._consumer.delivery.keep_trying)
                if not self._is_handler():
                    await self._reshaping.tell_too(barrier.change, self._consumer.delivery.keep_trying)
        lane.go_past(barrier)
        if lane.partition == 0:
            await self._store()

    def _is_handler(self) -> bool:
        return hasattr(self._subscription, "handler")

    async def _do(self, barrier: Barrier) -> None:
        keep_trying = self._consumer.delivery.keep_trying
        if barrier.change is not None:
            change = barrier.change
            if change.table_renamed:
                await self._go_over(change, barrier)
            await self._learn(change.new)
            await self._reshaping.settle(change, keep_trying)
            await self._reshaping.enter_announced(change, keep_trying)
        elif barrier.batch is not None:
            await self._consumer.deliver(self._own(barrier.batch), barrier)

    async def _go_over(self, change: SchemaChange, barrier: Barrier) -> None:
        """A renamed table goes on in another topic: that begins behind all of the former one."""
        old, new = change.old, change.new
        what = f"table {old.schema}.{old.name} is called {new.schema}.{new.name} now"
        hint = "run it with the former name until it stops at the new one, and then with that"
        if self._table == (new.schema, new.name):
            former = self._topic((old.schema, old.name))
            first = (await self._told(former, 1)).get(0, Mark())
            marks = await self._told(former, first.partitions)
            if len(marks) == first.partitions > 0 and all(mark.has_reached(barrier) for mark in marks.values()):
                return
            what += f", and consumer {self._subscription.name!r} has not got all that is in its former topic {former!r}"
        else:
            what += ", and its changes go to another topic"
            hint = "rename it back, or use the new name in the pipeline's tables and handlers, and start again"
        raise SchemaError(what, hint=hint, table=f"{new.schema}.{new.name}", lsn=change.position[0])

    async def _told(self, topic: str, count: int) -> Mapping[int, Mark]:
        """What is stored of a former topic: while nobody says it, nothing follows from what is missing."""
        while (marks := await self._marks.told(topic, count)) is None:
            await self._pause(LOOK_EVERY)
        return marks

    def _own(self, batch: Batch) -> Batch:
        """Of a TRUNCATE of several tables only what this topic is about: the others come by theirs."""
        [change] = batch.changes()
        relations = getattr(change, "relations", None)
        if relations is None or self._table is None or len(relations) == 1:
            return batch
        mine = [one for one in relations if (one.schema, one.name) == self._table]
        cascade, restart = change.cascade, change.restart_identity  # type: ignore[union-attr]
        return batch.rewritten([(0, "truncate", mine, cascade, restart)])

    async def _clear(self, does: str) -> None:
        """Dead letters that hold rows hold back all partitions: what comes behind the barrier may be the same rows."""
        said = False
        while self._consumer.holds:
            if not said:
                said = True
                logger.warning(
                    "consumer %r %s a change that concerns all partitions, and waits until its dead letters are"
                    " delivered or dropped",
                    self._lane.consumer,
                    does,
                )
            await self._marks.commit(self._lane)
            await self._pause(1.0)
            await self._consumer.clear()

    async def _store(self) -> None:
        while not await self._marks.commit(self._lane):
            await self._pause(LOOK_FIRST)

    async def _wait(
        self, barrier: Barrier, whom: range | list[int], ready: Callable[[Mark, Barrier], bool]
    ) -> Mapping[int, Mark]:
        said_at = time.monotonic() + SAY_AFTER
        pause = 0.0
        while True:
            marks = await self._marks.marks(self._lane.topic, barrier.partitions, again=pause > 0)
            for mark in marks.values():
                self._check(barrier, mark)
            missing = [number for number in whom if number not in marks or not ready(marks[number], barrier)]
            if not missing:
                return marks
            if time.monotonic() > said_at:
                said_at = float("inf")
                logger.warning(
                    "consumer %r waits at %s for partitions %s of topic %r",
                    self._lane.consumer,
                    barrier.position,
                    ", ".join(map(str, missing)),
                    self._lane.topic,
                )
            pause = min(2 * pause or LOOK_FIRST, LOOK_EVERY)
            await self._pause(pause)

    def _check(self, barrier: Barrier, mark: Mark) -> None:
        if mark.partitions not in (0, barrier.partitions):
            raise PositionError(
                f"topic {self._lane.topic!r} had {barrier.partitions} partitions and has {mark.partitions} now: its"
                " keys are in others than before",
                hint="the number of partitions is fixed: make a new topic for another one",
            )

    async def _pause(self, seconds: float) -> None:
        await self._marks.changed(seconds)
        while self._lane.held and not self._lane.closed:  # until the group has confirmed that it is still ours
            await self._marks.changed(LOOK_EVERY)
        if self._lane.closed:
            raise GaveUp
