"""Kafka with Avro and Protobuf: schemas in a real registry, read by Confluent's own deserializers."""

from __future__ import annotations

import contextlib
import math
import uuid
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Self

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from msgspec import UNSET

from pgcdc.errors import ConfigError, RegistryError, SinkUnavailable
from pgcdc.schema.protobuf import numbered
from pgcdc.sinks.kafka import Kafka
from pgcdc.testing.changes import Table, delete, insert, transaction, truncate, update
from pgcdc.testing.changes import message as logical_message
from tests.sinks.test_kafka import batch_of, consumed, fresh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from confluent_kafka import Message

    from pgcdc.protocol import Batch
    from pgcdc.sinks.kafka import KafkaFormat
    from tests.servers.kafka import KafkaServer
    from tests.servers.registry import RegistryServer

COLUMNS: Final = {
    "id": "bigint",
    "flag": "boolean",
    "small": "smallint",
    "ratio": "double precision",
    "price": "numeric(12,2)",
    "exact": "numeric",
    "raw": "bytea",
    "day": "date",
    "clock": "time",
    "local": "timestamp",
    "moment": "timestamptz",
    "document": "jsonb",
    "odd name": "text",
}
TYPED: Final = Table("typed", COLUMNS, key=("id",))
ROW: Final[dict[str, Any]] = {
    "id": 1 << 40,
    "flag": True,
    "small": -3,
    "ratio": 0.1,
    "price": Decimal("-12.50"),
    "exact": Decimal("1" + "0" * 30),
    "raw": b"\x00\xff",
    "day": date(2024, 2, 29),
    "clock": time(12, 30, 0, 5),
    "local": datetime(2024, 2, 29, 12, 30),  # PostgreSQL's type has none
    "moment": datetime(2024, 2, 29, 12, 30, tzinfo=UTC),
    "document": {"a": [1, None]},
    "odd name": "é",
}


class Written:
    """A topic that a sink with registered schemas has written, and what Confluent's deserializers make of it."""

    def __init__(self, kafka: KafkaServer, registry: RegistryServer, format: KafkaFormat) -> None:
        kafka.start()
        registry.start()
        self.prefix = fresh()
        self.topic = f"{self.prefix}.public.typed"
        self.kafka = kafka
        self.client = SchemaRegistryClient({"url": registry.url})
        self.sink = Kafka(kafka.bootstrap, prefix=self.prefix, format=format, registry=registry.url, timeout=60)
        self.sink.open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.sink.close()
        with self.client:
            pass

    def write(self, batch: Batch) -> None:
        self.sink.write(batch)

    def messages(self, topic: str | None = None) -> list[Message]:
        self.sink.close()
        return consumed(self.kafka.bootstrap, topic or self.topic)

    def avro(self, topic: str | None = None) -> list[tuple[Any, Any]]:
        read = AvroDeserializer(self.client)

        def one(field: MessageField, data: bytes | None) -> Any:
            return None if data is None else read(data, SerializationContext(topic or self.topic, field))

        messages = self.messages(topic)
        return [
            (one(MessageField.KEY, message.key()), one(MessageField.VALUE, message.value())) for message in messages
        ]


@pytest.fixture
def written_by(kafka: KafkaServer, registry: RegistryServer) -> Iterator[Callable[[KafkaFormat], Written]]:
    """Makes a sink, and closes it with what reads its schemas."""
    with contextlib.ExitStack() as stack:
        yield lambda format: stack.enter_context(Written(kafka, registry, format))


def test_avro_s_values_are_typed(written_by: Callable[[KafkaFormat], Written]) -> None:
    """Each in Avro's own type; what that cannot hold as a string; what was not sent is named."""
    written = written_by("avro")
    large = {"price": Decimal("NaN"), "day": "infinity", "moment": "infinity", "ratio": "Infinity", "clock": "24:00:00"}
    sparse = dict.fromkeys(COLUMNS) | {"id": 2, **large}

    written.write(
        batch_of(
            insert(TYPED, ROW),
            insert(TYPED, sparse),
            update(TYPED, ROW | {"odd name": UNSET}),
            update(TYPED, ROW | {"id": 7}, old={"id": 1 << 40}),
            delete(TYPED, {"id": 2}),
            truncate(TYPED),
        )
    )
    found = written.avro()
    new = {
        **{name.replace(" ", "_"): value for name, value in ROW.items()},
        "exact": "1" + "0" * 30,
        "document": '{"a": [1, null]}',
    }
    keys = [key and key["id"] for key, _ in found]
    assert keys == [1 << 40, 2, 1 << 40, 1 << 40, 7, 2, 2, None]
    values = [value for _, value in found]
    assert values[0]["new"] | {"document": ""} == new | {"document": ""}
    assert values[0]["new"]["document"].replace(" ", "") == '{"a":[1,null]}'
    assert values[0]["unset"] == []
    assert {name: values[1]["new"][name] for name in large} == {**large, "price": "NaN", "ratio": math.inf}
    assert values[2]["unset"] == ["odd_name"]
    assert values[2]["new"]["odd_name"] is None
    assert values[3] is None
    assert (values[4]["action"], values[4]["old"]["id"], values[4]["new"]["id"]) == ("update", 1 << 40, 7)
    assert (values[5]["action"], values[5]["old"]["id"], values[5]["new"]) == ("delete", 2, None)
    assert values[6] is None
    assert (values[7]["action"], values[7]["new"]) == ("truncate", None)
    assert all(one["position"] for one in values if one is not None)


def test_protobuf_s_values_are_those_of_json(written_by: Callable[[KafkaFormat], Written]) -> None:
    """Numbers and bytes as such, everything else in the words of `to_json`."""
    from pgcdc.schema import protobuf

    written = written_by("protobuf")
    written.write(batch_of(insert(TYPED, ROW), delete(TYPED, {"id": 2})))
    messages = written.messages()
    text = written.client.get_latest_version(f"{written.topic}-value").schema.schema_str
    assert text is not None
    row = protobuf._FIELD.findall(text[text.index("message Row") :].partition("}")[0])
    assert [name for _, name, _ in row] == [name.replace(" ", "_") for name in COLUMNS]
    envelope = protobuf._classes("again", protobuf._envelope("again", _fields(text)))["Envelope"]
    read = []
    for message in messages[:2]:
        value = message.value()
        assert value is not None
        assert value[:1] == b"\x00"
        assert value[5:6] == b"\x00"
        read.append(envelope.FromString(value[6:]))
    first, second = read
    assert (first.action, first.new.id, first.new.flag, first.new.small) == ("insert", 1 << 40, True, -3)
    assert (first.new.ratio, first.new.price, first.new.raw) == (0.1, "-12.50", b"\x00\xff")
    assert (first.new.day, first.new.moment, first.new.odd_name) == ("2024-02-29", "2024-02-29T12:30:00Z", "é")
    assert (second.action, second.old.id, second.HasField("new")) == ("delete", 2, False)
    assert [message.value() is None for message in messages] == [False, False, True]


def _fields(text: str) -> list[tuple[str, str, int]]:
    import re

    row = text[text.index("message Row") :].partition("}")[0]
    return [(kind, name, int(number)) for kind, name, number in re.findall(r"optional (\w+) (\w+) = (\d+);", row)]


@pytest.mark.parametrize("format", ["avro", "protobuf"])
def test_columns_come_and_go_and_another_type_is_refused(
    written_by: Callable[[KafkaFormat], Written], format: KafkaFormat
) -> None:
    """A schema for each shape; what readers could not follow does not reach the topic."""
    written = written_by(format)
    subject = f"{written.topic}-value"

    def table(**columns: str) -> Table:
        return Table("typed", {"id": "bigint", **columns}, key=("id",))

    written.write(batch_of(insert(table(a="integer"), {"id": 1, "a": 1})))
    written.client.set_compatibility(subject, "BACKWARD")
    wide = insert(table(a="integer", b="text"), {"id": 2, "a": 1, "b": "x"})
    narrow = insert(table(b="text"), {"id": 3, "b": "x"})
    first = insert(table(a="integer"), {"id": 1, "a": 1})
    written.write(batch_of(first, wide, narrow))
    assert len(written.client.get_versions(subject)) == (3 if format == "avro" else 2)
    retyped = insert(table(b="integer"), {"id": 4, "b": 1})
    with pytest.raises(RegistryError, match="refuses the schema") as raised:
        written.write(batch_of(first, wide, narrow, retyped))
    assert "typed-value" in str(raised.value)
    assert len(written.messages()) == 3


@pytest.mark.parametrize("format", ["avro", "protobuf"])
def test_logical_messages_have_a_schema_of_their_own(
    written_by: Callable[[KafkaFormat], Written], format: KafkaFormat
) -> None:
    """In the topic of messages."""
    written = written_by(format)
    written.write(batch_of(transaction(logical_message("note", b"\x00\xff"))))
    topic = f"{written.prefix}.message"
    if format == "avro":
        [(key, value)] = written.avro(topic)
        assert (key, value["content"], value["transactional"]) == ({"prefix": "note"}, b"\x00\xff", True)
    else:
        [message] = written.messages(topic)
        value = message.value()
        assert value is not None
        assert value[6:].endswith(b"\x1a\x04note\x22\x02\x00\xff\x28\x01")


def test_numbers_of_protobuf_s_fields_stay() -> None:
    """Also those of columns that are gone."""
    first = numbered({"a": "int32", "b": "string"}, None)
    assert first == [("int32", "a", 1), ("string", "b", 2)]
    former = "\n".join(f"    optional {kind} {name} = {number};" for kind, name, number in first)
    assert numbered({"c": "bytes", "b": "string"}, former) == [*first, ("bytes", "c", 3)]
    assert numbered({"b": "int64"}, former) == [("int32", "a", 1), ("int64", "b", 2)]
    assert numbered({"x": "bool"}, "optional bool y = 18999;")[-1] == ("bool", "x", 20000)


def test_a_registry_that_is_away_is_waited_for(kafka: KafkaServer) -> None:
    """As a broker is; and a format that needs one says so."""
    with pytest.raises(ConfigError, match="needs a registry"):
        Kafka("127.0.0.1:1", format="avro")
    with pytest.raises(ConfigError, match="needs no registry"):
        Kafka("127.0.0.1:1", registry="http://127.0.0.1:1")
    kafka.start()
    nowhere = {"url": "http://127.0.0.1:1", "max.retries": 0}
    sink = Kafka(kafka.bootstrap, prefix=uuid.uuid4().hex, format="avro", registry=nowhere, timeout=60)
    sink.open()
    with pytest.raises(SinkUnavailable, match="cannot be reached"):
        sink.write(batch_of(insert(TYPED, ROW)))
    sink.close()
