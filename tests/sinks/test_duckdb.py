"""A DuckDB file as a target: the contract of sinks, what values become, and the log of changes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from msgspec import UNSET

import pgcdc
from pgcdc.errors import ConfigError, PositionError, SinkRejected, SinkUnavailable
from pgcdc.testing.capture import Capture
from pgcdc.testing.changes import Table, delete, insert, transaction, truncate, update
from pgcdc.testing.contracts import PartitionedSinkContract, SinkContract
from tests.sinks import shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Database

duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed: pip install 'pgcdc[duckdb]'")

from pgcdc.sinks import DuckDB  # noqa: E402 (only where there is one)


def read(path: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(duckdb.connect(str(path))) as file:
        return list(file.execute(query).fetchall())


def batch_of(*changes: Any) -> pgcdc.Batch:
    capture = Capture.of(list(changes))
    return pgcdc.Batch.of([payload for _, payload in capture.messages], [lsn for lsn, _ in capture.messages])


def written(path: Path, *batches: pgcdc.Batch, **options: Any) -> DuckDB:
    sink = DuckDB(path, **options)
    sink.open()
    for batch in batches:
        sink.write(batch)
    sink.close()
    return sink


class Impatient(DuckDB):
    """One for which a pipeline gathers nothing."""

    defaults: ClassVar = {}


class TestDuckDB(SinkContract, PartitionedSinkContract):
    renamed: ClassVar[tuple[str, str] | None] = ("name", "title")
    refused: ClassVar = {"id": 9, "name": None, "amount": Decimal("NaN"), "note": None}
    late: ClassVar[bool] = False
    several: ClassVar[bool] = False
    without: ClassVar = {
        "busy": "whoever has the file keeps others out at once: it is had, or it is not",
        "several": "DuckDB lets one process have the file: it has all partitions",
        "late": "it keeps one position, not one for each row: dead letters wait for each other, `hold`",
    }

    def make_sink(self, place: Path) -> DuckDB:
        return Impatient(place / "copy.duckdb")

    def content(self, place: Path) -> dict[int, dict[str, Any]]:
        with contextlib.closing(duckdb.connect(str(place / "copy.duckdb"))) as file:
            cursor = file.execute("SELECT * FROM contract")
            names = [column for column, *_ in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        return {row["id"]: row for row in rows}

    @contextlib.contextmanager
    def down(self, place: Path) -> Iterator[None]:
        """Another process has it open."""
        program = "import duckdb, sys; file = duckdb.connect(sys.argv[1]); print(flush=True); sys.stdin.read()"
        path = str(place / "copy.duckdb")
        with subprocess.Popen(
            [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None and process.stdin is not None
            process.stdout.readline()
            try:
                yield
            finally:
                process.stdin.close()
                process.wait(30)


VALUES = (
    "CREATE TYPE mood AS ENUM ('sad', 'happy')",
    """
    CREATE TABLE everything (
        id int PRIMARY KEY, b bool, i8 bigint, nan double precision, n numeric, p numeric(10,2), t text, raw bytea,
        d date, tz timestamptz, span interval, u uuid, js json, ints int[], feeling mood, ip inet
    )
    """,
    r"""
    INSERT INTO everything VALUES (
        1, true, 9223372036854775807, 'NaN', '0.10000000000000000000000000000000000001', 12.5, 'é', '\x00ff',
        '2024-02-29', '2024-02-29 12:30:00.5+02', '1 mon 2 days', '00112233-4455-6677-8899-aabbccddeeff',
        '{"b": 1.10}', '{1,NULL,3}', 'happy', '10.0.0.1/8'
    )
    """,
)
TYPES = {
    "id": ("INTEGER", "1"),
    "b": ("BOOLEAN", "true"),
    "i8": ("BIGINT", "9223372036854775807"),
    "nan": ("DOUBLE", "nan"),
    "n": ("VARCHAR", "0.10000000000000000000000000000000000001"),
    "p": ("DECIMAL(10,2)", "12.50"),
    "t": ("VARCHAR", "é"),
    "raw": ("BLOB", "\\x00\\xFF"),
    "d": ("DATE", "2024-02-29"),
    "tz": ("TIMESTAMP WITH TIME ZONE", "2024-02-29 10:30:00.5"),
    "span": ("VARCHAR", "1 mon 2 days"),
    "u": ("UUID", "00112233-4455-6677-8899-aabbccddeeff"),
    "js": ("JSON", '{"b": 1.10}'),
    "ints": ("INTEGER[]", "[1, NULL, 3]"),
    "feeling": ("VARCHAR", "happy"),
    "ip": ("VARCHAR", "10.0.0.1/8"),
}


def test_values(newest_database: Database, tmp_path: Path) -> None:
    newest_database.execute(*VALUES)
    path = tmp_path / "copy.duckdb"
    pipeline = pgcdc.Pipeline("values", newest_database.dsn, tables=["everything"], snapshot="only")
    pipeline.add(DuckDB(path))
    pipeline.run()
    with contextlib.closing(duckdb.connect(str(path))) as file:
        found = {}
        for name, kind, *_ in file.execute("DESCRIBE everything").fetchall():
            # How an instant is printed is in an extension of DuckDB's.
            shown = f"make_timestamp(epoch_us({name}))" if name == "tz" else name
            [(value,)] = file.execute(f"SELECT {shown}::VARCHAR FROM everything").fetchall()
            found[name] = (kind, value)
    assert found == TYPES


def test_the_whole_way_with_a_restart_in_the_middle(newest_database: Database, tmp_path: Path) -> None:
    path = tmp_path / "copy.duckdb"
    shop.through(newest_database, lambda: DuckDB(path), transactions=30)
    columns = {
        "orders": "id::VARCHAR, status, total::VARCHAR, note",
        "lines": "order_id::VARCHAR, n::VARCHAR, sku",
        "bag": "a::VARCHAR, b",
        "visits": '(epoch_us("at") // 1000000)::VARCHAR, page',
    }
    found = {table: sorted(read(path, f"SELECT {columns[table]} FROM {table}"), key=repr) for table in columns}
    assert found == shop.content(newest_database)


ITEMS = Table("items", {"id": "bigint", "name": "text", "price": "numeric(10,2)", "day": "date"}, key=("id",))
ROW = {"id": 1, "name": "a", "price": Decimal("1.50"), "day": None}


def test_what_a_type_cannot_hold_is_refused_or_text(tmp_path: Path) -> None:
    nan = batch_of(insert(ITEMS, ROW), insert(ITEMS, ROW | {"id": 2, "price": Decimal("NaN")}))
    with pytest.raises(SinkRejected, match="DuckDB has no such value") as caught:
        written(tmp_path / "refused.duckdb", nan)
    assert caught.value.positions == {nan.last_position} and "text=" in str(caught.value.hint)
    path = tmp_path / "text.duckdb"
    written(path, nan, text=["public.items.price"])
    assert read(path, "SELECT price FROM items ORDER BY id") == [("1.50",), ("NaN",)]


@pytest.mark.parametrize("mode", ["state", "log"])
def test_what_the_file_refuses_is_refused(tmp_path: Path, mode: Any) -> None:
    """It is no file that is away, which would be tried for ever; what came before it in the batch is not there."""
    path, rows = tmp_path / "copy.duckdb", [insert("orders", {"id": number}) for number in range(1, 5)]
    whole = batch_of(*rows).select()
    written(path, whole.take([0]), mode=mode)
    with duckdb.connect(str(path)) as connection:
        columns = connection.execute("DESCRIBE orders").fetchall()
        checked = (f'"{name}" {kind}{" CHECK (id <> 3)" if name == "id" else ""}' for name, kind, *_ in columns)
        connection.execute(f"CREATE OR REPLACE TABLE orders ({', '.join(checked)})")
        connection.execute("INSERT INTO orders (id) VALUES (1)")
    with pytest.raises(SinkRejected):
        written(path, whole, mode=mode)
    assert read(path, "SELECT id FROM orders") == [(1,)]


def test_a_log_has_every_change(tmp_path: Path) -> None:
    batch = batch_of(
        insert(ITEMS, ROW),
        transaction(update(ITEMS, ROW | {"id": 2, "name": UNSET}, old={"id": 1}), delete(ITEMS, {"id": 2})),
        truncate(ITEMS),
    )
    path = tmp_path / "log.duckdb"
    for _ in range(2):  # the second time it is known
        written(path, batch, mode="log")
    query = "SELECT _action, _unset, _old.id, id, name, price FROM items ORDER BY _position"
    assert read(path, query) == [
        ("insert", [], None, 1, "a", Decimal("1.50")),
        ("update", ["name"], 1, 2, None, Decimal("1.50")),
        ("delete", ["name", "price", "day"], None, 2, None, None),
        ("truncate", [], None, None, None, None),
    ]


def test_rows_without_a_key_go_one_by_one(tmp_path: Path) -> None:
    table = Table("notes", {"text": "text", "n": "int"}, replica_identity="f")
    path, row = tmp_path / "copy.duckdb", {"text": "same", "n": None}
    batch = batch_of(
        insert(table, row),
        insert(table, row),
        insert(table, row),
        delete(table, row),
        update(table, {"text": "other", "n": 1}, old=row),
    )
    written(path, batch)
    assert read(path, "SELECT * FROM notes ORDER BY n") == [("other", 1), ("same", None)]


def test_other_schemas_and_names_that_need_quotes(tmp_path: Path) -> None:
    table = Table('sales.or"der', {"id": "bigint", 'a "b"': "text", "_action": "text"}, key=("id",))
    path = tmp_path / "copy.duckdb"
    first = {"id": 1, 'a "b"': "x", "_action": "mine"}
    written(
        path,
        batch_of(
            insert(table, first),
            update(table, first | {"id": 2, 'a "b"': UNSET}, old={"id": 1}),
        ),
    )
    assert read(path, 'SELECT * FROM sales."or""der"') == [(2, "x", "mine")]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    contract = TestDuckDB()
    written(tmp_path / "copy.duckdb", batch_of(insert(ITEMS, ROW)))
    with contract.down(tmp_path), pytest.raises(SinkUnavailable, match="IOException"):
        DuckDB(tmp_path / "copy.duckdb").open()


def test_partitions_have_notes_of_their_own(tmp_path: Path) -> None:
    one, two, three = (batch_of(insert(ITEMS, ROW | {"id": number})) for number in (1, 2, 3))
    path = tmp_path / "copy.duckdb"
    with duckdb.connect(str(path)) as file:  # as it was before there were notes
        file.execute("CREATE TABLE pgcdc_positions (name VARCHAR, epoch BIGINT, position VARCHAR)")
    sink = DuckDB(path)
    sink.open()
    first, other = sink.part("shop.items/0"), sink.part("shop.items/1")
    assert [first.open(), other.open()] == [None, None]
    first.write(one, "first")
    other.write(two, "of the other")
    again = sink.part("shop.items/0")
    assert again.open() == "first"
    with pytest.raises(PositionError, match="somebody else"):
        first.write(three, "late")
    again.write(batch_of(delete(ITEMS, {"id": 1})), "second")
    again.rewrite(three)
    sink.close()
    sink.open()
    assert [sink.part(f"shop.items/{number}").open() for number in (0, 1)] == ["second", "of the other"]
    assert sink.position() is None, "the one of the slot is another"
    sink.close()
    assert read(path, "SELECT id FROM items ORDER BY id") == [(2,), (3,)]


def test_a_second_process_with_partitions_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "copy.duckdb", batch_of(insert(ITEMS, ROW)))
    late = DuckDB(tmp_path / "copy.duckdb")
    late.part("shop.items/0")
    with TestDuckDB().down(tmp_path), pytest.raises(ConfigError, match="lets only one have it"):
        late.open()
    late.open()
    late.close()


def test_schemas_that_differ_in_case_only(tmp_path: Path) -> None:
    columns = {"id": "int"}
    small, large = Table("sales.orders", columns, key=("id",)), Table("Sales.items", columns, key=("id",))
    with pytest.raises(ConfigError, match=r"the table Sales\.items would be one with sales\.items in the file"):
        written(tmp_path / "copy.duckdb", batch_of(insert(small, {"id": 1}), insert(large, {"id": 1})))


@pytest.mark.parametrize("mode", ["log", "state"])
@pytest.mark.parametrize("alike", [True, False])
def test_what_was_kept_one_by_one_is_written_once(tmp_path: Path, mode: Any, alike: bool) -> None:
    """From Kafka, or from a spool: each record says its table's shape anew."""
    whole = batch_of(*(insert("orders", {"id": number % 7, "n": number}) for number in range(20))).select()
    records = [pgcdc.Batch.from_bytes(whole.take([number]).to_bytes()) for number in range(20)]
    found = []
    for name, batch in (("whole", whole), ("records", pgcdc.Batch.concat(records, alike=alike))):
        path = tmp_path / name
        written(path, batch.with_primary_keys({relation.oid: ["id"] for relation in batch.relations}), mode=mode)
        with duckdb.connect(str(path)) as connection:
            found.append(connection.execute("SELECT id, n FROM orders ORDER BY ALL").fetchall())
    assert found[0] == found[1] and len(found[0]) == (20 if mode == "log" else 7)
