"""The Kafka sink's parts, one for each partition of a topic that is read, on a real broker: notes, and who is late."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

import pgcdc
from pgcdc.errors import ConfigError, PositionError, SinkRejected, SinkUnavailable
from pgcdc.lsn import Position
from pgcdc.schema import SchemaChange, change_of
from pgcdc.sinks import kafka_transactions
from pgcdc.sinks.kafka import Kafka, KafkaPart
from pgcdc.sinks.kafka_topics import Topics
from pgcdc.sinks.kafka_transactions import Transaction, Transactions
from pgcdc.testing.changes import Table, insert, truncate
from tests.servers.kafka import KafkaServer
from tests.sinks.test_kafka import LARGE, PLAIN, WIDE, batch_of, consumed, fresh, headers, key_of, opened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgcdc.protocol import Batch


def rows(*keys: int) -> Batch:
    return batch_of(*(insert(PLAIN, {"id": key, "name": "a"}) for key in keys))


def process(kafka: KafkaServer, prefix: str, **settings: Any) -> Kafka:
    """What one process has of the sink."""
    kafka.start()
    sink = Kafka(kafka.bootstrap, prefix=prefix, **{"format": "json", "partitions": 2, "timeout": 60, **settings})
    assert isinstance(sink, pgcdc.PartitionedSink)
    sink.part("before it is opened")
    sink.open()
    return sink


def part_of(sink: Kafka, number: int) -> KafkaPart:
    part = sink.part(f"source.public.plain/{number}")
    assert isinstance(part, pgcdc.ToldPart)
    return part


def keys(kafka: KafkaServer, prefix: str) -> list[int]:
    messages = consumed(kafka.bootstrap, f"{prefix}.public.plain")
    return sorted(key_of(message)["id"] for message in messages if message.key() is not None)


def other_shape() -> SchemaChange:
    [before] = rows(1).relations
    [after] = batch_of(insert(WIDE, {"id": 1, "name": "", "more": 1})).relations
    return change_of(before, after, old_version=1, version=2, position=Position(77, 3))


@contextlib.contextmanager
def no_answer() -> Iterator[None]:
    """Transactions are committed, and nobody is told."""
    commit = Transaction.commit

    def silent(transaction: Transaction) -> None:
        commit(transaction)
        raise transaction._transactions.failed(KafkaError(KafkaError._TIMED_OUT), "nobody knows")

    with mock.patch.object(Transaction, "commit", silent):
        yield


def test_each_partition_has_its_own_note(kafka: KafkaServer) -> None:
    """Two processes write at once, and who opens a partition next is told what came with its last rows."""
    prefix = fresh()
    one, other = process(kafka, prefix), process(kafka, prefix)
    first, second = part_of(one, 0), part_of(other, 1)
    assert (first.open(), second.open()) == (None, None)
    for number in range(3):
        first.write(rows(number), f"first {number}")
        second.write(rows(10 + number), f"second {number}")
    first.rewrite(rows(5))
    for part in (first, second):
        part.close()
    third = process(kafka, prefix)
    again = [part_of(third, number) for number in range(2)]
    assert [part.open() for part in again] == ["first 2", "second 2"]
    assert third.position() is None
    again[0].write(rows(3), "first 3")
    for part in again:
        part.close()
    for sink in (one, other, third):
        sink.close()
    assert keys(kafka, prefix) == [0, 1, 2, 3, 5, 10, 11, 12]
    messages = consumed(kafka.bootstrap, f"{prefix}.public.plain")
    assert [key_of(one)["id"] for one in messages if "pgcdc.rewritten" in headers(one)] == [5]


def test_where_the_slot_was_is_known_and_it_writes_no_more(kafka: KafkaServer) -> None:
    prefix = fresh()
    slot = opened(kafka, prefix, format="json", partitions=2)
    slot.write(rows(1))
    sink = process(kafka, prefix)
    assert sink.position() == slot.position() is not None
    part = part_of(sink, 0)
    assert part.open() is None
    with pytest.raises(PositionError, match="another process"):
        slot.write(rows(1, 2))
    part.write(rows(3), "note")
    assert process(kafka, prefix).position() == slot.position()
    part.write(rows(4), "note")  # who opens the sink takes nothing from who has it open
    part.close()
    assert keys(kafka, prefix) == [1, 3, 4]


def test_an_heir_undoes_what_is_open_and_is_not_disturbed(kafka: KafkaServer) -> None:
    """One that was stopped with a transaction open: what it does when it wakes up has no effect, however it does it."""
    prefix = fresh()
    late, owner = part_of(process(kafka, prefix), 0), part_of(process(kafka, prefix), 0)
    late.open()
    late.write(rows(1), "one")
    asleep = Transaction(late._transactions)
    asleep.__enter__()
    late._sink._produce(late._transactions, late._sink._records(rows(2)), [], None)
    assert late._transactions.producer is not None
    late._transactions.producer.flush(60)
    assert owner.open() == "one"
    owner.write(rows(2), "two")
    with pytest.raises(PositionError, match="taken over"):
        asleep.commit()
    for _ in range(2):  # it would have a new producer now, which would fence the owner
        with pytest.raises(PositionError, match="taken over"):
            late.write(rows(2), "two")
        with pytest.raises(PositionError, match="taken over"):
            late.rewrite(rows(1))
        with pytest.raises(PositionError, match="taken over"):
            late.schema_changed(other_shape(), "two, told")
    owner.write(rows(3), "three")
    assert part_of(process(kafka, prefix), 0).open() == "three"
    assert keys(kafka, prefix) == [1, 2, 3]


def test_an_owner_that_was_fenced_by_one_that_is_late_goes_on(kafka: KafkaServer) -> None:
    """That one looked before the owner had claimed the partition, and began after that."""
    prefix = fresh()
    late, owner = part_of(process(kafka, prefix), 0), part_of(process(kafka, prefix), 0)
    late.open()
    late._transactions.drop()
    owner.open()
    owner.write(rows(1), "one")
    with mock.patch.object(Transactions, "_is_owner", return_value=True):
        late._transactions.connected()
    with pytest.raises(SinkUnavailable, match="another process has begun"):
        owner.write(rows(2), "two")
    owner.write(rows(2), "two")
    with pytest.raises(PositionError, match="taken over"):
        late.write(rows(2), "two")
    owner.write(rows(3), "three")
    assert keys(kafka, prefix) == [1, 2, 3]


def test_a_commit_that_was_not_answered_is_looked_for(kafka: KafkaServer) -> None:
    prefix = fresh()
    part = part_of(process(kafka, prefix), 0)
    part.open()
    for batch, note in ((rows(1), "one"), (rows(2), "two")):
        with no_answer(), pytest.raises(SinkUnavailable):
            part.write(batch, note)
        part.write(batch, note)
    with no_answer(), pytest.raises(SinkUnavailable):
        part.schema_changed(other_shape(), "told")
    part.schema_changed(other_shape(), "told")
    part.write(rows(3), "three")
    part._transactions.drop()
    part.write(rows(4), "four")
    assert part_of(process(kafka, prefix), 0).open() == "four"
    assert keys(kafka, prefix) == [1, 2, 3, 4]
    barriers = [one for one in consumed(kafka.bootstrap, f"{prefix}.public.plain") if one.key() is None]
    assert [(one.partition(), headers(one)["pgcdc.barrier"]) for one in barriers] == [(0, "schema"), (1, "schema")]


def test_one_that_looked_before_its_heir_claimed_writes_nothing(kafka: KafkaServer) -> None:
    """It was stopped between its look and its beginning, and what it has in hand the heir has written meanwhile."""
    prefix = fresh()
    late, owner = part_of(process(kafka, prefix), 0), part_of(process(kafka, prefix), 0)
    late.open()
    late.write(rows(1), "one")
    late._transactions.drop()  # as after any failure
    look = Transactions._is_owner

    def looks_and_sleeps(transactions: Transactions) -> bool:
        found = look(transactions)
        if transactions is late._transactions and found:
            assert owner.open() == "one"
            owner.write(rows(2), "two")
        return found

    with mock.patch.object(Transactions, "_is_owner", looks_and_sleeps), pytest.raises(PositionError):
        late.write(rows(2), "two, late")
    with contextlib.suppress(SinkUnavailable):  # it was fenced, and goes on
        owner.write(rows(3), "three")
    owner.write(rows(4), "four")
    assert {1, 2, 4} <= set(keys(kafka, prefix)) and len(keys(kafka, prefix)) == len(set(keys(kafka, prefix)))
    assert part_of(process(kafka, prefix), 0).open() == "four"


def test_rows_that_are_written_again_do_not_hide_a_commit_that_was_not_answered(kafka: KafkaServer) -> None:
    prefix = fresh()
    part = part_of(process(kafka, prefix), 0)
    part.open()
    with no_answer(), pytest.raises(SinkUnavailable):
        part.write(rows(1), "one")
    part.rewrite(rows(9))
    part.write(rows(1), "one")
    assert keys(kafka, prefix) == [1, 9]


def test_formats_that_say_nothing_of_shapes(kafka: KafkaServer) -> None:
    """Nothing is written, and the note is kept: who looks at what is there compares it with what was told."""
    prefix = fresh()
    part = part_of(process(kafka, prefix, format="debezium"), 0)
    part.open()
    part.write(rows(1), "one")
    part.schema_changed(other_shape(), "told")
    assert part_of(process(kafka, prefix), 0).open() == "told"
    assert len(consumed(kafka.bootstrap, f"{prefix}.public.plain")) == 1


def test_a_row_that_is_refused_is_named_and_the_note_stays(kafka: KafkaServer) -> None:
    prefix = fresh()
    part = part_of(process(kafka, prefix), 0)
    part.open()
    part.write(rows(1), "one")
    batch = batch_of(insert(PLAIN, {"id": 2, "name": "a"}), insert(PLAIN, {"id": 3, "name": "x" * LARGE}))
    with pytest.raises(SinkRejected, match="record"):
        part.write(batch, "three")
    assert part_of(process(kafka, prefix), 0).open() == "one"
    assert keys(kafka, prefix) == [1]


def test_a_new_producer_looks_again_how_many_partitions_there_are(kafka: KafkaServer) -> None:
    """After a failure a topic may be another one, and a barrier stands in every partition."""
    prefix = fresh()
    part = part_of(process(kafka, prefix), 0)
    part.open()
    part.write(rows(1), "one")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    [added] = admin.create_partitions([NewPartitions(f"{prefix}.public.plain", 3)]).values()
    added.result()
    part._transactions.drop()
    part.write(batch_of(truncate(PLAIN)), "two")
    barriers = [one for one in consumed(kafka.bootstrap, f"{prefix}.public.plain") if "pgcdc.barrier" in headers(one)]
    assert [(one.partition(), headers(one)["pgcdc.partitions"]) for one in barriers] == [(n, "3") for n in range(3)]


def test_a_topic_of_positions_that_a_broker_does_not_list_yet_is_read(kafka: KafkaServer) -> None:
    """One that has just started, or has no leader for it: what is stored there would be taken for nothing."""
    prefix = fresh()
    part = part_of(process(kafka, prefix), 0)
    part.open()
    part.write(rows(1), "one")
    other = part_of(process(kafka, prefix), 0)
    with mock.patch.object(Topics, "_listed", return_value={}):
        assert other.open() == "one"


def test_a_topic_that_is_not_to_be_seen_is_not_one_that_is_not_there(kafka: KafkaServer) -> None:
    """A barrier that goes by the number of partitions that were there before would not be in those that were added."""
    with KafkaServer(user=("bob", "secret")) as server:
        prefix = fresh()
        part = part_of(process(server, prefix), 0)
        part.open()
        part.write(rows(1), "one")
        login = {"security.protocol": "sasl_plaintext", "sasl.mechanism": "PLAIN"}
        login |= {"sasl.username": "bob", "sasl.password": "secret"}
        part._transactions.producer = Producer({"bootstrap.servers": server.guarded, **login})
        with pytest.raises(SinkUnavailable, match="did not say how many partitions"):
            part._transactions.partitions(f"{prefix}.public.plain")


@pytest.mark.parametrize("of", ["part", "sink"])
def test_a_batch_that_was_refused_is_refused_again(kafka: KafkaServer, of: str) -> None:
    """That it was not committed is not in doubt: the same batch comes again when the culprit is looked for."""
    prefix = fresh()
    large = batch_of(insert(PLAIN, {"id": 2, "name": "x" * LARGE}))
    part = part_of(process(kafka, prefix), 0)
    sink = opened(kafka, prefix, format="json", partitions=2)
    part.open()
    for _ in range(3):
        with pytest.raises(SinkRejected):
            part.write(large, "two") if of == "part" else sink.write(large)
    assert keys(kafka, prefix) == []


def test_what_others_have_open_is_not_waited_for_in_vain(kafka: KafkaServer) -> None:
    """A process was killed: until its partitions are taken over, what is behind its open transaction is not seen.

    Who takes several over would wait with the first for what only opening the second ends.
    """
    prefix = fresh()
    dead, sink = process(kafka, prefix), process(kafka, prefix)
    parts = [part_of(dead, number) for number in range(2)]
    for number, part in enumerate(parts):
        part.open()
        part.write(rows(number), f"{number}")
    transactions = parts[1]._transactions
    Transaction(transactions).__enter__()
    transactions._store(transactions._name, kafka_transactions.Stored("w", note="never committed"))
    assert transactions.producer is not None
    transactions.producer.flush(60)
    heirs = [part_of(sink, number) for number in range(2)]
    with pytest.raises(SinkUnavailable, match="to its end"):
        heirs[0].open()
    assert heirs[1].open() == "1"
    assert heirs[0].open() == "0"
    with pytest.raises(PositionError, match="taken over"):
        parts[0].write(rows(2), "2")


def test_it_does_not_write_to_what_is_read(kafka: KafkaServer) -> None:
    """Neither under the same prefix, where the writer's positions are, nor by names; another cluster has its own."""
    kafka.start()
    source = fresh()
    read = {"bootstrap.servers": kafka.bootstrap}, source, [f"{source}.public.plain", f"{source}.message"]
    same = Kafka(kafka.bootstrap, prefix=source)
    same.part("0")
    same.reads_from(*read)
    with pytest.raises(ConfigError, match=rf"come from topics with the prefix '{source}'") as caught:
        same.open()
    assert "prefix=" in str(caught.value.hint)
    for topic in (f"{source}.{{schema}}.{{table}}", lambda relation: f"{source}.public.{relation.name}"):
        named = Kafka(kafka.bootstrap, prefix=fresh(), topic=topic)
        named.part("0")
        named.reads_from(*read)
        named.open()
        part = part_of(named, 0)
        part.open()
        with pytest.raises(ConfigError, match=rf"come from topic {source}\.public\.plain, and its sink would write"):
            part.write(rows(1), "one")
        part.write(batch_of(insert(Table("other", {"id": "bigint"}, key=("id",)), {"id": 1})), "one")
    with KafkaServer() as elsewhere:
        there = {"bootstrap.servers": elsewhere.bootstrap}, *read[1:]
        same = Kafka(kafka.bootstrap, prefix=source)
        same.part("0")
        same.reads_from(*there)
        same.open()
        part = part_of(same, 0)
        part.open()
        part.write(rows(1), "one")
    assert len(consumed(kafka.bootstrap, f"{source}.public.plain")) == 1
