"""Compares each target with the source: the same keys, every column equal, nothing too many, nothing missing.

Both sides are read in the order of the key and walked through together, so that millions of rows need little memory.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg
from psycopg import sql

from pgcdc.demo import shop
from pgcdc.demo.search import Order, words_of

__all__ = ["Comparison", "compare_analytics", "compare_counts", "compare_kept", "compare_search"]

_SHOWN: Final = 5
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Keyed = tuple[Any, Any]


class Comparison(msgspec.Struct, frozen=True):
    """What comparing one target with the source gave.

    Attributes:
        target: The target's name.
        rows: How many rows, documents or counts the target has.
        differing: How many keys are missing, too many or have another value.
        first: The first of these keys, with what is wrong; never a value.
    """

    target: str
    rows: int
    differing: int = 0
    first: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether target and source are the same."""
        return self.differing == 0


def compare_search(connection: psycopg.Connection[Any], schema: str, path: Path) -> Comparison:
    """Compare the search index with `orders`, every document and the words it is found by.

    Args:
        connection: To the source, in no transaction.
        schema: The shop's schema.
        path: The SQLite file.

    Returns:
        What differs.
    """
    with closing(sqlite3.connect(path)) as database:
        documents = (
            (key, (msgspec.json.decode(document, type=Order), words))
            for key, words, document in database.execute("SELECT rowid, words, document FROM orders ORDER BY rowid")
        )
        orders = (Order(**row) for row in _source(connection, schema, "orders"))
        return _compare(
            "search", {"orders": ((order.id, (order, words_of(order))) for order in orders)}, {"orders": documents}
        )


def compare_counts(connection: psycopg.Connection[Any], schema: str, counts: Mapping[int, int]) -> Comparison:
    """Compare the cache with the number of orders of each user.

    Args:
        connection: To the source.
        schema: The shop's schema.
        counts: What the cache has.

    Returns:
        What differs.
    """
    query = "SELECT user_id, count(*) FROM {schema}.orders GROUP BY user_id ORDER BY user_id"
    source = connection.execute(shop.statement(query, schema)).fetchall()
    return _compare("cache", {"user": iter(source)}, {"user": iter(sorted(counts.items()))})


def compare_analytics(connection: psycopg.Connection[Any], schema: str, path: Path) -> Comparison:
    """Compare the analytics tables with the tables of the shop, every column, also those added later.

    Args:
        connection: To the source, in no transaction.
        schema: The shop's schema.
        path: The DuckDB file.

    Returns:
        What differs.
    """
    import duckdb

    with closing(duckdb.connect(str(path), read_only=True)) as database:
        return _compare(
            "analytics",
            {table: ((row["id"], _plain(row)) for row in _source(connection, schema, table)) for table in shop.TABLES},
            {table: _analytics_rows(database, table) for table in shop.TABLES},
        )


def compare_kept(
    connection: psycopg.Connection[Any],
    schema: str,
    name: str,
    table: str,
    columns: tuple[str, ...],
    kept: Mapping[int, Any],
) -> Comparison:
    """Compare what a target keeps in memory with a table.

    Args:
        connection: To the source, in no transaction.
        schema: The shop's schema.
        name: The target's name.
        table: The table.
        columns: Those that it keeps.
        kept: By key: the values of these columns; of a single one the value alone.

    Returns:
        What differs.
    """
    rows = (
        (row["id"], row[columns[0]] if len(columns) == 1 else tuple(row[column] for column in columns))
        for row in _source(connection, schema, table)
    )
    return _compare(name, {table: rows}, {table: sorted(kept.items())})


def _analytics_rows(database: Any, table: str) -> Iterator[Keyed]:
    columns = database.execute(
        "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index", [table]
    ).fetchall()
    if not columns:
        return
    # As microseconds: DuckDB's Python package turns instants into datetimes only with another package.
    selected = ", ".join(
        f'epoch_us("{name}")' if kind == "TIMESTAMP WITH TIME ZONE" else f'"{name}"' for name, kind in columns
    )
    cursor = database.execute(f'SELECT {selected} FROM "{table}" ORDER BY id')  # noqa: S608 (names of our own tables)
    while chunk := cursor.fetchmany(10_000):
        for values in chunk:
            row = {
                name: json.loads(value) if kind == "JSON" and value is not None else value
                for (name, kind), value in zip(columns, values, strict=True)
            }
            yield row["id"], row


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: (value - _EPOCH) // timedelta(microseconds=1) if isinstance(value, datetime) else value
        for name, value in row.items()
    }


def _source(connection: psycopg.Connection[Any], schema: str, table: str) -> Iterator[dict[str, Any]]:
    query = sql.SQL("SELECT * FROM {} ORDER BY id").format(sql.Identifier(schema, table))
    with (
        connection.transaction(),
        connection.cursor(f"pgcdc_compare_{table}", row_factory=psycopg.rows.dict_row) as rows,
    ):
        rows.itersize = 10_000
        yield from rows.execute(query)


def _compare(name: str, source: Mapping[str, Iterable[Keyed]], target: Mapping[str, Iterable[Keyed]]) -> Comparison:
    count = differing = 0
    first: list[str] = []
    for table, rows in source.items():
        present = 0

        def counted(table: str = table) -> Iterator[Keyed]:
            nonlocal present
            for item in target[table]:
                present += 1
                yield item

        for key, what in _differences(iter(rows), counted()):
            differing += 1
            if len(first) < _SHOWN:
                first.append(f"{table} {key} {what}")
        count += present
    return Comparison(name, count, differing, tuple(first))


def _differences(source: Iterator[Keyed], target: Iterator[Keyed]) -> Iterator[tuple[Any, str]]:
    """Walk through two sequences that are sorted by key."""
    left, right = next(source, None), next(target, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left[0] < right[0]):
            assert left is not None
            yield left[0], "is missing"
            left = next(source, None)
        elif left is None or right[0] < left[0]:
            yield right[0], "is too many"
            right = next(target, None)
        else:
            if left[1] != right[1]:
                yield left[0], "has other values"
            left, right = next(source, None), next(target, None)
