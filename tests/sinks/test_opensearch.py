"""The sink OpenSearch against a real server: the contract, and what is special to an index.

Over 400 lines because all of it reads one index in the same way.
"""

from __future__ import annotations

import http.server
import json
import random
import re
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

import pytest
from msgspec import UNSET

from pgcdc import ConfigError, Pipeline, Position, SinkRejected, SinkUnavailable
from pgcdc.pipeline import MemoryPositions
from pgcdc.sinks import OpenSearch
from pgcdc.sinks import search_writing as module
from pgcdc.sinks.search_documents import FLOOR_ID, document_id
from pgcdc.sinks.search_writing import Documents
from pgcdc.testing import delete, insert, play, transaction, truncate, update
from pgcdc.testing.capture import Capture
from pgcdc.testing.changes import Change, Table, Transaction
from tests.pipeline.running import running
from tests.sinks.search import ORDERS, SearchContract, ask, batch_of, documents, opened, order, through_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database
    from tests.servers.search import OpenSearchServer


class TestContract(SearchContract):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def server(cls, opensearch: OpenSearchServer) -> Iterator[None]:
        yield from through_proxy(cls, opensearch.url)


class TestContractWithoutMemory(SearchContract):
    """Documents are removed at once."""

    keep_deleted = 0.0
    late = False
    without: ClassVar[dict[str, str]] = {
        **SearchContract.without,
        "late": "the server's memory of deleted documents is all that it has: dead letters wait for each other, `hold`",
    }
    # The TOAST value of a row whose key changed is not kept then: a replay that needs it is refused, as the page says.
    test_what_comes_again_comes_in_other_batches = None  # type: ignore[assignment]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def server(cls, opensearch: OpenSearchServer) -> Iterator[None]:
        yield from through_proxy(cls, opensearch.url)


@pytest.fixture
def index(request: pytest.FixtureRequest) -> str:
    """A name of the test's own."""
    return re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")


def stored(url: str, index: str) -> dict[str, dict[str, Any]]:
    """All documents of rows, also of deleted ones."""
    ask(url, "POST", f"/{index}-000001/_refresh")
    found = ask(url, "POST", f"/{index}-000001/_search", {"size": 100, "version": True})
    documents = {one["_id"]: {"version": one["_version"], **one["_source"]} for one in found["hits"]["hits"]}
    documents.pop(FLOOR_ID, None)
    return documents


# Positions and versions.


async def test_the_version_is_the_commits_lsn_and_the_last_change_of_a_transaction_wins(
    opensearch: OpenSearchServer, index: str
) -> None:
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:
        first = batch_of(transaction(insert(ORDERS, order(1)), update(ORDERS, order(1, "paid"))))
        position = first.last_position
        assert position is not None
        await sink.write(first)
        assert stored(opensearch.url, index)["1"] == {
            "version": position.commit_lsn,
            "pgcdc_position": str(position),
            **order(1, "paid"),
        }
        # One by one, and again: also then the second has the last word.
        for batch in (first, first.up_to(Position(position.commit_lsn, 0)), first.after((position.commit_lsn, 0))):
            await sink.write(batch)
        assert documents(opensearch.url, index) == {"1": order(1, "paid")}
        # Also where the second comes in a batch of its own.
        for piece in batch_of(transaction(insert(ORDERS, order(2)), update(ORDERS, order(2, "paid")))).pieces(1):
            await sink.write(piece)
        assert documents(opensearch.url, index)["2"] == order(2, "paid")


async def test_what_is_older_changes_nothing(opensearch: OpenSearchServer, index: str) -> None:
    whole = batch_of(insert(ORDERS, order(1)), insert(ORDERS, order(2)), update(ORDERS, order(1, "paid")))
    async with (
        opened(OpenSearch(opensearch.url, index=index)) as sink,
        opened(OpenSearch(opensearch.url, index=index)) as stopped,
    ):
        await sink.write(whole)
        await stopped.write(whole.take([0]))
    assert documents(opensearch.url, index) == {"1": order(1, "paid"), "2": order(2)}


async def test_what_is_older_changes_nothing_within_a_transaction_either(
    opensearch: OpenSearchServer, index: str
) -> None:
    """As from a dead letter. The version of all three is the same, until one took the place of another."""
    changes = [insert(ORDERS, order(1)), update(ORDERS, order(1, "paid")), delete(ORDERS, order(1))]
    again = insert(ORDERS, order(1, "again"))
    whole = batch_of(transaction(*changes), transaction(again))
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:
        for numbers, there in (
            ([0], order(1)),
            ([1], order(1, "paid")),
            ([0], order(1, "paid")),
            ([2], None),
            ([1], None),
            ([0, 1], None),
            ([3], order(1, "again")),
            ([2], order(1, "again")),
        ):
            await sink.write(whole.take(numbers))
            assert documents(opensearch.url, index) == ({} if there is None else {"1": there}), numbers


async def test_a_row_that_changes_more_often_in_a_transaction_than_versions_fit_between_two(
    opensearch: OpenSearchServer, index: str
) -> None:
    """Each takes the place of the one before, which counts the version up, past the LSN of the next transaction."""
    updates = transaction(*(update(ORDERS, order(1, f"s{number}")) for number in range(120)))
    end = batch_of(updates).last_position
    assert end is not None
    # As close as can be.
    next_one = transaction(delete(ORDERS, order(1)), commit_lsn=end.commit_lsn + 112)
    whole = batch_of(updates, next_one, insert(ORDERS, order(1, "again")))
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:
        for piece in whole.take(range(121)).pieces(1):
            await sink.write(piece)
        found = stored(opensearch.url, index)["1"]
        assert found["version"] > end.commit_lsn + 112 and "pgcdc_deleted" in found
        for number in (119, 121, 120):
            await sink.write(whole.take([number]))
    assert documents(opensearch.url, index) == {"1": order(1, "again")}


async def test_what_is_from_before_a_truncate_makes_no_document(opensearch: OpenSearchServer, index: str) -> None:
    whole = batch_of(
        insert(ORDERS, order(1)),
        transaction(insert(ORDERS, order(2)), insert(ORDERS, order(4)), truncate(ORDERS), insert(ORDERS, order(3))),
    )

    def check(*ids: str) -> None:
        assert set(documents(opensearch.url, index)) == {*ids}

    class Killed(OpenSearch):
        async def _hold_down(self, indexes: Any) -> None:
            raise SinkUnavailable("killed")

    async with (
        opened(OpenSearch(opensearch.url, index=index)) as sink,
        opened(OpenSearch(opensearch.url, index=index)) as stopped,
        opened(Killed(opensearch.url, index=index)) as killed,
    ):
        for one in (sink, stopped):
            await one.write(whole.take([0]))
        with pytest.raises(SinkUnavailable):
            await killed.write(whole.take([0]))
        await sink.write(whole.take([3, 4]))
        check("3")
        for number in (1, 0):  # the one that knows of it, as with a dead letter; and one that does not
            for one in (sink, stopped):
                await one.write(whole.take([number]))
                check("3")
        with pytest.raises(SinkUnavailable):
            await killed.write(whole.take([2]))
        check("3", "4")
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:  # which finds what the killed one left
        await sink.write(whole.take([1]))
        check("3")
        await sink.write(whole.take([3]))
        check("3")
    ask(opensearch.url, "DELETE", f"/{index}-000001")
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:  # of another index nothing is remembered
        await sink.write(whole.take([1]))
    check("2")


async def test_a_deleted_row_stays_deleted_when_the_server_has_forgotten_it(
    opensearch: OpenSearchServer, index: str
) -> None:
    whole = batch_of(insert(ORDERS, order(1)), insert(ORDERS, order(2)), delete(ORDERS, order(1)), truncate(ORDERS))
    async with opened(OpenSearch(opensearch.url, index=index, settings={"gc_deletes": "0ms"})) as sink:
        await sink.write(whole)
        for number in (0, 1):  # as a process does that was stopped before them, or somebody with a dead letter
            await sink.write(whole.take([number]))
    assert documents(opensearch.url, index) == {}
    assert set(stored(opensearch.url, index)) == {"1", "2"}


async def test_documents_of_deleted_rows_go_after_a_while(
    opensearch: OpenSearchServer, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAGE", 2)
    rows = [insert(ORDERS, order(id)) for id in range(1, 8)]
    whole = batch_of(truncate(ORDERS), *rows, *(delete(ORDERS, order(id)) for id in range(1, 6)))
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:
        await sink.write(whole)
    assert len(stored(opensearch.url, index)) == 7
    async with opened(OpenSearch(opensearch.url, index=index, keep_deleted=0.001)) as sink:
        await sink.write(whole.take([7]))  # it looks when it begins
    assert set(stored(opensearch.url, index)) == {"6", "7"}
    assert ask(opensearch.url, "GET", f"/{index}/_doc/{quote(FLOOR_ID)}") is not None


async def test_an_lsn_that_is_no_version(opensearch: OpenSearchServer, index: str) -> None:
    """A version is signed. The server would refuse the whole request."""
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:
        await sink.write(batch_of(transaction(insert(ORDERS, order(1)))))
        last = transaction(insert(ORDERS, order(2)), commit_lsn=2**63 - 1)
        await sink.write(batch_of(last))
        with pytest.raises(SinkRejected, match="larger than a document's version") as caught:
            await sink.write(batch_of(transaction(insert(ORDERS, order(3)), commit_lsn=2**63)))
        assert caught.value.positions == {(2**63, 0)}
    assert set(documents(opensearch.url, index)) == {"1", "2"}


async def test_a_truncate_takes_pages(
    opensearch: OpenSearchServer, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAGE", 3)
    whole = batch_of(
        transaction(*(insert(ORDERS, order(id)) for id in range(10))), truncate(ORDERS), insert(ORDERS, order(4, "new"))
    )
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:
        await sink.write(whole.take(range(10)))
        await sink.write(whole.take([10, 11]))
        assert documents(opensearch.url, index) == {"4": order(4, "new")}
        await sink.write(whole.take([10]))  # again, and what came behind it stays
    assert documents(opensearch.url, index) == {"4": order(4, "new")}


# Unchanged TOAST values.


async def test_a_value_that_is_gone_is_said(opensearch: OpenSearchServer, index: str) -> None:
    """The key was used again, and the process ended before the moved row was written: the table has to be copied."""
    moved = update(ORDERS, order(2, "moved", UNSET), old=order(1))
    whole = batch_of(insert(ORDERS, order(1, note="long")), moved, insert(ORDERS, order(1, "another")))
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:
        await sink.write(whole.take([0]))
        await sink.write(whole.take([2]))
        with pytest.raises(SinkRejected, match="does not have any more") as caught:
            await sink.write(whole.take([1]))
        position = whole.take([1]).first_position
        assert caught.value.positions == {position}


async def test_a_row_that_was_never_copied_lacks_what_is_not_sent(opensearch: OpenSearchServer, index: str) -> None:
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:
        await sink.write(batch_of(update(ORDERS, order(1, "paid", UNSET))))
    assert documents(opensearch.url, index) == {"1": {"id": 1, "status": "paid"}}


@pytest.mark.parametrize("keep_deleted", [60.0, 0.0])
async def test_rows_that_change_places(opensearch: OpenSearchServer, index: str, keep_deleted: float) -> None:
    """1 becomes 2 and 2 becomes 1, by way of 3, in pieces of any size, and everything comes again."""
    start = [insert(ORDERS, order(1, note="one")), insert(ORDERS, order(2, note="two"))]
    swap = transaction(
        update(ORDERS, order(3, note=UNSET), old=order(1)),
        update(ORDERS, order(1, note=UNSET), old=order(2)),
        update(ORDERS, order(2, note=UNSET), old=order(3)),
    )
    whole = batch_of(*start, swap)
    for size in (1, 2, 3):
        name = f"{index}-{size}"
        async with opened(OpenSearch(opensearch.url, index=name, keep_deleted=keep_deleted)) as sink:
            for piece in whole.pieces(size):
                await sink.write(piece)
            assert documents(opensearch.url, name) == {"1": order(1, note="two"), "2": order(2, note="one")}


async def test_what_comes_again_finds_the_row_under_its_new_key(opensearch: OpenSearchServer, index: str) -> None:
    """After a crash batches begin elsewhere, and another row may have the former place by then."""
    whole = batch_of(
        insert(ORDERS, order(1, note="long")),
        update(ORDERS, order(2, "moved", UNSET), old=order(1)),
        insert(ORDERS, order(1, note="another")),
        update(ORDERS, order(2, "paid", UNSET)),
        update(ORDERS, order(3, "paid", UNSET), old=order(2)),
        update(ORDERS, order(3, "sent", UNSET)),
    )
    for done, again in ((1, 1), (3, 1), (4, 1), (5, 1), (4, 3), (6, 1)):
        name = f"{index}-{done}-{again}"
        async with opened(OpenSearch(opensearch.url, index=name)) as sink:
            for piece in (whole.take([0]), whole.take(range(1, done)), whole.take(range(again, 6))):
                await sink.write(piece)
            for number in range(1, 6) if done == 6 else ():  # what is newer than an update is all that is there
                await sink.write(whole.take([number]))
        assert documents(opensearch.url, name) == {"1": order(1, note="another"), "3": order(3, "sent", "long")}


async def test_a_write_that_is_cut_off_between_any_two_documents(
    opensearch: OpenSearchServer, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that change places, and whose place another one gets, in one batch; then it comes again in other ones."""
    whole = batch_of(
        *(insert(ORDERS, order(1, note="one")), insert(ORDERS, order(2, note="two"))),
        transaction(
            update(ORDERS, order(3, "a", UNSET), old=order(1)),
            update(ORDERS, order(1, "b", UNSET), old=order(2)),
            update(ORDERS, order(2, "c", UNSET), old=order(3)),
        ),
        update(ORDERS, order(4, "d", UNSET), old=order(1)),
        insert(ORDERS, order(1, note="three")),
        update(ORDERS, order(5, "e", UNSET), old=order(1)),
        transaction(insert(ORDERS, order(1, note="four")), update(ORDERS, order(1, "f", UNSET))),
        update(ORDERS, order(6, "g", UNSET), old=order(2)),
        delete(ORDERS, order(4)),
        transaction(insert(ORDERS, order(2)), delete(ORDERS, order(2))),
    )
    rows = {"1": order(1, "f", "four"), "5": order(5, "e", "three"), "6": order(6, "g", "one")}
    send = Documents._send
    left = 0

    async def limited(self: Documents, name: str, body: bytes) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise SinkUnavailable("killed")
        return await send(self, name, body)

    monkeypatch.setattr(Documents, "_send", limited)
    last, number = len(whole.changes()), 0
    while left >= 0:
        number += 1
        left, name = 0, f"{index}-{number}"
        async with opened(OpenSearch(opensearch.url, index=name, max_bytes=1)) as sink:  # each document alone
            await sink.write(whole.take([0, 1]))
            left = number
            try:
                await sink.write(whole.take(range(2, last)))
            except SinkUnavailable:
                left = -1
                again = OpenSearch(opensearch.url, index=name)
                async with opened(again):
                    for piece in whole.take(range(2, last)).pieces(1 + number % 3):
                        await again.write(piece)
                left = 0
            else:
                left = -1
        assert documents(opensearch.url, name) == rows, number
    assert number > 6


# What the server refuses.


async def test_a_refused_row_is_named_and_the_others_are_written(opensearch: OpenSearchServer, index: str) -> None:
    whole = batch_of(
        transaction(insert(ORDERS, order(1)), insert(ORDERS, order(2, "secret")), insert(ORDERS, order(3, "7")))
    )
    fields = {"status": {"type": "integer"}}
    async with opened(OpenSearch(opensearch.url, index=index, fields=fields)) as sink:
        with pytest.raises(SinkRejected) as caught:
            await sink.write(whole)
        assert [position[1] for position in sorted(caught.value.positions)] == [0, 1]
        assert "in the field status" in str(caught.value) and "secret" not in str(caught.value)
    assert set(documents(opensearch.url, index)) == {"3"}


def test_only_the_refused_rows_become_dead_letters(opensearch: OpenSearchServer, index: str) -> None:
    changes: list[Change | Transaction] = [
        *(insert(ORDERS, order(id)) for id in range(1, 4)),
        transaction(insert(ORDERS, order(4)), insert(ORDERS, order(5, "x" * 40000)), insert(ORDERS, order(6))),
        update(ORDERS, order(2, "paid")),
    ]
    pipeline = Pipeline(index.replace("-", "_"), tables=["orders"])
    sink = OpenSearch(opensearch.url, index=index, fields={"status": {"type": "keyword"}})
    pipeline.add(sink, name="search", on_failure="park")
    play(pipeline, Capture.of(changes), positions=MemoryPositions())
    assert set(documents(opensearch.url, index)) == {"1", "2", "3", "4", "6"}
    assert documents(opensearch.url, index)["2"]["status"] == "paid"
    assert pipeline.statistics().consumers["search"].dead_letters == 1


async def test_what_is_busy_is_written_later_and_nothing_else_again(opensearch: OpenSearchServer, index: str) -> None:
    """An index that the server has locked because its disk is full: 429 for each document."""
    items = Table("items", {"id": "bigint", "name": "text"}, key=("id",))
    whole = batch_of(
        transaction(insert(ORDERS, order(1)), insert(items, {"id": 1, "name": "a"}), insert(ORDERS, order(2)))
    )
    template, locked = f"{index}-{{table}}", f"{index}-items-000001"
    async with opened(OpenSearch(opensearch.url, index=template)) as sink:
        await sink.write(batch_of(transaction(insert(items, {"id": 0, "name": "z"}), insert(ORDERS, order(0)))))
        ask(opensearch.url, "PUT", f"/{locked}/_settings", {"index.blocks.read_only_allow_delete": True})
        for partly in (True, False):
            with pytest.raises(SinkUnavailable, match="did not take 1 documents now: status 429") as raised:
                await sink.write(whole)
            assert raised.value.partly is partly
        ask(opensearch.url, "PUT", f"/{locked}/_settings", {"index.blocks.read_only_allow_delete": None})
        assert set(documents(opensearch.url, f"{index}-orders")) == {"0", "1", "2"}
        await sink.write(whole)
    assert set(documents(opensearch.url, f"{index}-items")) == {"0", "1"}
    written = ask(opensearch.url, "GET", f"/{index}-orders-000001/_stats/indexing")
    assert written["_all"]["primaries"]["indexing"]["index_total"] == 3


async def test_a_request_that_the_server_has_no_room_for(opensearch: OpenSearchServer, index: str) -> None:
    """429 for the whole request, from a circuit breaker."""
    limit = "network.breaker.inflight_requests.limit"
    whole = batch_of(transaction(*(insert(ORDERS, order(id, "x" * 1000)) for id in range(100))))
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:
        await sink.write(whole.take([0]))
        ask(opensearch.url, "PUT", "/_cluster/settings", {"transient": {limit: "50kb"}})
        try:
            with pytest.raises(SinkUnavailable, match="status 429"):
                await sink.write(whole)
        finally:
            ask(opensearch.url, "PUT", "/_cluster/settings", {"transient": {limit: None}})
        await sink.write(whole)
    assert len(documents(opensearch.url, index)) == 100


async def test_requests_are_not_larger_than_they_may_be(
    opensearch: OpenSearchServer, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    send = Documents._send

    async def counted(self: Documents, name: str, body: bytes) -> Any:
        sizes.append(len(body))
        return await send(self, name, body)

    monkeypatch.setattr(Documents, "_send", counted)
    rows = [insert(ORDERS, order(id, "x" * 100)) for id in range(50)]
    async with opened(OpenSearch(opensearch.url, index=index, max_bytes=2000)) as sink:
        await sink.write(batch_of(transaction(*rows, insert(ORDERS, order(50, "x" * 5000)))))
    assert len(documents(opensearch.url, index)) == 51
    assert len(sizes) > 5 and [size for size in sizes if size > 2000] == sizes[-1:]  # the long one goes alone


async def test_an_index_that_is_gone_is_not_made_again_by_the_way(opensearch: OpenSearchServer, index: str) -> None:
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:
        await sink.write(batch_of(insert(ORDERS, order(1))))
        ask(opensearch.url, "DELETE", f"/{index}-000001")
        with pytest.raises(SinkUnavailable, match="is not there any more"):
            await sink.write(batch_of(insert(ORDERS, order(2))))
    assert ask(opensearch.url, "GET", f"/{index}") is None


# Indexes.


async def test_an_index_is_made_with_fields_and_gets_new_ones(
    opensearch: OpenSearchServer, index: str, caplog: pytest.LogCaptureFixture
) -> None:
    narrow = Table("things", {"id": "int", "price": "numeric(8,2)", "on": "date"}, key=("id",))
    wide = Table("things", {"id": "int", "price": "text", "on": "date", "tags": "text[]"}, key=("id",))
    row = {"id": 1, "price": Decimal("1.50"), "on": "2024-02-29"}
    async with opened(OpenSearch(opensearch.url, index=index, settings={"number_of_replicas": 0})) as sink:
        await sink.write(batch_of(insert(narrow, row)))
        await sink.write(batch_of(insert(wide, row | {"price": "much", "tags": ["a", "b"]})))
    made = ask(opensearch.url, "GET", f"/{index}-000001")[f"{index}-000001"]
    fields = {name: field["type"] for name, field in made["mappings"]["properties"].items() if "type" in field}
    assert fields["id"] == "long" and fields["price"] == "double" and fields["on"] == "date"
    assert fields["tags"] == "text" and fields["pgcdc_position"] == "keyword" and fields["pgcdc_deleted"] == "date"
    assert made["settings"]["index"]["gc_deletes"] == "1h" and made["settings"]["index"]["number_of_replicas"] == "0"
    assert f"index {index}: the field of price stays double" in caplog.text
    # What the field cannot hold is in the document all the same.
    assert documents(opensearch.url, index)["1"]["price"] == "much"


async def test_an_alias_that_is_there_is_used(opensearch: OpenSearchServer, index: str) -> None:
    ask(opensearch.url, "PUT", f"/{index}-mine", {"aliases": {index: {}}})
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:
        await sink.write(batch_of(insert(ORDERS, order(1))))
    assert set(documents(opensearch.url, f"{index}-mine")) == {"1"}
    assert ask(opensearch.url, "GET", f"/{index}-000001") is None


async def test_an_index_without_an_alias(opensearch: OpenSearchServer, index: str) -> None:
    ask(opensearch.url, "PUT", f"/{index}", {})
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:
        with pytest.raises(ConfigError, match="searches in it would find what was deleted"):
            await sink.write(batch_of(insert(ORDERS, order(1))))
    async with opened(OpenSearch(opensearch.url, index=index, keep_deleted=0)) as sink:
        await sink.write(batch_of(insert(ORDERS, order(1)), insert(ORDERS, order(2)), delete(ORDERS, order(1))))
    assert set(documents(opensearch.url, index)) == {"2"}


async def test_two_tables_have_two_indexes(opensearch: OpenSearchServer, index: str) -> None:
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:
        with pytest.raises(ConfigError, match=r"public\.orders and sales\.orders would be in one index"):
            await sink.write(
                batch_of(insert(ORDERS, order(1)), insert(Table("sales.orders", ORDERS.columns, key=("id",)), order(1)))
            )


@pytest.mark.parametrize("name", ["Bad name", "_x", "{what}", "a" * 250, ""])
async def test_names_that_no_index_can_have(opensearch: OpenSearchServer, name: str) -> None:
    async with opened(OpenSearch(opensearch.url, index=name)) as sink:
        with pytest.raises(ConfigError, match="cannot be the name of an index"):
            await sink.write(batch_of(insert(ORDERS, order(1))))


async def test_columns_that_no_index_can_have(opensearch: OpenSearchServer, index: str) -> None:
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:
        with pytest.raises(ConfigError, match="the column _id of public"):
            await sink.write(batch_of(insert(Table("odd", {"_id": "int"}), {"_id": 1})))


def test_an_initial_copy_refreshes_seldom(opensearch: OpenSearchServer, index: str) -> None:
    def interval() -> str | None:
        settings = ask(opensearch.url, "GET", f"/{index}-000001/_settings")
        found: str | None = settings[f"{index}-000001"]["settings"]["index"].get("refresh_interval")
        return found

    seen: list[str | None] = []

    class Watched(OpenSearch):
        async def write(self, batch: Any) -> None:
            await super().write(batch)
            seen.append(interval())

    pipeline = Pipeline(index.replace("-", "_"), tables=["orders"])
    pipeline.add(Watched(opensearch.url, index=index), name="search")
    capture = Capture.of([insert(ORDERS, order(3))], [insert(ORDERS, order(1)), insert(ORDERS, order(2))])
    play(pipeline, capture, positions=MemoryPositions())
    assert "30s" in seen and seen[-1] is None
    versions = {id: (one["version"], one["pgcdc_position"]) for id, one in stored(opensearch.url, index).items()}
    point = Position.parse(versions["1"][1])
    assert point.index == -1 and versions["1"] == versions["2"] == (point.commit_lsn - 1, str(point))
    assert set(documents(opensearch.url, index)) == {"1", "2", "3"}


async def test_a_copy_that_was_cut_off_leaves_an_index_that_is_mended(opensearch: OpenSearchServer, index: str) -> None:
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:
        await sink.write(batch_of(insert(ORDERS, order(1))))
        ask(opensearch.url, "PUT", f"/{index}/_settings", {"index": {"refresh_interval": "30s"}})
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:
        await sink.write(batch_of(insert(ORDERS, order(2))))
    settings = ask(opensearch.url, "GET", f"/{index}-000001/_settings")[f"{index}-000001"]["settings"]
    assert "refresh_interval" not in settings["index"]


# Keys and addresses.


def test_ids_are_the_keys_and_never_the_same_for_two() -> None:
    assert document_id(("42",)) == "42"
    assert document_id(("a,b",)) == "a,b"
    assert document_id(("a", "b,c")) == "a,b%2Cc"
    pieces = ["", None, ",", "%", "%2C", "%00", "%N", "a", "a,", ",a", "%sha256-", "x" * 513, "x" * 514, "é" * 300]
    keys = [(one,) for one in pieces], [(one, other) for one in pieces for other in pieces]
    for some in keys:
        ids = {document_id(key) for key in some}
        assert len(ids) == len(some)
        assert all(1 <= len(id.encode()) <= 512 for id in ids)


async def test_keys_that_are_long_or_odd(opensearch: OpenSearchServer, index: str) -> None:
    table = Table("odd", {"a": "text", "b": "text", "n": "int"}, key=("a", "b"))
    texts = ["", "x" * 600, "a,b", '"quotes" \\ and \n', "é😀", "%"]
    rows = [
        {"a": one, "b": other, "n": number} for number, (one, other) in enumerate(zip(texts, texts[::-1], strict=True))
    ]
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:
        await sink.write(batch_of(*(insert(table, row) for row in rows)))
        assert sorted(row["n"] for row in documents(opensearch.url, index).values()) == list(range(6))
        await sink.write(batch_of(*(insert(table, row) for row in rows), *(delete(table, row) for row in rows[1:])))
    assert [row["n"] for row in documents(opensearch.url, index).values()] == [0]


async def test_a_table_without_a_key(opensearch: OpenSearchServer, index: str) -> None:
    table = Table("keyless", {"a": "text", "b": "int"}, replica_identity="f")
    async with opened(OpenSearch(opensearch.url, index=index)) as sink:
        with pytest.raises(SinkRejected, match=r"public\.keyless has no key"):
            await sink.write(batch_of(insert(table, {"a": "x", "b": 1})))
    async with opened(OpenSearch(opensearch.url, index=index, key={"keyless": ["a", "b"]})) as sink:
        await sink.write(batch_of(insert(table, {"a": "x", "b": 1})))
    assert set(documents(opensearch.url, index)) == {"x,1"}


async def test_who_asks_and_with_which_secret(opensearch: OpenSearchServer, index: str) -> None:
    """In front of the server is what most have there: something that wants a password."""

    class Guard(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers.get("Authorization") in ("Basic dTpww6RzcyB3", "ApiKey a2V5")
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guard) as guard:
        thread = threading.Thread(target=guard.serve_forever)
        thread.start()
        try:
            place = f"127.0.0.1:{guard.server_port}"
            good = [
                OpenSearch(f"http://u:p%C3%A4ss%20w@{place}"),
                OpenSearch(f"http://{place}/", user="u", password="päss w"),
                OpenSearch(f"http://{place}", api_key="a2V5"),
            ]
            for sink in good:
                assert "ss" not in repr(sink).replace("OpenSearch", "") and "a2V5" not in repr(sink)
                async with opened(sink):
                    pass
            wrong = OpenSearch(f"http://u:secret@{place}")
            with pytest.raises(ConfigError, match="does not accept the user") as caught:
                await wrong.open()
            assert "secret" not in str(caught.value)
        finally:
            guard.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "arguments",
    [
        {"url": "localhost:9200"},
        {"url": "ftp://x"},
        {"url": "http://[bad"},
        {"user": "u", "api_key": "k"},
        {"max_bytes": 0},
        {"keep_deleted": -1},
        {"ca_file": "/does/not/exist"},
    ],
)
def test_arguments_that_are_none(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        OpenSearch(**{"url": "https://search:9200", **arguments})


async def test_a_server_that_is_not_there() -> None:
    sink = OpenSearch("http://u:secret@127.0.0.1:9")
    with pytest.raises(SinkUnavailable, match=r"at http://127\.0\.0\.1:9 did not answer") as caught:
        await sink.open()
    assert "secret" not in str(caught.value)


# The whole way.

VALUES = """
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN cents AS int CHECK (VALUE >= 0);
CREATE TYPE place AS (city text, zip int);
CREATE TABLE odd (id int PRIMARY KEY, f float8, n numeric, d date, t timestamptz, j jsonb, i inet, b bytea, r int4range,
    a int[], m mood, c cents, p place, l bigint, x xid8, o bool);
INSERT INTO odd VALUES
    (1, 'NaN', 'NaN', 'infinity', '0044-03-15 12:00:00 BC', '"scalar"', '10.0.0.1/24', '\\x00ff', '[1,5)',
        '{1,2}', 'sad', 5, '("a",1)', 9223372036854775807, '18446744073709551615', true),
    (2, '-Infinity', 1e300::numeric * 1e300, '2024-02-29', '2024-02-29 12:00:00.123456+02', '{"a": {"b": [1, "x"]}}',
        '::1', NULL, 'empty', '{{1,2},{3,4}}', 'happy', 7, '(,)', -9223372036854775808, '0', false),
    (3, 1.5, 12.50, '-infinity', 'infinity', '[1, {"a": 1e400}]', '10.1.2.3', '\\x', NULL,
        '{}', NULL, NULL, NULL, 0, NULL, NULL)
"""


def test_whatever_the_types_of_postgresql_hold(
    opensearch: OpenSearchServer, index: str, newest_database: Database
) -> None:
    """No value is refused; what an index's field cannot hold is in the document, and what it can is found."""
    newest_database.execute(*VALUES.strip().split(";\n"))
    pipeline = Pipeline(index.replace("-", "_"), newest_database.dsn, tables=["odd"])
    pipeline.add(OpenSearch(opensearch.url, index=index), name="search")
    with running(pipeline) as run:
        run.streaming()
        newest_database.execute("UPDATE odd SET o = NOT o")
        run.catch_up(newest_database)
    found = documents(opensearch.url, index)
    assert set(found) == {"1", "2", "3"}
    assert found["1"]["n"] == "NaN" and found["1"]["j"] == "scalar" and found["1"]["l"] == 2**63 - 1
    assert found["2"]["p"] == {"city": None, "zip": None} and found["2"]["c"] == 7

    def search(query: dict[str, Any]) -> list[str]:
        hits = ask(opensearch.url, "POST", f"/{index}/_search", {"query": query})["hits"]["hits"]
        return sorted(hit["_id"] for hit in hits)

    assert search({"range": {"n": {"gte": 12, "lte": 13}}}) == ["3"]
    assert search({"range": {"t": {"gte": "2024-01-01", "lte": "2025-01-01"}}}) == ["2"]
    assert search({"term": {"i": "10.1.0.0/16"}}) == ["3"]
    assert search({"term": {"o": False}}) == ["1"]
    assert search({"term": {"a": 2}}) == ["1", "2"]


def test_the_index_is_what_the_table_is(opensearch: OpenSearchServer, index: str, newest_database: Database) -> None:
    """Random changes from the copy on, with a restart in the middle."""
    newest_database.execute(
        "CREATE TABLE parts (a int, b text, big text, n numeric, PRIMARY KEY (a, b))",
        "ALTER TABLE parts ALTER big SET STORAGE EXTERNAL",
        "INSERT INTO parts SELECT i, 'b' || i % 3, repeat('long ', 1000) || i, i FROM generate_series(1, 300) i",
    )
    dice = random.Random(7)

    def change() -> str:
        a = dice.randint(1, 320)
        return dice.choice(
            (
                f"UPDATE parts SET n = n + 1 WHERE a = {a}",
                f"UPDATE parts SET n = n + 1 WHERE a BETWEEN {a} AND {a + 20}",
                f"UPDATE parts SET big = repeat('other ', 800) || n WHERE a = {a}",
                f"UPDATE parts SET a = a + 1000 WHERE a = {a}",
                f"UPDATE parts SET b = b || 'x' WHERE a BETWEEN {a} AND {a + 3}",
                f"DELETE FROM parts WHERE a BETWEEN {a} AND {a + 2}",
                f"INSERT INTO parts SELECT {a}, 'new', repeat('n', 5000), {a} ON CONFLICT (a, b) DO UPDATE SET n = 0",
            )
        )

    def work(times: int) -> None:
        for _ in range(times):
            newest_database.execute(";".join(change() for _ in range(dice.randint(1, 4))))

    def pipeline() -> Pipeline:
        made = Pipeline(index.replace("-", "_"), newest_database.dsn, tables=["parts"])
        made.add(OpenSearch(opensearch.url, index=index), name="search")
        return made

    with running(pipeline()) as run:
        work(40)
        run.streaming()
        work(60)
    work(40)
    with running(pipeline()) as run:
        newest_database.execute("ALTER TABLE parts ADD extra int", "UPDATE parts SET extra = a WHERE a % 7 = 0")
        work(40)
        run.catch_up(newest_database)
    rows = newest_database.execute("SELECT a || ',' || b, row_to_json(parts)::text FROM parts")
    table = {id: json.loads(row, parse_float=Decimal, parse_int=int) for id, row in rows}
    found = documents(opensearch.url, index)
    assert set(found) == set(table)
    for id, row in table.items():
        document = {"extra": None} | found[id]
        assert document | {"n": Decimal(document["n"])} == row, id
