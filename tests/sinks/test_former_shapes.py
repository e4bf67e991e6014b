"""Dead letters from before a column was renamed or dropped: they do not bring it back, in any target of tables."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pgcdc.errors import SinkRejected
from pgcdc.protocol import Batch, SchemaVersions
from pgcdc.schema import change_of
from pgcdc.sinks import DuckDB, Postgres, SQLite
from pgcdc.testing import Table, insert
from tests.sinks.batches import batch_of
from tests.sinks.test_cases import read

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Database

FIRST = Table("t", {"id": "bigint", "note": "text"}, key=("id",))
SECOND = Table("t", {"id": "bigint", "remark": "text"}, key=("id",))
THIRD = Table("t", {"id": "bigint", "remark": "text", "extra": "int"}, key=("id",))


class Place:
    """A sink, and what its table has."""

    def __init__(self, sink: Any, read: Callable[[], list[tuple[Any, ...]]]) -> None:
        self.sink = sink
        self.read = read


@pytest.fixture(params=["DuckDB", "SQLite", "Postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "Postgres":
        database: Database = request.getfixturevalue("newest_database")
        database.execute("CREATE SCHEMA copy")
        return Place(
            Postgres(database.dsn, schema="copy"), lambda: database.execute("SELECT * FROM copy.t ORDER BY id")
        )
    path = tmp_path / "copy"
    kind = DuckDB if request.param == "DuckDB" else SQLite
    return Place(kind(path), lambda: read(path, "SELECT * FROM t ORDER BY id"))


@pytest.fixture(params=[False, True], ids=["no versions", "versions"])
def changes(request: pytest.FixtureRequest) -> Batch:
    """Two of each shape; with the versions that a pipeline gives them, or without."""
    whole = batch_of(
        [
            insert(FIRST, {"id": 1, "note": "one"}),
            insert(FIRST, {"id": 2, "note": "two"}),
            insert(SECOND, {"id": 3, "remark": "three"}),
            insert(SECOND, {"id": 4, "remark": "four"}),
            insert(THIRD, {"id": 5, "remark": "five", "extra": 5}),
        ]
    )
    if not request.param:
        return whole
    runs = whole.shape_runs()
    starts = [(position, number) for number, (_, _, position, _) in enumerate(runs, 1) if position is not None]
    assert len(starts) == 3
    return whole.with_versions(SchemaVersions({runs[0][1].oid: starts}))


def test_a_letter_from_before_a_rename(place: Place, changes: Batch) -> None:
    """It stays a letter, and the table stays as it is; one of the shape that it has is written."""
    first, second, _ = (relation for _, relation, _, _ in changes.shape_runs())
    sink = place.sink
    sink.open()
    sink.write(changes.take([0]))
    sink.schema_changed(change_of(first, second, old_version=1, version=2))
    sink.write(changes.take([2]))
    letter = changes.take([1])
    with pytest.raises(SinkRejected, match=r"public\.t has no column note, which .* before") as caught:
        sink.rewrite(letter)
    assert caught.value.positions == {letter.first_position}
    sink.rewrite(changes.take([3]))
    sink.write(changes.take([4]))  # what is no letter brings what it needs
    sink.close()
    assert place.read() == [(1, "one", None), (3, "three", None), (4, "four", None), (5, "five", 5)]


def test_a_letter_that_is_the_first_of_the_newest_shape(place: Place, changes: Batch) -> None:
    """It brings the new column, where the pipeline says that it is."""
    sink = place.sink
    sink.open()
    sink.write(changes.take([2]))
    letter = changes.take([4])
    with contextlib.nullcontext() if changes.versions else pytest.raises(SinkRejected, match="has no column extra"):
        sink.rewrite(letter)
    sink.close()
    assert place.read() == ([(3, "three", None), (5, "five", 5)] if changes.versions else [(3, "three")])
