"""One contract for all stores of dead letters, and what is particular to each."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
import pytest

from pgcdc import ConfigError, ConnectionLost, Position, PositionError
from pgcdc.pipeline import (
    DeadLetter,
    DeadLetterStore,
    Marks,
    MemoryDeadLetters,
    PostgresDeadLetters,
    SqliteDeadLetters,
    Which,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Database

NOON = datetime(2026, 11, 27, 12, 0, 0, 123456, UTC)


def letter(index: int = 0, **changed: Any) -> DeadLetter:
    made = DeadLetter(
        pipeline="shop",
        consumer="search",
        position=Position(2**63 + 5, index),
        digest="00ff",
        state="failed",
        table="public.orders",
        action="insert",
        key='{"id": "1"}',
        values='{"new":{"id":1,"status":"späte \\u0000"}}',
        message=b"\x00\xff message",
        holds='[[16384, "[\\"1\\"]"]]',
        error_type="ValueError",
        error_text="what it said: ä",
        attempts=2,
        first_at=NOON,
        last_at=NOON,
    )
    return msgspec.structs.replace(made, **changed)


def stored(store: DeadLetterStore, **which: Any) -> list[DeadLetter]:
    return store.find(Which(**which))


class DeadLetterStoreContract:
    """What every store does. A subclass has the fixture `store`: an empty one."""

    def test_nothing_is_there_at_first(self, store: DeadLetterStore) -> None:
        assert stored(store) == []
        assert store.marks("shop") == {}
        assert store.read(1) is None
        assert store.request([1]) == store.remove([1]) == 0

    def test_gives_back_what_was_stored(self, store: DeadLetterStore) -> None:
        letters = [
            letter(3),
            letter(-1, digest="01", table=None, key=None, values=None, error_text="", error_type="", attempts=0),
            letter(-1, digest="02", state="held", table="public.a,public.b", action="truncate"),
        ]
        store.add(letters, 1)
        found = stored(store)
        assert [one.position.index for one in found] == [-1, -1, 3], "by position"
        assert [one.id for one in found] == [found[0].id, found[0].id + 1, found[2].id] and found[2].id > 0
        for one, given in zip(found, [letters[1], letters[2], letters[0]], strict=True):
            assert one == msgspec.structs.replace(given, id=one.id, message=b"")
            assert store.read(one.id) == msgspec.structs.replace(given, id=one.id)

    def test_survives_being_closed(self, store: DeadLetterStore) -> None:
        store.add([letter()], 1)
        store.close()
        store.close()
        assert len(stored(store)) == 1

    def test_twice_is_once(self, store: DeadLetterStore) -> None:
        store.add([letter(), letter(1, state="held")], 1)
        later = NOON + timedelta(minutes=1)
        again = letter(error_type="KeyError", error_text="else", attempts=3, first_at=later, last_at=later)
        store.add([again, letter(1, state="held", last_at=later)], 1)
        failed, held = stored(store)
        assert (failed.error_type, failed.error_text, failed.attempts) == ("KeyError", "else", 5)
        assert (failed.first_at, failed.last_at) == (NOON, later)
        assert (held.state, held.last_at) == ("held", NOON)

    def test_one_that_waits_does_not_undo_that_it_failed(self, store: DeadLetterStore) -> None:
        store.add([letter()], 1)
        store.add([letter(state="held", error_type="", attempts=0)], 1)
        assert [(one.state, one.error_type, one.attempts) for one in stored(store)] == [("failed", "ValueError", 2)]

    def test_finds_by_each_condition(self, store: DeadLetterStore) -> None:
        store.add([letter(), letter(1, table="public.a,public.orders"), letter(2, table="public.b", state="held")], 1)
        store.add([letter(0, consumer="cache", last_at=NOON + timedelta(hours=1))], 1)
        store.add([letter(0, pipeline="other")], 1)

        def found(**which: Any) -> list[tuple[str, str, int]]:
            return [(one.pipeline, one.consumer, one.position.index) for one in stored(store, **which)]

        everything = found()
        assert len(everything) == 5 and everything == sorted(everything)
        assert found(pipelines=frozenset({"other"})) == [("other", "search", 0)]
        assert found(pipelines=frozenset({"shop"}), consumer="cache") == [("shop", "cache", 0)]
        assert len(found(table="public.orders")) == 4
        assert found(table="public.b") == [("shop", "search", 2)]
        assert found(table="b") == []
        assert found(position=Position(2**63 + 5, 1)) == [("shop", "search", 1)]
        assert found(since=NOON + timedelta(seconds=1)) == [("shop", "cache", 0)]
        assert found(state="held") == [("shop", "search", 2)]
        ids = [one.id for one in stored(store, pipelines=frozenset({"shop"}), consumer="search")]
        assert found(ids=frozenset(ids[:2])) == [("shop", "search", 0), ("shop", "search", 1)]
        assert found(ids=frozenset()) == []
        assert len(store.find(Which(), limit=2)) == 2

    def test_marks_tell_of_every_change(self, store: DeadLetterStore) -> None:
        seen: list[Marks | None] = [store.marks("shop").get("search")]
        store.add([letter(), letter(1), letter(2, state="held")], 1)
        ids = [one.id for one in stored(store)]
        seen.append(store.marks("shop")["search"])
        assert store.request(ids) == 2, "one that waits is not asked for"
        assert [one.requested for one in stored(store)] == [True, True, False]
        seen.append(store.marks("shop")["search"])
        store.add([letter(1)], 1)  # it failed again
        assert [one.requested for one in stored(store)] == [True, False, False]
        seen.append(store.marks("shop")["search"])
        assert store.remove([ids[2], 10**9]) == 1
        seen.append(store.marks("shop")["search"])
        assert len(set(seen)) == len(seen) == 5
        assert store.marks("other") == {}
        assert seen[1] == Marks(count=3, ids=sum(ids), requested=0)

    def test_an_earlier_owner_is_refused(self, store: DeadLetterStore) -> None:
        store.claim("shop", "search", 3)
        store.add([letter()], 3)
        store.claim("shop", "search", 4)
        with pytest.raises(PositionError, match="taken over consumer 'search' of pipeline 'shop' \\(epoch 4\\)"):
            store.add([letter(1)], 3)
        with pytest.raises(PositionError, match="taken over"):
            store.claim("shop", "search", 3)
        store.add([letter(2)], 4)
        store.claim("shop", "cache", 1)
        assert [one.position.index for one in stored(store)] == [0, 2]

    def test_renames_and_forgets(self, store: DeadLetterStore) -> None:
        for consumer in ("a", "b"):
            store.claim("shop", consumer, 7)
            store.add([letter(consumer=consumer)], 7)
        store.add([letter(consumer="a", pipeline="other")], 1)
        store.rename("shop", "a", "new")
        names = [(one.pipeline, one.consumer) for one in stored(store)]
        assert names == [("other", "a"), ("shop", "b"), ("shop", "new")]
        store.forget("shop", ["b", "unknown"])
        store.claim("shop", "b", 1)
        store.forget("shop")
        store.claim("shop", "a", 1)
        assert [one.pipeline for one in stored(store)] == ["other"]


class TestMemoryDeadLetters(DeadLetterStoreContract):
    @pytest.fixture
    def store(self) -> DeadLetterStore:
        return MemoryDeadLetters()


class TestSqliteDeadLetters(DeadLetterStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[DeadLetterStore]:
        store = SqliteDeadLetters(tmp_path / "positions.db")
        yield store
        store.close()

    def test_an_impossible_file_is_a_setting_to_change(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be used"):
            SqliteDeadLetters(tmp_path / "no" / "such.db").marks("shop")
        (tmp_path / "text.db").write_text("not a database, but some text that is long enough to look at")
        with pytest.raises(ConfigError, match="cannot be used"):
            SqliteDeadLetters(tmp_path / "text.db").marks("shop")

    def test_a_full_disk_stores_nothing_and_is_waited_for(self, tmp_path: Path) -> None:
        store = SqliteDeadLetters(tmp_path / "positions.db")
        store.add([letter()], 1)
        connection = store._opened
        assert connection is not None
        [(pages,)] = connection.execute("PRAGMA page_count")
        connection.execute(f"PRAGMA max_page_count = {pages}")  # what SQLite does when the disk gives no more
        large = [letter(number, message=bytes(9000)) for number in range(10)]
        with pytest.raises(ConnectionLost, match="full"):
            store.add(large, 1)
        assert len(stored(store)) == 1
        connection.execute("PRAGMA max_page_count = 100000")
        store.add(large, 1)
        assert len(stored(store)) == 10
        store.close()

    def test_a_file_that_somebody_locks_is_waited_for(self, tmp_path: Path) -> None:
        store = SqliteDeadLetters(tmp_path / "positions.db")
        store.add([letter()], 1)
        assert store._opened is not None
        store._opened.execute("PRAGMA busy_timeout = 0")
        other = sqlite3.connect(tmp_path / "positions.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConnectionLost, match="locked"):
            store.add([letter(1)], 1)
        other.execute("ROLLBACK")
        store.add([letter(1)], 1)
        assert len(stored(store)) == 2
        other.close()
        store.close()


@pytest.mark.oldest_and_newest
class TestPostgresDeadLetters(DeadLetterStoreContract):
    @pytest.fixture
    def store(self, database: Database) -> Iterator[DeadLetterStore]:
        store = PostgresDeadLetters(database.dsn)
        yield store
        store.close()

    def test_goes_on_when_its_connection_was_ended(self, newest_database: Database) -> None:
        store = PostgresDeadLetters(newest_database.dsn)
        store.add([letter()], 1)
        newest_database.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity"
            " WHERE application_name = 'pgcdc dead letters' AND datname = current_database()"
        )
        with pytest.raises(ConnectionLost, match="cannot be used now"):
            store.add([letter(1)], 1)
        store.add([letter(1)], 1)
        assert len(stored(store)) == 2
        store.close()

    def test_what_nobody_answers_is_lost(self) -> None:
        with pytest.raises(ConnectionLost):
            PostgresDeadLetters("host=127.0.0.1 port=1 password=secret").marks("shop")

    def test_a_role_that_may_not_is_told_what_to_grant(self, newest_database: Database) -> None:
        newest_database.execute(
            "DO $$ BEGIN CREATE ROLE plain LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
        )
        store = PostgresDeadLetters(newest_database.dsn + " user=plain")
        with pytest.raises(ConfigError, match="cannot be made or used") as raised:
            store.marks("shop")
        assert raised.value.sqlstate == "42501"
        assert "GRANT CREATE ON DATABASE" in (raised.value.hint or "")
        owner = PostgresDeadLetters(newest_database.dsn)
        owner.marks("shop")
        owner.close()
        newest_database.execute(
            "GRANT USAGE ON SCHEMA pgcdc TO plain",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON pgcdc.dead_letters, pgcdc.dead_letter_owners TO plain",
        )
        store.claim("shop", "search", 1)
        store.add([letter()], 1)
        assert store.remove([stored(store)[0].id]) == 1
        store.close()

    def test_an_encoding_that_lacks_characters_loses_none(self, newest_database: Database) -> None:
        name = f"{newest_database.name}_latin"
        newest_database.execute(f"CREATE DATABASE \"{name}\" ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        try:
            store = PostgresDeadLetters(psycopg.conninfo.make_conninfo(newest_database.dsn, dbname=name))
            store.add([letter(values='{"new":{"a":"€ 𝄞"}}', error_text="\udc80 €\0")], 1)
            [one] = stored(store)
            assert msgspec.json.decode(one.values or "") == {"new": {"a": "€ 𝄞"}}
            assert one.error_text == "\\udc80 \\u20ac\\u0000"
            store.close()
        finally:
            newest_database.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
