"""Names that would be one in a file, DuckDB's or SQLite's: they differ in case only, or one is the sink's own."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

import pytest

from pgcdc.errors import ConfigError
from pgcdc.schema import change_of
from pgcdc.sinks.table_file import quoted
from pgcdc.testing import Table, insert, truncate
from tests.sinks.batches import batch_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["DuckDB", "SQLite"])
def kind(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip("duckdb" if request.param == "DuckDB" else "sqlite3")
    return getattr(importlib.import_module("pgcdc.sinks"), request.param)


def read(path: Path, statement: str) -> list[Any]:
    """What is in a file, whichever it is."""
    with path.open("rb") as file:
        module = "sqlite3" if file.read(15) == b"SQLite format 3" else "duckdb"
    with contextlib.closing(importlib.import_module(module).connect(str(path))) as connection:
        return list(connection.execute(statement).fetchall())


TWINS = Table("items", {"id": "int", "a": "text"}, key=("id",)), Table("Items", {"id": "int", "a": "text"}, key=("id",))


@pytest.mark.parametrize("mode", ["state", "log"])
def test_names_that_differ_in_case_only(tmp_path: Path, kind: Any, mode: Any) -> None:
    """Two tables, or columns, would be one; also when the second comes after a restart. Other letters do differ."""
    path, row = tmp_path / "copy", {"id": 1, "a": "x"}
    for batch in (batch_of([insert(TWINS[0], row), insert(TWINS[1], row)]), batch_of([insert(TWINS[1], row)])):
        sink = kind(path, mode=mode)
        sink.open()
        with pytest.raises(ConfigError, match=r"the table public\.Items would be one with (main\.)?items in the file"):
            sink.rewrite(batch)
        sink.rewrite(batch_of([insert(TWINS[0], row)]))
        sink.close()
    assert len(read(path, "SELECT id FROM items")) == (1 if mode == "state" else 2)
    sink = kind(path, mode=mode)
    sink.open()
    for columns in (["id", "a", "A"], ["id", "A"]):
        table = Table("items", dict.fromkeys(columns, "text"), key=("id",))
        with pytest.raises(ConfigError, match=r"the columns a and A of public\.items would be one in the file"):
            sink.rewrite(batch_of([insert(table, dict.fromkeys(columns, "1"))]))
    table = Table("É", {"id": "text", "á": "text", "Á": "text"}, key=("id",))
    other = Table("é", table.columns, key=("id",))
    sink.rewrite(batch_of([insert(one, {"id": "1", "á": "x", "Á": "y"}) for one in (table, other)]))
    sink.close()
    assert read(path, 'SELECT "á", "Á" FROM "é"') == [("x", "y")]


def test_a_rename_that_changes_the_case_only(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "copy"
    before = batch_of([insert(TWINS[0], {"id": 1, "a": "x"})])
    after = batch_of([insert(Table("Items", {"id": "int", "A": "text"}, key=("id",)), {"id": 2, "A": "y"})])
    sink = kind(path)
    sink.open()
    sink.write(before)
    change = change_of(before.relations[0], after.relations[0])
    assert change.renamed == (("a", "A"),)
    sink.schema_changed(change)
    sink.rewrite(after)
    assert read(path, 'SELECT * FROM "Items" ORDER BY 1') == [(1, "x"), (2, "y")]
    sink.close()


@pytest.mark.parametrize("name", ["pgcdc_positions", "PGCDC_Positions"])
def test_a_table_of_the_name_of_the_own_one(tmp_path: Path, kind: Any, name: str) -> None:
    """It is refused, and what the sink keeps stays as it is; in another schema it is any table."""
    path = tmp_path / "copy"
    columns = {"name": "text", "epoch": "int"}
    own, other = (Table(one, columns, key=("name",)) for one in (name, f"sales.{name}"))
    sink = kind(path)
    sink.open()
    sink.write(batch_of([insert(other, {"name": "a", "epoch": 1})]))
    for change in (insert(own, {"name": "pgcdc", "epoch": 77}), truncate(own)):
        with pytest.raises(ConfigError, match=f"{name} would be .*pgcdc_positions") as caught:
            sink.rewrite(batch_of([change]))
        assert caught.value.hint is not None
    sink.close()
    assert read(path, "SELECT name, epoch FROM pgcdc_positions") == [("pgcdc", 1)]


def test_a_full_stop_in_a_name(tmp_path: Path, kind: Any) -> None:
    """Tables whose names look the same with their schema are not the same."""
    names = [("public", "a.b"), ("a", "b"), ("public", '"a.b"'), ('"a', 'b"'), ("a.b", "c"), ("a", "b.c")]
    names += [("main", "a.b"), ('"main"', "a.b")]
    tables = [Table(name, {"id": "int", "n": "int"}, key=("id",)) for name in names]  # type: ignore[arg-type]
    path = tmp_path / "copy"
    sink = kind(path)
    sink.open()
    sink.write(batch_of([insert(table, {"id": 1, "n": number}) for number, table in enumerate(tables)]))
    sink.close()
    if kind.__name__ == "DuckDB":
        there = {"public": "main", '"a': '"""a"', "main": '"main"', '"main"': '"""main"""'}
        of = [f"{quoted(there.get(schema, schema))}.{quoted(table)}" for schema, table in names]
    else:
        of = list(
            map(
                quoted,
                ['"a.b"', "a.b", '"""a.b"""', '"""a"."b"""', '"a.b".c', 'a."b.c"', 'main."a.b"', '"""main"""."a.b"'],
            )
        )
    assert [read(path, f"SELECT id, n FROM {name}") for name in of] == [[(1, number)] for number in range(len(names))]
