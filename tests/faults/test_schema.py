"""Tables change shape and names under load (fault F7): rows come with the shape that they were written in."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg

import pgcdc
from pgcdc.events import Commit, Insert, Relation
from pgcdc.protocol import Catalog, RowFormat
from tests.faults.judge import until
from tests.replication.streams import new_name

if TYPE_CHECKING:
    from tests.conftest import Database

CHANGES = (
    "ALTER TABLE {0} ADD COLUMN extra int DEFAULT 7",
    "ALTER TABLE {0} RENAME COLUMN extra TO more",
    "ALTER TABLE {0} ALTER COLUMN more TYPE text USING more::text, ALTER COLUMN more SET DEFAULT 'm'",
    "ALTER TABLE {0} RENAME TO renamed",
    "ALTER TABLE {0} DROP COLUMN more",
    "ALTER TABLE {0} RENAME TO shaped",
    "ALTER TABLE {0} ADD COLUMN extra bool DEFAULT true, DROP COLUMN note",
    "ALTER SCHEMA {1} RENAME TO other",
    "ALTER TABLE {0} ADD COLUMN note text DEFAULT 'n', DROP COLUMN extra",
    "ALTER SCHEMA {1} RENAME TO place",
)


class Writer(threading.Thread):
    """Writes rows, one by one, and notes of each what it looked like when it was written."""

    def __init__(self, database: Database, number: int, stopped: threading.Event) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, Any]] = {}
        self.error: BaseException | None = None
        self._database = database
        self._next = number * 1_000_000
        self._stopped = stopped

    def run(self) -> None:
        """Until it is stopped."""
        try:
            with self._database.connect() as connection:
                while not self._stopped.is_set():
                    self._write(connection)
                    time.sleep(0.001)
        except BaseException as error:
            self.error = error

    def _write(self, connection: psycopg.Connection[Any]) -> None:
        name = name_of(connection)
        try:
            written = connection.execute(
                f"INSERT INTO {name} AS t (id) VALUES ({self._next}) RETURNING to_json(t)::text", prepare=False
            ).fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return  # it has another name by now
        assert written is not None
        self.rows[self._next] = json.loads(written[0])
        self._next += 1


def more(writers: list[Writer], before: list[int]) -> bool:
    """Whether each has written two more rows, or is at its end."""
    return all(not one.is_alive() or len(one.rows) >= count + 2 for one, count in zip(writers, before, strict=True))


def name_of(connection: psycopg.Connection[Any]) -> str:
    row = connection.execute(
        "SELECT format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
        " JOIN pg_publication_rel ON prrelid = c.oid"
    ).fetchone()
    assert row is not None
    return str(row[0])


def test_shapes_change_under_load(database: Database, long: bool) -> None:
    database.execute(
        "CREATE SCHEMA place",
        "CREATE TABLE place.shaped (id bigint PRIMARY KEY, note text DEFAULT 'n')",
        "CREATE PUBLICATION p FOR TABLE place.shaped",
    )
    rounds = 20 if long else 2
    stopped = threading.Event()
    with pgcdc.connect(database.dsn) as connection:
        slot = connection.create_slot(new_name()).name
        writers = [Writer(database, number, stopped) for number in range(2)]
        with database.connect() as changing:
            try:
                for writer in writers:
                    writer.start()
                for change in CHANGES * rounds:
                    # Two more of each: one of them was begun since the change before.
                    before = [len(writer.rows) for writer in writers]
                    until(lambda before=before: more(writers, before))  # type: ignore[misc]
                    name = name_of(changing)
                    changing.execute(change.format(name, name.split(".", maxsplit=1)[0]))
            finally:
                stopped.set()
                for writer in writers:
                    writer.join()
        assert [writer.error for writer in writers] == [None, None]
        wanted = writers[0].rows | writers[1].rows
        assert wanted
        format = RowFormat("dict", catalog=Catalog.load(connection))
        came: dict[int, dict[str, Any]] = {}
        shape: list[str] = []
        shapes = 0
        with connection.stream(slot, ["p"], format=format) as stream:
            deadline = time.monotonic() + 60
            while wanted.keys() - came.keys():
                assert time.monotonic() < deadline
                for event in stream.read(1).events(format):
                    if isinstance(event, Relation):
                        columns = [column.name for column in event.columns]
                        shapes += columns != shape
                        shape = columns
                    elif isinstance(event, Insert):
                        assert list(event.new) == shape, "the schema change is seen before its first row"
                        assert event.new["id"] not in came
                        came[event.new["id"]] = event.new
                    elif isinstance(event, Commit):
                        stream.confirm(event)
    assert came == wanted
    assert shapes > 5 * rounds
