"""Making the tables: from nothing, again, at once, with other indexes, and by programs of different age."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from threading import Event
from typing import TYPE_CHECKING
from unittest import mock
from uuid import UUID

import pytest

import pgcdc
from pgcdc.eventstore import EventStore, migrating
from pgcdc.eventstore.migrations import migrations
from pgcdc.eventstore.plan import INDEXES as ALL_INDEXES
from tests.eventstore.contract import CREATED
from tests.faults.judge import until

if TYPE_CHECKING:
    from pgcdc.eventstore.plan import Profile
    from tests.conftest import Database

INDEXES = "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'es.events'::regclass ORDER BY 1"


def make_until(store: EventStore, database: Database, number: int) -> None:
    """Make the store of a program that had so many migrations."""
    later = tuple(f"migration {migration.number}: " for migration in migrations() if migration.number > number)
    database.execute(*[step.sql for step in store.plan_init().steps if not step.what.startswith(later)])


def test_from_nothing_and_again(database: Database) -> None:
    with EventStore(database.dsn) as store:
        plan = store.plan_init()
        assert str(plan).splitlines()[:3] == [
            "event store in the schema es:",
            "  schema es and its table of migrations",
            "  migration 1: events",
        ]
        assert database.execute("SELECT to_regnamespace('es')") == [(None,)], "a plan does nothing"
        assert store.init() == plan
        assert store.init().steps == store.plan_init().steps == []
        assert str(store.plan_init()) == "the event store in the schema es is complete"
    numbers = [number for (number,) in database.execute("SELECT number FROM es.migrations ORDER BY 1")]
    assert numbers == [migration.number for migration in migrations()] == list(range(1, len(numbers) + 1))
    assert database.execute("SELECT pubname, pubinsert, pubupdate, pubdelete FROM pg_publication") == [
        ("es_events", True, False, False)
    ]


def test_the_promised_table(newest_database: Database) -> None:
    """Row 2.1: the columns, the unique index, the two indexes by time."""
    with EventStore(newest_database.dsn) as store:
        store.init()
    columns = dict(
        newest_database.execute(
            "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = 'es.events'::regclass"
            " AND attnum > 0 AND NOT attisdropped"
        )
    )
    assert columns.items() >= {
        ("id", "bigint"),
        ("stream_id", "text"),
        ("stream_type", "text"),
        ("event_type", "text"),
        ("event_version", "integer"),
        ("payload", "jsonb"),
        ("metadata", "jsonb"),
        ("occurred_at", "timestamp with time zone"),
        ("sequence", "bigint"),
        ("retention_class", "text"),
    }
    defined = {
        definition.partition(" USING ")[2]
        for (definition,) in newest_database.execute(
            "SELECT indexdef FROM pg_indexes WHERE schemaname = 'es' AND tablename = 'events'"
        )
    }
    assert defined >= {
        "btree (stream_id, sequence)",
        "btree (stream_type, occurred_at)",
        "btree (event_type, occurred_at)",
    }


def test_many_at_once(newest_database: Database) -> None:
    with EventStore(newest_database.dsn) as store, ThreadPoolExecutor(4) as threads:
        done = [plan.steps for plan in threads.map(lambda _: store.init(), range(4))]
        assert sorted(map(len, done)) == [0, 0, 0, len(migrations()) + 4]
        assert store.append("order-1", [CREATED]) == 1


def test_from_before_the_fifth(newest_database: Database) -> None:
    """A store of four migrations appends a repeated event again; `init` mends it."""
    with EventStore(newest_database.dsn) as store:
        make_until(store, newest_database, 4)
        ids = [UUID(int=7)]
        assert [store.append("order-1", [CREATED], expected=number, event_ids=ids) for number in (0, 1)] == [1, 2]
        assert store.init().steps[0].what.startswith("migration 5: ")
        assert store.append("order-2", [CREATED], expected=0, event_ids=ids) == 1
        assert store.append("order-2", [CREATED], expected=1, event_ids=ids) == 1


def test_from_before_the_ninth(database: Database) -> None:
    """A store with a constraint for each rule: this program appends to it, and `init` makes them rules of triggers."""
    checks = (
        "SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid IN ('es.events'::regclass,"
        " 'es.streams'::regclass)"
    )
    with EventStore(database.dsn) as store:
        make_until(store, database, 8)
        assert len(database.execute(checks)) == 9
        for expected in range(3):
            assert store.append("order-1", [CREATED], expected=expected) == expected + 1
        assert store.insert("order-1", [CREATED], after=3) == 4
        assert store.init().steps[0].what == "migration 9: rules"
        assert database.execute(checks) == [("events_payload_size",)]
        assert store.append("order-1", [CREATED], expected=4) == 5
        assert store.insert("order-1", [CREATED], after=5) == 6
        assert [one.sequence for one in store.read("order-1")] == [1, 2, 3, 4, 5, 6]
        assert store.init().steps == []


def test_the_ninth_gives_way(database: Database) -> None:
    """To whoever has read already, and appends then: nobody is in a deadlock, and it is done a moment later."""
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
    with EventStore(database.dsn) as store, ThreadPoolExecutor(1) as threads:
        make_until(store, database, 8)
        store.append("order-1", [CREATED])
        with database.connect() as connection:
            with connection.transaction():
                connection.execute("SELECT FROM es.events")
                made = threads.submit(store.init)
                until(lambda: database.execute(waiting))
                assert store.append("order-1", [CREATED], expected=1, connection=connection) == 2
            assert made.result(timeout=60).steps[0].what == "migration 9: rules"
        assert store.append("order-1", [CREATED], expected=2) == 3


@pytest.mark.parametrize("number", [3, 8])
def test_it_comes_through_while_many_write(newest_database: Database, number: int) -> None:
    """They take the two tables in every order, and begin anew at once; none of them has to give way."""
    json = '[{"t": "created", "v": 1, "p": {}}]'
    append = f"SELECT status FROM es.append(%(stream)s, 'order', -1, '{json}', '{{}}')"
    ways = [
        [append],
        ["SELECT count(*) FROM es.events WHERE stream_id = %(stream)s", append],
        ["SELECT version FROM es.streams WHERE stream_id = %(stream)s", append],
        [
            "SELECT FROM es.streams WHERE stream_id = %(stream)s FOR UPDATE",
            "INSERT INTO es.events (stream_id, stream_type, event_type, payload, sequence) SELECT stream_id, 'order',"
            " 'created', '{}', version + 1 FROM es.streams WHERE stream_id = %(stream)s",
        ],
    ]
    stop = Event()

    def write(which: int) -> int:
        done, stream = 0, {"stream": f"order-{which}"}
        with newest_database.connect() as connection:
            connection.execute(append, stream)
            begun.put(which)
            while not stop.is_set():
                with connection.transaction():
                    for query in ways[which % len(ways)]:
                        connection.execute(query, stream)
                done += 1
        return done

    begun: Queue[int] = Queue()
    with EventStore(newest_database.dsn) as store, ThreadPoolExecutor(6) as threads:
        make_until(store, newest_database, number)
        writers = [threads.submit(write, which) for which in range(6)]
        try:
            for _ in writers:
                begun.get(timeout=30)
            assert store.init().steps
        finally:
            stop.set()
        written = sum(writer.result() for writer in writers) + len(writers)
        assert newest_database.execute("SELECT count(*) FROM es.events") == [(written,)]
        assert store.init().steps == []


def test_a_transaction_that_does_not_end_is_told_of(newest_database: Database) -> None:
    with (
        EventStore(newest_database.dsn) as store,
        newest_database.connect() as connection,
        mock.patch.object(migrating, "_ATTEMPTS_FOR", 0.0),
    ):
        make_until(store, newest_database, 8)
        with connection.transaction():
            connection.execute("SELECT FROM es.events")
            with pytest.raises(pgcdc.EventStoreError, match="in use") as raised:
                store.init()
        assert raised.value.hint and "pg_stat_activity" in raised.value.hint
        assert store.init().steps


def test_profiles(newest_database: Database) -> None:
    with EventStore(newest_database.dsn) as store:
        store.init(profile="lean")
        needed = ["es.events_pkey", "es.events_stream_sequence"]
        lean = sorted(["es.events_occurred_brin", *needed])
        full = sorted(["es.events_event_type_occurred", "es.events_stream_type_occurred", *needed])
        assert [name for (name,) in newest_database.execute(INDEXES)] == lean
        assert store.init().steps == [], "it stays as it is"
        assert len(store.init(profile="full").steps) == 3
        assert [name for (name,) in newest_database.execute(INDEXES)] == full
        store.init(profile="lean")
        assert [name for (name,) in newest_database.execute(INDEXES)] == lean
        with pytest.raises(pgcdc.ConfigError):
            store.init(profile="big")  # type: ignore[arg-type]
        with pytest.raises(pgcdc.ConfigError):
            store.init(max_payload_bytes=0)


def test_an_index_is_made_beside_who_reads(newest_database: Database) -> None:
    """Also where the index of another profile is dropped then: that waits for them, and the new ones stay."""
    made = "SELECT count(*) FROM pg_index WHERE indisvalid AND indexrelid::regclass::text LIKE 'es.%occurred'"
    with EventStore(newest_database.dsn) as store, ThreadPoolExecutor(1) as threads:
        store.init(profile="lean")
        store.append("order-1", [CREATED])
        with newest_database.connect() as connection, connection.transaction():
            connection.execute("SELECT FROM es.events")
            making = threads.submit(store.init, profile="full")
            until(lambda: newest_database.execute(made) == [(2,)])
            assert not making.done()
        assert [step.what for step in making.result(timeout=60).steps] == [
            "index events_stream_type_occurred",
            "index events_event_type_occurred",
            "index events_occurred_brin dropped",
        ]
        assert newest_database.execute("SELECT to_regclass('es.events_occurred_brin')") == [(None,)]
        assert store.init(profile="full").steps == []


def test_many_at_once_that_want_different_things(newest_database: Database) -> None:
    """Each sets its own once; none of them goes on for as long as another one wants something else."""
    with EventStore(newest_database.dsn) as store, ThreadPoolExecutor(10) as threads:
        store.init()
        profiles: list[Profile] = ["lean", "full"]
        made = [
            threads.submit(store.init, profile=profiles[number % 2], max_payload_bytes=100_000 + number)
            for number in range(10)
        ]
        for one in made:
            steps = [step.what for step in one.result(timeout=60).steps]
            assert sum(what.startswith("payloads") for what in steps) <= 1
            assert sum(what.startswith("index") for what in steps) <= 3
        present = {name for (name,) in newest_database.execute(INDEXES)}
        assert any({f"es.{name}" for name in indexes} <= present for indexes in ALL_INDEXES.values())


def test_what_keeps_readers_out_is_over_when_an_index_is_made(newest_database: Database) -> None:
    newest_database.execute(
        "CREATE TABLE held (mode text)",
        "CREATE FUNCTION noted() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO held"
        " SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = to_regclass('es.events'); END $$",
    )
    with EventStore(newest_database.dsn) as store:
        store.init(profile="lean")
        newest_database.execute(
            "CREATE EVENT TRIGGER noting ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION noted()"
        )
        steps = [step.what for step in store.init(profile="full", max_payload_bytes=1_000_000).steps]
        assert [what.partition(" ")[0] for what in steps] == ["payloads", "index", "index", "index"]
        assert newest_database.execute("SELECT DISTINCT mode FROM held") == [("ShareLock",)]


def test_several_in_one_database(newest_database: Database) -> None:
    """Each with its schema; what is in one is not in the other, and their triggers know them apart."""
    with EventStore(newest_database.dsn, schema="One") as one, EventStore(newest_database.dsn, schema="two") as two:
        one.init()
        two.init()
        assert one.append("order-1", [CREATED]) == two.append("order-1", [CREATED]) == 1
        assert one.insert("order-1", [CREATED], after=1) == 2
        assert (len(one.read("order-1")), len(two.read("order-1"))) == (2, 1)


def test_a_schema_that_is_there(newest_database: Database) -> None:
    newest_database.execute("CREATE SCHEMA es", "CREATE TABLE es.mine (id int)")
    with EventStore(newest_database.dsn) as store:
        store.init()
        assert store.append("order-1", [CREATED]) == 1


def test_it_is_all_or_nothing(newest_database: Database) -> None:
    newest_database.execute("CREATE SCHEMA es", "CREATE TABLE es.snapshots (id int)")
    with EventStore(newest_database.dsn) as store:
        with pytest.raises(pgcdc.EventStoreError):
            store.init()
        assert newest_database.execute("SELECT to_regclass('es.events'), to_regclass('es.migrations')") == [
            (None, None)
        ]


def test_other_programs(newest_database: Database) -> None:
    """A database that is newer than the program is left alone, and so is one where a file was not the same."""
    with EventStore(newest_database.dsn) as store:
        store.init()
        newest_database.execute("INSERT INTO es.migrations (number, name, checksum) VALUES (99, 'later', '')")
        with pytest.raises(pgcdc.ConfigError, match="migration 99"):
            store.init()
        newest_database.execute("DELETE FROM es.migrations WHERE number = 99")
        newest_database.execute("UPDATE es.migrations SET checksum = 'other' WHERE number = 2")
        with pytest.raises(pgcdc.ConfigError, match="migration 2 "):
            store.plan_init()


def test_files_are_numbered() -> None:
    assert [migration.number for migration in migrations()] == list(range(1, len(migrations()) + 1))
