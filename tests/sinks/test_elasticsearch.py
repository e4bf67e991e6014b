"""The same sink against Elasticsearch: what of it the two servers could see differently.

The server is expensive to start, and what it is sent is the same: most tests are those of OpenSearch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pgcdc import SinkRejected, SinkUnavailable
from pgcdc.sinks import Elasticsearch
from pgcdc.testing import delete, insert, transaction, truncate, update
from tests.sinks.search import ORDERS, SearchContract, ask, batch_of, documents, opened, order, through_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.search import ElasticsearchServer


class TestContract(SearchContract):
    made = Elasticsearch

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def server(cls, elasticsearch: ElasticsearchServer) -> Iterator[None]:
        yield from through_proxy(cls, elasticsearch.url)


async def test_what_is_older_changes_nothing(elasticsearch: ElasticsearchServer) -> None:
    whole = batch_of(
        insert(ORDERS, order(1)), update(ORDERS, order(1, "paid")), insert(ORDERS, order(2)), truncate(ORDERS)
    )
    settings = {"gc_deletes": "0ms"}
    async with opened(Elasticsearch(elasticsearch.url, index="older-{table}", settings=settings)) as sink:
        await sink.write(whole.take([1]))
        await sink.write(whole.take([0]))
        assert documents(elasticsearch.url, "older-orders") == {"1": order(1, "paid")}
        await sink.write(whole.take([3]))
        await sink.write(whole.take([0, 1]))
    assert documents(elasticsearch.url, "older-orders") == {}


async def test_documents_are_removed(elasticsearch: ElasticsearchServer) -> None:
    whole = batch_of(
        insert(ORDERS, order(1)), insert(ORDERS, order(2)), delete(ORDERS, order(1)), delete(ORDERS, order(3))
    )
    async with opened(Elasticsearch(elasticsearch.url, index="removed", keep_deleted=0)) as sink:
        await sink.write(whole)
        await sink.write(whole)
    assert documents(elasticsearch.url, "removed") == {"2": order(2)}
    assert ask(elasticsearch.url, "GET", "/removed-000001/_count")["count"] == 1


async def test_what_it_refuses_and_what_it_has_no_room_for(elasticsearch: ElasticsearchServer) -> None:
    whole = batch_of(transaction(insert(ORDERS, order(1, "secret")), insert(ORDERS, order(2, "7"))))
    fields = {"status": {"type": "integer"}}
    async with opened(Elasticsearch(elasticsearch.url, index="refusing", fields=fields)) as sink:
        with pytest.raises(SinkRejected, match="in the field status") as caught:
            await sink.write(whole)
        assert [position[1] for position in caught.value.positions] == [0]
        assert "secret" not in str(caught.value)
        block = "index.blocks.read_only_allow_delete"
        ask(elasticsearch.url, "PUT", "/refusing-000001/_settings", {block: True})
        with pytest.raises(SinkUnavailable, match="status 429"):
            await sink.write(whole.take([1]))
        ask(elasticsearch.url, "PUT", "/refusing-000001/_settings", {block: None})
        await sink.write(whole.take([1]))
    assert set(documents(elasticsearch.url, "refusing")) == {"2"}


async def test_whatever_the_fields_are(elasticsearch: ElasticsearchServer) -> None:
    """Each kind of field is one that it knows, and leaves out what it cannot hold."""
    from pgcdc.testing.changes import Table

    columns = {
        "id": "bigint",
        "n": "numeric",
        "d": "timestamptz",
        "j": "jsonb",
        "i": "inet",
        "b": "bytea",
        "o": "boolean",
        "u": "uuid",
        "t": "text[]",
    }
    row = {"id": 1, "n": "NaN", "d": "infinity", "j": "[1]", "i": "10.0.0.1/24", "b": "\\x00", "o": "t", "u": None}
    async with opened(Elasticsearch(elasticsearch.url, index="fields")) as sink:
        await sink.write(batch_of(insert(Table("things", columns, key=("id",)), {**row, "t": ["a"]})))
    assert documents(elasticsearch.url, "fields")["1"]["n"] == "NaN"
