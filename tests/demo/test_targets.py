"""The three targets as sinks: replay, truncation, changed keys, unchanged TOAST, and a comparison that can fail."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pgcdc import Batch
from pgcdc.demo import shop
from pgcdc.demo.cache import MemoryCounts, RedisCounts
from pgcdc.demo.check import Comparison, compare_analytics, compare_counts, compare_search
from pgcdc.demo.search import SearchIndex
from pgcdc.sink import TransactionalSink

if TYPE_CHECKING:
    import psycopg

    from tests.conftest import Database

duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed: pip install 'pgcdc[duckdb]'")
from pgcdc.demo.analytics import AnalyticsTables  # noqa: E402

Changes = Callable[[], Batch]


class Targets:
    """All three, and the source that they are compared with."""

    def __init__(self, folder: Path, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        self.search = SearchIndex(folder / "search.sqlite")
        self.analytics = AnalyticsTables(folder / "analytics.duckdb")
        self.cache = MemoryCounts()
        self.connection = connection

    def write(self, batch: Batch) -> None:
        """Write a batch as the pipeline does, opened before and closed after."""
        orders = batch.select([("public", "orders")])
        for sink, part in ((self.search, orders), (self.cache, orders), (self.analytics, batch)):
            sink.open()
            sink.write(part)
            sink.close()

    def compare(self) -> tuple[Comparison, Comparison, Comparison]:
        """Compare all of them with the source."""
        return (
            compare_search(self.connection, "public", self.search.path),
            compare_counts(self.connection, "public", self.cache.counts()),
            compare_analytics(self.connection, "public", self.analytics.path),
        )

    def equal(self) -> bool:
        """Whether all of them are the same as the source."""
        return all(comparison.equal for comparison in self.compare())


@pytest.fixture
def connection(newest_database: Database) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with newest_database.connect() as connection:
        yield connection


@pytest.fixture
def targets(tmp_path: Path, connection: psycopg.Connection[tuple[object, ...]]) -> Targets:
    return Targets(tmp_path, connection)


def _write_shop(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    shop.insert_orders(connection, "public", 1, 200)
    shop.move_orders(connection, "public", 20, 80)
    connection.execute(shop.statement(shop.ADD_DISCOUNT, "public"))
    shop.discount_orders(connection, "public", 50, 120)
    shop.delete_orders(connection, "public", 60, 70)


def test_follow_the_new_column(
    changes: Changes, targets: Targets, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    _write_shop(connection)
    targets.write(changes())
    assert targets.equal(), targets.compare()
    with closing(duckdb.connect(str(targets.analytics.path), read_only=True)) as database:
        [found] = database.execute("SELECT count(discount), sum(discount) FROM orders").fetchall()
    [expected] = connection.execute("SELECT count(discount), sum(discount) FROM orders").fetchall()
    assert found == expected
    assert found[0] == 60


def test_replay_changes_nothing(
    changes: Changes, targets: Targets, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    _write_shop(connection)
    first = changes()
    targets.write(first)
    shop.delete_orders(connection, "public", 1, 30)
    shop.insert_orders(connection, "public", 500, 510)
    targets.write(changes())
    targets.write(first)  # The durable ones know better; the one in memory is read again to its end.
    assert targets.search.position() == changes().select([("public", "orders")]).last_position
    assert targets.analytics.position() == changes().last_position
    targets.cache.write(changes().select([("public", "orders")]))
    assert targets.equal(), targets.compare()


def test_replay_of_every_stretch(
    changes: Changes, tmp_path: Path, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    """From any earlier position on, over a copy of the finished targets."""
    _write_shop(connection)
    whole = changes()
    finished = Targets(tmp_path, connection)
    finished.write(whole)
    positions = [change.position for change in whole.changes() if not isinstance(change, Exception)]
    for number, position in enumerate(positions[:: len(positions) // 7]):
        folder = tmp_path / str(number)
        folder.mkdir()
        for file in (finished.search.path, finished.analytics.path):
            shutil.copy(file, folder / file.name)
        copy = Targets(folder, connection)
        copy.cache = finished.cache
        copy.write(whole.after(position))  # type: ignore[arg-type]
        assert copy.equal(), (position, copy.compare())


def test_truncate_and_changed_keys(
    changes: Changes, targets: Targets, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    shop.insert_orders(connection, "public", 1, 30)
    targets.write(changes())
    connection.execute("TRUNCATE orders, order_items")
    shop.insert_orders(connection, "public", 1, 5)
    connection.execute("UPDATE orders SET id = id + 100, user_id = 3 WHERE id > 2")
    targets.write(changes())
    assert targets.equal(), targets.compare()
    assert targets.compare()[0].rows == 5


@pytest.mark.parametrize("apart", [True, False])
def test_unchanged_toast_is_kept(
    changes: Changes, targets: Targets, connection: psycopg.Connection[tuple[object, ...]], apart: bool
) -> None:
    """A long address that an UPDATE does not touch is not sent again; also not when the key changes."""
    connection.execute("ALTER TABLE orders ALTER shipping_address SET STORAGE EXTERNAL")
    connection.execute(
        """
        INSERT INTO orders (id, user_id, status, total, shipping_address)
        SELECT id, 1, 'pending', 1, jsonb_build_object('city', repeat('long ', 2000)) FROM generate_series(1, 3) AS id
        """
    )
    if apart:
        targets.write(changes())
    connection.execute("UPDATE orders SET status = 'paid' WHERE id = 1")
    connection.execute("UPDATE orders SET id = 20 WHERE id = 2")
    targets.write(changes())
    assert targets.equal(), targets.compare()


def test_comparison_finds_what_was_tampered_with(
    changes: Changes, targets: Targets, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    _write_shop(connection)
    targets.write(changes())
    assert targets.equal()
    with closing(sqlite3.connect(targets.search.path)) as index, index:
        index.execute("DELETE FROM orders WHERE rowid = 7")
        index.execute("UPDATE orders SET document = replace(document, '\"paid\"', '\"shipped\"') WHERE rowid = 21")
        index.execute("UPDATE orders SET words = words || ' more' WHERE rowid = 22")
        index.execute("INSERT INTO orders (rowid, words, document) SELECT 999, words, document FROM orders LIMIT 1")
    with closing(duckdb.connect(str(targets.analytics.path))) as database:
        database.execute("UPDATE orders SET discount = discount + 0.01 WHERE id = 100")
        database.execute("DELETE FROM order_items WHERE id = 3")
        database.execute("INSERT INTO order_status_history SELECT * FROM order_status_history WHERE id = 5")
    _, cache, analytics = targets.compare()
    assert cache.equal
    assert analytics.first == (
        "orders 100 has other values",
        "order_items 3 is missing",
        "order_status_history 5 is too many",
    )
    shop.insert_orders(connection, "public", 700, 700)  # which no target has heard of
    search, cache, _ = targets.compare()
    assert search.first == (
        "orders 7 is missing",
        "orders 21 has other values",
        "orders 22 has other values",
        "orders 700 is missing",
        "orders 999 is too many",
    )
    assert (cache.differing, cache.equal) == (1, False)


def test_comparison_finds_a_column_that_was_not_followed(
    changes: Changes, targets: Targets, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    shop.insert_orders(connection, "public", 1, 3)
    targets.write(changes())
    connection.execute(shop.statement(shop.ADD_DISCOUNT, "public"))
    assert not targets.compare()[2].equal


def test_which_keep_their_position(tmp_path: Path) -> None:
    assert isinstance(SearchIndex(tmp_path / "search"), TransactionalSink)
    assert isinstance(AnalyticsTables(tmp_path / "analytics"), TransactionalSink)
    assert not isinstance(MemoryCounts(), TransactionalSink)


def test_counts_in_redis(changes: Changes, redis_url: str, connection: psycopg.Connection[tuple[object, ...]]) -> None:
    counts = RedisCounts(redis_url)
    assert isinstance(counts, TransactionalSink)
    shop.insert_orders(connection, "public", 1, 1500)
    first = changes().select([("public", "orders")])
    shop.move_orders(connection, "public", 1, 100)
    shop.delete_orders(connection, "public", 30, 60)
    whole = changes().select([("public", "orders")])
    for batch in (first, whole, first, whole):
        counts.open()
        counts.write(batch)
        counts.close()
        again = RedisCounts(redis_url)
        again.open()
        assert again.position() == counts.position()
        again.close()
    comparison = compare_counts(connection, "public", counts.counts())
    assert comparison.equal, comparison
    connection.execute("TRUNCATE orders")
    counts.write(changes().select([("public", "orders")]))
    assert counts.counts() == {}
    assert counts.exists()
    counts.delete()
    assert not counts.exists()
    counts.close()
