"""The contract, for each store; and what a database does besides."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import dict_row

import pgcdc
from examples.order import Order, OrderCancelled, OrderShipped
from pgcdc.eventstore import Append, AsyncEventStore, ConcurrencyConflict, EventStore, EventStoreError, PayloadTooLarge
from pgcdc.eventstore.memory import MemoryEventStore
from tests.eventstore.contract import CREATED, PAID, Counted, StoreContract, Total

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Database
    from tests.servers.postgres import PostgresServer


class Waited:
    """An asynchronous store, for those who do not wait."""

    def __init__(self, store: AsyncEventStore, runner: asyncio.Runner) -> None:
        self._store = store
        self._runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)

        def call(*arguments: Any, **named: Any) -> Any:
            # A callback of the caller's calls the store while it is at work.
            result = method(*arguments, **named)
            if inspect.isasyncgen(result):
                return iter(self._runner.run(_all(result)))
            return self._runner.run(result, context=contextvars.copy_context())

        return call


async def _all(generator: Any) -> list[Any]:
    return [item async for item in generator]


class TestMemory(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryEventStore:
        return MemoryEventStore()

    @pytest.fixture
    def other(self, store: MemoryEventStore) -> MemoryEventStore:
        return store


def _make(postgres: PostgresServer) -> Iterator[str]:
    """The DSN of a database with a store; one for all tests of a class, which empty it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    postgres.start()
    with postgres.connect() as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        with EventStore(postgres.dsn(name)) as store:
            store.init()
        yield postgres.dsn(name)
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _empty(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("SET pgcdc.maintenance = on")
        connection.execute("TRUNCATE es.events, es.streams, es.snapshots RESTART IDENTITY")


@pytest.fixture(scope="class")
def made(postgres: PostgresServer) -> Iterator[str]:
    yield from _make(postgres)


@pytest.mark.oldest_and_newest
class TestPostgres(StoreContract):
    @pytest.fixture
    def store(self, made: str) -> Iterator[EventStore]:
        _empty(made)
        with EventStore(made) as store:
            yield store

    @pytest.fixture
    def other(self, made: str) -> Iterator[EventStore]:
        with EventStore(made) as store:
            yield store


@pytest.fixture(scope="class")
def made_on_the_newest(newest_postgres: PostgresServer) -> Iterator[str]:
    yield from _make(newest_postgres)


class TestAsyncio(StoreContract):
    @pytest.fixture
    def store(self, made_on_the_newest: str) -> Iterator[Waited]:
        _empty(made_on_the_newest)
        with asyncio.Runner() as runner:
            waited = Waited(AsyncEventStore(made_on_the_newest), runner)
            yield waited
            waited.close()

    @pytest.fixture
    def other(self, made_on_the_newest: str) -> Iterator[EventStore]:
        with EventStore(made_on_the_newest) as store:
            yield store


@pytest.fixture
def store(newest_database: Database) -> Iterator[EventStore]:
    with EventStore(newest_database.dsn) as store:
        store.init()
        yield store


def test_in_the_callers_own_transaction(newest_database: Database, store: EventStore) -> None:
    newest_database.execute("CREATE TABLE notes (note text)")
    with psycopg.connect(newest_database.dsn, row_factory=dict_row) as connection:
        connection.execute("INSERT INTO notes VALUES ('gone')")
        assert store.append("order-1", [CREATED], connection=connection) == 1
        assert [recorded.event for recorded in store.read("order-1", connection=connection)] == [CREATED]
        assert store.load("order-1", Order, connection=connection)[1] == 1
        assert store.read("order-1") == []
        connection.rollback()
    assert store.read("order-1") == []

    with psycopg.connect(newest_database.dsn) as connection:
        connection.execute("INSERT INTO notes VALUES ('kept')")
        store.append("order-1", [CREATED], expected="none", connection=connection)
        with pytest.raises(ConcurrencyConflict):  # and the transaction goes on
            store.append("order-1", [CREATED], expected="none", connection=connection)
        store.append("order-1", [PAID], expected=1, connection=connection)
    assert len(store.read("order-1")) == 2
    assert newest_database.execute("SELECT note FROM notes") == [("kept",)]


def test_a_plain_insert_that_is_late_aborts_the_transaction(newest_database: Database, store: EventStore) -> None:
    store.append("order-1", [CREATED])
    with psycopg.connect(newest_database.dsn) as connection:
        with pytest.raises(ConcurrencyConflict) as raised:
            store.insert("order-1", [CREATED], after=0, connection=connection)
        assert raised.value.sqlstate == "23505"
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("SELECT 1")
        connection.rollback()


def test_repeatable_read_is_a_conflict_too(newest_database: Database, store: EventStore) -> None:
    store.append("order-1", [CREATED])
    with psycopg.connect(newest_database.dsn) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        assert len(store.read("order-1", connection=connection)) == 1
        store.append("order-1", [PAID])
        with pytest.raises(ConcurrencyConflict) as raised:
            store.append("order-1", [OrderCancelled()], expected=1, connection=connection)
        assert raised.value.sqlstate == "40001"
        connection.rollback()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE es.events SET payload = '{}'",
        "DELETE FROM es.events",
        "DELETE FROM es.events WHERE false",
        "TRUNCATE es.events",
    ],
)
def test_the_database_refuses_changes(newest_database: Database, store: EventStore, statement: str) -> None:
    store.append("order-1", [CREATED])
    with (
        newest_database.connect() as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"),
    ):
        connection.execute(statement)
    assert len(store.read("order-1")) == 1
    with newest_database.connect() as connection, connection.transaction():
        connection.execute("SET LOCAL pgcdc.maintenance = on")
        connection.execute(statement)


def test_plain_sql_appends(database: Database) -> None:
    """Any program may: the trigger advances the stream, on every version, and the next append follows."""
    insert = (
        "INSERT INTO es.events (stream_id, stream_type, event_type, payload, sequence)"
        " VALUES ('order-1', 'order', 'OrderShipped', '{}', %s)"
    )
    with EventStore(database.dsn) as store, database.connect() as connection:
        store.init()
        connection.execute(insert, (1,))
        connection.execute(insert, (2,))
        assert store.append("order-1", [OrderShipped()], expected=2) == 3
        with pytest.raises(psycopg.errors.UniqueViolation) as late:
            connection.execute(insert, (3,))
        assert late.value.diag.constraint_name == "events_stream_sequence"
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="hole"):
            connection.execute(insert, (5,))
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            connection.execute(insert.replace("'order',", "'other',"), (4,))
        connection.execute("UPDATE es.streams SET state = 'closed'")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="closed"):
            connection.execute(insert, (4,))
        for expected in (3, "any", "exists"):
            with pytest.raises(EventStoreError, match="closed"):
                store.append("order-1", [OrderShipped()], expected=expected)
        assert [recorded.event for recorded in store.read("order-1")] == [OrderShipped()] * 3


def test_the_database_has_a_limit_of_its_own(newest_database: Database, store: EventStore) -> None:
    store.init(max_payload_bytes=500)
    with pytest.raises(PayloadTooLarge) as raised:
        store.append("order-1", [OrderShipped("x" * 600)])
    assert raised.value.sqlstate == "23514"
    assert store.append("order-1", [OrderShipped("x" * 300)]) == 1
    assert store.init().steps == []
    assert len(store.init(max_payload_bytes=262_144).steps) == 1
    assert store.append("order-1", [OrderShipped("x" * 600)]) == 2


def test_u0000_is_refused_in_a_sentence(store: EventStore) -> None:
    with pytest.raises(pgcdc.InvalidEvent, match=r"U\+0000"):
        store.append("order-1", [OrderShipped("a\0b")])


def test_a_stream_is_not_cut_at_u0000(newest_database: Database, store: EventStore) -> None:
    """To libpq it would be the end of the text: the events of another stream."""
    store.append("order-1", [CREATED])
    calls: list[Callable[[], Any]] = [
        lambda: store.append("order-1\0x", [PAID]),
        lambda: store.append("order-1\0x", [PAID], expected=1),
        lambda: store.append("order-2", [PAID], stream_type="order\0x"),
        lambda: store.append_many([Append(stream="order-1\0x", events=[PAID])]),
        lambda: store.insert("order-1\0x", [PAID], after=1),
        lambda: store.read("order-1\0x"),
        lambda: store.load("order-1\0x", Order),
    ]
    for call in calls:
        with pytest.raises((pgcdc.ConfigError, pgcdc.InvalidEvent), match=r"U\+0000"):
            call()
    assert newest_database.execute("SELECT stream_id, version FROM es.streams") == [("order-1", 1)]
    with pytest.raises(pgcdc.ConfigError, match="a version"):
        store.insert("order-1", [PAID], after=2**70)


def test_a_server_that_is_away_is_told_so() -> None:
    with EventStore("host=127.0.0.1 port=1") as store:
        with pytest.raises(pgcdc.ConnectionLost) as refused:
            store.check()
        assert refused.value.hint == "is it running, and do host and port name it? nothing was changed"
        calls = (
            lambda: store.append("order-1", [CREATED]),
            lambda: store.append_many([Append(stream="order-1", events=[CREATED])]),
        )
        for call in calls:
            with pytest.raises(pgcdc.ConnectionLost, match="cannot be reached") as refused:
                call()
            assert "whether the append was done" in str(refused.value.hint)


def test_many_threads_share_few_connections(newest_database: Database) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with EventStore(newest_database.dsn, max_connections=2) as store, ThreadPoolExecutor(8) as threads:
        store.init()
        versions = list(threads.map(lambda number: store.append(f"order-{number}", [CREATED]), range(40)))
        assert versions == [1] * 40
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgcdc event store'"
        assert newest_database.execute(query)[0][0] <= 2


def test_a_server_that_was_away(newest_database: Database, store: EventStore) -> None:
    """What is left of the connections from before is not used."""
    store.append("order-1", [CREATED])
    newest_database.server.restart()
    assert store.append("order-1", [PAID]) == 2
    newest_database.server.stop()
    with pytest.raises(pgcdc.ConnectionLost):
        store.read("order-1")
    newest_database.server.start()
    assert len(store.read("order-1")) == 2


def test_a_store_that_was_not_made(newest_database: Database) -> None:
    with EventStore(newest_database.dsn, schema="orders") as store:
        for call in (
            lambda: store.append("order-1", [CREATED]),
            lambda: store.read("order-1"),
            lambda: store.load("order-1", Order),
        ):
            with pytest.raises(pgcdc.ConfigError) as raised:
                call()
            assert raised.value.hint == "store.init(), or pgcdc events init --schema orders"
    with pytest.raises(pgcdc.ConfigError):
        EventStore(newest_database.dsn, schema='a"; DROP')
    with pytest.raises(pgcdc.ConfigError):
        EventStore("host=a password=secret nonsense").read("order-1")


def test_a_role_that_may_not(newest_database: Database, store: EventStore) -> None:
    role = f"writer_{newest_database.name}"
    newest_database.execute(f"CREATE ROLE {role} LOGIN")
    try:
        with EventStore(f"{newest_database.dsn} user={role}") as other:
            with pytest.raises(pgcdc.ConfigError) as raised:
                other.append("order-1", [CREATED])
            assert raised.value.sqlstate == "42501"
            assert raised.value.hint is not None
            newest_database.execute(*raised.value.hint.replace("…", role).strip(";").split(";"))
            assert other.append("order-1", [CREATED]) == 1
            assert other.load("order-1", Order)[1] == 1
            with newest_database.connect(user=role) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("UPDATE es.events SET payload = '{}'")
    finally:
        newest_database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_appends_are_durable(newest_database: Database, store: EventStore) -> None:
    """Also where somebody has set it otherwise for the role or the database; a DSN that says so is meant."""
    name = newest_database.name
    newest_database.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    query = "SELECT current_setting('synchronous_commit')"
    for dsn, expected in (
        (newest_database.dsn, "on"),
        (f"{newest_database.dsn} options='-c synchronous_commit=off'", "off"),
    ):
        with EventStore(dsn) as other, other._doing() as connection:
            assert connection.execute(query).fetchone() == (expected,)


def test_it_appends_after_a_rollback(newest_database: Database) -> None:
    """psycopg drops all that is prepared on a connection when a transaction on it was rolled back."""
    with EventStore(newest_database.dsn, max_connections=1) as store:
        store.init()
        store.append("order-1", [CREATED])
        with store._doing() as connection:
            connection.execute("BEGIN")
            connection.execute("ROLLBACK")
        assert store.append("order-1", [PAID]) == 2


@pytest.mark.oldest_and_newest
def test_one_event_behind_a_known_version(database: Database) -> None:
    """It goes by a statement of its own, which stores and leaves behind what the function does."""
    with EventStore(database.dsn, max_connections=1) as store:
        store.init(profile="lean")
        store.append("order-1", [CREATED], metadata={"actor": "anna"})
        assert store.append("order-1", [CREATED], expected=1, metadata={"actor": "anna"}) == 2
        columns = "stream_id, stream_type, event_type, event_version, payload, metadata, retention_class, sequence"
        first, second = database.execute(f"SELECT {columns} FROM es.events ORDER BY id")
        assert first[:-1] == second[:-1]
        assert [first[-1], second[-1]] == [1, 2]
        assert store.insert("order-1", [PAID], after=2) == 3  # its trigger advances the stream again
        assert store.append("order-1", [PAID], expected=3, stream_type="order") == 4
        with pytest.raises(ConcurrencyConflict) as raised:
            store.append("order-1", [PAID], expected=3)
        assert raised.value.version == 4
        with pytest.raises(ConcurrencyConflict):
            store.append("order-2", [PAID], expected=1)
        with pytest.raises(EventStoreError, match="another stream_type"):
            store.append("order-1", [PAID], expected=4, stream_type="cart")
        database.execute("UPDATE es.streams SET state = 'closed'")
        with pytest.raises(EventStoreError, match="closed"):
            store.append("order-1", [PAID], expected=4)
        assert [one.sequence for one in store.read("order-1")] == [1, 2, 3, 4]


def test_a_long_stream_comes_in_pieces(newest_database: Database) -> None:
    """A state that raises in the middle of it leaves a connection that can be used, as does a rollback on it."""
    with EventStore(newest_database.dsn, max_connections=1) as store:
        store.init()
        store.append("count-1", [Counted(0, number) for number in range(1700)])
        total, version = store.load("count-1", Total)
        assert (total.seen, version) == (list(range(1700)), 1700)

        class Stops(Total):
            def on_test_counted(self, event: Counted) -> None:
                super().on_test_counted(event)
                if event.number == 3:
                    raise ValueError("enough")

        with store._doing() as connection:
            process = connection.info.backend_pid
        with pytest.raises(ValueError, match="enough"):
            store.load("count-1", Stops)
        with store._doing() as connection:
            assert connection.info.backend_pid == process
            connection.execute("BEGIN")
            connection.execute("ROLLBACK")  # psycopg drops all that is prepared
        assert store.load("count-1", Total)[1] == 1700
        assert store.state("count-1", Total, at=600)[0].seen == list(range(600))
        with store._doing() as connection:
            connection.execute("ALTER TABLE es.events RENAME TO elsewhere")
        with pytest.raises(pgcdc.ConfigError, match="not there"):
            store.load("count-1", Total)
        with store._doing() as connection:
            connection.execute("ALTER TABLE es.elsewhere RENAME TO events")
        assert store.load("count-1", Total)[1] == 1700
