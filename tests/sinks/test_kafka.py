"""The sink for Kafka, on a real broker.

Over 400 lines because the contract, transactions, kills and refusals share one topic's reader.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Final
from unittest import mock

import msgspec
import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource, ConfigSource
from msgspec import UNSET

import pgcdc
from pgcdc.errors import ConfigError, DecodeError, PositionError, SinkRejected, SinkUnavailable
from pgcdc.lsn import Position
from pgcdc.pipeline import SqlitePositions
from pgcdc.protocol import Batch, DebeziumEnvelope
from pgcdc.schema import SchemaChange, change_of
from pgcdc.sinks.kafka import Kafka
from pgcdc.sinks.kafka_transactions import Transactions
from pgcdc.testing.capture import Capture
from pgcdc.testing.changes import Change, Table, Transaction, delete, insert, transaction, truncate, update
from pgcdc.testing.changes import message as logical_message
from pgcdc.testing.contracts import PartitionedSinkContract, SinkContract
from tests.pipeline.running import running
from tests.sinks import killed_kafka

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from confluent_kafka import Message

    from tests.conftest import Database
    from tests.servers.kafka import KafkaServer

PLAIN: Final = Table("plain", {"id": "bigint", "name": "text"}, key=("id",))
WIDE: Final = Table("plain", {"id": "bigint", "name": "text", "more": "integer"}, key=("id",))
LARGE = 2_000_000


def consumed(bootstrap: str, topic: str) -> list[Message]:
    """All that a reader gets who sees what was committed: partition after partition, in order.

    A commit is answered before its markers are in all partitions; until then such a reader is told of an earlier end.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"reader-{uuid.uuid4().hex}",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 20,
        }
    )
    try:
        found = consumer.list_topics(topic, timeout=60).topics[topic]
        if found.error is not None:
            return []
        places = [TopicPartition(topic, partition, 0) for partition in sorted(found.partitions)]
        consumer.assign(places)
        messages: list[Message] = []
        ends = _ends(bootstrap, places)
        left = {place.partition for place in places}
        while left:
            message = consumer.poll(60)
            assert message is not None, "nothing within 60 s"
            error = message.error()
            if error is None:
                messages.append(message)
            else:
                assert error.code() == KafkaError._PARTITION_EOF, error.str()
                partition, offset = message.partition(), message.offset()
                assert partition is not None and offset is not None
                if offset >= ends[partition]:
                    left.discard(partition)
        return sorted(messages, key=lambda message: message.partition() or 0)
    finally:
        consumer.close()


def _ends(bootstrap: str, places: list[TopicPartition]) -> dict[int, int]:
    """Where partitions end for who reads all, also what is not committed."""
    settings = {"bootstrap.servers": bootstrap, "group.id": "ends", "isolation.level": "read_uncommitted"}
    consumer = Consumer(settings)
    try:
        return {place.partition: consumer.get_watermark_offsets(place, timeout=60)[1] for place in places}
    finally:
        consumer.close()


def headers(message: Message) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in dict(message.headers() or []).items():
        assert isinstance(value, bytes)
        found[name] = value.decode()
    return found


def folded(messages: list[Message], values: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The rows that a reader of lines has, who takes each partition for itself and knows of barriers.

    A row whose key changed keeps what was not sent: it has left its former key in the same transaction.
    """
    rows: dict[int, dict[str, Any]] = {}
    homes: dict[int, int] = {}
    left: dict[tuple[str, int], dict[str, Any]] = {}
    for message in messages:
        partition = message.partition()
        if headers(message).get("pgcdc.barrier") == "truncate":
            for key in [key for key, home in homes.items() if home == partition]:
                rows.pop(key, None)
            continue
        if headers(message).get("pgcdc.barrier"):
            continue
        raw = message.key()
        assert raw is not None
        key = json.loads(raw)["id"]
        place = headers(message)["pgcdc.position"]
        value = message.value()
        if value is None:
            left[place, key] = rows.pop(key, {})
            continue
        event = json.loads(value)
        if event["action"] == "delete":
            continue
        new = {name: values.get(name, lambda value: value)(value) for name, value in event["new"].items()}
        before = rows.get(key, {})
        if "old" in event:
            before = left.get((place, event["old"]["id"]), before)
        rows[key] = {**before, **new}
        homes[key] = partition or 0
    return rows


class TestKafka(SinkContract, PartitionedSinkContract):
    """The contract, with lines of JSON."""

    late: ClassVar[bool] = False
    without: ClassVar[Mapping[str, str]] = {
        "renamed": "a record has the names of its time",
        "late": "the record that comes last is the one that compaction keeps: dead letters wait for each other, `hold`",
    }

    refused: ClassVar[Mapping[str, Any] | None] = {
        "id": 9,
        "name": "x" * LARGE,
        "amount": Decimal("1.25"),
        "note": None,
    }

    @pytest.fixture(autouse=True)
    def _broker(self, kafka: KafkaServer) -> None:
        kafka.start()
        self.kafka = kafka

    def prefix(self, place: Path) -> str:
        return "contract" + str(abs(hash(place)))

    def make_sink(self, place: Path) -> Kafka:
        return Kafka(self.kafka.bootstrap, prefix=self.prefix(place), format="json", timeout=60)

    def content(self, place: Path) -> dict[int, dict[str, Any]]:
        decimal = lambda value: None if value is None else Decimal(value)  # noqa: E731
        messages = consumed(self.kafka.bootstrap, f"{self.prefix(place)}.public.contract")
        rows = folded(messages, {"amount": decimal, "discount": decimal})
        columns = {name: None for row in rows.values() for name in row}
        return {key: {**columns, **row} for key, row in rows.items()}

    def expected(self, rows: Mapping[Any, Mapping[str, Any]], columns: Iterable[str]) -> Any:
        return super().expected(rows, columns if rows else ())

    @contextlib.contextmanager
    def down(self, place: Path) -> Iterator[None]:
        self.kafka.stop()
        try:
            yield
        finally:
            self.kafka.start()

    def busy(self, place: Path) -> AbstractContextManager[None]:
        return self.kafka.paused()


def fresh() -> str:
    """A prefix of a test's own."""
    return f"test{uuid.uuid4().hex[:10]}"


def batch_of(*changes: Transaction | Change) -> Batch:
    capture = Capture.of(changes)
    return Batch.of([payload for _, payload in capture.messages], [lsn for lsn, _ in capture.messages])


def opened(kafka: KafkaServer, prefix: str, **settings: Any) -> Kafka:
    kafka.start()
    sink = Kafka(kafka.bootstrap, prefix=prefix, timeout=60, **settings)
    sink.open()
    return sink


def key_of(message: Message) -> Any:
    key = message.key()
    return None if key is None else json.loads(key)


def test_every_change_is_there_once_whenever_it_was_killed(kafka: KafkaServer) -> None:
    """With its transaction open, or committed and nobody told: a reader of what is committed sees each once."""
    kafka.start()
    prefix = fresh()
    program = [sys.executable, "-m", "tests.sinks.killed_kafka", kafka.bootstrap, prefix]
    for when, number in (("before", "2"), ("after", "2"), ("before", "1")):
        killed = subprocess.run([*program, when, number], check=False, timeout=300)
        assert killed.returncode == -signal.SIGKILL
    subprocess.run(program, check=True, timeout=300)
    messages = consumed(kafka.bootstrap, f"{prefix}.public.numbers")
    assert sorted(key_of(message)["id"] for message in messages) == list(range(8 * killed_kafka.ROWS))
    places = [headers(message)["pgcdc.position"] for message in messages]
    assert sorted(places) == [
        str(change.position)
        for batch in killed_kafka.batches()
        for change in batch.changes()
        if not isinstance(change, DecodeError)
    ]
    for partition in {message.partition() for message in messages}:
        own = [headers(message)["pgcdc.position"] for message in messages if message.partition() == partition]
        assert own == sorted(own)


def test_whoever_was_followed_can_write_no_more(kafka: KafkaServer) -> None:
    """A process that was stopped and wakes up is fenced, and what it wrote of an open transaction is not there."""
    prefix = fresh()
    first = opened(kafka, prefix)
    first.write(batch_of(insert(PLAIN, {"id": 1, "name": "a"})))
    second = opened(kafka, prefix)
    assert second.position() == first.position()
    both = batch_of(insert(PLAIN, {"id": 1, "name": "a"}), insert(PLAIN, {"id": 2, "name": "b"}))
    with pytest.raises(PositionError, match="another process"):
        first.write(both)
    second.write(both)
    first.close()
    second.close()
    assert [key_of(message) for message in consumed(kafka.bootstrap, f"{prefix}.public.plain")] == [
        {"id": 1},
        {"id": 2},
    ]


def test_a_beginning_that_took_too_long_is_gone_on_with(kafka: KafkaServer) -> None:
    """A producer made anew beside it would be fenced by it as soon as the broker is back."""
    kafka.start()
    prefix = fresh()
    sink = Kafka(kafka.bootstrap, prefix=prefix, timeout=0.3)
    kafka.stop()
    for _ in range(2):
        with pytest.raises(SinkUnavailable):
            sink.open()
    kafka.start()
    sink._transactions.timeout = sink._topics._timeout = 60.0
    sink.open()
    for key in (1, 2):
        sink.write(batch_of(*(insert(PLAIN, {"id": one, "name": "a"}) for one in range(1, key + 1))))
    sink.close()
    assert [key_of(one) for one in consumed(kafka.bootstrap, f"{prefix}.public.plain")] == [{"id": 1}, {"id": 2}]


def test_barriers_are_in_every_partition_and_keys_stay_in_theirs(kafka: KafkaServer) -> None:
    """TRUNCATE and changes of shape; a key is always in the same partition, also when it is deleted."""
    prefix = fresh()
    sink = opened(kafka, prefix, format="json", partitions=3)
    rows = [insert(PLAIN, {"id": key, "name": "x"}) for key in range(12)]
    sink.write(batch_of(transaction(*rows), truncate(PLAIN), *(delete(PLAIN, {"id": key}) for key in range(12))))
    before, after = (
        batch_of(*rows[:1]).relations[0],
        batch_of(insert(WIDE, {"id": 1, "name": "", "more": 1})).relations[0],
    )
    sink.schema_changed(change_of(before, after, old_version=1, version=2, position=Position(77, 3)))
    sink.close()
    messages = consumed(kafka.bootstrap, f"{prefix}.public.plain")
    by_partition = {number: [one for one in messages if one.partition() == number] for number in range(3)}
    homes: dict[int, set[int | None]] = {}
    for number, own in by_partition.items():
        barriers = [
            (headers(one)["pgcdc.barrier"], headers(one)["pgcdc.partitions"]) for one in own if one.key() is None
        ]
        assert barriers == [("truncate", "3"), ("schema", "3")]
        for one in own:
            if one.key() is not None:
                homes.setdefault(key_of(one)["id"], set()).add(number)
    assert {key: len(home) for key, home in homes.items()} == dict.fromkeys(range(12), 1)
    assert len({home.pop() for home in homes.values()}) > 1
    told = by_partition[2][-1].value()
    assert told is not None
    change = msgspec.json.decode(told, type=SchemaChange)
    assert (change.version, change.added, change.position) == (2, ("more",), Position(77, 3))
    assert headers(by_partition[2][-1])["pgcdc.schema_version"] == "2"
    tombstones = [key_of(one)["id"] for one in messages if one.value() is None]
    assert sorted(tombstones) == list(range(12))


def test_everything_as_it_came_can_be_read_again(kafka: KafkaServer) -> None:
    """Format pgcdc: each value alone is the change; an update of the key is in every partition."""
    prefix = fresh()
    sink = opened(kafka, prefix, format="pgcdc", partitions=2)
    batch = batch_of(
        transaction(insert(PLAIN, {"id": 1, "name": "a"}), update(PLAIN, {"id": 2, "name": UNSET}, old={"id": 1})),
        logical_message("note", b"\x00\xff"),
        delete(PLAIN, {"id": 2}),
    )
    sink.write(batch)
    sink.close()
    found: dict[str, Any] = {}
    for topic in (f"{prefix}.public.plain", f"{prefix}.message"):
        for one in consumed(kafka.bootstrap, topic):
            value = one.value()
            assert value is not None
            [change] = Batch.from_bytes(value).changes()
            assert headers(one)["pgcdc.position"] == str(change.position)
            found[headers(one)["pgcdc.position"]] = change
            assert ("pgcdc.barrier" in headers(one)) is (one.key() is None)
    assert [found[place] for place in sorted(found)] == batch.changes()
    keyed = [one for one in consumed(kafka.bootstrap, f"{prefix}.public.plain") if "pgcdc.barrier" in headers(one)]
    assert [(one.partition(), headers(one)["pgcdc.barrier"]) for one in keyed] == [(0, "key"), (1, "key")]


def test_debezium_s_records_have_its_keys_and_its_time(kafka: KafkaServer) -> None:
    """Values are those of `DebeziumEnvelope`, but for the time of processing."""
    prefix = fresh()
    sink = opened(kafka, prefix, decimal="string", time="isostring", database="shop", headers=False)
    batch = batch_of(insert(PLAIN, {"id": 1, "name": "a"}), update(PLAIN, {"id": 2, "name": "b"}, old={"id": 1}))
    before = time.time_ns()
    sink.write(batch)
    sink.close()
    messages = consumed(kafka.bootstrap, f"{prefix}.public.plain")
    assert [key_of(one) for one in messages] == [{"id": 1}, {"id": 1}, {"id": 1}, {"id": 2}]
    assert [one.value() is None for one in messages] == [False, False, True, False]
    assert all(one.headers() is None for one in messages)
    ours = [json.loads(value) for one in messages if (value := one.value()) is not None]
    theirs = [json.loads(line) for line in batch.to_json(DebeziumEnvelope(prefix, db="shop")).splitlines()]
    for event, expected in zip(ours, theirs, strict=True):
        assert before <= event["ts_ns"] <= time.time_ns()
        assert {**event, "ts_ms": 0, "ts_us": 0, "ts_ns": 0} == {**expected, "ts_ms": 0, "ts_us": 0, "ts_ns": 0}


def test_a_record_that_the_broker_refuses_is_named(kafka: KafkaServer) -> None:
    """The topic takes less than librdkafka does, so it is the broker that says no; nothing else is suspected."""
    prefix = fresh()
    sink = opened(kafka, prefix, topic_settings={"max.message.bytes": "2000"}, settings={"compression.type": "none"})
    large = random.Random(1).randbytes(4000).hex()
    batch = batch_of(
        insert(PLAIN, {"id": 1, "name": "a"}),
        insert(PLAIN, {"id": 2, "name": large}),
        insert(PLAIN, {"id": 3, "name": "c"}),
    )
    positions = [change.position for change in batch.changes() if not isinstance(change, DecodeError)]
    with pytest.raises(SinkRejected, match="does not take a record") as raised:
        sink.write(batch)
    assert raised.value.positions == {positions[1]}
    assert raised.value.table == "public.plain"
    assert large[:20] not in str(raised.value)
    sink.write(batch.take([0, 2]))
    assert sink.position() == positions[2]
    sink.close()
    assert [key_of(one) for one in consumed(kafka.bootstrap, f"{prefix}.public.plain")] == [{"id": 1}, {"id": 3}]


def test_a_batch_that_fails_while_it_is_sent_is_looked_into(kafka: KafkaServer) -> None:
    """The broker has refused the first record before the last is handed over: librdkafka takes no more then."""
    prefix = fresh()
    sink = opened(kafka, prefix, topic_settings={"max.message.bytes": "2000"}, settings={"compression.type": "none"})
    large = insert(PLAIN, {"id": 0, "name": "x" * 4000})
    batch = batch_of(transaction(large, *(insert(PLAIN, {"id": key, "name": ""}) for key in range(1, 4))))
    send, sent = Transactions.send, 0

    def flushing(self: Transactions, *arguments: Any) -> None:
        nonlocal sent
        send(self, *arguments)
        sent += 1
        assert self.producer is not None
        self.producer.flush(60)

    with mock.patch.object(Transactions, "send", flushing), pytest.raises(SinkRejected) as raised:
        sink.write(batch)
    assert raised.value.positions == {batch.first_position}
    sink.write(batch.take([1, 2, 3]))
    sink.close()
    assert [key_of(one)["id"] for one in consumed(kafka.bootstrap, f"{prefix}.public.plain")] == [1, 2, 3]


def test_what_is_read_again_is_not_compacted(kafka: KafkaServer) -> None:
    """Who reads it needs every change, whatever the broker's default is."""
    prefix = fresh()
    sink = opened(kafka, prefix, format="pgcdc")
    sink.write(batch_of(insert(PLAIN, {"id": 1, "name": ""})))
    sink.close()
    topic = ConfigResource(ConfigResource.Type.TOPIC, f"{prefix}.public.plain")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    [asked] = admin.describe_configs([topic]).values()
    policy = asked.result()["cleanup.policy"]
    assert (policy.value, policy.source) == ("delete", ConfigSource.DYNAMIC_TOPIC_CONFIG.value)
    with pytest.raises(ConfigError, match="compaction"):
        Kafka("nowhere:1", format="pgcdc", topic_settings={"cleanup.policy": "compact,delete"})


def test_barriers_that_a_compacted_topic_refuses_stop_it(kafka: KafkaServer) -> None:
    """It takes no record without a key."""
    prefix = fresh()
    sink = opened(kafka, prefix, format="json", topic_settings={"cleanup.policy": "compact"})
    row = insert(PLAIN, {"id": 1, "name": ""})
    sink.write(batch_of(row))
    before, after = (batch_of(one).relations[0] for one in (row, insert(WIDE, {"id": 1, "name": "", "more": 1})))
    with pytest.raises(SinkRejected, match="barrier"):
        sink.schema_changed(change_of(before, after, old_version=1, version=2, position=Position(77, 3)))
    with pytest.raises(SinkRejected, match="record") as raised:
        sink.write(batch_of(row, truncate(PLAIN)))
    assert len(raised.value.positions) == 1
    sink.close()


def test_records_that_are_too_large_together_are_sent_in_smaller_batches(kafka: KafkaServer) -> None:
    """No row is blamed for what librdkafka put together."""
    prefix = fresh()
    settings = {"compression.type": "none", "batch.size": 6000, "linger.ms": 100}
    sink = opened(kafka, prefix, topic_settings={"max.message.bytes": "2000"}, settings=settings)
    batch = batch_of(transaction(*(insert(PLAIN, {"id": key, "name": "x" * 100}) for key in range(20))))
    for _ in range(3):
        with contextlib.suppress(SinkUnavailable):
            sink.write(batch)
            break
    assert sink.position() == batch.last_position
    sink.close()
    messages = consumed(kafka.bootstrap, f"{prefix}.public.plain")
    assert [key_of(one)["id"] for one in messages] == list(range(20))


def test_a_dead_letter_is_written_behind_what_is_newer(kafka: KafkaServer) -> None:
    """It says so, and the position stays."""
    prefix = fresh()
    sink = opened(kafka, prefix)
    batch = batch_of(*(insert(PLAIN, {"id": key, "name": "a"}) for key in (1, 2)))
    sink.write(batch.take([1]))
    position = sink.position()
    sink.rewrite(batch.take([0]))
    assert sink.position() == position
    sink.close()
    again = opened(kafka, prefix)
    assert again.position() == position
    again.close()
    messages = consumed(kafka.bootstrap, f"{prefix}.public.plain")
    assert [(key_of(one)["id"], headers(one).get("pgcdc.rewritten")) for one in messages] == [(2, None), (1, "1")]


def test_rows_of_a_table_without_a_key_stay_in_order(kafka: KafkaServer) -> None:
    """In partition 0."""
    prefix = fresh()
    sink = opened(kafka, prefix, format="json", partitions=3)
    keyless = Table("plain", {"id": "bigint", "name": "text"}, replica_identity="f")
    sink.write(batch_of(*(insert(keyless, {"id": key, "name": ""}) for key in range(9))))
    sink.close()
    messages = consumed(kafka.bootstrap, f"{prefix}.public.plain")
    assert [(one.partition(), one.key()) for one in messages] == [(0, None)] * 9


def test_keys_can_be_chosen_and_topics_named(kafka: KafkaServer) -> None:
    """By a template or a function; what a topic cannot be called becomes something that it can."""
    prefix = fresh()
    for topic in ("{prefix}-{table}-é", lambda relation: f"{prefix}-{relation.name}-é"):
        sink = opened(kafka, prefix, topic=topic, keys={"public.plain": ["name"]}, name=uuid.uuid4().hex)
        sink.write(batch_of(insert(PLAIN, {"id": 1, "name": "a"})))
        sink.close()
    assert [key_of(one) for one in consumed(kafka.bootstrap, f"{prefix}-plain-_")] == [{"name": "a"}] * 2


def test_topics_that_cannot_be_made(kafka: KafkaServer) -> None:
    """What becomes no other by waiting ends the run; a broker that is missing may come."""
    batch = batch_of(insert(PLAIN, {"id": 1, "name": "a"}))
    sink = opened(kafka, fresh(), topic_settings={"nonsense": "1"})
    with pytest.raises(ConfigError, match="cannot be made") as caught:
        sink.write(batch)
    assert "topic_settings=" in str(caught.value.hint)
    sink.close()
    sink = Kafka(kafka.bootstrap, prefix=fresh(), replication_factor=3)
    with pytest.raises(SinkUnavailable, match="cannot be made") as away:
        sink.open()
    assert "too few brokers" in str(away.value.hint)
    sink.close()


def test_two_tables_do_not_share_a_topic_by_its_letters(kafka: KafkaServer) -> None:
    """Which they would when letters are replaced; a table that was renamed goes on, and templates may say one topic."""
    prefix = fresh()
    columns = {"id": "bigint", "name": "text"}
    one, other = (Table(name, columns, key=("id",)) for name in ("käse", "köse"))
    first, both = insert(one, {"id": 1, "name": "a"}), insert(other, {"id": 1, "name": "b"})
    sink = opened(kafka, prefix)
    sink.write(batch_of(first))
    with pytest.raises(ConfigError, match=rf"public\.köse would be {prefix}\.public\.k_se, which is that of .*käse"):
        sink.write(batch_of(first, both))
    sink.close()
    assert len(consumed(kafka.bootstrap, f"{prefix}.public.k_se")) == 1
    sink = opened(kafka, prefix, topic="{prefix}.all", name=uuid.uuid4().hex)
    sink.write(batch_of(first, both))
    sink.close()
    assert len(consumed(kafka.bootstrap, f"{prefix}.all")) == 2
    sink = opened(kafka, prefix, topic="{prefix}.{table}", name=uuid.uuid4().hex)
    with pytest.raises(ConfigError, match="pgcdc_positions"):
        sink.write(batch_of(insert(Table("pgcdc_positions", columns, key=("id",)), {"id": 1, "name": "c"})))
    before = batch_of(insert(one, {"id": 1, "name": "a"})).relations[0]
    renamed = msgspec.structs.replace(before, name="köse")
    sink.schema_changed(change_of(before, renamed, old_version=1, version=2, position=Position(77, 3)))
    sink.close()


def test_what_is_asked_for_is_checked() -> None:
    """In one sentence, when it is made or opened."""
    with pytest.raises(ConfigError, match="format='xml'"):
        Kafka("127.0.0.1:1", format="xml")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no template"):
        Kafka("127.0.0.1:1", topic="{nobody}")
    with pytest.raises(ConfigError, match="partitions is 1 at least"):
        Kafka("127.0.0.1:1", partitions=0)
    with pytest.raises(ConfigError, match="replication_factor is 1 at least"):
        Kafka("127.0.0.1:1", replication_factor=0)
    with pytest.raises(ConfigError, match="does not take a setting"):
        Kafka("127.0.0.1:1", settings={"no.such.thing": 1}).open()
    with pytest.raises(SinkUnavailable):
        Kafka("127.0.0.1:1", timeout=0.2).open()
    secret = Kafka("127.0.0.1:1", settings={"sasl.password": "hunter2"})
    assert "hunter2" not in repr(secret)


def test_a_table_becomes_a_topic_of_its_last_states(
    newest_database: Database, kafka: KafkaServer, tmp_path: Path
) -> None:
    """From the copy through random changes, with a stop in the middle: folded by key, the topic is the table."""
    kafka.start()
    prefix = fresh()
    newest_database.execute(
        "CREATE TABLE orders (id bigint PRIMARY KEY, name text, amount numeric(12,2), note text)",
        "INSERT INTO orders SELECT n, 'name ' || n, n / 4.0, repeat('x', 3000) FROM generate_series(1, 300) n",
    )
    chance = random.Random(7)
    positions = SqlitePositions(tmp_path / "positions.db")
    for _ in range(2):
        pipeline = pgcdc.Pipeline("kafka", newest_database.dsn, tables=["orders"], positions=positions)
        pipeline.add(Kafka(kafka.bootstrap, prefix=prefix, timeout=60, format="json", partitions=2), name="topic")
        with running(pipeline) as run:
            run.streaming()
            with newest_database.connect() as connection:
                for _ in range(60):
                    with connection.transaction():
                        for _ in range(chance.randint(1, 4)):
                            connection.execute(*_statement(chance))
            run.catch_up(newest_database)
    columns = ("id", "name", "amount", "note")
    rows = newest_database.execute("SELECT id, name, amount, note FROM orders ORDER BY id")
    found = folded(
        consumed(kafka.bootstrap, f"{prefix}.public.orders"), {"amount": lambda value: value and Decimal(value)}
    )
    assert [found[key] for key in sorted(found)] == [dict(zip(columns, row, strict=True)) for row in rows]


def _statement(chance: random.Random) -> tuple[Any, ...]:
    """A change of the table of orders, as psycopg takes it."""
    key, other = chance.randint(1, 320), chance.randint(321, 100_000)
    return chance.choice(
        [
            ("UPDATE orders SET amount = amount + 1 WHERE id = %s", (key,)),
            (
                "UPDATE orders SET id = %s WHERE id = %s AND NOT EXISTS (SELECT FROM orders WHERE id = %s)",
                (other, key, other),
            ),
            ("DELETE FROM orders WHERE id = %s", (key,)),
            ("INSERT INTO orders VALUES (%s, 'new', 1, NULL) ON CONFLICT (id) DO UPDATE SET note = 'again'", (key,)),
        ]
        + ([("TRUNCATE orders", ())] if chance.random() < 0.02 else [])
    )
