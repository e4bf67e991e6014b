"""A writer with one topic, which changes behind a reader's back, and what readers were given of it."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewTopic

import pgcdc
from tests.pipeline.kafka_reading import ORDERS, Reading, writing
from tests.pipeline.running import Running, running, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database
    from tests.servers.kafka import KafkaServer
    from tests.servers.kafka_cluster import KafkaCluster

SOON = {"topic.metadata.refresh.interval.ms": 500}
"""What the clients of the tests look at topics again after."""
GROUP = "shop.one"
LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class Shop:
    """A writer with a topic, and what readers were given of it."""

    def __init__(
        self, database: Database, kafka: KafkaServer | KafkaCluster, partitions: int, *, follow: bool = False
    ) -> None:
        self.database = database
        self.given: list[tuple[Any, ...]] = []
        self.lock = threading.Lock()
        database.execute(ORDERS, "INSERT INTO orders SELECT n, n, 'a' FROM generate_series(1, 30) n")
        self.writer, source = writing(database, kafka, partitions=partitions, follow=follow, settings=SOON)
        self.source = source + "&topic.metadata.refresh.interval.ms=500"
        self.topic = f"{source.partition('?')[0].rpartition('/')[2]}.public.orders"
        self.admin = AdminClient({"bootstrap.servers": kafka.bootstrap})

    def _take(self, change: Any) -> None:
        with self.lock:
            self.given.append((change.new.id, change.new.note))

    @contextlib.contextmanager
    def writing(self) -> Iterator[Running]:
        """The writer, which has written what there is."""
        with running(self.writer) as write:
            write.streaming()
            write.catch_up(self.database)
            yield write

    @contextlib.contextmanager
    def reading(self, table: str = "orders", *, given: int = 0) -> Iterator[Reading]:
        """A reader; with `given` one that was given so many changes."""
        pipeline = pgcdc.Pipeline("shop", self.database.dsn, tables=[table])
        pipeline.on(table, "insert", "update", name="one")(self._take)
        reader = Reading(pipeline, self.source)
        try:
            if given:
                self.until_given(given, reader)
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
        until(lambda: not any(one.offset >= 0 for one in self.kept()), "the broker has forgotten", pause=0.05)

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
