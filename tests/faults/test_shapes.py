"""A table is altered all the time, under load, with a pipeline and a real target behind it (fault F7).

The target is a PostgreSQL table that gets each column that the source gets, from a migration; a row is written with the
columns that it came with, and the position in the same transaction. At the end set arithmetic over what writers noted.
"""

from __future__ import annotations

import json
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import psycopg
from msgspec import UNSET

import pgcdc
from tests.faults.judge import until
from tests.faults.test_schema import Writer, more
from tests.pipeline.running import running

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Database

CHANGES = (
    "ALTER TABLE shaped ADD COLUMN extra int DEFAULT 7",
    "ALTER TABLE shaped RENAME COLUMN extra TO more",
    "ALTER TABLE shaped ALTER COLUMN more TYPE text USING more::text, ALTER COLUMN more SET DEFAULT 'm'",
    "ALTER TABLE shaped DROP COLUMN more",
    "ALTER TABLE shaped ADD COLUMN extra bool DEFAULT true, DROP COLUMN note",
    "ALTER TABLE shaped ADD COLUMN note text DEFAULT 'n', DROP COLUMN extra",
)
ROLLED_BACK = "BEGIN; ALTER TABLE shaped ADD COLUMN never int; INSERT INTO shaped (id) VALUES (-1); ROLLBACK"


class Copy:
    """A table that follows another: its columns are those that the last SchemaChange said, its rows documents.

    Exactly once: it keeps its position.
    """

    def __init__(self, dsn: str) -> None:
        self.columns: list[str] = ["id", "note"]
        self.changes: list[pgcdc.SchemaChange] = []
        self.versions: dict[int, int] = {}
        self._dsn = dsn
        self._connection: psycopg.Connection[Any] | None = None

    def _execute(self, query: str, *arguments: object) -> list[Any]:
        assert self._connection is not None
        cursor = self._connection.execute(query, arguments)
        return cursor.fetchall() if cursor.description else []

    def open(self) -> None:
        self._connection = psycopg.connect(self._dsn, autocommit=True)
        self._execute("CREATE TABLE IF NOT EXISTS copied (id bigint PRIMARY KEY, data text, version int)")
        self._execute("CREATE TABLE IF NOT EXISTS reached (one int PRIMARY KEY, value text)")

    def position(self) -> pgcdc.Position | None:
        rows = self._execute("SELECT value FROM reached")
        return pgcdc.Position.parse(rows[0][0]) if rows else None

    def schema_changed(self, change: pgcdc.SchemaChange) -> None:
        self.changes.append(change)
        assert [column.name for column in change.old.columns] == self.columns
        self.columns = [column.name for column in change.new.columns]

    def write(self, batch: pgcdc.Batch) -> None:
        assert self._connection is not None
        with self._connection.transaction():
            for change in batch.changes():
                assert isinstance(change, pgcdc.Insert) and isinstance(change.schema_version, int)
                names = [column.name for column in change.relation.columns]
                assert names == self.columns, "the schema change is seen before its first row"
                row = {name: getattr(change.new, name) for name in names if getattr(change.new, name) is not UNSET}
                self.versions[change.new.id] = change.schema_version
                self._execute(
                    "INSERT INTO copied VALUES (%s, %s, %s)", change.new.id, json.dumps(row), change.schema_version
                )
            self._execute(
                "INSERT INTO reached VALUES (1, %s) ON CONFLICT (one) DO UPDATE SET value = EXCLUDED.value",
                str(batch.last_position),
            )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def test_a_pipeline_follows_a_table_that_is_altered_all_the_time(
    database: Database, long: bool, outcome: Callable[..., None]
) -> None:
    database.execute("CREATE TABLE shaped (id bigint PRIMARY KEY, note text DEFAULT 'n')")
    rounds = 25 if long else 3
    pipeline, target = pgcdc.Pipeline("faults", database.dsn, tables=["shaped"]), Copy(database.dsn)
    pipeline.add(target, name="copy")
    migrated: list[int] = []
    pipeline.migrate("shaped", consumer="copy")(lambda old, new: migrated.append(len(new.columns)))
    stopped = threading.Event()
    with running(pipeline) as run:
        run.streaming()
        writers = [Writer(database, number, stopped) for number in (1, 2)]
        with database.connect() as changing:
            try:
                for writer in writers:
                    writer.start()
                for number, change in enumerate(CHANGES * rounds):
                    before = [len(writer.rows) for writer in writers]
                    until(lambda before=before: more(writers, before))  # type: ignore[misc]
                    changing.execute(change)
                    if number % 3 == 0:
                        changing.execute("ANALYZE shaped")
                        changing.execute(ROLLED_BACK)
            finally:
                stopped.set()
                for writer in writers:
                    writer.join()
        assert [writer.error for writer in writers] == [None, None]
        run.catch_up(database)
    wanted = writers[0].rows | writers[1].rows
    came = {key: json.loads(data) for key, data in database.execute("SELECT id, data FROM copied")}
    table = {key for (key,) in database.execute("SELECT id FROM shaped")}
    assert came.keys() == table == wanted.keys(), "L0 and L1"
    assert came == wanted, "every row with the shape that it was written in"
    history = pipeline.schema_history("shaped")
    numbers = [version.version for version in history]
    assert numbers == list(range(1, len(history) + 1))
    assert [(change.old_version, change.version) for change in target.changes] == list(pairwise(numbers))
    assert len(migrated) == len(target.changes) == len(history) - 1
    assert all("never" not in [column.name for column in version.columns] for version in history)
    of = {version.version: [column.name for column in version.columns] for version in history}
    assert all(set(came[key]) == set(of[number]) for key, number in target.versions.items())
    assert len(history) > 2 * rounds
    outcome(rows=len(came), versions=len(history))
