"""What is published may change while a slot is made, which takes as long as transactions are open: nothing is lost."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc.events import Insert
from pgcdc.replication import SnapshotStale, snapshot
from pgcdc.replication.publications import state_of
from tests.replication.reading import read_past, until
from tests.replication.streams import changes, ids, new_name, wal_end

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database


@contextlib.contextmanager
def while_the_slot_is_made(database: Database, *statements: str) -> Iterator[None]:
    """An open transaction that has written holds slots up, until these statements have run beside it."""
    held_up = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'walsender'"
        " AND wait_event_type = 'Lock'"
    )
    errors: list[BaseException] = []
    writer = database.connect()
    writer.execute("BEGIN")
    writer.execute("CREATE TABLE written (id int)")

    def change() -> None:
        try:
            until(lambda: database.execute(held_up))
            database.execute(*statements)
        except BaseException as error:
            errors.append(error)
        finally:
            writer.execute("ROLLBACK")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        writer.close()
        assert not errors


def rows_of(batches: Any) -> dict[str, list[int]]:
    """The ids of all inserts by table."""
    found: dict[str, list[int]] = {}
    for event in changes([event for batch in batches for event in batch.events()]):
        assert isinstance(event, Insert)
        found.setdefault(event.table, []).append(event.new.id)
    return {table: sorted(keys) for table, keys in found.items()}


CHANGES = {
    "a table is created": (
        ["CREATE PUBLICATION p FOR ALL TABLES"],
        ["CREATE TABLE b (id int PRIMARY KEY)", "INSERT INTO b VALUES (1), (2)"],
    ),
    "a table is added": (
        ["CREATE TABLE b (id int PRIMARY KEY)", "INSERT INTO b VALUES (1), (2)", "CREATE PUBLICATION p FOR TABLE a"],
        ["ALTER PUBLICATION p ADD TABLE b"],
    ),
}


@pytest.mark.parametrize("temporary", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_published_while_the_slot_is_made_is_copied(
    database: Database, change: str, temporary: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "pgcdc")
    before, meanwhile = CHANGES[change]
    database.execute("CREATE TABLE a (id int PRIMARY KEY)", "INSERT INTO a VALUES (1)", *before)
    database.execute("CREATE TABLE other (id int)", "CREATE PUBLICATION q FOR TABLE other")
    name = None if temporary else new_name()
    with pgcdc.connect(database.dsn) as connection:
        with (
            while_the_slot_is_made(database, *meanwhile),
            connection.snapshot(name, ["q", "p"], timeout=60) as taken,
        ):
            database.execute("INSERT INTO b VALUES (3)")
            assert rows_of(taken.batches()) == {"a": [1], "b": [1, 2]}
            assert [slot.name for slot in connection.slots() if slot.database == database.name] == [taken.slot.name]
        assert "other tables, rows or columns: public.b" in caplog.text
        if name is not None:
            with connection.stream(name, ["q", "p"]) as stream:
                assert ids(read_past(stream, wal_end(database))) == [3]


def test_it_does_not_begin_again_for_ever(newest_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    database = newest_database
    monkeypatch.setattr(snapshot, "ATTEMPTS", 1)
    database.execute("CREATE TABLE a (id int)", "CREATE PUBLICATION p FOR TABLE a")
    with pgcdc.connect(database.dsn) as connection:
        with (
            while_the_slot_is_made(database, "ALTER TABLE a ADD more int"),
            pytest.raises(SnapshotStale, match='what publication "p" publishes changed'),
        ):
            connection.snapshot(new_name(), ["p"])
        with (
            while_the_slot_is_made(database, "DROP PUBLICATION p"),
            pytest.raises(pgcdc.PublicationNotFound),
        ):
            connection.snapshot(new_name(), ["p"])
        assert [slot.name for slot in connection.slots() if slot.database == database.name] == []


def test_every_change_of_what_is_published_is_seen(database: Database) -> None:
    """Each by itself, and no other: a table that is rewritten is found out when it is copied."""
    database.execute(
        "CREATE SCHEMA s",
        "CREATE TABLE s.a (id int PRIMARY KEY, note text)",
        "CREATE TABLE b (id int PRIMARY KEY)",
        "CREATE TABLE r (id int, k int) PARTITION BY LIST (k)",
        "CREATE TABLE r1 PARTITION OF r FOR VALUES IN (1)",
        "CREATE TABLE r2 (id int, k int)",
        "CREATE PUBLICATION p FOR TABLE s.a",
        "CREATE PUBLICATION q FOR TABLE r WITH (publish_via_partition_root = true)",
    )
    seen = [
        "ALTER TABLE s.a ADD more int",
        "ALTER TABLE s.a RENAME more TO yet_more",
        "ALTER TABLE s.a DROP yet_more",
        "ALTER TABLE s.a REPLICA IDENTITY FULL",
        "ALTER TABLE r ATTACH PARTITION r2 FOR VALUES IN (2)",
        "ALTER TABLE r DETACH PARTITION r2",
        "ALTER PUBLICATION q SET (publish_via_partition_root = false)",
        "ALTER PUBLICATION p SET (publish = 'insert')",
        "ALTER PUBLICATION p ADD TABLE b",
        "ALTER TABLE b RENAME TO c",
        "BEGIN; ALTER PUBLICATION p DROP TABLE c; ALTER PUBLICATION p ADD TABLE c; COMMIT",
        "BEGIN; DROP TABLE c; CREATE TABLE c (id int PRIMARY KEY); ALTER PUBLICATION p ADD TABLE c; COMMIT",
        "DROP PUBLICATION p; CREATE PUBLICATION p FOR ALL TABLES",
        "CREATE TABLE d (id int)",
    ]
    unseen = ["INSERT INTO b VALUES (1)", "TRUNCATE b", "VACUUM FULL b", "CREATE TABLE unpublished (id int)"]
    with pgcdc.connect(database.dsn) as connection:
        session = connection.session()
        if session.server_version >= 150000:
            seen[8:8] = [
                "ALTER PUBLICATION p SET TABLE s.a WHERE (id > 1)",
                "ALTER PUBLICATION p SET TABLE s.a WHERE (id > 2)",
                "ALTER PUBLICATION p SET TABLE s.a (id)",
                "ALTER PUBLICATION p SET TABLES IN SCHEMA s",
                "CREATE TABLE s.more (id int)",
            ]
        state = state_of(session, ["p", "q"])
        for statement in [*unseen, *seen]:
            database.execute(statement)
            now = state_of(session, ["p", "q"])
            assert (state.changes(now) is None) == (statement in unseen), statement
            state = now
