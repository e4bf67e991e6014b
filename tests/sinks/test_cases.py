"""Names that differ in case only, in files that take them for one: DuckDB's and SQLite's."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

import pytest

from pgcdc.errors import ConfigError
from pgcdc.schema import change_of
from pgcdc.testing import Table, insert
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
