"""The contract of position stores (pgcdc.testing.contracts), and what is each one's own."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING

import pytest

from pgcdc import ConfigError, PositionError
from pgcdc.pipeline import MemoryPositions, Move, PositionStore, PostgresPositions, SqlitePositions
from pgcdc.testing.contracts import PositionStoreContract
from pgcdc.testing.position_contract import stored_position as row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Database


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


@pytest.mark.oldest_and_newest
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
