"""The sink for Kafka, on a real broker."""

from __future__ import annotations

import contextlib
import json
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from pgcdc.sinks.kafka import Kafka
from pgcdc.testing.contracts import SinkContract

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from confluent_kafka import Message

    from tests.servers.kafka import KafkaServer

LARGE = 2_000_000


def consumed(bootstrap: str, topic: str) -> list[Message]:
    """All that a reader gets who sees what was committed: partition after partition, in order."""
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
        found = consumer.list_topics(topic, timeout=30).topics[topic]
        if found.error is not None:
            return []
        places = [TopicPartition(topic, partition, 0) for partition in sorted(found.partitions)]
        consumer.assign(places)
        messages: list[Message] = []
        left = {place.partition for place in places}
        while left:
            message = consumer.poll(30)
            assert message is not None, "nothing within 30 s"
            error = message.error()
            if error is None:
                messages.append(message)
            else:
                assert error.code() == KafkaError._PARTITION_EOF, error.str()
                left.discard(message.partition())
        return sorted(messages, key=lambda message: message.partition() or 0)
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


class TestKafka(SinkContract):
    """The contract, with lines of JSON."""

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
        self.timeout = 30.0

    def test_goes_on_when_the_target_is_back(self, tmp_path: Path) -> None:
        self.timeout = 1.0
        super().test_goes_on_when_the_target_is_back(tmp_path)

    def test_waits_for_a_target_that_is_slow(self, tmp_path: Path) -> None:
        self.timeout = 1.0
        super().test_waits_for_a_target_that_is_slow(tmp_path)

    def prefix(self, place: Path) -> str:
        return "contract" + str(abs(hash(place)))

    def make_sink(self, place: Path) -> Kafka:
        return Kafka(self.kafka.bootstrap, prefix=self.prefix(place), format="json", timeout=self.timeout)

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
