"""Targets that are guarded by position, killed at any request and written to late: they have what the table has."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

import pytest

from pgcdc import SinkUnavailable
from pgcdc.sinks import ClickHouse, OpenSearch
from pgcdc.sinks.search_writing import Documents
from pgcdc.testing.changes import Transaction
from pgcdc.testing.contract_changes import applied, at_random
from pgcdc.testing.contracts import SinkContract
from tests.sinks.search import ORDERS, batch_of, documents, order
from tests.sinks.test_clickhouse import state

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers.clickhouse import ClickHouseServer
    from tests.servers.search import OpenSearchServer


class Orders(SinkContract):
    """Makes changes at random."""

    table = ORDERS

    def row(self, key: int, variant: int) -> dict[str, Any]:
        return order(key, f"s{variant}", f"n{variant}")


class Killed:
    """Requests that fail from one on, before or after they have taken effect.

    Attributes:
        left: How many do not.
    """

    left: float = float("inf")

    def count(self) -> None:
        """Count one."""
        self.left -= 1
        if self.left < 0:
            raise SinkUnavailable("the process was killed")

    def limit(self, monkeypatch: pytest.MonkeyPatch, cls: type, method: str) -> None:
        """Limit the requests of a class."""
        send = getattr(cls, method)

        async def limited(*arguments: Any) -> Any:
            self.count()
            result = await send(*arguments)
            self.count()
            return result

        monkeypatch.setattr(cls, method, limited)


async def work(make: Callable[[], Any], content: Callable[[], Any], seed: int, killed: Killed) -> None:
    """Write changes, be killed, begin further back in other batches; and write some of before, late."""
    chance = random.Random(seed)
    made = Orders()
    transactions = at_random(made.table, made.toast, made.row, chance, 30)
    changes = [one for of in transactions for one in (of.changes if isinstance(of, Transaction) else (of,))]
    states = [applied(changes[:number])[0] for number in range(len(changes) + 1)]
    whole = batch_of(*transactions)
    done = furthest = kills = 0
    sink = make()
    await sink.open()
    try:
        while done < len(changes):
            end = min(len(changes), done + chance.choice((1, 2, 3, 5, 9, 14)))
            furthest = max(furthest, end)
            killed.left = chance.randint(0, 8) if chance.random() < 0.6 else float("inf")
            try:
                await sink.write(whole.take(range(done, end)))
            except SinkUnavailable:
                kills += 1
                killed.left = float("inf")
                await sink.close()
                sink = make()
                await sink.open()
                done = max(0, done - chance.randint(0, 7))
                continue
            killed.left, done = float("inf"), end
            if done == furthest:
                assert content() == states[done]
                late = chance.randrange(done)
                await sink.write(whole.take(range(late, min(done, late + chance.choice((1, 1, 2, 4))))))
                assert content() == states[done], f"changed by {late}"
    finally:
        await sink.close()
    assert kills > 3


@pytest.fixture
def killed() -> Killed:
    return Killed()


async def test_in_opensearch(opensearch: OpenSearchServer, killed: Killed, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = itertools.cycle((1, 400, 1_000_000))  # each document alone, or several

    def content() -> dict[Any, Any]:
        return {row["id"]: row for row in documents(opensearch.url, "late").values()}

    killed.limit(monkeypatch, Documents, "_send")
    await work(lambda: OpenSearch(opensearch.url, index="late", max_bytes=next(sizes)), content, 4, killed)


async def test_in_clickhouse(clickhouse: ClickHouseServer, killed: Killed, monkeypatch: pytest.MonkeyPatch) -> None:
    clickhouse.query("CREATE DATABASE late")
    killed.limit(monkeypatch, ClickHouse, "_ask")
    try:
        await work(
            lambda: ClickHouse(clickhouse.url, database="late"), lambda: state(clickhouse, "late.orders"), 4, killed
        )
    finally:
        clickhouse.query("DROP DATABASE late")
