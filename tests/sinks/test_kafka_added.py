"""Partitions that are added to a topic while the sink for Kafka writes to it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from pgcdc.lsn import Position
from pgcdc.schema import change_of
from pgcdc.testing.changes import insert, truncate, update
from tests.pipeline.running import until
from tests.sinks.test_kafka import PLAIN, WIDE, batch_of, consumed, fresh, headers, opened

if TYPE_CHECKING:
    from tests.servers.kafka import KafkaServer


@pytest.mark.parametrize("part", [False, True])
def test_barriers_are_in_added_partitions(kafka: KafkaServer, part: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A reader that takes each partition for itself would keep there what a TRUNCATE has removed."""
    caplog.set_level(logging.WARNING, logger="pgcdc.kafka")
    prefix = fresh()
    topic, admin = f"{prefix}.public.plain", AdminClient({"bootstrap.servers": kafka.bootstrap})
    sink = opened(kafka, prefix, format="pgcdc", partitions=2)
    whole = batch_of(
        *(insert(PLAIN, {"id": key, "name": "x"}) for key in range(12)),
        truncate(PLAIN),
        insert(PLAIN, {"id": 1, "name": "x"}),
        update(PLAIN, {"id": 1, "name": "x"}, {"id": 2, "name": "x"}),
    )
    [before] = whole.relations
    [after] = batch_of(insert(WIDE, {"id": 1, "name": "", "more": 1})).relations
    shape = change_of(before, after, old_version=1, version=2, position=Position(77, 3))
    last = whole.take([11]).last_position
    assert last is not None

    def add(count: int) -> None:
        [added] = admin.create_partitions([NewPartitions(topic, count)]).values()
        added.result()
        until(lambda: len(admin.list_topics(topic).topics[topic].partitions) == count, "the partitions", pause=0.05)

    if part:
        own = sink.part("source/0")
        own.open()
        own.write(whole.up_to(last), "first")
        add(3)
        own.write(whole.after(last), "second")
        add(4)
        own.schema_changed(shape, "third")
        own.close()
    else:
        sink.write(whole.up_to(last))
        add(3)
        sink.write(whole)
        add(4)
        sink.schema_changed(shape)
    sink.close()
    messages = consumed(kafka.bootstrap, topic)
    barriers = [
        (message.partition(), said["pgcdc.barrier"], said["pgcdc.partitions"])
        for message in messages
        if "pgcdc.barrier" in (said := headers(message))
    ]
    assert barriers == [
        (number, what, count)
        for number in range(4)
        for what, count in [("truncate", "3"), ("key", "3"), ("schema", "4")]
        if number < int(count)
    ]
    warned = [text for one in caplog.records if f"topic {topic} has" in (text := one.getMessage())]
    assert [text.partition(":")[0] for text in warned] == [
        f"topic {topic} has 3 partitions now and had 2",
        f"topic {topic} has 4 partitions now and had 3",
    ]
