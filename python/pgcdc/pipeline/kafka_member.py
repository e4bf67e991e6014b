"""One consumer as a member of its Kafka group: a thread that reads its partitions and stores how far they are.

Nothing that a handler does keeps it from asking the broker in time: a partition whose lane is full is paused, and the
others go on. What was handed over and is not durable when a partition goes to another member is the other's business:
it begins with the first record that is not stored as done. Over 400 lines because one thread has all of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from pgcdc.errors import ConfigError, ConnectionLost, Error, PositionError
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.pipeline.items import Appointment
from pgcdc.pipeline.kafka_address import KafkaAddress, client_library
from pgcdc.pipeline.kafka_lane import PartitionLane
from pgcdc.pipeline.kafka_records import Barrier, Mark, read_record
from pgcdc.pipeline.kafka_topic_ids import TopicIds
from pgcdc.pipeline.subscription import Subscription
from pgcdc.pipeline.worker import Worker
from pgcdc.protocol import Batch, RowFormat

__all__ = ["Assigned", "Found", "Member", "TopicPartition"]

logger = logging.getLogger("pgcdc.pipeline")

TopicPartition: TypeAlias = tuple[str, int]

AT_ONCE = 2000
"""Records that are taken at once, at most."""
READ_TIMEOUT = 0.05
"""Seconds that one read waits at most: how soon a stop, or room in a lane, is noticed."""
MEETING_TIMEOUT = 0.002
"""Likewise, while a partition meets others at a barrier."""
STORE_EVERY = 1.0
"""Seconds between two stores of what is done: what a crash repeats at most."""
LEAVE_WITHIN = 5.0
"""Seconds that storing what is done may take at the end."""
COMMIT_WITHIN = 5.0
"""Seconds after which an answer is not waited for any more."""
ASK_WITHIN = 10.0
"""Seconds that a question to the broker may take."""
END_WITHIN = 5.0
"""Seconds that the tasks of partitions have to finish the call that they are in, when the partitions go elsewhere."""
LOOK_EVERY = 10.0
"""Seconds between two looks whether the topics are still what they were."""
LOOK_FOR_END = 0.7
"""Seconds that who leaves waits for what stands behind the last records: brokers answer after half a second."""
SESSION: float = 10.0
"""Seconds after which the broker gives away the partitions of a member that it does not hear of."""


@dataclass(frozen=True)
class Found:
    """What there is of a partition when it comes to this member.

    Attributes:
        topic: The topic.
        partition: The partition's number.
        offset: The offset that is stored; -1 when none is.
        mark: What is to be stored with it from now on.
        low: The offset of the first record that the topic still has.
        high: The offset behind the last one.
        topic_id: The topic's id, which another one of the same name does not have; empty where brokers give none.
    """

    topic: str
    partition: int
    offset: int
    mark: Mark
    low: int
    high: int
    topic_id: str


@dataclass
class Assigned:
    """A partition that this member has.

    Attributes:
        lane: Its queue.
        barrier: Makes of a barrier what its lane is offered.
        skip: Changes up to here are left out: the consumer had them when it read from the slot.
        pending: What does not fit into the lane.
        paused: Whether the client reads nothing more of it.
        first: The offset of the first record that the topic has, when earlier ones are gone and none was read yet.
        taken: The offset behind the last record that was taken, or that it begins with.
        end: The offset behind everything, where no record follows what was taken.
    """

    lane: PartitionLane
    barrier: Callable[[Barrier], Appointment]
    skip: Position | None
    pending: deque[tuple[Batch, list[int], int, int] | Barrier] = field(default_factory=deque)
    paused: bool = False
    first: int | None = None
    taken: int = 0
    end: int | None = None

    def pass_end(self) -> None:
        """Go on to the end, when all that was taken is done."""
        if self.end is not None and not self.pending and self.lane.progress()[0] >= self.taken:
            self.lane.end_at(self.end)
            self.end = None


class Member:
    """One consumer's membership.

    Args:
        subscription: The consumer.
        address: Where Kafka is.
        group: The group's id.
        topics: What it reads.
        begins: Makes what is needed for a partition; called in the thread.
        ends: Ends the tasks of some lanes; a coroutine function, on the event loop.
        ended: Called in the thread when it reads no more, with the error that is the reason, if one is.
        loop: The event loop.
        format: How rows are given to those who ask a batch and do not say.
        ordered: The columns that the consumer keeps order by, by topic, where those are not the primary key's.

    Attributes:
        meetings: How many partitions are at a barrier.
    """

    def __init__(
        self,
        subscription: Subscription,
        address: KafkaAddress,
        group: str,
        topics: Sequence[str],
        begins: Callable[[Found], Assigned],
        ends: Callable[[Sequence[PartitionLane]], Any],
        ended: Callable[[BaseException | None], None],
        loop: asyncio.AbstractEventLoop,
        format: RowFormat,
        ordered: Mapping[str, Collection[str]],
    ) -> None:
        self.meetings = 0
        self._kafka = client_library()
        self._subscription = subscription
        self._group = group
        self._topics = topics
        self._begins = begins
        self._ends = ends
        self._ended = ended
        self._loop = loop
        self._format = format
        self._ordered = ordered
        self._assigned: dict[TopicPartition, Assigned] = {}
        self._known: dict[TopicPartition, Mark] = {}
        self._commits: deque[tuple[Future[bool], PartitionLane]] = deque()
        self._asked: deque[tuple[Future[bool], Sequence[TopicPartition]]] = deque()
        self._changed = asyncio.Event()
        self._committing = 0
        self._committing_until = 0.0
        self._wanted: list[tuple[Future[bool], PartitionLane]] = []
        self._doubtful = False
        self._stopping = False
        self._broken: BaseException | None = None
        self._said: set[object] = set()
        self._store_at = 0.0
        self._look_at = 0.0
        self._looking: dict[str, Future[Any]] = {}
        # Topics that were not there when they were looked for last.
        self._gone: set[str] = set()
        self._topic_ids = TopicIds(self._kafka, group, topics, address.positions_topic)
        self._polled_at = time.monotonic()
        self._config: dict[str, Any] = {
            "session.timeout.ms": str(int(SESSION * 1000)),
            "heartbeat.interval.ms": "1000",
            "topic.metadata.refresh.interval.ms": "10000",
            "queued.max.messages.kbytes": "16384",
            **address.client,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "partition.assignment.strategy": "cooperative-sticky",
            "error_cb": self._on_error,
            "on_commit": self._stored,
            "log_level": 2,  # to stderr, and only what is grave: what is to be known comes by error_cb
        }
        session = self._config["session.timeout.ms"]
        if not session.isdecimal():
            raise ConfigError("session.timeout.ms in the address of Kafka is a whole number of milliseconds")
        self._session = int(session) / 1000
        self._admin_config = {**address.client, "log_level": 2}
        self._admin: Any = None
        self._client: Any = None
        self._thread = threading.Thread(target=self._work, name=f"pgcdc-{subscription.name}-kafka", daemon=True)

    # From the event loop.

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more, end what was handed over, and leave the group."""
        self._stopping = True

    async def join(self, timeout: float) -> bool:
        """Wait for the thread.

        Args:
            timeout: How long, in seconds.

        Returns:
            Whether it has ended.
        """
        ender = Worker(f"pgcdc-{self._subscription.name}-ender")
        await ender.call(self._thread.join, timeout)
        await ender.stop(timeout)
        return not self._thread.is_alive()

    @property
    def lanes(self) -> list[PartitionLane]:
        """The lanes of the partitions that it has."""
        return [one.lane for one in list(self._assigned.values())]

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
        if others and not self._stopping:
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

    def _work(self) -> None:
        reason: BaseException | None = None
        try:
            self._connect()
            try:
                self._read()
            finally:
                self._leave()
        except self._kafka.KafkaException as error:
            reason = self._lost(error)
        except BaseException as error:
            reason = error
        finally:
            self._ended(reason)

    def _connect(self) -> None:
        try:
            self._admin = self._kafka.admin.AdminClient(self._admin_config)
            self._client = self._kafka.Consumer(self._config)
        except self._kafka.KafkaException as error:
            said = error.args[0]
            if said.code() != self._kafka.KafkaError._INVALID_ARG:
                raise
            raise ConfigError(
                f"the client of Kafka does not take a setting of the address: {said.str()}",
                hint="behind the question mark are librdkafka's names: kafka://broker/PREFIX?client.rack=one",
            ) from None

    def _lost(self, error: Exception) -> Error:
        return ConnectionLost(f"consumer {self._subscription.name!r} has lost Kafka: {error}")

    def _read(self) -> None:
        callbacks = {"on_assign": self._guarded(self._assign), "on_revoke": self._guarded(self._revoke)}
        self._client.subscribe(list(self._topics), **callbacks, on_lost=self._guarded(self._lose))
        while not self._stopping:
            # Somebody who meets others at a barrier waits for what this thread stores and asks.
            short = self.meetings or self._committing > 0
            record = self._client.poll(MEETING_TIMEOUT if short else READ_TIMEOUT)
            records = [] if record is None else [record, *self._client.consume(AT_ONCE, 0)]
            self._check_time()
            if self._broken is not None:
                raise self._broken
            self._take(records)
            self._hand_over()
            self._look_at_topics()
            self._topic_ids.keep(self._admin, self._client, self._ids)
            self._answer()
            self._store_some()

    def _guarded(self, call: Callable[[Any], None]) -> Callable[[Any, Any], None]:
        """What is raised in a callback would be lost in the client's C code."""

        def callback(_client: Any, partitions: Any) -> None:
            try:
                call(partitions)
            except BaseException as error:
                self._broken = self._broken or error
            self._polled_at = time.monotonic()  # it was not away: it waited for its tasks

        return callback

    def _check_time(self) -> None:
        """A process that was stopped for a while may have lost its partitions and not know it yet."""
        now = time.monotonic()
        away, self._polled_at = now - self._polled_at, now
        if away > 0.8 * self._session and self._assigned:
            logger.warning("consumer %r was away for %.0f s", self._subscription.name, away)
            self._doubtful = True  # until the group takes offsets from it again
            self._store_at = 0.0
            for lane in self.lanes:
                lane.hold()

    def _on_error(self, error: Any) -> None:
        codes = self._kafka.KafkaError
        if error.code() in (codes._AUTHENTICATION, codes.GROUP_AUTHORIZATION_FAILED, codes.TOPIC_AUTHORIZATION_FAILED):
            self._broken = ConfigError(f"Kafka refuses consumer {self._subscription.name!r}: {error.name()}")
        elif error.fatal():
            self._broken = self._lost(self._kafka.KafkaException(error))
        elif error.code() not in self._said:
            self._said.add(error.code())
            logger.warning("consumer %r: Kafka: %s", self._subscription.name, error.str())

    def _take(self, records: Sequence[Any]) -> None:
        taken: dict[TopicPartition, list[Any]] = {}
        for record in records:
            error = record.error()
            if error is not None and error.code() != self._kafka.KafkaError._PARTITION_EOF:
                self._failed(record, error)
            else:
                taken.setdefault((record.topic(), record.partition()), []).append(record)
        for partition, those in taken.items():
            one = self._assigned.get(partition)
            if one is not None:
                self._arrange(one, those)

    def _arrange(self, one: Assigned, records: Sequence[Any]) -> None:
        """Make of records what is handed over: runs of changes, and barriers between them."""
        run: list[Batch] = []
        offsets: list[int] = []
        nbytes = 0

        def end_run(through: int) -> None:
            nonlocal nbytes
            one.pending.append((Batch.concat(run, alike=True) if run else Batch.of([]), offsets[:], through, nbytes))
            run.clear()
            offsets.clear()
            nbytes = 0

        for each in records:
            if each.error() is not None:
                # The end. There may be no records between the last one and here, only what ends transactions: who
                # stored an offset before these would be behind what is left when retention has removed them.
                one.end = each.offset()
                continue
            one.end = None
            record = read_record(each, self._format)
            if isinstance(record, Barrier):
                end_run(record.offset)
                if one.skip is None or record.rewritten or Position.parse(record.position) > one.skip:
                    self._check_first(one, Position.parse(record.position))
                    one.pending.append(record)
                else:
                    end_run(record.offset + 1)
                continue
            self._check_key(one.lane.topic, record.key)
            first = record.batch.first_position
            self._check_first(one, first)
            batch = self._select(record.batch)
            if not batch.changes_count:
                continue
            last = run[-1].last_position if run else None
            if last is not None and first is not None and last > first:
                end_run(record.offset)  # a dead letter of the sink, which is written again behind later changes
            run.append(batch)
            offsets.extend([record.offset] * batch.changes_count)
            nbytes += record.nbytes
        if (last := next((each for each in reversed(records) if each.error() is None), None)) is not None:
            one.taken = last.offset() + 1
            end_run(one.taken)

    def _check_first(self, one: Assigned, position: Position | None) -> None:
        """Whether the topic goes back to what the consumer has had from the slot."""
        first, one.first = one.first, None
        if first is not None and one.skip is not None and position is not None and position > one.skip:
            raise PositionError(
                f"consumer {self._subscription.name!r} read from the slot up to {one.skip}, and the first record that"
                f" topic {one.lane.topic!r} still has in partition {one.lane.partition} is at {position}",
                hint="what lies between may be gone: let the sink write to new topics, with a copy of existing rows, or"
                " move the consumer sooner",
                lsn=position.commit_lsn,
            )

    def _check_key(self, topic: str, key: bytes | None) -> None:
        """Whether all changes that the consumer keeps in order are in one partition."""
        wanted = self._ordered.get(topic)
        if wanted is None or key is None:
            return
        found = msgspec.json.decode(key, type=dict[str, msgspec.Raw])
        if not found.keys() <= set(wanted):
            raise ConfigError(
                f"consumer {self._subscription.name!r} keeps order by {', '.join(wanted)}, and topic {topic!r} is"
                f" divided by {', '.join(found)}",
                hint="let the pipeline that writes the topics write new ones, with another prefix, by"
                f' Kafka(…, keys={{"TABLE": {json.dumps(list(wanted))}}}); or leave key out',
            )

    def _select(self, batch: Batch) -> Batch:
        subscription = self._subscription
        first = batch.first_position
        if first is not None and first.index == SNAPSHOT_INDEX and not subscription.copies:
            return Batch.of([])
        if subscription.actions is None and not subscription.messages:
            return batch
        return batch.select(subscription.tables, subscription.actions, messages=subscription.messages or None)

    def _failed(self, record: Any, error: Any) -> None:
        codes = self._kafka.KafkaError
        if error.code() in (codes._AUTO_OFFSET_RESET, codes.OFFSET_OUT_OF_RANGE):
            raise PositionError(
                f"consumer {self._subscription.name!r}: topic {record.topic()!r} does not have any more what comes next"
                f" in partition {record.partition()}: {error.str()}",
                hint="its retention has removed records that were not read: empty the target, make the topic again"
                " with a sink that copies existing rows, and forget the group's offsets",
            )
        if error.code() == codes.UNKNOWN_TOPIC_OR_PART:
            if record.topic() not in self._said:
                self._said.add(record.topic())
                name = self._subscription.name
                logger.warning("consumer %r waits for topic %r: there is none yet", name, record.topic())
            return
        self._on_error(error)

    def _hand_over(self) -> None:
        for one in self._assigned.values():
            while one.pending:
                item = one.pending[0]
                if isinstance(item, Barrier):
                    one.lane.offer(one.barrier(item))
                elif not item[0].changes_count:
                    one.lane.advance(item[2])
                elif not one.lane.offer_rows(*item):
                    break
                one.pending.popleft()
            one.pass_end()
            if bool(one.pending) != one.paused:
                one.paused = not one.paused
                where = [self._kafka.TopicPartition(one.lane.topic, one.lane.partition)]
                (self._client.pause if one.paused else self._client.resume)(where)

    # Storing.

    def _answer(self) -> None:
        """Ask what tasks want to know."""
        asked = [self._asked.popleft() for _ in range(len(self._asked))]
        if asked:
            with suppress(self._kafka.KafkaException):
                self._ask({one for _, those in asked for one in those})
            for future, _ in asked:
                _answer(future, True)

    def _store_some(self) -> None:
        """Begin to store what is done, one time after the other; nothing waits here for the answer."""
        now = time.monotonic()
        if self._committing and now < self._committing_until:
            return
        self._committing = 0
        self._wanted.extend(self._commits.popleft() for _ in range(len(self._commits)))
        if not self._wanted and now < self._store_at:
            return
        self._store_at, self._committing_until = now + STORE_EVERY, now + COMMIT_WITHIN
        if not self._commit(self.lanes, every=self._doubtful):
            self._settle_wanted()

    def _commit(self, lanes: Sequence[PartitionLane], *, every: bool = False, wait: bool = False) -> bool:
        """Have stored what is new; whether anything is."""
        progress = [(lane, *lane.progress()) for lane in lanes]
        offsets = [
            self._kafka.TopicPartition(lane.topic, lane.partition, offset, metadata=mark.text())
            for lane, offset, mark in progress
            if every or (offset, mark) != lane.stored
        ]
        if not offsets:
            return False
        if not wait:
            self._committing += 1
        try:
            self._client.commit(offsets=offsets, asynchronous=not wait)
        except self._kafka.KafkaException as error:
            logger.debug("consumer %r: nothing was stored: %s", self._subscription.name, error)
            self._committing = 0
        return True

    def _stored(self, error: Any, partitions: Sequence[Any]) -> None:
        """What became of a commit; called by the client, in the thread."""
        if any(self._topic_ids.is_place(one) for one in partitions):
            self._topic_ids.stored(error)
            return
        self._committing = max(0, self._committing - 1)
        for one in partitions if error is None else ():
            mark = Mark.read(one.metadata)
            if one.error is None and mark is not None:
                self._known[one.topic, one.partition] = mark
                assigned = self._assigned.get((one.topic, one.partition))
                if assigned is not None:
                    assigned.lane.stored = (one.offset, mark)
        if error is not None:
            logger.debug("consumer %r: nothing was stored: %s", self._subscription.name, error)
            self._store_at = max(self._store_at, time.monotonic() + 0.1)
        elif self._doubtful and not any(one.error for one in partitions):
            self._doubtful = False
            for lane in self.lanes:
                lane.release()
        self._settle_wanted()
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed.set)

    def _settle_wanted(self) -> None:
        wanted, self._wanted = self._wanted, []
        for future, lane in wanted:
            if lane.stored == lane.progress():
                _answer(future, True)
            elif self._committing:
                self._wanted.append((future, lane))
            else:
                _answer(future, False)

    def _refuse(self) -> None:
        wanted, self._wanted = [*self._wanted, *(self._commits.popleft() for _ in range(len(self._commits)))], []
        for future, _ in wanted:
            _answer(future, False)
        for other, _ in [self._asked.popleft() for _ in range(len(self._asked))]:
            _answer(other, False)

    def _ask(self, wanted: Iterable[TopicPartition]) -> None:
        for one in self._client.committed([self._kafka.TopicPartition(*one) for one in wanted], timeout=ASK_WITHIN):
            mark = Mark.read(one.metadata) if one.error is None and one.offset >= 0 else None
            if mark is not None:
                self._known[one.topic, one.partition] = mark

    # Partitions come and go; called by the client, in the thread.

    def _assign(self, partitions: Sequence[Any]) -> None:
        if self._stopping:
            self._client.incremental_assign([])  # it is about to leave: others get them at once
            return
        started = []
        topics = {topic: self._describe(topic) for topic in {one.topic for one in partitions}}
        if topics:
            self._check_policies(topics)
        place = self._topic_ids.place
        *every, remembered = self._client.committed([*partitions, place], timeout=ASK_WITHIN)
        for one in every:
            low, high = self._client.get_watermark_offsets(one, timeout=ASK_WITHIN)
            stored, (count, topic_id) = Mark.read(one.metadata), topics[one.topic]
            # One that was added has nothing stored, and the others say how many there were.
            for known in self._marks(one.topic, count) if stored is None else [stored]:
                self._check_topic(one.topic, known, count, topic_id)
            if one.offset < 0 and self._topic_ids.tells_another(remembered.metadata, one.topic, topic_id):
                less = f"; when nothing is missing, delete only what the group has stored for topic {place.topic}"
                raise self._deleted(one.topic, "was deleted and made again", less)
            mark = stored or Mark()
            new = msgspec.structs.replace(mark, partitions=count, epoch=mark.epoch + 1, topic=topic_id)
            offset = one.offset if one.offset >= 0 else -1
            assigned = self._begins(Found(one.topic, one.partition, offset, new, low, high, topic_id))
            assigned.taken = assigned.lane.through_lsn
            self._assigned[one.topic, one.partition] = assigned
            self._known.pop((one.topic, one.partition), None)
            one.offset = assigned.lane.through_lsn
            started.append(one)
        self._client.incremental_assign(started)
        self._topic_ids.soon()
        names = ", ".join(f"{one.topic}/{one.partition}" for one in started)
        logger.info("consumer %r has partitions %s", self._subscription.name, names or "none")

    def _describe(self, topic: str) -> tuple[int, str]:
        """How many partitions a topic has, and its id."""
        # Not by the consumer, which is in a call: another one that serves callbacks would abort the process at its end.
        [asked] = self._ask_for([topic]).values()
        try:
            return _described(asked.result(2 * ASK_WITHIN))
        except TimeoutError:
            raise self._unanswered() from None

    def _check_policies(self, topics: Collection[str]) -> None:
        """See that brokers do not remove, by compaction, what was not read yet."""
        kind = self._kafka.admin.ConfigResource.Type.TOPIC
        wanted = [self._kafka.admin.ConfigResource(kind, topic) for topic in topics]
        for resource, asked in self._admin.describe_configs(wanted, request_timeout=ASK_WITHIN).items():
            try:
                policy = asked.result(2 * ASK_WITHIN)["cleanup.policy"].value
            except self._kafka.KafkaException as error:
                if error.args[0].code() != self._kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise
                if "policies" not in self._said:
                    self._said.add("policies")
                    name = self._subscription.name
                    logger.warning("consumer %r may not see how topics are set: see that none is compacted", name)
                continue
            except TimeoutError:
                raise self._unanswered() from None
            if "compact" in policy:
                raise ConfigError(
                    f"topic {resource.name!r} is compacted, which removes changes before consumer"
                    f" {self._subscription.name!r} has read them",
                    hint="set the topic's cleanup.policy to delete; what compaction has removed is missing, unless"
                    " everything is read up to now: else make the topic again with a copy of existing rows",
                )

    def _unanswered(self) -> ConnectionLost:
        return ConnectionLost(f"consumer {self._subscription.name!r} has lost Kafka: no answer in time")

    def _ask_for(self, topics: Collection[str]) -> dict[str, Future[Any]]:
        wanted = self._kafka.TopicCollection(list(topics))
        asked: dict[str, Future[Any]] = self._admin.describe_topics(wanted, request_timeout=ASK_WITHIN)
        return asked

    def _marks(self, topic: str, count: int) -> list[Mark]:
        """What is stored of any partition of a topic."""
        every = [self._kafka.TopicPartition(topic, number) for number in range(count)]
        found = [Mark.read(one.metadata) for one in self._client.committed(every, timeout=ASK_WITHIN)]
        return [mark for mark in found if mark is not None]

    def _look_at_topics(self) -> None:
        """See from time to time that the topics are still what they were; nothing waits here for the answer."""
        if not self._looking:
            if self._assigned and time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + LOOK_EVERY
                self._looking = self._ask_for({topic for topic, _ in self._assigned})
            return
        if not all(asked.done() for asked in self._looking.values()):
            return
        looked, self._looking = self._looking, {}
        for topic, asked in looked.items():
            try:
                count, topic_id = _described(asked.result())
            except self._kafka.KafkaException as error:
                if error.args[0].code() != self._kafka.KafkaError.UNKNOWN_TOPIC_OR_PART:
                    continue  # the client tells of it, and asks again
                if topic in self._gone:  # twice: a broker that has just started may not know of it yet
                    raise self._deleted(topic, "was deleted") from None
                self._gone.add(topic)
                continue
            self._gone.discard(topic)
            for (of, _), one in self._assigned.items():
                if of == topic:
                    self._check_topic(topic, one.lane.mark, count, topic_id)

    def _check_topic(self, topic: str, mark: Mark, count: int, topic_id: str) -> None:
        """Whether a topic is still what it was when something of it was stored."""
        if mark.topic and topic_id and mark.topic != topic_id:
            raise self._deleted(topic, "was deleted and made again")
        if mark.partitions not in (0, count):
            raise PositionError(
                f"topic {topic!r} had {mark.partitions} partitions and has {count} now: its keys are in others than"
                " before",
                hint="the number of partitions is fixed: make a new topic for another one",
            )

    def _ids(self) -> dict[str, str]:
        return {topic: one.lane.mark.topic for (topic, _), one in self._assigned.items()}

    def _deleted(self, topic: str, what: str, less: str = "") -> PositionError:
        return PositionError(
            f"topic {topic!r} {what} while consumer {self._subscription.name!r} was not done with it",
            hint=f"what was not read of it is gone: empty the target, delete group {self._group}, and let the topic be"
            f" made again with a copy of existing rows{less}",
        )

    def _revoke(self, partitions: Sequence[Any]) -> None:
        lanes = self._give_up(partitions)
        self._end(lanes)
        self._commit(lanes, wait=True)
        self._client.incremental_unassign(partitions)
        names = ", ".join(f"{one.topic}/{one.partition}" for one in partitions)
        logger.info("consumer %r gives partitions %s back", self._subscription.name, names)

    def _lose(self, partitions: Sequence[Any]) -> None:
        logger.warning("consumer %r has lost its partitions: others have them by now", self._subscription.name)
        self._end(self._give_up(partitions))

    def _give_up(self, partitions: Sequence[Any]) -> list[PartitionLane]:
        gone = [self._assigned.pop((one.topic, one.partition), None) for one in partitions]
        lanes = [one.lane for one in gone if one is not None]
        for lane in lanes:
            lane.hold()
            lane.close()
        self._refuse()
        return lanes

    def _end(self, lanes: Sequence[PartitionLane]) -> None:
        if not lanes:
            return
        with suppress(RuntimeError, TimeoutError):  # the loop may have ended without us
            asyncio.run_coroutine_threadsafe(self._ends(lanes), self._loop).result(2 * END_WITHIN)

    def _look_for_ends(self) -> None:
        """See whether only what ends a transaction follows what is done: see `_arrange`."""
        for one in self._assigned.values():
            one.pass_end()
        wanted = {of for of, one in self._assigned.items() if one.taken == one.lane.progress()[0]}
        deadline = time.monotonic() + LOOK_FOR_END
        while wanted and (left := deadline - time.monotonic()) > 0:
            record = self._client.poll(min(left, READ_TIMEOUT))
            error = None if record is None else record.error()
            if record is None or (error is not None and error.code() != self._kafka.KafkaError._PARTITION_EOF):
                continue
            of = record.topic(), record.partition()
            if of in wanted:
                wanted.remove(of)
                if error is not None and of in self._assigned:
                    self._assigned[of].lane.end_at(record.offset())

    def _leave(self) -> None:
        """Leave the group, with everything stored that is done."""
        lanes = self.lanes
        for lane in lanes:
            lane.hold()
            lane.close()
        self._refuse()
        self._end(lanes)
        self._look_for_ends()
        deadline, again_at = time.monotonic() + LEAVE_WITHIN, 0.0
        while (now := time.monotonic()) < deadline:
            if not self._committing and now >= again_at:
                again_at = now + 0.1
                if not self._commit(self.lanes):
                    break
            self._client.poll(MEETING_TIMEOUT)
        self._assigned.clear()
        self._refuse()
        self._client.close()


def _described(found: Any) -> tuple[int, str]:
    topic_id = found.topic_id
    has_one = topic_id is not None and (topic_id.get_most_significant_bits() or topic_id.get_least_significant_bits())
    return len(found.partitions), str(topic_id) if has_one else ""


def _answer(future: Future[bool], answer: bool) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(answer)
