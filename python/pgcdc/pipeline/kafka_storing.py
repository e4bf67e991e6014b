"""How far the partitions are: what a member stores with its group, and what it knows of others' partitions.

The tasks of partitions, on the event loop, want something stored or known; the thread that has the client does it, and
waits for no answer: these come as callbacks of the client, in the thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from pgcdc.errors import ConnectionLost
from pgcdc.pipeline.kafka_address import ASK_WITHIN
from pgcdc.pipeline.kafka_assigned import Assigned, TopicPartition
from pgcdc.pipeline.kafka_lane import PartitionLane
from pgcdc.pipeline.kafka_records import Mark

__all__ = ["Storing"]

logger = logging.getLogger("pgcdc.pipeline")

STORE_EVERY = 1.0
"""Seconds between two stores of what is done: what a crash repeats at most."""
COMMIT_WITHIN = 5.0
"""Seconds after which an answer is not waited for any more."""
ASK_AGAIN = 0.1
"""Seconds between two questions that a coordinator does not answer yet."""


class Storing:
    """What one member stores and knows.

    Args:
        kafka: The client library.
        name: The consumer's name.
        loop: The event loop of the tasks.
        assigned: The partitions that the member has; it changes.

    Attributes:
        client: The member's client, once there is one.
        asks: Whether anything is asked any more; not when the member is about to leave.
        waits: For how many answers it waits.
    """

    def __init__(
        self,
        kafka: Any,
        name: str,
        loop: asyncio.AbstractEventLoop,
        assigned: Mapping[TopicPartition, Assigned],
    ) -> None:
        self.client: Any = None
        self.asks = True
        self.waits = 0
        self._kafka = kafka
        self._name = name
        self._loop = loop
        self._assigned = assigned
        self._known: dict[TopicPartition, Mark] = {}
        self._commits: deque[tuple[Future[bool], PartitionLane]] = deque()
        self._asked: deque[tuple[Future[bool], Sequence[TopicPartition]]] = deque()
        self._changed = asyncio.Event()
        self._waits_until = 0.0
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
        wanted = [(topic, number) for number in range(count)]
        others = [one for one in wanted if one not in self._assigned and (again or one not in self._known)]
        if others and self.asks:
            future: Future[bool] = Future()
            self._asked.append((future, others))
            await asyncio.wrap_future(future)
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

    def read(self, partitions: Sequence[Any], deadline: float, meanwhile: Callable[[], None]) -> Sequence[Any]:
        """Ask what is stored of partitions that come to this member, also while the group's coordinator moves.

        Args:
            partitions: Which.
            deadline: When it is not asked again, by the monotonic clock.
            meanwhile: Called between two questions.

        Returns:
            What is stored; nothing when the member is about to leave.

        Raises:
            ConnectionLost: When the coordinator has not said it in time.
        """
        codes = self._kafka.KafkaError
        away = {
            codes.COORDINATOR_LOAD_IN_PROGRESS,
            codes.COORDINATOR_NOT_AVAILABLE,
            codes.NOT_COORDINATOR,
            codes.REQUEST_TIMED_OUT,
            codes.UNSTABLE_OFFSET_COMMIT,
            codes._ALL_BROKERS_DOWN,
            codes._TIMED_OUT,
            codes._TRANSPORT,
            codes._WAIT_COORD,
        }
        began, has_warned = time.monotonic(), False
        while self.asks:
            within = min(ASK_WITHIN, max(deadline - time.monotonic(), 1.0))
            try:
                return self.client.committed(list(partitions), timeout=within)  # type: ignore[no-any-return]
            except self._kafka.KafkaException as error:
                if error.args[0].code() not in away:
                    raise
                reason = error.args[0].str()
            now = time.monotonic()
            if now >= deadline:
                raise ConnectionLost(
                    f"consumer {self._name!r} has lost Kafka: the group's coordinator has not said for"
                    f" {now - began:.0f} s what is stored of its partitions: {reason}",
                    hint="start it again when the brokers are well; it waits for half of max.poll.interval.ms, which"
                    " the address may set: kafka://broker/PREFIX?max.poll.interval.ms=600000",
                )
            if not has_warned:
                has_warned = True
                what = "the group's coordinator does not say yet what is stored of its partitions"
                logger.warning("consumer %r waits: %s: %s", self._name, what, reason)
            meanwhile()
            time.sleep(ASK_AGAIN)
        return []

    def answer(self) -> None:
        """Ask what tasks want to know."""
        asked = [self._asked.popleft() for _ in range(len(self._asked))]
        if asked:
            with suppress(self._kafka.KafkaException):
                self._ask({one for _, those in asked for one in those})
            for future, _ in asked:
                _answer(future, True)

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

    def store(self, lanes: Sequence[PartitionLane], *, every: bool = False, wait: bool = False) -> bool:
        """Have stored what is new.

        Args:
            lanes: Of which partitions.
            every: Also what is not new.
            wait: Whether to wait for the answer.

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
        if not wait:
            self.waits += 1
        try:
            self.client.commit(offsets=offsets, asynchronous=not wait)
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

    def _ask(self, wanted: Iterable[TopicPartition]) -> None:
        for one in self.client.committed([self._kafka.TopicPartition(*one) for one in wanted], timeout=ASK_WITHIN):
            mark = Mark.read(one.metadata) if one.error is None and one.offset >= 0 else None
            if mark is not None:
                self._known[one.topic, one.partition] = mark


def _answer(future: Future[bool], answer: bool) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(answer)
