"""One run whose changes come from Kafka: each consumer is a group of its own, and this process a member of each.

It has the place of `run.Run`. What a consumer is on a slot, one queue and one task, it is here for each partition that
the process has; partitions come and go while it runs. Over 400 lines because a run is put together and observed here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from pgcdc.errors import ConfigError, ConnectionLost, Error, PositionError, SinkUnavailable
from pgcdc.events import Relation
from pgcdc.lsn import Position
from pgcdc.pipeline import retry
from pgcdc.pipeline.deadletter import DeadLetterStore, Marks, Which
from pgcdc.pipeline.delivery import ConsumerState
from pgcdc.pipeline.items import Appointment, Begin
from pgcdc.pipeline.kafka_address import KafkaAddress
from pgcdc.pipeline.kafka_assigned import Assigned, Found
from pgcdc.pipeline.kafka_barriers import Barriers
from pgcdc.pipeline.kafka_keeping import KeepingPart, KeepingTarget, Notes
from pgcdc.pipeline.kafka_lane import Offsets, PartitionConsumer, PartitionLane
from pgcdc.pipeline.kafka_member import END_WITHIN, Member
from pgcdc.pipeline.kafka_records import Barrier, Mark
from pgcdc.pipeline.kafka_reshaping import PartitionReshaping
from pgcdc.pipeline.kafka_sharing import RelayingSink, SharedHandler, SharedSink, shared
from pgcdc.pipeline.kafka_source import Database, handed_over, skipped
from pgcdc.pipeline.migrations import Migrations
from pgcdc.pipeline.parking import Desk
from pgcdc.pipeline.positions import PositionStore, StoredPosition
from pgcdc.pipeline.progress import Waiters
from pgcdc.pipeline.reshaping import Together
from pgcdc.pipeline.row_formats import RowFormats
from pgcdc.pipeline.schemas import SchemaStore
from pgcdc.pipeline.settings import Settings
from pgcdc.pipeline.statistics import ConsumerStatistics, PipelineStatistics, SourceStatistics
from pgcdc.pipeline.subscription import HandlerSubscription, SinkSubscription, Subscription, Table
from pgcdc.pipeline.target import Target
from pgcdc.pipeline.target_handler import HandlerTarget
from pgcdc.pipeline.target_sink import SinkTarget
from pgcdc.pipeline.versioning import Versioning
from pgcdc.pipeline.worker import Worker
from pgcdc.protocol import Batch, RowFormat
from pgcdc.sink import PartitionedSink

__all__ = ["KafkaRun"]

logger = logging.getLogger("pgcdc.pipeline")

DRAIN_WITHIN = 3.5
"""Seconds that tasks have to finish the call that they are in, at the end: as on a slot, where a stop takes 5 s."""
DRAINED_AFTER = 6.0
"""Seconds after a stop when no task is waited for any more, where partitions were being given back when it came."""
STOP_WITHIN: float = 7.6
"""Seconds that members have to end: one that waits for a broker any longer is left behind."""
LETTERS_EVERY = 1.0
"""Seconds between two looks at dead letters that are asked for."""
LAST_CHANCE = 0.3
"""Seconds that a task has to end after its time is over, before it is cancelled."""
ASK_AGAIN = 0.2
"""Seconds between two questions whether a partition is still this process's, when its target says that it is not."""
CLOSE_WITHIN = 1.0
"""Seconds that a call which still runs at the end is waited for."""


@dataclass
class _Part:
    """One partition of one consumer in this process."""

    lane: PartitionLane
    consumer: PartitionConsumer
    task: asyncio.Task[None] | None = None


class KafkaRun:
    """One run, made on the event loop that it runs on.

    Args:
        settings: The pipeline's.
        subscriptions: The consumers by name.
        store: Where the positions are that consumers had on the slot.
        waiters: Nobody waits here.
        schemas: Where the versions of tables' shapes are kept, for all processes.
        migrations: What is to run when a table has another.
        letters: Where dead letters are kept; None: nowhere.
        address: Where Kafka is.

    Raises:
        ConfigError: When a consumer asks for what there is only on a slot.
    """

    def __init__(
        self,
        settings: Settings,
        subscriptions: Mapping[str, Subscription],
        store: PositionStore,
        waiters: Waiters,
        schemas: SchemaStore,
        migrations: Migrations,
        letters: DeadLetterStore | None,
        *,
        address: KafkaAddress,
    ) -> None:
        retry.check()
        del waiters
        self._settings = settings
        self._subscriptions = subscriptions
        self._store = store
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        self._drained_by = 0.0  # of the loop's clock
        self._error: BaseException | None = None
        self._condition = threading.Condition()
        for subscription in subscriptions.values():
            _check(settings, subscription)
        self._shared: dict[str, SharedSink | SharedHandler] = {
            name: shared(subscription) for name, subscription in subscriptions.items()
        }
        self._formats = RowFormats()
        self._database = Database(settings, self._formats)
        self._versioning = Versioning(settings.name, schemas, self._condition)
        self._together = Together(self._versioning, migrations)
        parks = any(one.options.on_failure != "stop" for one in subscriptions.values())
        self._desk = None if letters is None else Desk(settings.name, letters, used=parks)
        self._worker = Worker(f"pgcdc-{settings.name}-database")
        self._slot: Mapping[str, StoredPosition] = {}
        self._members: dict[str, Member] = {}
        self._parts: dict[str, list[_Part]] = {name: [] for name in subscriptions}
        self._delivered = dict.fromkeys(subscriptions, 0)
        # Those that were given back at the end: what is stored of them is what is said then.
        self._former: list[PartitionLane] = []
        self._phase = "starting"
        self._is_over = False

    async def run(self) -> None:
        """Run until it is stopped.

        Raises:
            Error: The first thing that went wrong.
        """
        letters = asyncio.create_task(self._watch_letters(), name="pgcdc-dead-letters")
        try:
            await self._begin()
        except BaseException as error:
            self._fail(error)
        await self._ending.wait()
        until = self._loop.time() + STOP_WITHIN
        self._drained_by = self._loop.time() + DRAINED_AFTER
        for member in self._members.values():
            member.stop()
        for name, member in self._members.items():
            if not await member.join(max(0.0, until - self._loop.time())):
                logger.warning("consumer %r: its connection to Kafka waits for a broker, and is left behind", name)
        self._is_over = True
        left = [part.lane for part in self._all()]
        for lane in left:
            lane.hold()
            lane.close()
        await self._end(left, LAST_CHANCE)
        letters.cancel()
        # Together: each may wait for a call of its own.
        await asyncio.gather(*(self._close(name, one) for name, one in self._shared.items()))
        if self._desk is not None:
            await self._desk.close(CLOSE_WITHIN)
        self._phase = "stopped"
        closer = Worker(f"pgcdc-{self._settings.name}-closer")
        await closer.call(self._versioning.close)
        await closer.stop(CLOSE_WITHIN)
        await self._worker.stop(CLOSE_WITHIN)
        if self._error is not None:
            raise self._error

    async def _close(self, name: str, one: SharedSink | SharedHandler) -> None:
        try:
            if not await one.close(CLOSE_WITHIN):
                logger.warning("consumer %r: a call still runs and is left behind", name)
        except Exception as error:
            self._fail(error)

    def stop(self) -> None:
        """End; on the event loop's thread."""
        self._ending.set()

    def progressed(self) -> None:
        """Nobody waits for LSNs here."""

    async def _begin(self) -> None:
        self._slot = await self._worker.call(handed_over, self._settings, self._store, list(self._subscriptions))
        await self._worker.call(self._versioning.open)
        await self._worker.call(self._database.look)
        self._formats.use(self._database.catalog)
        if self._desk is not None:
            await self._check_letters(self._desk)
        self._say_where_from()
        format = RowFormat(catalog=self._database.catalog)
        for name, subscription in self._subscriptions.items():
            topics = self._address.topics(subscription.tables)
            names = [*topics, *([self._address.messages_topic] if subscription.messages else [])]
            self._members[name] = Member(
                subscription,
                self._address,
                self._group(name),
                names,
                lambda found, name=name, topics=topics: self._assign(name, topics.get(found.topic), found),  # type: ignore[misc]
                self._end,
                self._member_ended,
                self._loop,
                format,
                {topic: columns for topic, table in topics.items() if (columns := _ordered_by(subscription, table))},
            )
        self._phase = "streaming"
        if not self._ending.is_set():
            for member in self._members.values():
                member.start()
        else:
            self._members = {}

    def _group(self, name: str) -> str:
        """The group of a consumer."""
        return f"{self._settings.name}.{name}"

    def _say_where_from(self) -> None:
        """To sinks that write to topics, too."""
        topics = {topic for one in self._subscriptions.values() for topic in self._address.topics(one.tables)}
        topics.add(self._address.messages_topic)
        for one in self._subscriptions.values():
            if isinstance(one, SinkSubscription) and isinstance(one.sink, RelayingSink):
                one.sink.reads_from(self._address.client, self._address.prefix, topics)

    async def _check_letters(self, desk: Desk) -> None:
        """Of what a consumer has left on the slot nobody here knows the partition."""
        try:
            found = await desk.call(desk.store.find, Which(pipelines=frozenset({desk.pipeline})))
        except (ConfigError, ConnectionLost) as error:
            if desk.used:
                raise
            logger.debug("pipeline %r: no dead letters can be read: %s", desk.pipeline, error)
            found = []
        for name in self._subscriptions:
            those = [one for one in found if one.consumer == name]
            if those:
                raise PositionError(
                    f"consumer {name!r} has {len(those)} dead letters from when it read from the slot",
                    hint="pgcdc deadletter list shows them; retry them while the pipeline runs from the slot, or drop"
                    " them, first",
                    table=those[0].table,
                )

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        elif error is not self._error:
            logger.warning("pipeline %r: while it ended: %s: %s", self._settings.name, type(error).__name__, error)
        self._ending.set()

    def _member_ended(self, reason: BaseException | None) -> None:
        if reason is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._fail, reason)

    # Partitions; in the thread of a member.

    def _assign(self, name: str, table: Table | None, found: Found) -> Assigned:
        subscription, row, member = self._subscriptions[name], self._slot.get(name), self._members[name]
        topic, number, start, low, mark = found.topic, found.partition, found.offset, found.low, found.mark
        skip, first, refusal = skipped(row), None, None
        if start < 0:
            start, first = low, low if low and skip is not None else None
            if low and skip is None and subscription.copies:
                refusal = PositionError(
                    f"consumer {name!r} is new, and topic {topic!r} has not got its beginning any more: existing rows"
                    " are not in it",
                    hint="make the topic again with a sink that copies existing rows, and give it a retention without"
                    ' end; or take only what is there: snapshot="never"',
                )
                if not isinstance(subscription, SinkSubscription) or not isinstance(subscription.sink, PartitionedSink):
                    raise refusal
                mark = msgspec.structs.replace(mark, new=True)  # its target says whether it is
        else:
            skip = None
        part = f"{name}[{topic.removeprefix(self._address.prefix + '.')}/{number}]"
        settings = self._settings
        lane = PartitionLane(
            part,
            topic,
            number,
            start,
            mark,
            self._condition,
            settings.max_rows_in_flight,
            settings.max_bytes_in_flight,
            self._loop,
        )
        own = replace(self._shared[name].subscription, name=part)
        target, offsets = self._target(name, own, lane, found, refusal)
        epoch = 1 if row is None else row.epoch + 1
        reshaping = PartitionReshaping(subscription, target, self._together, epoch, self._database.alone)
        desk = self._desk
        consumer = PartitionConsumer(own, target, lane, reshaping, desk, lambda: lane.letters_through, self._formats)
        consumer.follow(offsets)
        keep_trying = consumer.delivery.keep_trying

        async def learn(batch: Batch) -> None:
            await reshaping.learn(batch, keep_trying)

        async def look(relation: Relation) -> None:
            async def call() -> None:
                try:
                    await self._worker.call(self._database.look_for, relation)
                except ConnectionLost as error:
                    raise SinkUnavailable(f"the source database: {error}") from error

            await keep_trying(call)

        consumer.learn = learn
        barriers = Barriers(subscription, table, lane, consumer, reshaping, member.storing, look, self._address.topic)
        lane.offer(Begin(self._stored(part, row, mark), 2**64 - 1, exact=False))
        one = _Part(lane, consumer)
        self._parts[name].append(one)
        self._loop.call_soon_threadsafe(self._begin_task, one)

        def item(barrier: Barrier) -> Appointment:
            async def keep() -> None:
                member.meetings += 1
                try:
                    await barriers.keep(barrier)
                finally:
                    member.meetings -= 1

            return Appointment(keep)

        return Assigned(lane, item, skip, first=first)

    def _target(
        self, name: str, own: Subscription, lane: PartitionLane, found: Found, refusal: PositionError | None
    ) -> tuple[Target, Offsets]:
        """What a partition writes to, and the offsets of what that is given, which it may keep."""
        if isinstance(own, HandlerSubscription):
            return HandlerTarget(own, self._formats, lambda: lane.held and not lane.closed), Offsets(lane)
        whole, storing = self._shared[name], self._members[name].storing
        assert isinstance(own, SinkSubscription)
        assert isinstance(whole, SharedSink)
        if not isinstance(whole.sink, PartitionedSink):
            return SinkTarget(own, self._formats), Offsets(lane)

        async def ours() -> bool:
            while not lane.closed:
                if await storing.confirm(lane):
                    return True
                await asyncio.sleep(ASK_AGAIN)
            return False

        notes = Notes(lane.consumer, self._group(name), lane, found.topic_id, found.high, refusal)
        part = KeepingPart(whole, f"{found.topic}/{found.partition}", notes, ours)
        return KeepingTarget(replace(own, sink=part), self._formats, notes), notes

    def _stored(self, part: str, row: StoredPosition | None, mark: Mark) -> StoredPosition:
        """What a partition's task begins with: what it had on the slot; the rest is said by offsets."""
        skip = skipped(row)
        return StoredPosition(
            consumer=part,
            epoch=mark.epoch,
            snapshot="none",
            position=None,
            through_lsn=0 if skip is None else skip.commit_lsn,
            slot=self._settings.slot,
            system_identifier="",
            timeline=0,
            fingerprint="",
        )

    # Their tasks; on the event loop.

    def _begin_task(self, part: _Part) -> None:
        if self._is_over:  # a member that was left behind has got its answer
            return
        part.task = asyncio.create_task(self._consume(part), name=f"pgcdc-{part.lane.consumer}")

    async def _consume(self, part: _Part) -> None:
        try:
            # A partition that nobody works on would stand still: whatever ends its task before it goes is told.
            await part.consumer.run()
        except asyncio.CancelledError:
            if part.lane.closed:
                raise
            self._fail(Error(f"consumer {part.lane.consumer!r} was cancelled"))
        except BaseException as error:  # a panic of the Rust half is no Exception
            self._fail(error)
        else:
            if not part.lane.closed:
                self._fail(Error(f"consumer {part.lane.consumer!r} has ended before its partition went"))

    async def _end(self, lanes: Sequence[PartitionLane], within: float | None = None) -> None:
        """Let the tasks of partitions finish the call that they are in."""
        if within is None and self._drained_by:
            within = max(LAST_CHANCE, min(DRAIN_WITHIN, self._drained_by - self._loop.time()))
        elif within is None:
            within = END_WITHIN
        ending = {
            part.task: part
            for parts in self._parts.values()
            for part in parts
            if part.lane in lanes and part.task is not None
        }
        for task, part in ending.items():
            part.consumer.give_up()
            if part.consumer.pausing:
                task.cancel()
        late = set(ending)
        if late:
            _, late = await asyncio.wait(late, timeout=within)
        for task in late:
            logger.warning("consumer %r did not finish in time: its change comes again", ending[task].lane.consumer)
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=LAST_CHANCE)
        for name, parts in self._parts.items():
            self._delivered[name] += sum(part.lane.delivered for part in parts if part.lane in lanes)
            self._parts[name] = [part for part in parts if part.lane not in lanes]
        if self._ending.is_set():
            self._former += lanes

    async def _watch_letters(self) -> None:
        desk = self._desk
        while desk is not None and desk.used:
            await asyncio.sleep(LETTERS_EVERY)
            try:
                marks = await desk.call(desk.store.marks, desk.pipeline)
            except Exception as error:
                logger.debug("pipeline %r: its dead letters cannot be seen: %s", desk.pipeline, error)
                continue
            for part in self._all():
                parking = part.consumer.delivery.parking
                if parking is not None and (parking.waiting or parking.marks != marks.get(part.lane.consumer, Marks())):
                    part.lane.nudge()

    def _all(self) -> Iterator[_Part]:
        return (part for parts in self._parts.values() for part in list(parts))

    # Observing.

    def statistics(self) -> PipelineStatistics:
        """What can be said now; from any thread."""
        consumers = {name: self._statistics(name, list(parts)) for name, parts in self._parts.items()}
        done = [_lsn(lane.stored) for lane in [*(part.lane for part in self._all()), *self._former]]
        confirmed = min((lsn for lsn in done if lsn), default=0)
        received = max((part.lane.position.commit_lsn for part in self._all() if part.lane.position), default=0)
        source = SourceStatistics(
            phase=self._phase,  # type: ignore[arg-type]
            received_lsn=received,
            confirmed_lsn=confirmed,
            binary=None,
            lag=max(0, received - confirmed) if confirmed else 0,
            kind="kafka",
        )
        return PipelineStatistics(name=self._settings.name, source=source, consumers=consumers)

    def _statistics(self, name: str, parts: Sequence[_Part]) -> ConsumerStatistics:
        lanes = [part.lane for part in parts]
        breakers = [part.consumer.delivery.breaker for part in parts]
        parkings = [parking for part in parts if (parking := part.consumer.delivery.parking) is not None]
        pauses = [pause for breaker in breakers if (pause := breaker.next_attempt_in) is not None]
        worst = max(breakers, key=lambda breaker: breaker.failures, default=None)
        return ConsumerStatistics(
            delivered=self._delivered[name] + sum(lane.delivered for lane in lanes),
            position=max((lane.position for lane in lanes if lane.position is not None), default=None),
            through_lsn=min((_lsn(lane.stored) for lane in lanes), default=0),
            queued_rows=sum(lane.rows for lane in lanes),
            queued_bytes=sum(lane.bytes for lane in lanes),
            state=self._state(parts),
            last_error=next((part.consumer.last_error for part in parts if part.consumer.last_error), None),
            failures=0 if worst is None else worst.failures,
            breaker="closed" if worst is None else worst.state,
            next_attempt_in=min(pauses, default=None),
            dead_letters=sum(parking.count for parking in parkings),
            held_keys=sum(parking.held_keys for parking in parkings),
            parked=next((part.consumer.parked for part in parts if part.consumer.parked), None),
        )

    def _state(self, parts: Sequence[_Part]) -> ConsumerState:
        states = {part.consumer.state for part in parts}
        for state in ("failed", "retrying", "starting", "running"):
            if state in states:
                return state
        return "stopped" if self._phase == "stopped" else "starting"


def _lsn(stored: tuple[int, Mark] | None) -> int:
    return Position.parse(stored[1].position).commit_lsn if stored is not None and stored[1].position else 0


def _check(settings: Settings, subscription: Subscription) -> None:
    options = subscription.options
    if settings.snapshot == "only":
        raise ConfigError('snapshot="only" copies from the database: it does not run from Kafka')
    if options.transactions:
        raise ConfigError(
            f"consumer {subscription.name!r} takes transactions whole, and on Kafka their changes are in several"
            " partitions",
            hint="leave transactions out, or let that consumer run on the slot",
        )
    if options.key is not None and len(subscription.tables) > 1:
        raise ConfigError(
            f"consumer {subscription.name!r} keeps order by columns of several tables, and on Kafka each table has a"
            " topic of its own",
            hint="let that consumer run on the slot, or register one for each table",
        )


def _ordered_by(subscription: Subscription, table: Table) -> Sequence[str]:
    """The columns that a consumer keeps order by, where it says so; none for the primary key."""
    options = subscription.options
    if options.key is not None:
        return options.key
    # The rows of an outbox table are events, which are in order by topic and key where something depends on it.
    keeps = options.concurrency > 1 or options.on_failure == "hold"
    return options.outboxes.get(table, ()) if keeps else ()
