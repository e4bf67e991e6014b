"""A sink in a pipeline knows the keys of its tables, whatever their replica identity is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pgcdc
from tests.pipeline.running import running

if TYPE_CHECKING:
    from pgcdc.protocol import Batch
    from tests.conftest import Database

IDENTITIES = {
    "by_default": "DEFAULT",
    "by_index": "USING INDEX by_index_code",
    "by_full": "FULL",
    "by_nothing": "NOTHING",
}


class Keys:
    """What a sink is told of keys."""

    def __init__(self) -> None:
        self.columns: dict[str, set[tuple[str, ...]]] = {}
        self.seen: list[tuple[str, str, tuple[str | None, ...] | None, tuple[str | None, ...] | None]] = []

    def open(self) -> None:
        """Nothing to open."""

    def write(self, batch: Batch) -> None:
        """Take down keys."""
        for relation in batch.relations:
            self.columns.setdefault(relation.name, set()).add(batch.key_columns(relation))
        for row in batch.json_rows():
            assert row.relation is not None
            self.seen.append((row.relation.name, row.action, row.key, row.old_key))

    def close(self) -> None:
        """Nothing to close."""


def test_keys_of_every_replica_identity(database: Database) -> None:
    """Copied rows and streamed ones, written whole and in parts."""
    for table, identity in IDENTITIES.items():
        database.execute(
            f"CREATE TABLE {table} (note text, code text NOT NULL, b int, a int, PRIMARY KEY (a, b))",
            f"CREATE UNIQUE INDEX {table}_code ON {table} (code)",
            f"ALTER TABLE {table} REPLICA IDENTITY {identity}",
            f"INSERT INTO {table} VALUES ('n', 'old', 2, 1)",
        )
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=list(IDENTITIES))
    sinks = [Keys(), Keys()]
    pipeline.add(sinks[0], name="whole")
    pipeline.add(sinks[1], name="parts", concurrency=2)
    with running(pipeline) as run:
        run.streaming()
        for table in IDENTITIES:
            database.execute(f"INSERT INTO {table} VALUES ('n', 'new', 4, 3)")
            if table != "by_nothing":
                database.execute(f"UPDATE {table} SET a = 5, code = 'newer' WHERE a = 3", f"DELETE FROM {table}")
        run.catch_up(database)
    for sink in sinks:
        assert sink.columns == {
            "by_default": {("a", "b")},
            "by_index": {("code",)},
            "by_full": {("a", "b")},
            "by_nothing": {("a", "b")},
        }
        for table in IDENTITIES:
            by_code = table == "by_index"
            first, new, newer = (("old",), ("new",), ("newer",)) if by_code else (("1", "2"), ("3", "4"), ("5", "4"))
            assert [of for of in sink.seen if of[0] == table and of[1] != "delete"] == [
                (table, "insert", first, None),
                (table, "insert", new, None),
                *([] if table == "by_nothing" else [(table, "update", newer, new)]),
            ]
            deleted = {key for name, action, key, _ in sink.seen if (name, action) == (table, "delete")}
            assert deleted == (set() if table == "by_nothing" else {first, newer})
