"""Text that is none, and deep JSON: what targets have that take it, also where a row is put together of two."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
import redis
from msgspec import UNSET

from pgcdc.errors import SinkRejected
from pgcdc.protocol import json_members
from pgcdc.sinks import ClickHouse, DuckDB, OpenSearch, Redis
from pgcdc.sinks.kafka import Kafka
from pgcdc.testing import Table, insert, update
from tests.sinks.search import ask, batch_of
from tests.sinks.test_kafka import consumed, fresh

if TYPE_CHECKING:
    from pathlib import Path

    from pgcdc.protocol import Batch
    from pgcdc.sinks.kafka import KafkaFormat
    from tests.servers.clickhouse import ClickHouseServer
    from tests.servers.kafka import KafkaServer
    from tests.servers.redis import RedisServer
    from tests.servers.registry import RegistryServer
    from tests.servers.search import OpenSearchServer

TABLE = Table("odd", {"id": "bigint", "note": "text", "document": "json", "long": "text"}, key=("id",))
HALF = '{"half": "\\ud83d", "whole": "\\ud83d\\ude00"}'
DEEP = "[" * 3000 + "]" * 3000
BYTE = "caf\udce9"


def parsed(document: str | None) -> Any:
    return None if document is None else json.loads(document)


def batches(note: Any, document: Any) -> list[Batch]:
    """A row, and an update of it that does not send everything again."""
    row = {"id": 1, "note": note, "document": document, "long": "it is kept"}
    return [
        batch_of(insert(TABLE, row)),
        batch_of(insert(TABLE, row), update(TABLE, row | {"note": "b", "long": UNSET, "document": UNSET})).pieces(1)[1],
    ]


@pytest.mark.parametrize("form", ["json", "hash", "count"])
@pytest.mark.parametrize(("note", "document"), [(BYTE, None), ("a", HALF), ("a", DEEP)], ids=["byte", "half", "deep"])
def test_redis_keeps_it(redis_server: RedisServer, form: Any, note: Any, document: Any) -> None:
    key = f"odd:{form}:{note == 'a'}:{document == DEEP}"
    sink = Redis(redis_server.url, key=key + (":{long}" if form == "count" else ":{id}"), form=form)
    sink.open()
    expected = {"id": "1", "note": note, "document": document, "long": "it is kept"}
    with redis.Redis.from_url(redis_server.url) as client:
        for batch in batches(note, document)[: 1 if form == "count" else 2]:
            sink.write(batch)
            if form == "count":
                assert client.get(f"{key}:it is kept") == b"1"
            elif form == "hash":
                fields = client.hgetall(f"{key}:1").items()
                assert {name.decode(): value.decode("utf-8", "surrogateescape") for name, value in fields} == {
                    name: value for name, value in expected.items() if value is not None
                }
            else:
                found = json_members(client.get(f"{key}:1"))
                assert found.pop("document") == (b"null" if document is None else document.encode())
                assert {name: json.loads(value) for name, value in found.items()} == {
                    "id": 1,
                    "note": expected["note"],
                    "long": "it is kept",
                }
            expected["note"] = "b"
    sink.close()


def test_redis_counts_by_columns_of_any_name(redis_server: RedisServer) -> None:
    """msgspec has no field of such a name."""
    table = Table("odd", {"id": "bigint", 'a"b': "text", "c\\d": "bigint"}, key=("id",))
    sink = Redis(redis_server.url, key='named:{a"b}', form="count", amount="c\\d")
    sink.open()
    sink.write(batch_of(*(insert(table, {"id": number, 'a"b': "x", "c\\d": number}) for number in range(1, 4))))
    sink.close()
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.get("named:x") == b"6"


def test_duckdb_has_no_such_name(tmp_path: Path) -> None:
    """To a pipeline that is a refusal."""
    sink = DuckDB(tmp_path / "odd.duckdb")
    sink.open()
    with contextlib.closing(sink), pytest.raises(UnicodeEncodeError):
        sink.write(batch_of(insert(Table("odd", {"id": "bigint", BYTE: "text"}, key=("id",)), {"id": 1, BYTE: "a"})))


@pytest.mark.parametrize(("note", "document"), [(BYTE, None), ("a", HALF)])
async def test_opensearch_keeps_it(opensearch: OpenSearchServer, note: Any, document: Any) -> None:
    """In `_source`, which is what was sent; what is searched has a replacement character there."""
    index = f"odd_{note == 'a'}".lower()
    sink = OpenSearch(opensearch.url, index=index)
    await sink.open()
    wanted = {
        "id": 1,
        "note": note,
        "document": None if document is None else json.loads(document),
        "long": "it is kept",
    }
    for batch in batches(note, document):
        await sink.write(batch)
        found = ask(opensearch.url, "GET", f"/{index}/_doc/1")["_source"]
        assert {name: found[name] for name in wanted} == wanted
        wanted["note"] = "b"
    await sink.close()


@pytest.mark.parametrize(("note", "document"), [(BYTE, None), ("a", HALF)])
async def test_clickhouse_keeps_what_it_takes(clickhouse: ClickHouseServer, note: Any, document: Any) -> None:
    """It has bytes; what it makes of half a pair in a text is its own affair, as long as nothing else is lost."""
    table = f"odd_{note == 'a'}".lower()
    sink = ClickHouse(clickhouse.url, database="default", table=table)
    await sink.open()
    for batch in batches(note, document):
        await sink.write(batch)
    await sink.close()
    answer = clickhouse.query(f"SELECT note, long, document FROM {table} FINAL FORMAT TSVRaw")
    assert answer.rstrip("\n").split("\t") == ["b", "it is kept", document or "\\N"]


@pytest.mark.parametrize("document", [HALF, DEEP], ids=["half", "deep"])
@pytest.mark.parametrize("format", ["avro", "protobuf"])
def test_registered_schemas_have_text(
    kafka: KafkaServer, registry: RegistryServer, format: KafkaFormat, document: str
) -> None:
    """JSON is text as it stands; a byte that is none makes a row that is refused by its position."""
    kafka.start()
    registry.start()
    prefix = fresh()

    def sink(prefix: str) -> Kafka:
        made = Kafka(kafka.bootstrap, prefix=prefix, format=format, registry=registry.url, timeout=60)
        made.open()
        return made

    with contextlib.closing(sink(prefix)) as taking:
        for batch in batches("a", document):
            taking.write(batch)
    refused = batches(BYTE, None)[0]
    by_text = Table("by_text", {"id": "text"}, key=("id",))
    with contextlib.closing(sink(fresh())) as refusing:
        for batch in (refused, batch_of(insert(by_text, {"id": BYTE}))):
            with pytest.raises(SinkRejected) as raised:
                refusing.write(batch)
            assert raised.value.positions == {batch.first_position}
    first, second = consumed(kafka.bootstrap, f"{prefix}.public.odd")
    written, later = first.value(), second.value()
    assert written is not None and later is not None
    assert document.encode() in written
    assert document.encode() not in later
