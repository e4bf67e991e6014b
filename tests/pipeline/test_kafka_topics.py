"""Topics that change behind a reader's back: records that are gone, more partitions, another topic."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest import mock

import confluent_kafka
import pytest
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    TopicPartition,
    Uuid,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

import pgcdc
from pgcdc.errors import ConfigError, PositionError
from pgcdc.pipeline import kafka_topic_ids, kafka_topic_watch
from pgcdc.pipeline.kafka_topic_ids import TopicIds
from pgcdc.pipeline.kafka_topic_watch import TopicWatch, described
from pgcdc.sinks import SQLite
from tests.pipeline.kafka_reading import Reading
from tests.pipeline.kafka_topics import GROUP, Shop
from tests.pipeline.running import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Database
    from tests.servers.kafka import KafkaServer


@pytest.fixture
def shop(newest_database: Database, kafka: KafkaServer) -> Iterator[Shop]:
    kafka.start()
    with mock.patch.object(kafka_topic_watch, "LOOK_EVERY", 0.2):
        yield Shop(newest_database, kafka, 2)


def test_what_was_read_may_be_gone(shop: Shop) -> None:
    """Retention removes also what ends a transaction, which no record follows; nothing of it was lost."""
    with shop.writing():
        with shop.reading(given=30):
            until(lambda: shop.stored() == shop.ends(), "the end", pause=0.05)
        places = [TopicPartition(shop.topic, number, -1) for number in range(2)]
        for gone in shop.admin.delete_records(places).values():
            gone.result()
        with shop.reading() as reader:
            shop.database.execute("INSERT INTO orders SELECT n, n, 'b' FROM generate_series(31, 40) n")
            shop.until_given(40, reader)


def test_who_ends_at_once_looks_for_the_end(shop: Shop) -> None:
    """The client tells of it half a second after the last record."""
    with shop.writing(), shop.reading(given=30) as reader:
        pass
    assert reader.error is None
    assert shop.stored() == shop.ends()


def test_a_partition_that_ends_with_a_barrier(shop: Shop) -> None:
    """The client tells of the end once, while the barrier is in hand."""
    with shop.writing(), shop.reading(given=30) as reader:
        shop.database.execute("ALTER TABLE orders ADD COLUMN more text", "UPDATE orders SET note = 'b' WHERE id = 1")
        shop.until_given(31, reader)
        until(lambda: shop.stored() == shop.ends(), "the end", pause=0.05)


def test_brokers_without_ids() -> None:
    """They say zero, which is no id: else a topic would be another one after they are brought up to date."""
    topic = SimpleNamespace(partitions=[None] * 3, topic_id=Uuid(0, 0))
    assert described(topic) == (3, "")
    topic.topic_id = Uuid(0, 7)
    assert described(topic) == (3, str(Uuid(0, 7)))


def test_brokers_are_looked_for_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody asks ten times a second: the answer is about every topic of the cluster."""
    now, looked, asked = 0.0, list[float](), list[float]()
    monkeypatch.setattr(kafka_topic_watch, "time", SimpleNamespace(monotonic=lambda: now))
    watch = TopicWatch.__new__(TopicWatch)
    watch._admin = SimpleNamespace(list_topics=lambda timeout: looked.append(now))
    ask = watch._seeking(lambda within: asked.append(now))
    for tenth in range(25):
        now = tenth / 10
        ask(1.0)
    assert len(asked) == 25
    assert looked == [0.1, 1.1, 2.1]


def test_partitions_that_are_added_end_it(shop: Shop) -> None:
    """A row's next change would be in another partition, where nothing keeps it behind the last one."""
    with shop.writing():
        with shop.reading(given=30) as reader:
            [added] = shop.admin.create_partitions([NewPartitions(shop.topic, 3)]).values()
            added.result()
            ended = shop.until_ended(reader)
            assert isinstance(ended, PositionError)
            assert "had 2 partitions and has 3 now" in str(ended)
        with shop.reading() as reader:
            assert isinstance(shop.until_ended(reader), PositionError), "nor does it go on when it is started again"


def test_a_topic_that_is_deleted_ends_it(shop: Shop) -> None:
    with shop.writing(), shop.reading(given=30) as reader:
        shop.delete()
        ended = shop.until_ended(reader)
        assert isinstance(ended, PositionError)
        assert "was deleted" in str(ended)


def test_a_topic_that_was_made_again_is_another(shop: Shop) -> None:
    """What was not read of the former one is nowhere. The group's offsets are kept, which brokers mostly forget."""
    with shop.writing():
        with shop.reading(given=30):
            pass
        kept = shop.kept()
        shop.make_again(2)
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
    with shop.writing() as write:
        with shop.reading(given=30):
            until(lambda: shop.remembered() != "", "the topic's id", pause=0.05)
        shop.database.execute("INSERT INTO orders SELECT n, n, 'unread' FROM generate_series(31, 40) n")
        write.catch_up(shop.database)
    former = shop.remembered()
    shop.make_again(2)
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
    with mock.patch.object(kafka_topic_ids, "AGAIN", 0.2), shop.writing() as write, shop.reading(given=30):
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


def test_a_target_says_whether_a_consumer_is_new(shop: Shop, tmp_path: Path) -> None:
    """A group's offsets expire when nobody reads for long; retention removes what the target has. Nothing is missed."""

    def copying(name: str) -> Reading:
        pipeline = pgcdc.Pipeline("shop", shop.database.dsn, tables=["orders"])
        pipeline.add(SQLite(tmp_path / f"{name}.db", name="copy"), name="one")
        return Reading(pipeline, shop.source)

    def count() -> int:
        with contextlib.closing(sqlite3.connect(tmp_path / "first.db")) as connection:
            return int(connection.execute("SELECT count(*) FROM orders").fetchone()[0])

    with shop.writing() as write:
        first = copying("first")
        until(lambda: (tmp_path / "first.db").exists() and shop.stored() == shop.ends(), "the end", pause=0.05)
        first.stop()
        assert (first.error, count()) == (None, 30)
        [forgotten] = shop.admin.delete_consumer_groups([GROUP]).values()
        forgotten.result()
        # Before the last row of each, which the targets' notes are behind.
        ends = shop.ends()
        shop.database.execute("INSERT INTO orders SELECT n, n, 'unread' FROM generate_series(31, 60) n")
        write.catch_up(shop.database)
        assert all(end > ends[number] for number, end in shop.ends().items())
        # The last record before a commit's marker is what a note is behind.
        places = [TopicPartition(shop.topic, number, end - 1) for number, end in ends.items()]
        for gone in shop.admin.delete_records(places).values():
            gone.result()
        for _ in range(2):  # what the group has stored meanwhile makes it no old one
            other = copying("other")
            ended = shop.until_ended(other)
            assert isinstance(ended, PositionError)
            assert "is new" in str(ended)
        first = copying("first")
        until(lambda: count() == 60 or not first.alive, "60 rows", pause=0.05)
        first.stop()
        assert first.error is None


def test_beginning_anew(shop: Shop) -> None:
    """What the hints say, and docs/kafka.md, mends it; to forget what the group has stored of the topic does not."""
    with shop.writing() as write:
        with shop.reading(given=30):
            until(lambda: shop.remembered() != "", "the topic's id", pause=0.05)
        shop.database.execute("INSERT INTO orders SELECT n, n, 'unread' FROM generate_series(31, 40) n")
        write.catch_up(shop.database)
        # Retention has removed what was not read.
        for gone in shop.admin.delete_records([TopicPartition(shop.topic, n, -1) for n in range(2)]).values():
            gone.result()
        with shop.reading() as reader:
            ended = shop.until_ended(reader)
            assert isinstance(ended, PositionError)
            assert f"kafka-consumer-groups --delete --group {GROUP}" in str(ended.hint)
    shop.delete()
    shop.writer.forget("kafka")
    shop.given.clear()
    with shop.writing():
        until(lambda: not any(one.offset >= 0 for one in shop.kept()), "the broker has forgotten", pause=0.05)
        with shop.reading() as reader:
            ended = shop.until_ended(reader)
            assert isinstance(ended, PositionError)
            assert "was deleted and made again" in str(ended), "the offsets are forgotten, and not the id"
        [forgotten] = shop.admin.delete_consumer_groups([GROUP]).values()
        forgotten.result()
        with shop.reading(given=40):
            pass
    assert sorted(key for key, _ in shop.given) == list(range(1, 41))


def test_a_topic_that_is_compacted_is_refused(shop: Shop) -> None:
    """Compaction removes changes before they are read, and the last one of a key may say less than those before."""
    with shop.writing():
        pass
    shop.set_policy("compact,delete")
    with shop.reading() as reader:
        ended = shop.until_ended(reader)
        assert isinstance(ended, ConfigError)
        assert "is compacted" in str(ended)
    shop.set_policy("delete")
    with shop.reading() as reader:
        shop.until_given(30, reader)


def test_members_without_partitions_stand_by(shop: Shop) -> None:
    with shop.writing(), shop.reading(given=30) as reader, shop.reading() as second, shop.reading() as third:
        readers = [reader, second, third]

        def stable() -> int:
            """How many members the group has, when it is in order."""
            [asked] = shop.admin.describe_consumer_groups([GROUP]).values()
            group = asked.result()
            return len(group.members) if group.state == confluent_kafka.ConsumerGroupState.STABLE else 0

        until(lambda: stable() == 3 or not all(one.alive for one in readers), "three members", pause=0.05)
        shop.database.execute("INSERT INTO orders SELECT n, n, 'b' FROM generate_series(31, 40) n")
        shop.until_given(40, reader)
        assert [one.error for one in readers] == [None] * 3
        # Each leaves at once, also the one that has none: else the others wait until its session is over (45 s).
        for count in (2, 1):
            states = {one: one.pipeline.statistics().consumers["one"].state for one in readers}
            one = next((one for one in readers if states[one] != "running"), reader)
            one.stop()
            readers.remove(one)
            until(lambda count=count: stable() == count, f"{count} members", 10, pause=0.05)  # type: ignore[misc]
