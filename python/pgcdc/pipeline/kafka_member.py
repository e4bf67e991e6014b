"""One consumer as a member of its Kafka group: a thread that reads its partitions and stores how far they are.

Nothing that a handler does keeps it from asking the broker in time: a partition whose lane is full is paused, and the
others go on. What was handed over and is not durable when a partition goes to another member is the other's business:
it begins with the first record that is not stored as done. Over 400 lines because one thread does all of it, in turn.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from pgcdc.errors import ConfigError, ConnectionLost, Error, PositionError
from pgcdc.pipeline.kafka_address import KafkaAddress, client_library
from pgcdc.pipeline.kafka_anew import begin_anew
from pgcdc.pipeline.kafka_asking import Asking, Leaving
from pgcdc.pipeline.kafka_assigned import Arranging, Assigned, Found, TopicPartition
from pgcdc.pipeline.kafka_lane import PartitionLane
from pgcdc.pipeline.kafka_records import Mark
from pgcdc.pipeline.kafka_storing import Storing
from pgcdc.pipeline.kafka_topic_ids import TopicIds
from pgcdc.pipeline.kafka_topic_watch import Described, TopicWatch
from pgcdc.pipeline.subscription import Subscription
from pgcdc.pipeline.worker import Worker
from pgcdc.protocol import RowFormat

__all__ = ["Member"]

logger = logging.getLogger("pgcdc.pipeline")

AT_ONCE = 2000
"""Records that are taken at once, at most."""
READ_TIMEOUT = 0.05
"""Seconds that one read waits at most: how soon a stop, or room in a lane, is noticed."""
MEETING_TIMEOUT = 0.002
"""Likewise, while a partition meets others at a barrier."""
LEAVE_WITHIN: float = 7.0
"""Seconds after a stop in which what is done is stored: what is not stored by then comes again. The coordinator may be
away; or it answers late, when it waits for another process to give partitions back. Whatever ends a process kills it
after 10 s."""
LEAVE_LEAST = 0.5
"""Seconds that there are for it, at least, when tasks have taken their time."""
END_WITHIN = 5.0
"""Seconds that the tasks of partitions have to finish the call that they are in, when the partitions go elsewhere."""
LOOK_FOR_END = 0.7
"""Seconds that who leaves waits for what stands behind the last records: brokers answer after half a second."""
SESSION: float = 10.0
"""Seconds after which the broker gives away the partitions of a member that it does not hear of."""
POLL_INTERVAL: float = 300.0
"""Seconds after which the client gives them up when nobody asks it for records."""
_CUT_OFF: Final = "handshake failed: Local: "
"""Of what the client says when it was about to log in and the broker was gone: no broker has refused anything."""


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
        storing: Stores how far the partitions are, and knows it of others.
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
        self._arranging = Arranging(subscription, format, ordered)
        self._assigned: dict[TopicPartition, Assigned] = {}
        self._stopping = False
        self._stopped_at: float | None = None
        self._broken: BaseException | None = None
        self._said: set[object] = set()
        self._topic_ids = TopicIds(self._kafka, group, topics, address.positions_topic)
        self._polled_at = time.monotonic()
        self._config: dict[str, Any] = {
            "session.timeout.ms": str(int(SESSION * 1000)),
            "max.poll.interval.ms": str(int(POLL_INTERVAL * 1000)),
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
        self._session = self._seconds("session.timeout.ms")
        # What is left of it is for the rest of what an assignment takes.
        patience = self._seconds("max.poll.interval.ms") / 2
        self._asking = Asking(self._kafka, subscription.name, patience, self._wait)
        self.storing = Storing(self._kafka, subscription.name, loop, self._assigned, self._asking)
        # Where brokers are it would look again after five minutes, and ask one of which nothing is left until then.
        self._admin_config = {"topic.metadata.refresh.interval.ms": "10000", **address.client, "log_level": 2}
        self._admin: Any = None
        self._client: Any = None
        self._watch: TopicWatch
        self._thread = threading.Thread(target=self._work, name=f"pgcdc-{subscription.name}-kafka", daemon=True)

    def _seconds(self, setting: str) -> float:
        if not self._config[setting].isdecimal():
            raise ConfigError(f"{setting} in the address of Kafka is a whole number of milliseconds")
        return int(self._config[setting]) / 1000

    # From the event loop.

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more, end what was handed over, and leave the group."""
        self._stopped_at = self._stopped_at or time.monotonic()
        self._stopping = True
        self._asking.stops = True

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
            self._watch = TopicWatch(self._kafka, self._subscription.name, self._group, self._admin, self._asking)
            self._client = self.storing.client = self._kafka.Consumer(self._config)
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
            short = self.meetings or self.storing.waits > 0
            record = self._client.poll(MEETING_TIMEOUT if short else READ_TIMEOUT)
            records = [] if record is None else [record, *self._client.consume(AT_ONCE, 0)]
            self._check_time()
            if self._broken is not None:
                raise self._broken
            self._take(records)
            self._hand_over()
            if self._asking.stops:  # nothing is asked any more that may not be answered
                return
            self._look_at_topics()
            self._topic_ids.keep(self._admin, self._client, self._ids)
            self.storing.answer()
            self.storing.store_some()

    def _guarded(self, call: Callable[[Any], None]) -> Callable[[Any, Any], None]:
        """What is raised in a callback would be lost in the client's C code."""

        def callback(_client: Any, partitions: Any) -> None:
            try:
                call(partitions)
            except BaseException as error:
                self._broken = self._broken or error

        return callback

    def _check_time(self) -> None:
        """A process that was stopped for a while may have lost its partitions and not know it yet."""
        away = self._away()
        self._polled_at += away
        if away > 0.8 * self._session and self._assigned:
            logger.warning("consumer %r was away for %.0f s", self._subscription.name, away)
            self.storing.doubt()

    def _away(self) -> float:
        return time.monotonic() - self._polled_at

    def _wait(self) -> None:
        """While a broker is waited for, nobody tells of partitions that others may have by now."""
        if self._away() > 0.8 * self._session:
            self.storing.doubt()

    def _on_error(self, error: Any) -> None:
        codes = self._kafka.KafkaError
        if error.code() == codes._AUTHENTICATION and _CUT_OFF in error.str():
            self._warn(error)
        elif error.code() in (
            codes._AUTHENTICATION,
            codes.GROUP_AUTHORIZATION_FAILED,
            codes.TOPIC_AUTHORIZATION_FAILED,
        ):
            self._broken = ConfigError(f"Kafka refuses consumer {self._subscription.name!r}: {error.name()}")
        elif error.fatal():
            self._broken = self._lost(self._kafka.KafkaException(error))
        else:
            self._warn(error)

    def _warn(self, error: Any) -> None:
        if error.code() not in self._said:
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
                self._arranging.arrange(one, those)

    def _failed(self, record: Any, error: Any) -> None:
        codes = self._kafka.KafkaError
        if error.code() in (codes._AUTO_OFFSET_RESET, codes.OFFSET_OUT_OF_RANGE):
            raise PositionError(
                f"consumer {self._subscription.name!r}: topic {record.topic()!r} does not have any more what comes next"
                f" in partition {record.partition()}: {error.str()}",
                hint=f"its retention has removed records that were not read: {begin_anew(self._group)}",
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
            one.hand_over()
            if bool(one.pending) != one.paused:
                one.paused = not one.paused
                where = [self._kafka.TopicPartition(one.lane.topic, one.lane.partition)]
                (self._client.pause if one.paused else self._client.resume)(where)

    def _look_at_topics(self) -> None:
        """See from time to time that the topics are still what they were."""
        for topic, now in self._watch.look({topic for topic, _ in self._assigned}).items():
            self._watch.check(topic, [one.lane.mark for (of, _), one in self._assigned.items() if of == topic], now)

    def _ids(self) -> dict[str, str]:
        return {topic: one.lane.mark.topic for (topic, _), one in self._assigned.items()}

    def _stored(self, error: Any, partitions: Sequence[Any]) -> None:
        """What became of a commit; called by the client, in the thread."""
        if any(self._topic_ids.is_place(one) for one in partitions):
            self._topic_ids.stored(error)
            return
        self.storing.stored(error, partitions)
        codes = self._kafka.KafkaError
        never = codes.OFFSET_METADATA_TOO_LARGE, codes.GROUP_AUTHORIZATION_FAILED, codes.TOPIC_AUTHORIZATION_FAILED
        for said in (error, *(one.error for one in partitions)):
            if said is not None and said.code() in never:
                self._broken = self._broken or ConfigError(
                    f"Kafka does not store how far consumer {self._subscription.name!r} is: {said.str()}",
                    hint=f"group {self._group!r} takes READ of the group and of its topics, and brokers that take some"
                    " hundred bytes with an offset: offset.metadata.max.bytes",
                )

    # Partitions come and go; called by the client, in the thread.

    def _assign(self, partitions: Sequence[Any]) -> None:
        started = []
        if partitions:
            with suppress(Leaving):
                started = self._take_over(partitions)
        self._client.incremental_assign(started)  # who is about to leave takes none: others get them at once
        if started:
            self._topic_ids.soon()
            names = ", ".join(f"{one.topic}/{one.partition}" for one in started)
            logger.info("consumer %r has partitions %s", self._subscription.name, names)

    def _take_over(self, partitions: Sequence[Any]) -> list[Any]:
        """Ask all that is to be known of partitions, and begin with them; gives where each is read from."""
        started = []
        since = self._polled_at
        topics = self._watch.describe({one.topic for one in partitions}, since)
        self._watch.check_policies(topics, since)
        place = self._topic_ids.place
        *every, remembered = self.storing.read([*partitions, place], since, {place.topic})
        records = [self._records(one, since) for one in every]
        stored = {(one.topic, one.partition): Mark.read(one.metadata) for one in every}
        # Partitions that were added have nothing stored, and the others say how many there were.
        others = {
            topic: self._marks(topic, topics[topic], since) for (topic, _), mark in stored.items() if mark is None
        }
        if self._stopping:
            raise Leaving
        for one, (low, high) in zip(every, records, strict=True):
            of = one.topic, one.partition
            mark, now = stored[of], topics[one.topic]
            self._watch.check(one.topic, others[one.topic] if mark is None else [mark], now)
            if one.offset < 0 and self._topic_ids.tells_another(remembered.metadata, one.topic, now.id):
                less = f"; when nothing is missing, delete only what the group has stored for topic {place.topic}"
                raise self._watch.deleted(one.topic, "was deleted and made again", less)
            mark = mark or Mark()
            new = msgspec.structs.replace(mark, partitions=now.partitions, epoch=mark.epoch + 1, topic=now.id)
            offset = one.offset if one.offset >= 0 and not mark.new else -1
            assigned = self._begins(Found(*of, offset, new, low, high, now.id))
            assigned.taken = assigned.lane.through_lsn
            self._assigned[of] = assigned
            self.storing.forget(of)
            one.offset = assigned.lane.through_lsn
            started.append(one)
        return started

    def _records(self, one: Any, since: float) -> tuple[int, int]:
        """The offsets of the first record that a partition has, and behind the last."""
        codes = self._kafka.KafkaError

        def question(within: float) -> tuple[int, int]:
            try:
                found: tuple[int, int] | None = self._client.get_watermark_offsets(one, timeout=within)
            except self._kafka.KafkaException as error:
                if error.args[0].code() != codes._UNKNOWN_PARTITION:
                    raise
                # So the client says, too, that the partition has no leader for now, and would not look again.
                topic = self._client.list_topics(one.topic, timeout=within).topics.get(one.topic)
                said = None if topic is None else topic.error
                raise self._kafka.KafkaException(said or codes(codes.LEADER_NOT_AVAILABLE)) from None
            if found is None:  # so the client says that it was not answered in time
                raise TimeoutError
            return found

        of = f"which records there are in {one.topic}/{one.partition}"
        return self._asking.ask(question, "a broker", of, since)

    def _marks(self, topic: str, now: Described, since: float) -> list[Mark]:
        """What is stored of any partition of a topic."""
        every = [self._kafka.TopicPartition(topic, number) for number in range(now.partitions)]
        found = self.storing.read(every, since)
        return [mark for one in found if (mark := Mark.read(one.metadata)) is not None]

    def _revoke(self, partitions: Sequence[Any]) -> None:
        lanes = self._give_up(partitions)
        self._end(lanes)
        # Nobody waits here for the answer, which may not come while the coordinator is away. The client does, before it
        # lets the group give the partitions to others.
        self.storing.store(lanes)
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
        self.storing.refuse()
        return lanes

    def _end(self, lanes: Sequence[PartitionLane]) -> None:
        if not lanes:
            return
        with suppress(RuntimeError, TimeoutError):  # the loop may have ended without us
            asyncio.run_coroutine_threadsafe(self._ends(lanes), self._loop).result(2 * END_WITHIN)
        self._polled_at = time.monotonic()  # it was not away: it waited for its tasks

    def _look_for_ends(self, within: float) -> None:
        """See whether only what ends a transaction follows what is done: see `Arranging.arrange`."""
        for one in self._assigned.values():
            one.pass_end()
        wanted = {of for of, one in self._assigned.items() if one.taken == one.lane.progress()[0]}
        deadline = time.monotonic() + min(within, LOOK_FOR_END)
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
        """Leave the group, with everything stored that is done, as far as brokers take it in time."""
        lanes = self.lanes
        for lane in lanes:
            lane.hold()
            lane.close()
        self.storing.refuse()
        self._end(lanes)
        begun = time.monotonic()
        deadline, again_at = max((self._stopped_at or begun) + LEAVE_WITHIN, begun + LEAVE_LEAST), 0.0
        self._look_for_ends((deadline - begun) / 2)
        while (now := time.monotonic()) < deadline:
            if not self.storing.waits and now >= again_at:
                again_at = now + 0.1
                if not self.storing.store(self.lanes):
                    break
            self._client.poll(MEETING_TIMEOUT)
        else:
            logger.warning(
                "consumer %r: the group's coordinator has not taken in time how far it is: what is not stored comes"
                " again",
                self._subscription.name,
            )
        self._assigned.clear()
        self.storing.refuse()
        with suppress(self._kafka.KafkaException):
            # Who has no partitions would not tell the group that it goes (librdkafka 2.16): the others would wait for
            # it at their next rebalance until its session is over, and what they store meanwhile would not be answered.
            if not self._client.assignment():
                self._client.unsubscribe()
        self._client.close()
