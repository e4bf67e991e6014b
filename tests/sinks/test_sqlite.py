"""An SQLite file as a target: the contract of sinks, what values become, and the log of changes."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from msgspec import UNSET

import pgcdc
from pgcdc.errors import PositionError, SinkRejected
from pgcdc.schema import change_of
from pgcdc.sinks import SQLite
from pgcdc.testing.capture import Capture
from pgcdc.testing.changes import Table, delete, insert, transaction, truncate, update
from pgcdc.testing.contracts import PartitionedSinkContract, SinkContract
from tests.sinks import shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Database


def read(path: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as file:
        return file.execute(query).fetchall()


def batch_of(*changes: Any) -> pgcdc.Batch:
    capture = Capture.of(list(changes))
    return pgcdc.Batch.of([payload for _, payload in capture.messages], [lsn for lsn, _ in capture.messages])


class TestSQLite(SinkContract, PartitionedSinkContract):
    renamed: ClassVar[tuple[str, str] | None] = ("name", "title")
    late: ClassVar[bool] = False
    without: ClassVar = {
        "late": "it keeps one position, not one for each row: dead letters wait for each other, `hold`"
    }

    def make_sink(self, place: Path) -> SQLite:
        return SQLite(place / "copy.sqlite", timeout=0.1)

    def content(self, place: Path) -> dict[int, dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(place / "copy.sqlite")) as file:
            cursor = file.execute("SELECT * FROM contract")
            names = [column for column, *_ in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor]
        for row in rows:
            row.update({name: Decimal(row[name]) for name in ("amount", "discount") if row.get(name) is not None})
        return {row["id"]: row for row in rows}

    @contextlib.contextmanager
    def down(self, place: Path) -> Iterator[None]:
        """Its folder has another name."""
        away = place.rename(place.with_name(f"{place.name} away"))
        yield
        away.rename(place)

    @contextlib.contextmanager
    def busy(self, place: Path) -> Iterator[None]:
        """Somebody else writes."""
        with contextlib.closing(sqlite3.connect(place / "copy.sqlite", isolation_level=None)) as file:
            file.execute("BEGIN IMMEDIATE")
            yield
            file.execute("ROLLBACK")

    refused: ClassVar = {"id": 9, "name": "not UTF-8: \udcff", "amount": None, "note": None}


VALUES = """
    CREATE TYPE mood AS ENUM ('sad', 'happy');
    CREATE TYPE pair AS (a int, b text);
    CREATE DOMAIN natural_ AS int CHECK (VALUE >= 0);
    CREATE TABLE everything (
        id int PRIMARY KEY, b bool, i8 bigint, x8 xid8, f4 real, f8 double precision, nan double precision,
        inf double precision, n numeric, nn numeric, p numeric(10,2), t text, c char(3), raw bytea, d date, far date,
        ts timestamp, tz timestamptz, endless timestamptz, tm time, span interval, u uuid, js json, jb jsonb,
        ints int[], texts text[], matrix int[], moods mood[], feeling mood, both_ pair, few natural_, ip inet,
        r int4range
    );
    INSERT INTO everything VALUES (
        1, true, 9223372036854775807, '18446744073709551615', 0.1, 0.1, 'NaN',
        '-Infinity', '0.10000000000000000000000000000000000001', 'NaN', 12.5, E'é\\n', 'a', '\\x00ff', '2024-02-29',
        '4713-01-01 BC',
        '2024-02-29 12:30:00', '2024-02-29 12:30:00.5+02', 'infinity', '12:30', '1 mon 2 days',
        '00112233-4455-6677-8899-aabbccddeeff',
        '{"b": 1.10, "a":2}', '{"b": 1e400}',
        '{1,NULL,3}', '{a,"b,c"}', '{{1,2},{3,4}}', '{sad,happy}', 'happy', '(1,"x y")', 7, '10.0.0.1/8', '[1,5)'
    )
"""
STORED = {
    "id": 1,
    "b": 1,
    "i8": 9223372036854775807,
    "x8": "18446744073709551615",
    "f4": 0.1,
    "f8": 0.1,
    "nan": "NaN",
    "inf": "-Infinity",
    "n": "0.10000000000000000000000000000000000001",
    "nn": "NaN",
    "p": "12.50",
    "t": "é\n",
    "c": "a  ",
    "raw": b"\x00\xff",
    "d": "2024-02-29",
    "far": "4713-01-01 BC",
    "ts": "2024-02-29T12:30:00",
    "tz": "2024-02-29T10:30:00.500000Z",
    "endless": "infinity",
    "tm": "12:30:00",
    "span": "1 mon 2 days",
    "u": "00112233-4455-6677-8899-aabbccddeeff",
    "js": '{"b": 1.10, "a":2}',
    "ints": "[1,null,3]",
    "texts": '["a","b,c"]',
    "matrix": "[[1,2],[3,4]]",
    "moods": '["sad","happy"]',
    "feeling": "happy",
    "both_": '(1,"x y")',
    "few": "7",
    "ip": "10.0.0.1/8",
    "r": "[1,5)",
}


def test_values(newest_database: Database, tmp_path: Path) -> None:
    newest_database.execute(*(one for one in VALUES.split(";\n") if one.strip()))
    pipeline = pgcdc.Pipeline("values", newest_database.dsn, tables=["everything"], snapshot="only")
    pipeline.add(SQLite(tmp_path / "copy.sqlite"))
    pipeline.run()
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.sqlite")) as file:
        cursor = file.execute("SELECT * FROM everything")
        [row] = cursor.fetchall()
        found = dict(zip([name for name, *_ in cursor.description], row, strict=True))
    assert math.isfinite(found["f4"]) and found.pop("jb") == '{"b": 1' + "0" * 400 + "}"
    assert found == STORED


def test_the_whole_way_with_a_restart_in_the_middle(newest_database: Database, tmp_path: Path) -> None:
    path = tmp_path / "copy.sqlite"
    shop.through(newest_database, lambda: SQLite(path))
    columns = {
        "orders": "CAST(id AS TEXT), status, total, note",
        "lines": "CAST(order_id AS TEXT), CAST(n AS TEXT), sku",
        "bag": "CAST(a AS TEXT), b",
        "visits": "strftime('%s', at), page",
    }
    found = {table: sorted(read(path, f"SELECT {columns[table]} FROM {table}"), key=repr) for table in columns}
    assert found == shop.content(newest_database)


ITEMS = Table("items", {"id": "bigint", "name": "text", "price": "numeric"}, key=("id",))


def test_a_log_has_every_change(tmp_path: Path) -> None:
    batch = batch_of(
        insert(ITEMS, {"id": 1, "name": "a", "price": Decimal("1.50")}),
        transaction(
            update(ITEMS, {"id": 2, "name": UNSET, "price": None}, old={"id": 1}),
            delete(ITEMS, {"id": 2}),
        ),
        truncate(ITEMS),
    )
    path = tmp_path / "log.sqlite"
    sink = SQLite(path, mode="log")
    for _ in range(2):  # the second time it is known
        sink.open()
        sink.write(batch)
        sink.close()
    rows = read(path, "SELECT _action, _unset, _old, id, name, price FROM items ORDER BY _position")
    assert rows == [
        ("insert", None, None, 1, "a", "1.50"),
        ("update", '["name"]', '{"id":1}', 2, None, None),
        ("delete", '["name","price"]', None, 2, None, None),
        ("truncate", None, None, None, None, None),
    ]
    positions = [str(change.position) for change in batch.changes()]
    assert read(path, "SELECT _position FROM items ORDER BY _position") == [(one,) for one in positions]


def test_tables_are_strict_and_the_file_is_wal(tmp_path: Path) -> None:
    path = tmp_path / "copy.sqlite"
    sink = SQLite(path)
    sink.open()
    sink.write(batch_of(insert(ITEMS, {"id": 1, "name": "a", "price": Decimal(1)})))
    assert read(path, "PRAGMA journal_mode") == [("wal",)]
    assert read(path, "SELECT strict FROM pragma_table_list WHERE name = 'items'") == [(1,)]
    sink.close()


def test_equal_numbers_are_one_key(tmp_path: Path) -> None:
    table = Table("prices", {"price": "numeric", "name": "text"}, key=("price",))
    path = tmp_path / "copy.sqlite"
    sink = SQLite(path)
    sink.open()
    sink.write(batch_of(insert(table, {"price": Decimal("1.0"), "name": "a"})))
    sink.write(
        batch_of(
            insert(table, {"price": Decimal("1.0"), "name": "a"}),
            update(table, {"price": Decimal("1.00"), "name": "b"}, old={"price": Decimal("1.0"), "name": "a"}),
        )
    )
    sink.close()
    assert read(path, "SELECT * FROM prices") == [("1", "b")]


def test_numbers_that_differ_in_a_late_digit_are_two_keys(tmp_path: Path) -> None:
    table = Table("prices", {"price": "numeric", "name": "text"}, key=("price",))
    path, numbers = tmp_path / "copy.sqlite", [Decimal(f"1.{'0' * 40}{last}") for last in (1, 2)]
    sink = SQLite(path)
    sink.open()
    sink.write(batch_of(*(insert(table, {"price": one, "name": "a"}) for one in [*numbers, Decimal(1000)])))
    sink.close()
    assert read(path, "SELECT price FROM prices ORDER BY price") == [(str(numbers[0]),), (str(numbers[1]),), ("1000",)]


def test_rows_without_a_key_go_one_by_one(tmp_path: Path) -> None:
    table = Table("notes", {"text": "text", "n": "int"}, replica_identity="f")
    path, row = tmp_path / "copy.sqlite", {"text": "same", "n": None}
    sink = SQLite(path)
    sink.open()
    sink.write(batch_of(insert(table, row), insert(table, row), insert(table, row), delete(table, row)))
    sink.close()
    assert read(path, "SELECT * FROM notes") == [("same", None)] * 2


def test_a_second_writer_takes_over(tmp_path: Path) -> None:
    first, second = SQLite(tmp_path / "copy.sqlite"), SQLite(tmp_path / "copy.sqlite")
    first.open()
    second.open()
    batch = batch_of(insert(ITEMS, {"id": 1, "name": "a", "price": None}))
    with pytest.raises(PositionError, match="somebody else"):
        first.write(batch)
    second.write(batch)
    assert second.position() == batch.last_position
    first.close()
    second.close()


def test_partitions_have_notes_and_owners_of_their_own(tmp_path: Path) -> None:
    row = {"id": 1, "name": "a", "price": None}
    one, two, three = (batch_of(insert(ITEMS, row | {"id": number})) for number in (1, 2, 3))
    path = tmp_path / "copy.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as file:  # as it was before there were notes
        file.execute(
            "CREATE TABLE pgcdc_positions (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, position TEXT) STRICT"
        )
    late, sink = SQLite(path), SQLite(path)
    late.open()
    parts = [late.part("shop.items/0"), late.part("shop.items/1")]
    assert [part.open() for part in parts] == [None, None]
    parts[0].write(one, "first")
    parts[1].write(two, "of the other")
    sink.open()
    taken = sink.part("shop.items/0")
    assert taken.open() == "first"
    with pytest.raises(PositionError, match="somebody else"):
        parts[0].write(three, "late")
    parts[1].write(three, "goes on")
    taken.write(batch_of(delete(ITEMS, {"id": 1})), "second")
    taken.rewrite(batch_of(insert(ITEMS, row | {"id": 9})))
    wider = Table("items", dict(ITEMS.columns) | {"more": "text"}, key=("id",))
    after = batch_of(insert(wider, row | {"id": 10, "more": "x"}))
    for each in (late, sink):  # both are told; neither owns the other's partitions
        each.schema_changed(change_of(one.relations[0], after.relations[-1]))
    parts[1].write(after, "wider")
    assert [sink.part(f"shop.items/{number}").open() for number in (0, 1)] == ["second", "wider"]
    assert sink.position() is None, "the one of the slot is another"
    late.close()
    sink.close()
    assert read(path, "SELECT id FROM items ORDER BY id") == [(2,), (3,), (9,), (10,)]


def test_what_is_right_in_its_own_order_is_written(tmp_path: Path) -> None:
    path = tmp_path / "copy.sqlite"
    sink = SQLite(path)
    sink.open()
    row = {"id": 1, "name": "a", "price": None}
    sink.write(batch_of(insert(ITEMS, row), insert(ITEMS, row | {"id": 2, "name": "b"})))
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("CREATE UNIQUE INDEX names ON items (name)")
        file.execute(
            "CREATE TRIGGER no_c BEFORE INSERT ON items WHEN NEW.name = 'c' BEGIN SELECT RAISE(ABORT, 'no c'); END"
        )
        file.commit()
    sink._kept.position = None  # what follows is made with the same positions
    swap = [
        update(ITEMS, row | {"name": "x"}),
        update(ITEMS, row | {"id": 2, "name": "a"}),
        update(ITEMS, row | {"name": "b"}),
    ]
    sink.write(batch_of(*swap))
    assert read(path, "SELECT id, name FROM items ORDER BY id") == [(1, "b"), (2, "a")]
    sink._kept.position = None
    refused = batch_of(insert(ITEMS, row | {"id": 3, "name": "d"}), insert(ITEMS, row | {"id": 4, "name": "c"}))
    with pytest.raises(SinkRejected, match="no c") as caught:
        sink.write(refused)
    assert caught.value.positions == {refused.last_position}
    assert read(path, "SELECT count(*) FROM items") == [(2,)]
    sink.close()
