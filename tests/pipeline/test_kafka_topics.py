"""Topics that change behind a reader's back: records that are gone, more partitions, another topic."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewPartitions, NewTopic

import pgcdc
from pgcdc.errors import PositionError
from pgcdc.pipeline import kafka_member
from tests.pipeline.kafka_reading import ORDERS, Reading, writing
from tests.pipeline.running import running, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database
    from tests.servers.kafka import KafkaServer

SOON = {"topic.metadata.refresh.interval.ms": 500}
"""What the clients of the tests look at topics again after."""
GROUP = "shop.one"
LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class Shop:
    """A writer with a topic, and what readers were given of it."""

    def __init__(self, database: Database, kafka: KafkaServer, partitions: int) -> None:
        self.database = database
        self.given: list[tuple[Any, ...]] = []
        self.lock = threading.Lock()
        database.execute(ORDERS, "INSERT INTO orders SELECT n, n, 'a' FROM generate_series(1, 30) n")
        self.writer, source = writing(database, kafka, partitions=partitions, settings=SOON)
        self.source = source + "&topic.metadata.refresh.interval.ms=500"
        self.topic = f"{source.partition('?')[0].rpartition('/')[2]}.public.orders"
        self.admin = AdminClient({"bootstrap.servers": kafka.bootstrap})

    def _take(self, change: Any) -> None:
        with self.lock:
            self.given.append((change.new.id, change.new.note))

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reading]:
        pipeline = pgcdc.Pipeline("shop", self.database.dsn, tables=["orders"])
        pipeline.on("orders", "insert", "update", name="one")(self._take)
        reader = Reading(pipeline, self.source)
        try:
            yield reader
        finally:
            if reader.alive:
                reader.stop()

    def until_given(self, count: int, reader: Reading) -> None:
        until(lambda: len(self.given) >= count or not reader.alive, f"{count} changes", pause=0.02)
        if reader.error is not None:
            raise reader.error
        assert len(self.given) == count

    def until_ended(self, reader: Reading) -> BaseException | None:
        until(lambda: not reader.alive, "an end", pause=0.02)
        return reader.error

    def delete(self) -> None:
        [deleted] = self.admin.delete_topics([self.topic]).values()
        deleted.result()

    def make_again(self, partitions: int) -> None:
        """Deletes it, and makes another of the same name: the broker needs a moment, and the writer may be first."""
        former = self.id()
        self.delete()

        def made() -> bool:
            [result] = self.admin.create_topics([NewTopic(self.topic, partitions, 1)]).values()
            with contextlib.suppress(KafkaException):
                result.result()
            return self.id() not in (None, former)

        until(made, "the topic", pause=0.1)

    def id(self) -> str | None:
        [asked] = self.admin.describe_topics(TopicCollection([self.topic])).values()
        with contextlib.suppress(KafkaException):
            return str(asked.result().topic_id)
        return None

    def kept(self) -> list[TopicPartition]:
        """What the group has stored of it."""
        [asked] = self.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(GROUP)]).values()
        return [one for one in asked.result().topic_partitions or () if one.topic == self.topic]

    def stored(self) -> dict[int, int]:
        return {one.partition: one.offset for one in self.kept()}

    def ends(self) -> dict[int, int]:
        """The offsets behind everything that is in it, also what ends transactions."""
        asked = self.admin.list_offsets({TopicPartition(self.topic, number): LATEST for number in range(2)})
        return {place.partition: found.result().offset for place, found in asked.items()}


@pytest.fixture
def shop(newest_database: Database, kafka: KafkaServer) -> Iterator[Shop]:
    kafka.start()
    with mock.patch.object(kafka_member, "LOOK_EVERY", 0.2):
        yield Shop(newest_database, kafka, 2)


def test_what_was_read_may_be_gone(shop: Shop) -> None:
    """Retention removes also what ends a transaction, which no record follows; nothing of it was lost."""
    with running(shop.writer) as write:
        write.streaming()
        write.catch_up(shop.database)
        with shop.reading() as reader:
            shop.until_given(30, reader)
            until(lambda: shop.stored() == shop.ends(), "the end", pause=0.05)
        places = [TopicPartition(shop.topic, number, -1) for number in range(2)]
        for gone in shop.admin.delete_records(places).values():
            gone.result()
        with shop.reading() as reader:
            shop.database.execute("INSERT INTO orders SELECT n, n, 'b' FROM generate_series(31, 40) n")
            shop.until_given(40, reader)


def test_partitions_that_are_added_end_it(shop: Shop) -> None:
    """A row's next change would be in another partition, where nothing keeps it behind the last one."""
    with running(shop.writer) as write:
        write.streaming()
        with shop.reading() as reader:
            shop.until_given(30, reader)
            [added] = shop.admin.create_partitions([NewPartitions(shop.topic, 3)]).values()
            added.result()
            ended = shop.until_ended(reader)
            assert isinstance(ended, PositionError)
            assert "had 2 partitions and has 3 now" in str(ended)
        with shop.reading() as reader:
            assert isinstance(shop.until_ended(reader), PositionError), "nor does it go on when it is started again"


def test_a_topic_that_is_deleted_ends_it(shop: Shop) -> None:
    with running(shop.writer) as write:
        write.streaming()
        write.catch_up(shop.database)
        with shop.reading() as reader:
            shop.until_given(30, reader)
            shop.delete()
            ended = shop.until_ended(reader)
            assert isinstance(ended, PositionError)
            assert "was deleted" in str(ended)


def test_a_topic_that_was_made_again_is_another(shop: Shop) -> None:
    """What was not read of the former one is nowhere. The group's offsets are kept, which brokers mostly forget."""
    with running(shop.writer) as write:
        write.streaming()
        write.catch_up(shop.database)
        with shop.reading() as reader:
            shop.until_given(30, reader)
        kept = shop.kept()
        shop.make_again(2)
        until(lambda: not any(one.offset >= 0 for one in shop.kept()), "the broker has forgotten", pause=0.05)
        for one in kept:
            one.offset = 0
        [put_back] = shop.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(GROUP, kept)]).values()
        put_back.result()
        with shop.reading() as reader:
            ended = shop.until_ended(reader)
            assert isinstance(ended, PositionError)
            assert "was deleted and made again" in str(ended)
