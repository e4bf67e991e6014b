"""How far the partitions are: what a member stores with its group, and what it knows of others' partitions.

The tasks of partitions, on the event loop, want something stored or known; the thread that has the client does it, and
waits for no answer: these come as callbacks of the client, in the thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence, Set
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from pgcdc.pipeline.kafka_asking import ASK_LONGER, ASK_WITHIN, Asking
from pgcdc.pipeline.kafka_assigned import Assigned, TopicPartition
from pgcdc.pipeline.kafka_lane import PartitionLane
from pgcdc.pipeline.kafka_records import Mark

__all__ = ["Storing"]

logger = logging.getLogger("pgcdc.pipeline")

STORE_EVERY = 1.0
"""Seconds between two stores of what is done: what a crash repeats at most."""
COMMIT_WITHIN = 5.0
"""Seconds after which an answer is not waited for any more."""
COORDINATOR = "the group's coordinator"


class Storing:
    """What one member stores and knows.

    Args:
        kafka: The client library.
        name: The consumer's name.
        loop: The event loop of the tasks.
        assigned: The partitions that the member has; it changes.
        asking: Asks brokers that may be away.

    Attributes:
        client: The member's client, once there is one.
        waits: For how many answers it waits.
    """

    def __init__(
        self,
        kafka: Any,
        name: str,
        loop: asyncio.AbstractEventLoop,
        assigned: Mapping[TopicPartition, Assigned],
        asking: Asking,
    ) -> None:
        self.client: Any = None
        self.waits = 0
        self._kafka = kafka
        self._name = name
        self._loop = loop
        self._assigned = assigned
        self._asking = asking
        self._known: dict[TopicPartition, Mark] = {}
        self._commits: deque[tuple[Future[bool], PartitionLane]] = deque()
        self._asked: deque[tuple[Future[bool], Sequence[TopicPartition]]] = deque()
        self._changed = asyncio.Event()
        self._waits_until = 0.0
        self._within = ASK_WITHIN
        self._wanted: list[tuple[Future[bool], PartitionLane]] = []
        self._doubtful = False
        self._store_at = 0.0

    # From the event loop.

    async def commit(self, lane: PartitionLane) -> bool:
        """Store how far a partition is, durably.

        Args:
            lane: Its lane.

        Returns:
            Whether it was stored.
        """
        if lane.closed:
            return False
        future: Future[bool] = Future()
        self._commits.append((future, lane))
        return await asyncio.wrap_future(future)

    async def confirm(self, lane: PartitionLane) -> bool:
        """Find out whether the group takes offsets of a partition from this member, that is, whether it is its own.

        Args:
            lane: Its lane.

        Returns:
            Whether it is; False when that could not be found out now.
        """
        lane.stored = None  # so that there is something to store
        return await self.commit(lane)

    async def marks(self, topic: str, count: int, *, again: bool) -> Mapping[int, Mark]:
        """What is stored of the partitions of a topic.

        Args:
            topic: The topic.
            count: How many partitions it has.
            again: Whether what was asked for before is not enough.

        Returns:
            By partition.
        """
        await self._look(topic, count, again=again)
        return self._marks(topic, count)

    async def told(self, topic: str, count: int) -> Mapping[int, Mark] | None:
        """The same, asked again: where one that is missing has a meaning.

        Args:
            topic: The topic.
            count: How many partitions it has.

        Returns:
            By partition; None when the group's coordinator does not say it now.
        """
        return self._marks(topic, count) if await self._look(topic, count, again=True) else None

    async def _look(self, topic: str, count: int, *, again: bool) -> bool:
        wanted = [(topic, number) for number in range(count)]
        others = [one for one in wanted if one not in self._assigned and (again or one not in self._known)]
        if not others:
            return True
        if self._asking.stops:
            return False
        future: Future[bool] = Future()
        self._asked.append((future, others))
        return await asyncio.wrap_future(future)

    def _marks(self, topic: str, count: int) -> Mapping[int, Mark]:
        return {number: mark for number in range(count) if (mark := self._known.get((topic, number))) is not None}

    async def changed(self, seconds: float) -> None:
        """Wait until this process has stored something, or the time is over.

        Args:
            seconds: The time.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        self._changed.clear()

    # In the thread.

    def forget(self, partition: TopicPartition) -> None:
        """What is known of a partition may be another owner's.

        Args:
            partition: The partition.
        """
        self._known.pop(partition, None)

    def doubt(self) -> None:
        """The partitions may be others' by now, until the group takes offsets of all of them again: they wait."""
        self._doubtful = True
        self._store_at = 0.0
        for assigned in list(self._assigned.values()):
            assigned.lane.hold()

    def read(self, partitions: Sequence[Any], since: float, aside: Collection[str] = ()) -> Sequence[Any]:
        """Ask what is stored of partitions that come to this member, also while the group's coordinator moves.

        Args:
            partitions: Which.
            since: When the member began to ask, by the monotonic clock.
            aside: Topics of which nothing is known where the broker does not say it.

        Returns:
            What is stored.

        Raises:
            Leaving: When the member is about to leave.
            ConnectionLost: When the coordinator has not said it in time, or not of a partition.
            ConfigError: When the consumer may not know.
        """

        def question(within: float) -> Sequence[Any]:
            found: Sequence[Any] = self.client.committed(list(partitions), timeout=within)
            for one in found:
                # It comes without an offset, and is not for that one of which nothing is stored.
                if one.error is not None and (one.topic not in aside or self._asking.is_away(one.error)):
                    said = f"{one.topic}/{one.partition}: {one.error.str()}"
                    raise self._kafka.KafkaException(self._kafka.KafkaError(one.error.code(), said))
            return found

        return self._asking.ask(question, COORDINATOR, "what is stored of its partitions", since)

    def answer(self) -> None:
        """Ask what tasks want to know."""
        asked = [self._asked.popleft() for _ in range(len(self._asked))]
        if asked:
            unknown = self._ask({one for _, those in asked for one in those})
            for future, those in asked:
                _answer(future, unknown.isdisjoint(those))

    def store_some(self) -> None:
        """Begin to store what is done, one time after the other; nothing waits here for the answer."""
        now = time.monotonic()
        if self.waits and now < self._waits_until:
            return
        self.waits = 0
        self._wanted.extend(self._commits.popleft() for _ in range(len(self._commits)))
        if not self._wanted and now < self._store_at:
            return
        self._store_at, self._waits_until = now + STORE_EVERY, now + COMMIT_WITHIN
        if not self.store([one.lane for one in self._assigned.values()], every=self._doubtful):
            self._settle_wanted()

    def store(self, lanes: Sequence[PartitionLane], *, every: bool = False) -> bool:
        """Have stored what is new; nothing waits here for the answer.

        Args:
            lanes: Of which partitions.
            every: Also what is not new.

        Returns:
            Whether anything is.
        """
        progress = [(lane, *lane.progress()) for lane in lanes]
        offsets = [
            self._kafka.TopicPartition(lane.topic, lane.partition, offset, metadata=mark.text())
            for lane, offset, mark in progress
            if every or (offset, mark) != lane.stored
        ]
        if not offsets:
            return False
        self.waits += 1
        try:
            self.client.commit(offsets=offsets, asynchronous=True)
        except self._kafka.KafkaException as error:
            logger.debug("consumer %r: nothing was stored: %s", self._name, error)
            self.waits = 0
        return True

    def stored(self, error: Any, partitions: Sequence[Any]) -> None:
        """What became of it; called by the client.

        Args:
            error: What went wrong, if anything did.
            partitions: What was stored.
        """
        self.waits = max(0, self.waits - 1)
        for one in partitions if error is None else ():
            mark = Mark.read(one.metadata)
            if one.error is None and mark is not None:
                self._known[one.topic, one.partition] = mark
                assigned = self._assigned.get((one.topic, one.partition))
                if assigned is not None:
                    assigned.lane.stored = (one.offset, mark)
        if error is not None:
            logger.debug("consumer %r: nothing was stored: %s", self._name, error)
            self._store_at = max(self._store_at, time.monotonic() + 0.1)
        elif self._doubtful and not any(one.error for one in partitions):
            self._doubtful = False
            for assigned in self._assigned.values():
                assigned.lane.release()
        self._settle_wanted()
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed.set)

    def refuse(self) -> None:
        """Nothing of what tasks want is stored or asked: partitions go."""
        wanted, self._wanted = [*self._wanted, *(self._commits.popleft() for _ in range(len(self._commits)))], []
        for future, _ in wanted:
            _answer(future, False)
        for other, _ in [self._asked.popleft() for _ in range(len(self._asked))]:
            _answer(other, False)

    def _settle_wanted(self) -> None:
        wanted, self._wanted = self._wanted, []
        for future, lane in wanted:
            if lane.stored == lane.progress():
                _answer(future, True)
            elif self.waits:
                self._wanted.append((future, lane))
            else:
                _answer(future, False)

    def _ask(self, wanted: Set[TopicPartition]) -> Set[TopicPartition]:
        """Ask what is stored of partitions; gives those of which the coordinator does not say it now."""
        unknown = set()
        try:
            found = self.client.committed([self._kafka.TopicPartition(*one) for one in wanted], timeout=self._within)
        except self._kafka.KafkaException:
            self._within = min(2 * self._within, ASK_LONGER)
            return wanted
        self._within = ASK_WITHIN
        for one in found:
            if one.error is not None:
                if self._asking.is_away(one.error):
                    unknown.add((one.topic, one.partition))
            elif one.offset >= 0 and (mark := Mark.read(one.metadata)) is not None:
                self._known[one.topic, one.partition] = mark
        return unknown


def _answer(future: Future[bool], answer: bool) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(answer)
