"""How far a partition is while records that have come one by one are worked on together: as far as all is done."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc.errors import SinkUnavailable
from pgcdc.pipeline import target_handler
from pgcdc.pipeline.deadletter import MemoryDeadLetters
from pgcdc.pipeline.items import Begin
from pgcdc.pipeline.kafka_lane import Offsets, PartitionConsumer, PartitionLane
from pgcdc.pipeline.kafka_records import Mark
from pgcdc.pipeline.options import Options, check_options
from pgcdc.pipeline.parking import Desk
from pgcdc.pipeline.positions import StoredPosition
from pgcdc.pipeline.row_formats import RowFormats
from pgcdc.pipeline.subscription import HandlerSubscription, SinkSubscription
from pgcdc.pipeline.target import Target
from pgcdc.pipeline.target_handler import HandlerTarget
from pgcdc.pipeline.target_sink import SinkTarget
from pgcdc.protocol import Batch
from pgcdc.sinks import Kafka
from pgcdc.testing import Capture, insert, transaction
from tests.pipeline.kafka_reading import ORDERS, Reading, writing
from tests.pipeline.running import running, until

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.servers.kafka import KafkaServer

TABLE = frozenset({("public", "orders")})
CAPTURE = Capture.of(
    [transaction(insert("orders", {"id": number})) for number in range(8)],
    [insert("orders", {"id": number}) for number in range(8)],
)
WHOLE = Batch.of([payload for _, payload in CAPTURE.messages], [lsn for lsn, _ in CAPTURE.messages])
CHANGES = [WHOLE.take({number}) for number in range(8)]
"""One change of each of eight transactions, whose ids go up as their positions do."""


class Partition:
    """A partition of a consumer, from offset 100 on."""

    def __init__(self, subscription: HandlerSubscription | SinkSubscription, skip: int = 0) -> None:
        loop = asyncio.get_running_loop()
        mark = Mark(partitions=3, epoch=1)
        self.lane = PartitionLane("c", "t", 0, 100, mark, threading.Condition(), 1000, 1 << 20, loop)
        target: Target
        if isinstance(subscription, HandlerSubscription):
            formats = RowFormats()
            formats.order_by({relation.oid: ["id"] for relation in WHOLE.relations})
            target = HandlerTarget(subscription, formats, lambda: False)
        else:
            target = SinkTarget(subscription)
        self.consumer = PartitionConsumer(subscription, target, self.lane)
        self.consumer.follow(Offsets(self.lane))
        stored = StoredPosition(
            consumer="c",
            epoch=1,
            snapshot="none",
            position=None,
            through_lsn=skip,
            slot="slot",
            system_identifier="",
            timeline=0,
            fingerprint="",
        )
        self.lane.offer(Begin(stored, 2**64 - 1, exact=False))

    def offer(self, *numbers: int, at: int) -> None:
        """What has come together, from an offset on."""
        batch = Batch.concat([CHANGES[number] for number in numbers])
        assert self.lane.offer_rows(batch, range(at, at + len(numbers)), at + len(numbers), 1)

    def offset(self) -> int:
        return self.lane.progress()[0]


def handling(handle: Callable[[int], Awaitable[None]], concurrency: int = 1) -> HandlerSubscription:
    async def handler(change: Any) -> None:
        await handle(change.new.id)

    options = check_options("c", {"concurrency": concurrency}) if concurrency > 1 else Options()
    return HandlerSubscription("c", TABLE, None, True, options, handler, None)


async def test_what_a_stop_finds_done_of_several_records() -> None:
    async def handle(number: int) -> None:
        if number == 2:
            one.consumer.give_up()

    one = Partition(handling(handle))
    for number in range(5):
        one.offer(number, at=100 + number)
    await one.consumer.run()
    last = str(CHANGES[2].last_position)
    assert one.lane.progress() == (103, Mark(position=last, partitions=3, epoch=1))


async def test_rows_of_a_copy_are_told_apart_by_their_records() -> None:
    seen: list[int] = []

    async def handle(number: int) -> None:
        seen.append(number)
        if number == 3:
            one.consumer.give_up()

    one = Partition(handling(handle))
    for number, row in enumerate(CAPTURE.existing[:6]):
        assert one.lane.offer_rows(row, [100 + 2 * number], 102 + 2 * number, 1)
    await one.consumer.run()
    assert (seen, one.offset()) == ([0, 1, 2, 3], 108)


async def test_a_dead_letter_that_comes_behind_what_is_done() -> None:
    """Its position is an old one: that newer ones are done does not say that it is."""
    offsets: list[tuple[int, int]] = []

    async def handle(number: int) -> None:
        offsets.append((number, one.offset()))
        if number == 4:
            one.offer(0, 5, at=101)
        elif number == 5:
            one.lane.close()

    one = Partition(handling(handle))
    one.offer(4, at=100)
    await one.consumer.run()
    assert offsets == [(4, 100), (0, 101), (5, 101)]
    assert one.offset() == 103


@pytest.mark.parametrize("count", range(1, 5))
async def test_a_dead_letter_among_several_records(count: int) -> None:
    """It was delivered twice again, and each time stands behind what is newer."""
    seen: list[int] = []

    async def handle(number: int) -> None:
        seen.append(number)
        if len(seen) == count:
            one.consumer.give_up()

    one = Partition(handling(handle))
    one.offer(4, at=100)
    one.offer(0, 5, at=101)
    one.offer(0, 6, at=103)
    await one.consumer.run()
    assert (seen, one.offset()) == ([4, 0, 5, 0, 6][:count], 100 + count)


async def test_what_a_kill_would_find_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """While calls are slow it is said after each one; a kill does not wait for the end of the item."""
    monkeypatch.setattr(target_handler, "SAY_EVERY", 0)
    offsets: list[tuple[int, int]] = []

    async def handle(number: int) -> None:
        offsets.append((number, one.offset()))

    one = Partition(handling(handle))
    one.offer(4, at=100)
    one.offer(0, 5, at=101)
    one.offer(0, 6, at=103)
    one.lane.close()
    await one.consumer.run()
    assert offsets == [(4, 100), (0, 101), (5, 102), (0, 103), (6, 104)]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_dead_letter_counts_and_what_is_done_above_it(concurrency: int) -> None:
    """Also when the process ends right behind it."""
    done: list[int] = []
    two = asyncio.Event()

    async def handler(change: Any) -> None:
        if change.new.id == 1:
            if concurrency > 1:
                await asyncio.wait_for(two.wait(), 30)
            one.consumer.give_up()
            raise ValueError
        done.append(change.new.id)
        if change.new.id == 2:
            two.set()

    options = check_options("c", {"on_failure": "park"} | ({"concurrency": 2} if concurrency > 1 else {}))
    subscription = HandlerSubscription("c", TABLE, None, True, options, handler, None)
    one = Partition(subscription)
    desk, formats = Desk("p", MemoryDeadLetters()), RowFormats()
    formats.order_by({relation.oid: ["id"] for relation in WHOLE.relations})
    target = HandlerTarget(subscription, formats, lambda: False)
    one.consumer = PartitionConsumer(subscription, target, one.lane, desk=desk, formats=formats)
    one.consumer.follow(Offsets(one.lane))
    for number in range(5):
        one.offer(number, at=100 + number)
    await one.consumer.run()
    await desk.close(1)
    assert (done, one.offset()) == (([0, 2], 103) if concurrency > 1 else ([0], 102))


async def test_of_calls_at_once_those_count_before_the_first_that_is_not_done() -> None:
    done: list[int] = []

    async def handle(number: int) -> None:
        if number == 2:
            await asyncio.wait_for(three.wait(), 30)
            one.lane.close()
            raise SinkUnavailable("away")
        done.append(number)
        if number == 3:
            three.set()
            one.consumer.give_up()

    three = asyncio.Event()
    one = Partition(handling(handle, concurrency=2))
    for number in range(6):
        one.offer(number, at=100 + number)
    await one.consumer.run()
    assert (done, one.offset()) == ([0, 1, 3], 102)


class Sink:
    """Writes; the rest of what it was given is away."""

    def __init__(self, lane: Callable[[], PartitionLane], writes: int) -> None:
        self.lane = lane
        self.writes = writes
        self.ids: list[int] = []

    async def open(self) -> None:
        pass

    async def write(self, batch: Batch) -> None:
        if not self.writes:
            self.lane().close()
            raise SinkUnavailable("away")
        self.writes -= 1
        self.ids += [change.new.id for change in batch.changes()]  # type: ignore[union-attr]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(("writes", "offset"), [(0, 100), (1, 102), (2, 104), (3, 105)])
async def test_of_what_a_sink_is_given_each_write_counts(writes: int, offset: int) -> None:
    sink = Sink(lambda: one.lane, writes)
    options = check_options("c", {"max_rows": 2})
    one = Partition(SinkSubscription("c", TABLE, None, True, options, sink=sink))
    for number in range(5):
        one.offer(number, at=100 + number)
    if writes == 3:
        one.lane.close()
    await one.consumer.run()
    assert (len(sink.ids), one.offset()) == (offset - 100, offset)


async def test_what_the_slot_has_given_stands_between_what_it_has_not() -> None:
    """The last one is an old one, and is left out: the one before it is not done for that."""
    reached = CHANGES[1].last_position
    assert reached is not None
    sink = Sink(lambda: one.lane, 1)
    options = check_options("c", {"max_rows": 1})
    one = Partition(SinkSubscription("c", TABLE, None, True, options, sink=sink), skip=reached.commit_lsn + 1)
    one.offer(1, 4, 5, at=100)
    one.offer(0, at=103)
    await one.consumer.run()
    assert (sink.ids, one.offset()) == ([4], 102)


def test_what_is_done_when_it_stops_is_not_given_again(newest_database: Database, kafka: KafkaServer) -> None:
    """What has queued up behind a slow call is worked on together; a stop in the midst of it repeats nothing."""
    database = newest_database
    database.execute(ORDERS)
    writer, source = writing(database, kafka, partitions=1)
    given: list[int] = []
    begun, free = threading.Event(), threading.Event()

    def pipeline(stops_at: int) -> pgcdc.Pipeline:
        made = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])

        async def handle(change: Any) -> None:
            number = change.new.id
            if stops_at and number > stops_at:
                await asyncio.Event().wait()  # not done when it is to stop
            if number == 1:
                begun.set()
                await asyncio.to_thread(free.wait, 30)
            given.append(number)
            if number == stops_at:
                made.stop()

        made.on("orders", "insert", name="each")(handle)
        return made

    with running(writer) as write:
        write.streaming()
        first = pipeline(15)
        run = Reading(first, source)
        try:
            for number in range(1, 21):
                database.execute(f"INSERT INTO orders VALUES ({number}, {number}, 'new')")
                waiting = lambda rows=number: first.statistics().consumers["each"].queued_rows == rows  # noqa: E731
                until(lambda waiting=waiting: waiting() or not run.alive, "it has come", pause=0.05)  # type: ignore[misc]
            assert begun.is_set()
            free.set()
            run.ended()
        finally:
            free.set()
            run.stop()
        assert run.error is None and given == list(range(1, 16))
        run = Reading(pipeline(0), source)
        try:
            until(lambda: len(set(given)) == 20 or not run.alive, "the rest", pause=0.05)
        finally:
            run.stop()
    assert run.error is None and given == list(range(1, 21)), "each once"


def test_a_dead_letter_of_the_writer_that_is_not_done(newest_database: Database, kafka: KafkaServer) -> None:
    """It stands behind newer changes with its old position: who stops in the midst of it is given it again."""
    database = newest_database
    database.execute(ORDERS)
    refuses = threading.Event()
    refuses.set()

    def where(change: Any) -> bool:
        if refuses.is_set() and change.new.id == 9:
            raise ValueError
        return True

    prefix = f"shop-{uuid.uuid4().hex[:8]}"
    writer, source = pgcdc.Pipeline("writer", database.dsn, tables=["orders"]), f"kafka://{kafka.bootstrap}/{prefix}"
    sink = Kafka(kafka.bootstrap, prefix=prefix, format="pgcdc", partitions=1)
    writer.add(sink, where=where, on_failure="park")
    first_call, letter_call = threading.Event(), threading.Event()

    def pipeline(given: list[int], free: threading.Event) -> pgcdc.Pipeline:
        made = pgcdc.Pipeline("shop", database.dsn, tables=["orders"], max_rows_in_flight=1)

        async def handle(change: Any) -> None:
            if change.new.id == 1:
                first_call.set()
                await asyncio.to_thread(free.wait, 30)
            if change.new.id == 9 and not letter_call.is_set():
                letter_call.set()
                await asyncio.Event().wait()
            given.append(change.new.id)

        made.on("orders", "insert", name="each")(handle)
        return made

    with running(writer) as write:
        write.streaming()
        given: list[int] = []
        free = threading.Event()
        reader = pipeline(given, free)
        run = Reading(reader, source)
        try:
            database.execute("INSERT INTO orders VALUES (9, 9, 'refused')")
            until(lambda: len(writer.dead_letters.list()) == 1, "the letter", pause=0.05)
            refuses.clear()
            for number in (1, 2):
                database.execute(f"INSERT INTO orders VALUES ({number}, {number}, 'new')")
                write.catch_up(database)
                until(first_call.is_set, "the first call")
            members: Any = reader._run
            [member] = members._members.values()
            # Nothing more is read while the second one waits, so that the others come together.
            until(lambda: any(one.paused for one in member._assigned.values()), "it is paused")
            writer.dead_letters.retry()
            until(lambda: not writer.dead_letters.list(), "it was delivered", pause=0.05)
            database.execute("INSERT INTO orders VALUES (5, 5, 'behind')")
            write.catch_up(database)
            free.set()
            until(lambda: letter_call.is_set() or not run.alive, "the letter's call")
        finally:
            free.set()
            run.stop()
        assert run.error is None and given == [1, 2]
        again: list[int] = []
        run = Reading(pipeline(again, free), source)
        try:
            until(lambda: 5 in again or not run.alive, "what is behind it", pause=0.05)
        finally:
            run.stop()
    assert run.error is None and again == [9, 5]
