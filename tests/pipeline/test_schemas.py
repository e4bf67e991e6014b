"""One contract for all stores of versions of tables' shapes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pgcdc import ConfigError, Position, PositionError, SchemaVersion
from pgcdc.pipeline import (
    MemoryPositions,
    MemorySchemas,
    PostgresPositions,
    PostgresSchemas,
    SchemaStore,
    SqlitePositions,
    SqliteSchemas,
)
from pgcdc.pipeline.schemas import Step
from pgcdc.schema import SchemaColumn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Database


def version(number: int = 1, **changed: Any) -> SchemaVersion:
    made = SchemaVersion(
        oid=2**32 - 1,
        version=number,
        schema="public",
        table="orders",
        replica_identity="d",
        columns=(
            SchemaColumn("id", 20, "int8", -1, True),
            SchemaColumn('gr"ö\udc80ße', 1700, "numeric", 655366, False),
        ),
        fingerprint="b62579c013551807",
        position=Position(2**64 - 1 - 10 + number, -1),
        seen_at=datetime(2026, 1, 2, 3, 4, 5, 678, UTC),
    )
    return msgspec.structs.replace(made, **changed)


class SchemaStoreContract:
    """What every store does. A subclass has the fixture `store`: a store that is open and empty."""

    def test_gives_back_what_was_stored(self, store: SchemaStore) -> None:
        assert store.versions("shop") == []
        versions = [version(1), version(2, table="purchases"), version(1, oid=5)]
        store.add("shop", versions)
        assert sorted(store.versions("shop"), key=lambda one: (-one.oid, one.version)) == versions
        assert store.versions("other") == []

    def test_survives_being_closed(self, store: SchemaStore) -> None:
        store.add("shop", [version()])
        store.record("shop", [Step("search", 5, 1, "begun", 7)])
        store.close()
        store.close()
        store.open()
        assert store.versions("shop") == [version()]
        assert store.steps("shop") == [Step("search", 5, 1, "begun", 7)]

    def test_a_version_is_written_twice_without_harm(self, store: SchemaStore) -> None:
        store.add("shop", [version()])
        store.add("shop", [version(seen_at=datetime(2027, 1, 1, tzinfo=UTC)), version(2)])
        assert store.versions("shop") == [version(), version(2)]

    def test_another_shape_under_its_number_is_refused_with_all(self, store: SchemaStore) -> None:
        store.add("shop", [version()])
        with pytest.raises(PositionError, match=r"version 1 of table public\.orders"):
            store.add("shop", [version(2), version(1, fingerprint="0" * 16)])
        assert store.versions("shop") == [version()]

    def test_the_earliest_beginning_stays(self, store: SchemaStore) -> None:
        store.add("shop", [version(position=Position(2**63, 5))])
        for position in (Position(2**63, 6), Position(2**63 - 1, 9), Position(2**63, -1)):
            store.add("shop", [version(position=position)])
        assert store.versions("shop") == [version(position=Position(2**63 - 1, 9))]

    def test_steps_go_on(self, store: SchemaStore) -> None:
        for step in (
            Step("search", 5, 2, "begun", 7),
            Step("search", 5, 2, "migrated", 7),
            Step("search", 5, 2, "done", 8),
        ):
            store.record("shop", [step])
            assert store.steps("shop") == [step]
        store.record("shop", [Step("", 5, 2, "begun", 7), Step("search", 6, 2, "done", 1)])
        assert len(store.steps("shop")) == 3

    @pytest.mark.parametrize(
        ("stored", "refused"),
        [
            (Step("search", 5, 2, "begun", 8), Step("search", 5, 2, "begun", 7)),
            (Step("search", 5, 2, "begun", 8), Step("search", 5, 2, "done", 7)),
            (Step("search", 5, 2, "done", 7), Step("search", 5, 2, "begun", 7)),
            (Step("search", 5, 2, "done", 7), Step("search", 5, 2, "begun", 8)),
        ],
    )
    def test_who_was_taken_over_and_what_is_done_is_refused(
        self, store: SchemaStore, stored: Step, refused: Step
    ) -> None:
        store.record("shop", [stored])
        with pytest.raises(PositionError, match="another process has taken over"):
            store.record("shop", [Step("other", 5, 2, "done", 9), refused])
        assert store.steps("shop") == [stored], "all or none"

    def test_renames_and_forgets(self, store: SchemaStore) -> None:
        store.add("shop", [version()])
        store.add("other", [version()])
        store.record("shop", [Step("a", 5, 1, "done", 1), Step("b", 5, 1, "done", 1)])
        store.record("other", [Step("a", 5, 1, "done", 1)])
        store.rename("shop", "a", "c")
        assert {step.consumer for step in store.steps("shop")} == {"b", "c"}
        store.forget("shop", ["b", "unknown"])
        assert [step.consumer for step in store.steps("shop")] == ["c"]
        assert store.versions("shop") == [version()]
        store.forget("shop")
        assert (store.versions("shop"), store.steps("shop")) == ([], [])
        assert (store.versions("other"), len(store.steps("other"))) == ([version()], 1)


class TestMemorySchemas(SchemaStoreContract):
    @pytest.fixture
    def store(self) -> SchemaStore:
        positions = MemoryPositions()
        store = positions.schemas()
        assert isinstance(store, MemorySchemas)
        assert positions.schemas() is store
        store.open()
        return store


class TestSqliteSchemas(SchemaStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[SchemaStore]:
        positions = SqlitePositions(tmp_path / "positions.db")
        positions.open()
        store = positions.schemas()
        assert isinstance(store, SqliteSchemas)
        store.open()
        yield store
        store.close()
        positions.close()

    def test_an_impossible_file_is_a_setting_to_change(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be used"):
            SqliteSchemas(tmp_path / "no" / "such" / "folder.db").open()

    def test_a_full_disk_is_named_and_nothing_is_half_stored(self, tmp_path: Path) -> None:
        store = SqliteSchemas(tmp_path / "schemas.db")
        store.open()
        connection = store._connection
        [(pages,)] = connection.execute("PRAGMA page_count")
        connection.execute(f"PRAGMA max_page_count = {pages}")  # what SQLite does when the disk gives no more
        many = [version(number) for number in range(1, 200)]
        with pytest.raises(PositionError, match="database or disk is full"):
            store.add("shop", many)
        assert store.versions("shop") == []
        connection.execute("PRAGMA max_page_count = 100000")
        store.add("shop", many)
        store.close()


class TestPostgresSchemas(SchemaStoreContract):
    @pytest.fixture
    def store(self, newest_database: Database) -> Iterator[SchemaStore]:
        store = PostgresPositions(newest_database.dsn).schemas()
        assert isinstance(store, PostgresSchemas)
        store.open()
        yield store
        store.close()

    def test_a_role_that_may_not_create_is_told_what_to_grant(self, newest_database: Database) -> None:
        newest_database.execute(
            "DO $$ BEGIN CREATE ROLE plain LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
        )
        store = PostgresSchemas(newest_database.dsn + " user=plain")
        with pytest.raises(ConfigError, match="cannot be made or used") as raised:
            store.open()
        newest_database.execute((raised.value.hint or "").split("; or,")[0])
        store.open()
        store.add("shop", [version()])
        store.close()
