"""Topics that change behind a reader's back: records that are gone, more partitions, another topic."""

from __future__ import annotations

import contextlib
import threading
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import confluent_kafka
import pytest
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
    Uuid,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewPartitions, NewTopic

import pgcdc
from pgcdc.errors import ConfigError, PositionError
from pgcdc.pipeline import kafka_member, kafka_topic_ids
from pgcdc.pipeline.kafka_topic_ids import TopicIds
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

    def kept(self, topic: str | None = None) -> list[TopicPartition]:
        """What the group has stored of it, or of another one."""
        [asked] = self.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(GROUP)]).values()
        return [one for one in asked.result().topic_partitions or () if one.topic == (topic or self.topic)]

    @property
    def positions(self) -> str:
        """The topic of the writer's positions."""
        return self.topic.replace("public.orders", "pgcdc_positions")

    def remembered(self) -> str:
        """What the group has stored with that."""
        return "".join(one.metadata or "" for one in self.kept(self.positions))

    def end_of_positions(self) -> int:
        latest = {TopicPartition(self.positions, 0): OffsetSpec.latest()}  # type: ignore[no-untyped-call]
        [asked] = self.admin.list_offsets(latest).values()
        return int(asked.result().offset)

    def policy(self) -> str:
        """How the broker removes its records."""
        topic = ConfigResource(ConfigResource.Type.TOPIC, self.topic)
        [asked] = self.admin.describe_configs([topic]).values()
        return str(asked.result()["cleanup.policy"].value)

    def set_policy(self, policy: str) -> None:
        entry = ConfigEntry("cleanup.policy", policy, incremental_operation=AlterConfigOpType.SET)
        topic = ConfigResource(ConfigResource.Type.TOPIC, self.topic, incremental_configs=[entry])
        [asked] = self.admin.incremental_alter_configs([topic]).values()
        asked.result()
        until(lambda: self.policy() == policy, "the policy")

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


def test_who_ends_at_once_looks_for_the_end(shop: Shop) -> None:
    """The client tells of it half a second after the last record."""
    with running(shop.writer) as write:
        write.streaming()
        write.catch_up(shop.database)
        with shop.reading() as reader:
            shop.until_given(30, reader)
        assert reader.error is None
    assert shop.stored() == shop.ends()


def test_a_partition_that_ends_with_a_barrier(shop: Shop) -> None:
    """The client tells of the end once, while the barrier is in hand."""
    with running(shop.writer) as write:
        write.streaming()
        write.catch_up(shop.database)
        with shop.reading() as reader:
            shop.until_given(30, reader)
            shop.database.execute(
                "ALTER TABLE orders ADD COLUMN more text", "UPDATE orders SET note = 'b' WHERE id = 1"
            )
            shop.until_given(31, reader)
            until(lambda: shop.stored() == shop.ends(), "the end", pause=0.05)


def test_brokers_without_ids() -> None:
    """They say zero, which is no id: else a topic would be another one after they are brought up to date."""
    topic = SimpleNamespace(partitions=[None] * 3, topic_id=Uuid(0, 0))
    assert kafka_member._described(topic) == (3, "")
    topic.topic_id = Uuid(0, 7)
    assert kafka_member._described(topic) == (3, str(Uuid(0, 7)))


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


def test_a_group_remembers_a_topic_that_brokers_forget(shop: Shop) -> None:
    """Offsets go with the topic: the group would be taken for a new one, and what it had not read would be missed."""
    with running(shop.writer) as write:
        write.streaming()
        with shop.reading() as reader:
            shop.until_given(30, reader)
            until(lambda: shop.remembered() != "", "the topic's id", pause=0.05)
        shop.database.execute("INSERT INTO orders SELECT n, n, 'unread' FROM generate_series(31, 40) n")
        write.catch_up(shop.database)
    former = shop.remembered()
    shop.make_again(2)
    until(lambda: not any(one.offset >= 0 for one in shop.kept()), "the broker has forgotten", pause=0.05)
    for _ in range(2):  # whoever starts it again without a look is told once more
        with shop.reading() as reader:
            ended = shop.until_ended(reader)
            assert isinstance(ended, PositionError)
            assert "was deleted and made again" in str(ended)
    [forgotten] = shop.admin.delete_consumer_groups([GROUP]).values()
    forgotten.result()
    with shop.reading() as reader:
        until(lambda: shop.remembered() not in ("", former) or not reader.alive, "the new one's id", pause=0.05)
        assert reader.error is None


def test_what_a_group_remembers_neither_expires_nor_lags(shop: Shop) -> None:
    """Of a topic that its members do not read, brokers forget what is not stored again from time to time."""
    with mock.patch.object(kafka_topic_ids, "AGAIN", 0.2), running(shop.writer) as write, shop.reading() as reader:
        write.streaming()
        shop.until_given(30, reader)
        until(lambda: shop.remembered() != "", "the topic's id", pause=0.05)
        end = shop.end_of_positions()
        shop.database.execute("INSERT INTO orders SELECT n, n, 'b' FROM generate_series(31, 40) n")
        write.catch_up(shop.database)
        assert shop.end_of_positions() > end
        until(lambda: shop.kept(shop.positions)[0].offset == shop.end_of_positions(), "the end", pause=0.05)


def test_members_remember_what_others_do(kafka: KafkaServer) -> None:
    kafka.start()
    group, positions = f"group-{uuid.uuid4().hex[:8]}", f"positions-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    [made] = admin.create_topics([NewTopic(positions, 1, 1)]).values()
    made.result()
    answers: list[KafkaError | None] = []
    client = Consumer(
        {"bootstrap.servers": kafka.bootstrap, "group.id": group, "on_commit": lambda error, _: answers.append(error)}
    )

    def store(topics: list[str], of: dict[str, str]) -> str:
        """What there is when one member has stored what it knows."""
        ids = TopicIds(confluent_kafka, group, topics, positions)
        answers.clear()

        def stored() -> bool:
            if client.poll(0.01) is None and answers[-1:] == [None]:
                return True
            while answers:
                ids.stored(answers.pop())  # again, while the broker does not know the group yet
            ids.keep(admin, client, lambda: of)
            return False

        until(stored, "an answer")
        return str(client.committed([ids.place])[0].metadata)

    ids = TopicIds(confluent_kafka, group, ["a", "b"], positions)
    store(["a", "b"], {"a": "id of a, the first"})
    text = store(["a", "b"], {"b": "other one"})
    assert not ids.tells_another(text, "a", "id of a, the first")
    assert ids.tells_another(text, "a", "another id")
    assert not ids.tells_another(text, "a", ""), "some brokers give none"
    assert ids.tells_another(text, "b", "id of b")
    text = store(["b"], {"b": "id of b, made again"})
    assert not ids.tells_another(text, "b", "id of b, made again")
    assert not ids.tells_another(text, "a", "another id"), "nobody reads it any more"
    many = [f"topic-{number}" for number in range(300)]
    text = store(many, {topic: f"{topic:>22}" for topic in many})
    assert TopicIds(confluent_kafka, group, many, positions).tells_another(text, "topic-0", "another id")
    client.close()


def test_a_topic_that_is_compacted_is_refused(shop: Shop) -> None:
    """Compaction removes changes before they are read, and the last one of a key may say less than those before."""
    with running(shop.writer) as write:
        write.streaming()
        write.catch_up(shop.database)
    shop.set_policy("compact,delete")
    with shop.reading() as reader:
        ended = shop.until_ended(reader)
        assert isinstance(ended, ConfigError)
        assert "is compacted" in str(ended)
    shop.set_policy("delete")
    with shop.reading() as reader:
        shop.until_given(30, reader)


def test_members_without_partitions_stand_by(shop: Shop) -> None:
    with running(shop.writer) as write, shop.reading() as reader:
        write.streaming()
        shop.until_given(30, reader)
        with shop.reading() as second, shop.reading() as third:
            readers = [reader, second, third]

            def settled() -> bool:
                [asked] = shop.admin.describe_consumer_groups([GROUP]).values()
                group = asked.result()
                stable = group.state == confluent_kafka.ConsumerGroupState.STABLE
                return (stable and len(group.members) == 3) or not all(one.alive for one in readers)

            until(settled, "three members", pause=0.05)
            shop.database.execute("INSERT INTO orders SELECT n, n, 'b' FROM generate_series(31, 40) n")
            shop.until_given(40, reader)
            assert [one.error for one in readers] == [None] * 3
