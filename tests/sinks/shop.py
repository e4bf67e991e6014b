"""A small shop that is worked on at random: the same for every sink that keeps tables, and the same each time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

import pgcdc
from tests.pipeline.running import running

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from pgcdc.sink import Sink
    from tests.conftest import Database

TABLES: Final = ["orders", "lines", "bag", "visits"]

SCHEMA: Final = (
    "CREATE TYPE mood AS ENUM ('new', 'paid', 'sent')",
    "CREATE TABLE orders (id bigint PRIMARY KEY, status mood, total numeric(12,2), note text)",
    "ALTER TABLE orders ALTER note SET STORAGE EXTERNAL",
    "CREATE TABLE lines (order_id bigint, n int, sku text, PRIMARY KEY (order_id, n))",
    "ALTER TABLE lines REPLICA IDENTITY FULL",
    "CREATE TABLE bag (a int, b text)",
    "ALTER TABLE bag REPLICA IDENTITY FULL",
    "CREATE TABLE visits (at timestamptz, page text)",
    "INSERT INTO orders SELECT g, 'new', g, repeat(g::text, 3000) FROM generate_series(1, 40) g",
    "INSERT INTO lines SELECT g, 1, 'book' FROM generate_series(1, 20) g",
    "INSERT INTO bag VALUES (1, 'same'), (1, 'same'), (NULL, NULL)",
    "INSERT INTO visits VALUES ('2024-02-29 12:00+00', 'index')",
)
"""Unchanged TOAST, a key of two columns under FULL, no key at all, and one where only inserts are published."""


def make(database: Database) -> None:
    """Make the shop."""
    database.execute(*SCHEMA)


def work(connection: psycopg.Connection[Any], seed: int, transactions: int) -> None:
    """Work on it, in transactions of a few statements."""
    chance = random.Random(seed)
    for _ in range(transactions):
        with connection.transaction():
            for _ in range(chance.randint(1, 4)):
                connection.execute(_statement(chance))


def _statement(chance: random.Random) -> str:
    key, other, n = chance.randint(1, 60), chance.randint(1, 60), chance.randint(1, 3)
    status, large = chance.choice(["new", "paid", "sent"]), f"repeat('{key} ', {chance.randint(1, 3000)})"
    return chance.choice(
        [
            f"INSERT INTO orders VALUES ({key}, '{status}', {n}.5, {large}) ON CONFLICT DO NOTHING",
            f"UPDATE orders SET status = '{status}' WHERE id = {key}",
            f"UPDATE orders SET note = {large} WHERE id = {key}",
            f"UPDATE orders SET id = {other} WHERE id = {key} AND NOT EXISTS (SELECT FROM orders WHERE id = {other})",
            f"DELETE FROM orders WHERE id = {key}",
            f"INSERT INTO lines VALUES ({key}, {n}, 'pen') ON CONFLICT DO NOTHING",
            f"UPDATE lines SET sku = 'sku {other}' WHERE order_id = {key}",
            f"UPDATE lines SET n = n + 10 WHERE order_id = {key} AND n < 10",
            f"DELETE FROM lines WHERE order_id = {key}",
            f"INSERT INTO bag VALUES ({n}, 'same')",
            f"UPDATE bag SET b = 'other {n}' WHERE ctid = (SELECT min(ctid) FROM bag WHERE a = {n})",
            "DELETE FROM bag WHERE ctid = (SELECT max(ctid) FROM bag)",
            f"INSERT INTO visits VALUES (to_timestamp({key}), 'page {other}')",
            "TRUNCATE lines"
            if key == 1
            else "TRUNCATE bag, visits"
            if key == 2
            else f"DELETE FROM orders WHERE id = {key}",
        ]
    )


def through(source: Database, make_sink: Callable[[], Sink], *, transactions: int = 60) -> None:
    """Make the shop and work on it while two pipelines, one after the other, bring it to a sink.

    Args:
        source: Where the shop is made.
        make_sink: Makes the sink, twice for the same target.
        transactions: How much is done during each.
    """
    make(source)
    for seed in (1, 2):
        pipeline = pgcdc.Pipeline("shop", source.dsn, tables=TABLES)
        pipeline.add(make_sink(), name="copy", max_wait=0)
        with running(pipeline) as run, source.connect() as connection:
            run.streaming()
            work(connection, seed, transactions)
            if seed == 2:
                run.catch_up(source)


def content(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """What is in its tables, in order, all as text."""
    columns = {
        "orders": "id::text, status::text, total::text, note",
        "lines": "order_id::text, n::text, sku",
        "bag": "a::text, b",
        "visits": "extract(epoch FROM at)::bigint::text, page",
    }
    return {table: sorted(database.execute(f"SELECT {columns[table]} FROM {table}"), key=repr) for table in TABLES}
