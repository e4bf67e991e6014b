"""The parts of reading from Kafka that need no broker: addresses, marks, offsets of a lane, what partitions share."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import pgcdc
from pgcdc.errors import ConfigError, DecodeError
from pgcdc.lsn import Position
from pgcdc.pipeline.kafka_address import parse_address
from pgcdc.pipeline.kafka_lane import Offsets, PartitionLane
from pgcdc.pipeline.kafka_records import Barrier, Mark, RowRecord, read_record
from pgcdc.pipeline.kafka_sharing import SharedHandler, SharedSink, shared
from pgcdc.pipeline.options import Options
from pgcdc.pipeline.subscription import HandlerSubscription, SinkSubscription
from pgcdc.protocol import Batch, RowFormat
from pgcdc.testing import Capture, insert, transaction
from tests.pipeline.targets import AsyncRecorder, Recorder


def changes(count: int) -> Batch:
    """One transaction of so many inserts."""
    capture = Capture.of([transaction(*(insert("orders", {"id": number}) for number in range(count)))])
    return Batch.of([payload for _, payload in capture.messages], [lsn for lsn, _ in capture.messages])


class TestAddresses:
    def test_brokers_and_prefix(self) -> None:
        address = parse_address("kafka://one,two:9093/shop", "pipeline")
        assert (address.brokers, address.prefix, address.settings) == ("one:9092,two:9093", "shop", {})
        assert address.topic(("public", "orders")) == "shop.public.orders"
        assert address.topic(("public", "Größe m")) == "shop.public.Gr__e_m"
        assert parse_address("kafka://one", "pipeline").messages_topic == "pipeline.message"
        both = {("public", "käse"), ("public", "köse")}
        assert address.topics([("public", "käse")]) == {"shop.public.k_se": ("public", "käse")}
        with pytest.raises(
            ConfigError, match=r"public\.käse and public\.köse would both come from the topic shop\.public"
        ):
            address.topics(both)

    def test_login(self) -> None:
        address = parse_address("kafka+ssl://me:se%40cret@one/shop?sasl.mechanism=SCRAM-SHA-512", "")
        assert address.settings == {
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": "me",
            "sasl.password": "se@cret",
            "security.protocol": "sasl_ssl",
        }
        assert "se@cret" not in repr(address)
        assert parse_address("kafka+ssl://one/shop", "").settings == {"security.protocol": "ssl"}

    @pytest.mark.parametrize("url", ["redis://me:hidden@one", "kafka:///shop", "kafka://one/shop?group.id=hidden"])
    def test_what_cannot_be_meant(self, url: str) -> None:
        with pytest.raises(ConfigError) as caught:
            pgcdc.Pipeline("shop", "", tables=["orders"], source=url)
        assert "hidden" not in str(caught.value)


def barrier(position: str, kind: str = "truncate") -> Barrier:
    return Barrier(kind, position, 7, 3)


class TestMarks:
    def test_what_is_stored_is_read_back(self) -> None:
        mark = Mark(position="A", passed=("A:key",), at="B:key", partitions=3, epoch=2)
        assert Mark.read(mark.text()) == mark
        assert Mark.read("somebody else's") is None
        assert Mark.read("") is None
        assert Mark.read(None) is None

    def test_a_partition_reaches_a_barrier_and_passes_it(self) -> None:
        here = barrier("B")
        before = Mark(position="A", partitions=3)
        assert not before.has_reached(here)
        at = Mark(position="A", at=here.id)
        assert at.has_reached(here)
        assert not at.has_passed(here)
        behind = at.after(here.position, here)
        assert behind.has_passed(here)
        assert not behind.at

    def test_two_barriers_of_one_position(self) -> None:
        schema, truncate = barrier("B", "schema"), barrier("B", "truncate")
        behind = Mark(position="A").after("B", schema)
        assert behind.has_passed(schema)
        assert not behind.has_reached(truncate)
        assert behind.after("B", truncate).has_passed(schema)
        row = behind.after("B")  # the change that has the new shape
        assert row.has_passed(schema)
        later = row.after("C")
        assert later.has_passed(schema)
        assert later.has_passed(truncate)
        assert later.passed == ()

    def test_an_older_change_sets_nothing_back(self) -> None:
        assert Mark(position="C", passed=("C:key",)).after("A") == Mark(position="C", passed=("C:key",))

    def test_a_barrier_that_was_a_dead_letter_of_the_sink(self) -> None:
        again = Barrier("key", "A", 9, 3, rewritten=True)
        mark = Mark(position="C")
        assert not mark.has_reached(again), "a higher position says nothing of it"
        behind = mark.after("A", again)
        assert behind.has_passed(again)
        assert behind.position == "C"
        assert behind.after("D").has_passed(again)


class Record:
    """A record as the client gives it."""

    def __init__(self, value: bytes | None, **headers: str) -> None:
        self._value = value
        self._headers = [(f"pgcdc.{name}", text.encode()) for name, text in headers.items()]

    def value(self) -> bytes | None:
        return self._value

    def key(self) -> bytes:
        return b'{"id":0}'

    def headers(self) -> list[tuple[str, bytes]]:
        return self._headers

    def offset(self) -> int:
        return 5

    def partition(self) -> int:
        return 1

    def topic(self) -> str:
        return "shop.public.orders"


class TestRecords:
    def test_a_change(self) -> None:
        [one, _] = (changes(2).take({number}) for number in (0, 1))
        read = read_record(Record(one.to_bytes(), position=str(one.first_position)), RowFormat())
        assert isinstance(read, RowRecord)
        assert (read.offset, read.batch.first_position) == (5, one.first_position)

    @pytest.mark.parametrize(
        "record",
        [
            Record(None),
            Record(b"{}"),
            Record(b"", barrier="truncate"),
            Record(b"{}", barrier="schema", position=str(Position(1, 0)), partitions="3"),
            Record(b"{}", barrier="later", position=str(Position(1, 0)), partitions="3"),
            Record(changes(1).to_bytes(), barrier="truncate", position="here", partitions="3"),
        ],
    )
    def test_what_is_none_of_ours(self, record: Record) -> None:
        with pytest.raises(DecodeError, match=r"offset 5 of partition 1 of topic 'shop\.public\.orders'"):
            read_record(record, RowFormat())


async def lane_of(batch: Batch) -> PartitionLane:
    """A lane from offset 100 on that works on a batch whose records stand at every second offset."""
    mark = Mark(partitions=3, epoch=1)
    lane = PartitionLane("c", "t", 0, 100, mark, threading.Condition(), 1000, 1 << 20, asyncio.get_running_loop())
    assert lane.offer_rows(batch, [100 + 2 * number for number in range(batch.changes_count)], 120, 1)
    assert await lane.take() is not None
    offsets = Offsets(lane)
    lane.place = offsets.behind
    offsets.pass_on(offsets.come_to(batch, None), tuple)
    return lane


class TestOffsets:
    async def test_what_is_done_in_part(self) -> None:
        batch = changes(5)
        lane = await lane_of(batch)
        assert lane.progress() == (100, Mark(partitions=3, epoch=1))
        second = batch.take({1}).first_position
        assert second is not None
        lane.reach(second, 2, 2)
        assert lane.progress() == (104, Mark(position=str(second), partitions=3, epoch=1))
        lane.done()
        assert lane.progress() == (120, Mark(position=str(batch.last_position), partitions=3, epoch=1))

    async def test_a_barrier(self) -> None:
        lane = await lane_of(changes(1))
        lane.done()
        here = Barrier("truncate", "F" * 16, 120, 3)
        lane.stand(here)
        assert lane.progress()[0] == 120
        assert lane.progress()[1].at == here.id
        lane.go_past(here)
        offset, mark = lane.progress()
        assert (offset, mark.position, mark.passed, mark.at) == (121, here.position, (here.id,), "")


class TestSharing:
    async def test_a_blocking_sink_is_opened_once_and_keeps_its_thread(self) -> None:
        threads: set[int] = set()
        under_way = most = 0

        class Sink(Recorder):
            def write(self, batch: Batch) -> None:
                nonlocal under_way, most
                threads.add(threading.get_ident())
                under_way += 1
                most = max(most, under_way)
                super().write(batch)
                under_way -= 1

        sink = Sink()
        one = shared(SinkSubscription("s", frozenset(), None, True, Options(), sink=sink))
        assert isinstance(one, SharedSink)
        part: Any = one.subscription
        await asyncio.gather(*(part.sink.open() for _ in range(4)))
        await asyncio.gather(*(part.sink.write(changes(1)) for _ in range(4)))
        assert (sink.opened, len(sink.batches), len(threads), most) == (1, 4, 1, 1)
        await part.sink.close()
        assert sink.closed == 0, "others go on"
        assert await one.close(5)
        assert sink.closed == 1

    @pytest.mark.parametrize("concurrency", [1, 3])
    async def test_no_more_calls_at_once_than_were_asked_for(self, concurrency: int) -> None:
        under_way = most = 0

        class Sink(AsyncRecorder):
            async def write(self, batch: Batch) -> None:  # type: ignore[override]
                nonlocal under_way, most
                under_way += 1
                most = max(most, under_way)
                await asyncio.sleep(0)
                under_way -= 1

        options = Options(concurrency=concurrency)
        one = shared(SinkSubscription("s", frozenset(), None, True, options, sink=Sink()))
        part: Any = one.subscription
        await asyncio.gather(*(part.sink.write(changes(1)) for _ in range(6)))
        assert most == concurrency

        async def handler(change: object) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1

        most = 0
        other = shared(HandlerSubscription("h", frozenset(), None, True, options, handler=handler, row=None))
        assert isinstance(other, SharedHandler)
        limited: Any = other.subscription
        await asyncio.gather(*(limited.handler(None) for _ in range(6)))
        assert most == concurrency


class Exact(Recorder):
    """Keeps its position."""

    def position(self) -> None:
        return None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"transactions": True}, "takes transactions whole"),
        ({"key": ["user_id"], "concurrency": 2}, "keeps order by columns of several tables"),
    ],
)
async def test_what_there_is_on_the_slot_only(options: Any, why: str) -> None:
    pipeline = pgcdc.Pipeline("shop", "", tables=["orders", "payments"], source="kafka://nowhere")
    pipeline.add(Recorder(), **options)
    with pytest.raises(ConfigError, match=why):
        await pipeline.arun()


async def test_a_sink_with_one_position_is_refused() -> None:
    pipeline = pgcdc.Pipeline("shop", "", tables=["orders"])
    pipeline.add(Exact())
    with pytest.raises(ConfigError, match="each partition has its own"):
        await pipeline.arun(source="kafka://nowhere")


async def test_a_copy_alone_is_none_of_kafka() -> None:
    pipeline = pgcdc.Pipeline("shop", "", tables=["orders"], snapshot="only")
    pipeline.add(Recorder())
    with pytest.raises(ConfigError, match="does not run from Kafka"):
        await pipeline.arun(source="kafka://nowhere")
