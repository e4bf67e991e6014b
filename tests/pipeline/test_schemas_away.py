"""The store of versions fails, at the n-th call, n = 1, 2, 3 … until none does; and is away for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc import ConnectionLost, PositionError, SchemaChange
from pgcdc.pipeline import MemoryPositions, MemorySchemas
from pgcdc.replication import Reconnect
from pgcdc.testing import Table, insert, play, transaction
from tests.pipeline.running import running
from tests.pipeline.targets import Recorder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgcdc.pipeline.schemas import Step
    from pgcdc.schema import SchemaVersion
    from tests.conftest import Database


class Failing(MemorySchemas):
    """Fails at chosen writes, before or after they were done."""

    def __init__(self, *, at: set[int], error: Exception, done: bool = False) -> None:
        super().__init__()
        self.calls = 0
        self._at = at
        self._error = error
        self._done = done

    def _call(self, write: Any, *arguments: Any) -> None:
        self.calls += 1
        fails = self.calls in self._at
        if not fails or self._done:
            write(*arguments)
        if fails:
            raise self._error

    def add(self, pipeline: str, versions: Sequence[SchemaVersion]) -> None:
        self._call(super().add, pipeline, versions)

    def record(self, pipeline: str, steps: Sequence[Step]) -> None:
        self._call(super().record, pipeline, steps)


class Positions(MemoryPositions):
    """Positions with that beside them."""

    def __init__(self, schemas: Failing) -> None:
        super().__init__()
        self.beside = schemas

    def schemas(self) -> Failing:
        return self.beside


def orders(*columns: str) -> Table:
    return Table("orders", {"id": "int8", **dict.fromkeys(columns, "text")}, key=("id",))


STREAM = [
    transaction(insert(orders(), {"id": 1})),
    transaction(insert(orders("a"), {"id": 2, "a": "x"}), insert(orders("a", "b"), {"id": 3, "a": "x", "b": "y"})),
    transaction(insert(orders("a"), {"id": 4, "a": "x"})),
]


def shop(came: list[Any]) -> pgcdc.Pipeline:
    """A pipeline whose handler and migration take down what happens."""
    pipeline = pgcdc.Pipeline("shop", tables=["orders"])

    @pipeline.on("orders", "insert", "schema", name="handler")
    def handle(change: Any) -> None:
        came.append(change.version if isinstance(change, SchemaChange) else (change.new.id, change.schema_version))

    @pipeline.migrate("orders", consumer="handler")
    def migrate(old: pgcdc.Relation, new: pgcdc.Relation) -> None:
        came.append(f"migrate {len(old.columns)} {len(new.columns)}")

    return pipeline


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_the_nth_write_fails(done: bool) -> None:
    """Each time the next run goes on: nothing lost, each row with its version, each migration run to its end once."""
    number = 0
    while True:
        number += 1
        store = Failing(at={number}, error=PositionError("no room"), done=done)
        positions = Positions(store)
        came: list[Any] = []
        failed = 0
        for _ in range(3):
            try:
                play(shop(came), STREAM, positions=positions)
            except PositionError:
                failed += 1
            else:
                break
        assert failed <= 1
        rows = list(dict.fromkeys(one for one in came if isinstance(one, tuple)))
        assert rows == [(1, 1), (2, 2), (3, 3), (4, 4)], number
        steps = [one for one in came if not isinstance(one, tuple)]
        assert list(dict.fromkeys(steps)) == ["migrate 1 2", 2, "migrate 2 3", 3, "migrate 3 2", 4], number
        assert len(steps) <= 7, "one step may come again: the one whose end could not be written down"
        for step, row in (("migrate 1 2", (2, 2)), ("migrate 2 3", (3, 3)), ("migrate 3 2", (4, 4))):
            assert came.index(step) < came.index(row)
        if not failed:
            break
    assert number > 8


def test_a_store_that_is_away_is_waited_for(new_orders: Database) -> None:
    """Of the source, too: it connects again, and what it had read comes again."""
    store = Failing(at={3, 4, 6}, error=ConnectionLost("gone"))
    soon = Reconnect(first=0.02, longest=0.1)
    pipeline = pgcdc.Pipeline("shop", new_orders.dsn, tables=["orders"], positions=Positions(store), reconnect=soon)
    sink = Recorder()
    pipeline.add(sink)
    with running(pipeline) as run:
        run.streaming()
        new_orders.execute(
            "ALTER TABLE orders ADD COLUMN x int",
            "INSERT INTO orders VALUES (2, 'b', 1)",
            "ALTER TABLE orders ADD COLUMN y int",
            "INSERT INTO orders VALUES (3, 'c', 1, 1)",
        )
        run.catch_up(new_orders)
    assert [(change.new.id, change.schema_version) for change in sink.changes] == [(1, 1), (2, 2), (3, 3)]
    assert store.calls > 6
