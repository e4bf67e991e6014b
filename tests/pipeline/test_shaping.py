"""What a consumer gets of a real stream: filters, columns, transforms, sizes, several at once; and events."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import psycopg
import psycopg2
import pytest

import pgcdc
from pgcdc import transforms
from tests.pipeline.running import Running, confirmed, flushed, running, until
from tests.pipeline.targets import Recorder

if TYPE_CHECKING:
    from tests.conftest import Database

ORDERS = "CREATE TABLE orders (id bigint PRIMARY KEY, user_id bigint, status text, email text)"


def ids(recorder: Recorder) -> list[int]:
    return [change.new.id for change in recorder.changes if isinstance(change, pgcdc.Insert)]


def test_each_consumer_has_a_filter_and_columns_of_its_own(newest_database: Database) -> None:
    """Copied rows and streamed ones alike; and what is left out holds nothing up."""
    database = newest_database
    database.execute(ORDERS, "INSERT INTO orders SELECT g, g % 3, 'old', 'secret' FROM generate_series(1, 10) g")
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    every, some, masked = Recorder(), Recorder(), Recorder()
    pipeline.add(every, name="every")
    pipeline.add(some, name="some", where=lambda change: change.new.user_id == 1, columns=["id", "user_id"], max_rows=2)
    pipeline.add(
        masked, name="masked", transform=[transforms.mask("orders", "email"), transforms.rename("orders", to="sales")]
    )
    handled: list[tuple[int, str]] = []

    class Sale(msgspec.Struct):
        id: int
        email: str

    @pipeline.on("orders", "insert", row=Sale, where=lambda c: c.new.user_id == 2, transform=transforms.route("topic"))
    def handle(change: pgcdc.Insert[Sale] | pgcdc.Update[Sale]) -> None:
        handled.append((change.new.id, change.table))

    with running(pipeline) as run:
        run.streaming()
        database.execute(
            "INSERT INTO orders SELECT g, g % 3, 'new', 'secret' FROM generate_series(11, 20) g",
            "INSERT INTO orders VALUES (21, 0, 'last', 'secret')",
        )
        run.catch_up(database)
        end = flushed(database)
        until(lambda: confirmed(database) >= end, "what was left out is confirmed")
    assert ids(every) == list(range(1, 22))
    assert ids(some) == [number for number in range(1, 21) if number % 3 == 1]
    assert all(batch.changes_count <= 2 for batch in some.batches)
    assert {column.name for change in some.changes for column in change.relation.columns} == {"id", "user_id"}
    assert not any(b"secret" in batch.to_json() for batch in some.batches + masked.batches)
    assert {change.table for change in masked.changes} == {"sales"}
    assert handled == [(number, "topic") for number in range(1, 21) if number % 3 == 2]


def test_a_transform_that_raises_stops_the_consumer_at_that_change(newest_database: Database) -> None:
    """What came before it is delivered, and it comes first when the transform was put right."""
    database = newest_database
    database.execute(ORDERS)

    def picky(change: Any) -> Any:
        if change.new.id == 3 and raising:
            raise LookupError("no such thing")
        return change

    raising = True
    sink = Recorder()

    def made() -> pgcdc.Pipeline:
        pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
        pipeline.add(sink, name="sink", transform=picky)
        return pipeline

    run = Running(made())
    run.streaming()
    database.execute("INSERT INTO orders SELECT g FROM generate_series(1, 5) g")
    raised = run.ended()
    assert isinstance(raised, pgcdc.SinkRejected)
    assert "a filter or transform of consumer 'sink' raised LookupError on an insert of public.orders" in str(raised)
    assert isinstance(raised.__cause__, LookupError)
    assert ids(sink) == [1, 2]
    raising = False
    with running(made()) as run:
        run.streaming()
        run.catch_up(database)
    assert ids(sink) == [1, 2, 3, 4, 5]


def test_a_masked_column_that_has_another_name_now_stops_the_consumer(newest_database: Database) -> None:
    """Before what it holds is given to anybody; the error names it."""
    database = newest_database
    database.execute(ORDERS)
    sink = Recorder()
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    pipeline.add(sink, name="sink", transform=transforms.mask("orders", "email"))
    run = Running(pipeline)
    run.streaming()
    database.execute(
        "ALTER TABLE orders RENAME COLUMN email TO mail", "INSERT INTO orders VALUES (1, 1, 'x', 'secret')"
    )
    raised = run.ended()
    assert isinstance(raised, pgcdc.SinkRejected) and isinstance(raised.__cause__, pgcdc.SchemaError)
    assert "has no column 'email', which a transform masks" in str(raised) and "secret" not in str(raised)
    assert sink.changes == []


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_changes_of_one_key_are_in_order_and_several_keys_go_on_at_once(
    newest_database: Database, identity: str
) -> None:
    """The order of each row's history is the one that it had; under REPLICA IDENTITY FULL too.

    That several go on at once is seen in test_ordering.py: how much of a transaction is in hand here, nobody knows.
    """
    database = newest_database
    database.execute(ORDERS, f"ALTER TABLE orders REPLICA IDENTITY {identity}")
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"], snapshot="never")
    lock = threading.Lock()
    seen: dict[int, list[str]] = {}

    @pipeline.on("orders", concurrency=4)
    def handle(change: pgcdc.Change[Any]) -> None:
        row = change.old if isinstance(change, pgcdc.Delete) else change.new
        with lock:
            seen.setdefault(row.id, []).append("deleted" if isinstance(change, pgcdc.Delete) else row.status)

    with running(pipeline) as run:
        run.streaming()
        with database.connect() as connection, connection.transaction():
            connection.execute("INSERT INTO orders SELECT g, 1, '0' FROM generate_series(1, 20) g")
            for number in range(1, 6):
                connection.execute("UPDATE orders SET status = %s", (str(number),))
            connection.execute("DELETE FROM orders WHERE id % 2 = 0")
        run.catch_up(database)
    history = [str(number) for number in range(6)]
    assert seen == {number: history + ["deleted"] * (number % 2 == 0) for number in range(1, 21)}


def test_a_key_that_the_server_does_not_send_is_refused(newest_database: Database) -> None:
    """With the statement that makes it do so; and a column that is not there is named with the one that was meant."""
    database = newest_database
    database.execute(ORDERS)
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    pipeline.add(Recorder(), name="sink", concurrency=2, key=["user_id"])
    with pytest.raises(pgcdc.ConfigError, match="not in the replica identity of table") as caught:
        pipeline.run()
    assert caught.value.table == "public.orders"
    statement = str(caught.value.hint).partition(";")[0]
    assert statement == 'ALTER TABLE "public"."orders" REPLICA IDENTITY FULL'
    database.execute(statement)
    with running(pipeline) as run:
        run.streaming()
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    pipeline.add(Recorder(), name="sink", columns=["id", "user"])
    with pytest.raises(pgcdc.ConfigError, match="which is not published") as caught:
        pipeline.run()
    assert "'user_id'" in str(caught.value.hint)


def test_events_come_from_within_transactions(database: Database) -> None:
    """To those who asked for their topic; what was rolled back never, large ones whole, and in order with rows."""
    database.execute(ORDERS)
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    rows, raw = Recorder(), Recorder()
    pipeline.add(rows, name="rows", topics=["order.paid", "blob"])
    pipeline.add(raw, name="raw", tables=[], messages=["mine"])
    events: list[tuple[str, Any, Any]] = []

    @pipeline.on_message("order.paid")
    async def paid(event: pgcdc.Insert[Any]) -> None:
        events.append((event.new.key, event.new.payload, event.new.headers))

    large = bytes(range(256)) * 8192
    with running(pipeline) as run:
        run.streaming()
        with psycopg.connect(database.dsn) as connection:
            connection.execute("INSERT INTO orders VALUES (1)")
            pgcdc.emit(connection, "order.paid", {"amount": 5}, key="1", headers={"trace": "a"})
            connection.execute("INSERT INTO orders VALUES (2)")
            connection.commit()
            pgcdc.emit(connection, "order.paid", {"amount": 6}, key="2")
            connection.rollback()
            pgcdc.emit(connection, "blob", large, key="3")
            pgcdc.emit(connection, "other", 1)
            connection.execute("SELECT pg_logical_emit_message(true, 'mine', 'words')")
            connection.execute("SELECT pg_logical_emit_message(false, 'mine', 'of no transaction')")
            connection.commit()

        async def asynchronous() -> None:
            async with await psycopg.AsyncConnection.connect(database.dsn) as connection:
                await pgcdc.aemit(connection, "order.paid", [1, 2])

        asyncio.run(asynchronous())
        run.catch_up(database)
    assert events == [("1", {"amount": 5}, {"trace": "a"}), (None, [1, 2], {})]
    assert [(change.schema, change.table) for change in rows.changes] == [
        ("public", "orders"),
        ("outbox", "order.paid"),
        ("public", "orders"),
        ("outbox", "blob"),
        ("outbox", "order.paid"),
    ]
    assert [change.index for change in rows.changes[:3]] == [0, 1, 2]
    assert rows.changes[3].new.payload == large
    assert [(change.prefix, change.content) for change in raw.changes] == [("mine", b"words")]


def test_events_come_from_a_table_whose_rows_are_deleted_at_once(newest_database: Database) -> None:
    database = newest_database
    database.execute(
        "CREATE TABLE outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregate_type text, aggregate_id int,"
        " payload jsonb, headers json)"
    )
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["outbox"])
    sink = Recorder()
    pipeline.add(sink, name="sink", transform=transforms.outbox("outbox", topic="aggregate_type", headers="headers"))
    with running(pipeline) as run:
        run.streaming()
        database.execute(
            "WITH new AS (INSERT INTO outbox (aggregate_type, aggregate_id, payload, headers)"
            " VALUES ('order', 7, '{\"n\": 0.1000000000000000055}', '{\"a\": \"b\"}')) SELECT 1",
            "DELETE FROM outbox",
        )
        run.catch_up(database)
    [event] = sink.changes
    assert (event.table, event.new.key, event.new.headers) == ("order", "7", {"a": "b"})
    assert str(event.new.payload["n"]) == "0.1000000000000000055"
    assert b'"payload":{"n": 0.1000000000000000055}' in sink.batches[0].to_json()


def test_other_drivers_emit_too(newest_database: Database) -> None:
    """psycopg2, and asyncpg within a transaction of its own."""
    database = newest_database
    database.execute(ORDERS)
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    sink = Recorder()
    pipeline.add(sink, name="sink", tables=[], topics=["topic"])

    async def asynchronous() -> None:
        with database.connect() as psycopgs:
            information = psycopgs.info
            connection = await asyncpg.connect(
                host=information.host, port=information.port, user=information.user, database=information.dbname
            )
        try:
            async with connection.transaction():
                await pgcdc.aemit(connection, "topic", {"by": "asyncpg"})
        finally:
            await connection.close()

    with running(pipeline) as run:
        run.streaming()
        blocking = psycopg2.connect(database.dsn)
        try:
            pgcdc.emit(blocking, "topic", b"\x00\xff")
            blocking.commit()
        finally:
            blocking.close()
        asyncio.run(asynchronous())
        run.catch_up(database)
    assert [change.new.payload for change in sink.changes] == [b"\x00\xff", {"by": "asyncpg"}]


def test_what_cannot_emit_is_refused(newest_database: Database) -> None:
    with psycopg.connect(newest_database.dsn) as connection:
        with pytest.raises(pgcdc.ConfigError, match="a topic is a name"):
            pgcdc.emit(connection, "", 1)
        with pytest.raises(pgcdc.ConfigError, match="is not asynchronous"):
            asyncio.run(pgcdc.aemit(connection, "topic", 1))
    with pytest.raises(pgcdc.ConfigError, match="nothing can be emitted through a int"):
        pgcdc.emit(5, "topic", 1)


def test_a_sink_gets_transactions_whole(newest_database: Database) -> None:
    """Also one that is larger than what may be in flight; and a consumer that is stopped in one gets it again."""
    database = newest_database
    database.execute(ORDERS)
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"], snapshot="never", max_rows_in_flight=100)
    whole, parts = Recorder(), Recorder()
    pipeline.add(whole, name="whole", transactions=True, max_rows=50)
    pipeline.add(parts, name="parts", max_rows=50)
    with running(pipeline) as run:
        run.streaming()
        for number in range(3):
            rows = f"SELECT g + {number} * 10000 FROM generate_series(1, 5000) g"
            database.execute(f"INSERT INTO orders {rows}", f"INSERT INTO orders VALUES ({-number})")
        run.catch_up(database)
    assert ids(whole) == ids(parts)
    assert len(ids(whole)) == 15003
    commits: list[set[int]] = [{change.commit_lsn for change in batch.changes()} for batch in whole.batches]  # type: ignore[union-attr, misc]
    assert sum(map(len, commits)) == len(set().union(*commits)) == 6
    assert all(batch.changes_count <= 50 for batch in parts.batches)


def test_events_die_with_their_transaction_and_outlive_the_server(newest_database: Database) -> None:
    """A writer that is killed before its commit has said nothing; what committed comes after a crash, once."""
    database = newest_database
    database.execute(ORDERS)
    events: list[int] = []

    def made() -> pgcdc.Pipeline:
        pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])

        @pipeline.on_message("counted")
        def counted(event: pgcdc.Insert[Any]) -> None:
            events.append(event.new.payload)

        return pipeline

    with running(made()) as run:
        run.streaming()
        with psycopg.connect(database.dsn) as killed:
            pgcdc.emit(killed, "counted", 1)
            database.execute(f"SELECT pg_terminate_backend({killed.info.backend_pid}, 30000)")
            with pytest.raises(psycopg.OperationalError):
                killed.execute("SELECT 1")
            killed.close()
        with psycopg.connect(database.dsn) as connection:
            pgcdc.emit(connection, "counted", 2)
        run.catch_up(database)
    assert events == [2]
    with psycopg.connect(database.dsn) as connection:
        for number in range(3, 6):
            pgcdc.emit(connection, "counted", number)
    database.server.crash()
    database.server.start()
    with running(made()) as run:
        run.streaming()
        run.catch_up(database)
    assert events == [2, 3, 4, 5]
