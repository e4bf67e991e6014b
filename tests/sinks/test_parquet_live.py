"""The whole way from PostgreSQL into Parquet files, with a restart in the middle: the state is what SELECT says."""

from __future__ import annotations

import random
from pathlib import Path
from typing import LiteralString

import duckdb
import polars

from pgcdc import Pipeline
from pgcdc.sinks import Parquet
from pgcdc.sinks.parquet import change_log_sql, compact, current_state, current_state_sql, files
from tests.conftest import Database
from tests.pipeline.running import running, until

TABLES: list[str] = [
    """CREATE TABLE orders (id bigint PRIMARY KEY, total numeric(12,2), free numeric, paid bool, placed timestamptz,
        day date, ref uuid, doc jsonb, tags text[], weight float8, data bytea, note text)""",
    "ALTER TABLE orders ALTER COLUMN note SET STORAGE EXTERNAL",
    "CREATE TABLE items (order_id bigint, line int, name text, PRIMARY KEY (order_id, line))",
    "ALTER TABLE items REPLICA IDENTITY FULL",
]
ROW: LiteralString = """(%(id)s, %(n)s::numeric / 7, %(n)s::numeric / 3, %(n)s %% 2 = 0, to_timestamp(%(n)s * 1e6),
    '2026-01-01'::date + %(n)s, md5(%(n)s::text)::uuid, jsonb_build_object('n', %(n)s, 'list', ARRAY[1, 2]),
    ARRAY['a', NULL, %(n)s::text], ln(%(n)s + 1), decode(md5(%(n)s::text), 'hex'),
    CASE WHEN %(n)s %% 3 = 0 THEN NULL ELSE repeat('note ' || %(n)s, 600) END)"""


def work(database: Database, luck: random.Random, begin: int, count: int, note: LiteralString = "note") -> None:
    """Writes, in transactions of a few statements, some of which are rolled back."""
    with database.connect() as connection:
        keys = [key for (key,) in connection.execute("SELECT id FROM orders ORDER BY id")]
        for number in range(begin, begin + count):
            free = [key for key in range(60) if key not in keys]
            with connection.transaction(force_rollback=luck.random() < 0.1) as whole:
                before = list(keys)
                for _ in range(luck.randrange(1, 4)):
                    what = luck.choice(["insert", "insert", "update", "move", "delete", "items"])
                    facts = {"id": luck.choice(free) if free else 0, "n": number, "old": luck.choice(keys or [0])}
                    if what == "insert" and free:
                        connection.execute("INSERT INTO orders VALUES " + ROW, facts)
                        keys.append(facts["id"])
                        free.remove(facts["id"])
                    elif what == "items":
                        connection.execute(
                            "INSERT INTO items VALUES (%(old)s, %(n)s %% 4, %(n)s::text)"
                            " ON CONFLICT (order_id, line) DO UPDATE SET name = EXCLUDED.name, line = items.line + 4",
                            facts,
                        ) if number % 5 else connection.execute("DELETE FROM items WHERE line > 3")
                    elif what == "update" and keys:
                        sets = luck.choice(["total = total + 1", "paid = NOT paid", f"{note} = 'short'", "doc = NULL"])
                        connection.execute(f"UPDATE orders SET {sets} WHERE id = %(old)s", facts)
                    elif what == "move" and keys and free:
                        connection.execute("UPDATE orders SET id = %(id)s WHERE id = %(old)s", facts)
                        keys[keys.index(facts["old"])] = facts["id"]
                        free.remove(facts["id"])
                    elif what == "delete" and keys:
                        connection.execute("DELETE FROM orders WHERE id = %(old)s", facts)
                        keys.remove(facts["old"])
            if whole.force_rollback:
                keys = before


def compare(database: Database, place: Path, note: str = "note", *, more: str = "") -> None:
    """All columns of all rows, as DuckDB and the server print them; of Polars what it prints alike."""
    printed = f"""SELECT id, total, free::text, paid, extract(epoch FROM placed)::bigint, day, ref::text, doc::text,
        tags, weight, data, {note}{more} FROM %s ORDER BY id"""
    expected = database.execute(printed % "orders")
    relation = duckdb.sql(printed % f"({current_state_sql(place, 'orders')})")
    assert relation is not None
    assert relation.fetchall() == expected
    frame = current_state(place, "orders").sort("id")
    assert frame.select("id", "total", "paid", "day", "data", note).rows() == [
        (one[0], one[1], one[3], one[5], one[10], one[11]) for one in expected
    ]
    items = database.execute("SELECT order_id, line, name FROM items ORDER BY 1, 2")
    assert current_state(place, "items").sort("order_id", "line").rows() == items
    relation = duckdb.sql(f"FROM ({current_state_sql(place, 'items')}) ORDER BY ALL")
    assert relation is not None
    assert relation.fetchall() == items


def test_the_way_from_the_source(newest_database: Database, tmp_path: Path) -> None:
    """Existing rows, changes, a restart, other shapes of the tables, TRUNCATE, compaction: always what SELECT says."""
    luck = random.Random(18)
    newest_database.execute(*TABLES)
    work(newest_database, luck, 0, 40)

    def pipeline() -> Pipeline:
        made = Pipeline("shop", newest_database.dsn, tables=["orders", "items"])
        made.add(Parquet(tmp_path / "lake"), max_wait=0.02)
        return made

    with running(pipeline()) as run:
        run.streaming()
        work(newest_database, luck, 100, 60)
        run.catch_up(newest_database)
        compare(newest_database, tmp_path / "lake")
        work(newest_database, luck, 200, 20)  # some of it is delivered by the next one
    work(newest_database, luck, 300, 20)
    newest_database.execute(
        "ALTER TABLE orders RENAME COLUMN note TO remark",
        "ALTER TABLE orders ADD COLUMN discount numeric(6,3)",
        "ALTER TABLE orders ALTER COLUMN weight TYPE float4",
        "UPDATE orders SET weight = id, discount = 0.125 WHERE id % 3 = 0",
    )
    with running(pipeline()) as run:
        work(newest_database, luck, 400, 40, "remark")
        run.catch_up(newest_database)
        newest_database.execute("UPDATE orders SET weight = id")
        run.catch_up(newest_database)
        compare(newest_database, tmp_path / "lake", "remark", more=", discount")
        assert compact(tmp_path / "lake").before > 2
        newest_database.execute("TRUNCATE items")
        work(newest_database, luck, 500, 20, "remark")
        newest_database.execute("UPDATE orders SET weight = id")
        run.catch_up(newest_database)
    compare(newest_database, tmp_path / "lake", "remark", more=", discount")
    # Exactly once: each position of the stream is in the log once.
    for table in ("orders", "items"):
        positions = duckdb.sql(
            f"SELECT _position FROM ({change_log_sql(tmp_path / 'lake', table)})"
            " WHERE NOT ends_with(_position, '.00000000')"
        )
        assert positions is not None
        found = [position for (position,) in positions.fetchall()]
        assert len(set(found)) == len(found) > 20
    assert all(polars.scan_parquet(path).collect().height for path in files(tmp_path / "lake", "orders"))


def test_a_standby_takes_over(newest_database: Database, tmp_path: Path) -> None:
    """While it waits it does not touch the folder; then it goes on from the position that the first has left there."""
    newest_database.execute("CREATE TABLE items (id int PRIMARY KEY, name text)")

    def pipeline(standby: bool) -> Pipeline:
        made = Pipeline("shop", newest_database.dsn, tables=["items"], standby=standby)
        made.add(Parquet(tmp_path), max_wait=0)
        return made

    def names() -> list[str]:
        relation = duckdb.sql(f"SELECT name FROM ({change_log_sql(tmp_path, 'items')}) ORDER BY _position")
        assert relation is not None
        return [name for (name,) in relation.fetchall()]

    second = pipeline(standby=True)
    with running(pipeline(standby=False)) as first:
        first.streaming()
        with running(second) as waiting:
            until(lambda: second.statistics().source.phase == "standby", "the second waits")
            newest_database.execute("INSERT INTO items VALUES (1, 'by the first')")
            first.catch_up(newest_database)
            assert names() == ["by the first"]
            first.stop()
            newest_database.execute("INSERT INTO items VALUES (2, 'by the second')")
            waiting.catch_up(newest_database)
            assert names() == ["by the first", "by the second"]
