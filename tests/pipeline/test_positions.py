"""One contract for all position stores."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pgcdc import ConfigError, Position, PositionError
from pgcdc.pipeline import MemoryPositions, Move, PositionStore, PostgresPositions, SqlitePositions, StoredPosition

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Database


def row(consumer: str = "search", **changed: Any) -> StoredPosition:
    stored = StoredPosition(
        consumer=consumer,
        epoch=1,
        snapshot="done",
        position=None,
        through_lsn=100,
        slot="pgcdc_shop",
        system_identifier="7710345756932548491",
        timeline=1,
        fingerprint="b62579c013551807",
    )
    return msgspec.structs.replace(stored, **changed)


class PositionStoreContract:
    """What every store does. A subclass has the fixture `store`: a store that is open and empty."""

    def test_nothing_is_stored_at_first(self, store: PositionStore) -> None:
        assert store.load("shop") == {}

    def test_gives_back_what_was_stored(self, store: PositionStore) -> None:
        rows = [
            row("a", position=Position(2**64 - 1, 7), through_lsn=2**63 + 5, timeline=2**32 - 1, epoch=2**40),
            row("b", position=Position(5, -1), snapshot="begun"),
            row("c", snapshot="none"),
            row("d", snapshot="begun", tables={}),
            row("e", tables={2**32 - 1: 2**64 - 1, 16384: 0}),
        ]
        store.move("shop", [Move(None, stored) for stored in rows])
        assert store.load("shop") == {stored.consumer: stored for stored in rows}
        assert store.load("another") == {}

    def test_survives_being_closed(self, store: PositionStore) -> None:
        store.move("shop", [Move(None, row())])
        store.close()
        store.close()
        store.open()
        assert store.load("shop") == {"search": row()}

    @pytest.mark.parametrize(
        "expected",
        [
            None,
            row(epoch=2, through_lsn=200, position=Position(150, 3)),
            row(epoch=3, through_lsn=100, position=Position(150, 3)),
            row(epoch=3, through_lsn=200, position=None),
            row(epoch=3, through_lsn=200, position=Position(150, 4)),
            row(epoch=3, through_lsn=200, position=Position(151, 3)),
        ],
    )
    def test_refuses_a_step_from_what_is_not_stored(
        self, store: PositionStore, expected: StoredPosition | None
    ) -> None:
        stored = row(epoch=3, through_lsn=200, position=Position(150, 3))
        store.move("shop", [Move(None, stored)])
        with pytest.raises(PositionError, match="'search' of pipeline 'shop'"):
            store.move("shop", [Move(expected, row(epoch=9, through_lsn=900))])
        assert store.load("shop") == {"search": stored}

    def test_refuses_a_step_from_what_is_gone(self, store: PositionStore) -> None:
        with pytest.raises(PositionError, match="is gone"):
            store.move("shop", [Move(row(), row(through_lsn=200))])

    def test_does_all_steps_or_none(self, store: PositionStore) -> None:
        store.move("shop", [Move(None, row("a")), Move(None, row("b"))])
        with pytest.raises(PositionError, match="taken over"):
            store.move("shop", [Move(row("a"), row("a", through_lsn=200)), Move(None, row("b", epoch=2))])
        assert store.load("shop") == {"a": row("a"), "b": row("b")}

    def test_a_position_may_become_unknown(self, store: PositionStore) -> None:
        known = row(position=Position(150, 3))
        store.move("shop", [Move(None, known)])
        store.move("shop", [Move(known, row(epoch=2))])
        assert store.load("shop") == {"search": row(epoch=2)}

    def test_forgets_one_or_all(self, store: PositionStore) -> None:
        store.move("shop", [Move(None, row("a")), Move(None, row("b"))])
        store.move("other", [Move(None, row("a"))])
        store.forget("shop", ["a", "unknown"])
        assert set(store.load("shop")) == {"b"}
        store.forget("shop")
        store.forget("shop")
        assert store.load("shop") == {}
        assert set(store.load("other")) == {"a"}


class TestMemoryPositions(PositionStoreContract):
    @pytest.fixture
    def store(self) -> PositionStore:
        store = MemoryPositions()
        store.open()
        return store


class TestSqlitePositions(PositionStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[PositionStore]:
        store = SqlitePositions(tmp_path / "positions.db")
        store.open()
        yield store
        store.close()

    def test_an_impossible_file_is_a_setting_to_change(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be used"):
            SqlitePositions(tmp_path / "no" / "such" / "folder.db").open()
        (tmp_path / "text.db").write_text("not a database, but some text that is long enough to look at")
        with pytest.raises(ConfigError, match="cannot be used"):
            SqlitePositions(tmp_path / "text.db").open()


OLD_COLUMNS = (
    "pipeline text, consumer text, epoch bigint, snapshot text, commit_lsn {lsn}, change_index bigint,"
    " through_lsn {lsn}, slot text, system_identifier text, timeline bigint, fingerprint text,"
    " {more} PRIMARY KEY (pipeline, consumer)"
)
OLD_ROW = "'shop', 'search', 1, 'done', NULL, NULL, '0/64', 'pgcdc_shop', '7710345756932548491', 1, 'b62579c013551807'"


def test_a_file_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "positions.db") as connection:
        connection.execute(f"CREATE TABLE positions ({OLD_COLUMNS.format(lsn='text', more='')})")
        connection.execute(f"INSERT INTO positions VALUES ({OLD_ROW})")
    connection.close()
    for _ in range(2):
        store = SqlitePositions(tmp_path / "positions.db")
        store.open()
        assert store.load("shop") == {"search": row()}
        store.close()


def test_a_table_of_an_earlier_version_goes_on(newest_database: Database) -> None:
    more = "updated_at timestamptz NOT NULL DEFAULT now(),"
    newest_database.execute(
        "CREATE SCHEMA pgcdc",
        f"CREATE TABLE pgcdc.positions ({OLD_COLUMNS.format(lsn='pg_lsn', more=more)})",
        f"INSERT INTO pgcdc.positions VALUES ({OLD_ROW})",
    )
    for _ in range(2):
        store = PostgresPositions(newest_database.dsn)
        store.open()
        assert store.load("shop") == {"search": row()}
        store.close()


class TestPostgresPositions(PositionStoreContract):
    @pytest.fixture
    def store(self, database: Database) -> Iterator[PositionStore]:
        store = PostgresPositions(database.dsn)
        store.open()
        yield store
        store.close()

    def test_commits_survive_a_crash_whatever_the_role_says(self, newest_database: Database) -> None:
        newest_database.execute(
            f'ALTER DATABASE "{newest_database.name}" SET synchronous_commit = off',
            f'ALTER DATABASE "{newest_database.name}" SET default_transaction_read_only = on',
        )
        store = PostgresPositions(newest_database.dsn)
        store.open()
        try:
            store.move("shop", [Move(None, row())])
            newest_database.server.crash()
            newest_database.server.start()
            store.open()
            assert store.load("shop") == {"search": row()}
        finally:
            store.close()

    def test_a_role_that_may_not_create_is_told_what_to_grant(self, newest_database: Database) -> None:
        newest_database.execute(
            "DO $$ BEGIN CREATE ROLE plain LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
        )
        store = PostgresPositions(newest_database.dsn + " user=plain")
        with pytest.raises(ConfigError, match="cannot be made or used") as raised:
            store.open()
        assert raised.value.sqlstate == "42501"
        hint = raised.value.hint or ""
        assert "GRANT CREATE ON DATABASE" in hint
        # One half of the hint makes it work, the other one when the table is there already.
        newest_database.execute(hint.split("; or,")[0])
        store.open()
        store.close()
        newest_database.execute(
            f'REVOKE CREATE ON DATABASE "{newest_database.name}" FROM plain',
            "DROP SCHEMA pgcdc CASCADE",
        )
        of_another = PostgresPositions(newest_database.dsn)
        of_another.open()
        of_another.close()
        with pytest.raises(ConfigError, match="cannot be made or used") as raised:
            store.open()
        newest_database.execute(*re.findall("GRANT (?:USAGE|SELECT)[^;]*", raised.value.hint or ""))
        store.open()
        store.move("shop", [Move(None, row())])
        store.forget("shop")
        store.close()


def test_a_full_disk_is_named_and_nothing_is_half_stored(tmp_path: Path) -> None:
    """SQLite rolls back by itself then; that must not hide why."""
    store = SqlitePositions(tmp_path / "positions.db")
    store.open()
    store.move("shop", [Move(None, row())])
    connection = store._connection
    [(pages,)] = connection.execute("PRAGMA page_count")
    connection.execute(f"PRAGMA max_page_count = {pages}")  # what SQLite does when the disk gives no more
    many = [Move(None, row(f"consumer {number}" * 20)) for number in range(200)]
    with pytest.raises(PositionError, match="database or disk is full"):
        store.move("shop", many)
    assert store.load("shop") == {"search": row()}
    connection.execute("PRAGMA max_page_count = 100000")
    store.move("shop", many)
    assert len(store.load("shop")) == 201
    store.close()
