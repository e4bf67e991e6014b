"""Tables change shape while a pipeline runs, and between two runs: versions, migrations, policies, events.

Over 400 lines because each kind of change, policy and migration is played to the same consumers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from unittest import mock

import msgspec
import pytest

import pgcdc
from pgcdc import SchemaChange
from pgcdc.pipeline import SqlitePositions
from pgcdc.pipeline.versioning import Versioning
from tests.pipeline.running import DEADLINE, Running, running, until
from tests.pipeline.shop import run_once
from tests.pipeline.targets import Recorder
from tests.pipeline.test_kill import Program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Database

ADD = "ALTER TABLE orders ADD COLUMN discount numeric(10,2)"


class Told(Recorder):
    """A sink that is told of shapes, too; all in one list."""

    def schema_changed(self, change: SchemaChange) -> None:
        self.changes.append(change)


def shop(database: Database, **settings: Any) -> pgcdc.Pipeline:
    return pgcdc.Pipeline("shop", database.dsn, tables=["orders"], **settings)


def ids(changes: list[Any]) -> list[Any]:
    """Rows by id and version, schema changes by their two versions."""
    return [
        f"{change.old_version}-{change.version}"
        if isinstance(change, SchemaChange)
        else (change.new.id, change.schema_version)
        for change in changes
    ]


def versions(pipeline: pgcdc.Pipeline, table: str = "orders") -> list[tuple[int, list[str]]]:
    return [(one.version, [column.name for column in one.columns]) for one in pipeline.schema_history(table)]


def test_a_column_is_added_while_it_runs(orders: Database) -> None:
    database = orders
    pipeline, sink = shop(database), Told()
    pipeline.add(sink, name="sink")
    came: list[Any] = []
    migrated: list[Any] = []

    @pipeline.on("orders", "insert", "schema", name="handler")
    async def handle(change: Any) -> None:
        came.append(change)

    @pipeline.migrate("orders", consumer="handler")
    async def widen(old: pgcdc.Relation, new: pgcdc.Relation) -> None:
        await asyncio.sleep(0)
        migrated.append(([column.name for column in old.columns], [column.name for column in new.columns], len(came)))

    with running(pipeline) as run:
        run.streaming()
        database.execute(
            "INSERT INTO orders VALUES (2, 'b')",
            "CREATE INDEX ON orders (status)",
            "ANALYZE orders",
            "INSERT INTO orders VALUES (3, 'c')",
            ADD,
            "INSERT INTO orders VALUES (4, 'd', 0.5)",
            "ALTER TABLE orders DROP COLUMN discount",
            "INSERT INTO orders VALUES (5, 'e')",
        )
        run.catch_up(database)
    wanted = [(1, 1), (2, 1), (3, 1), "1-2", (4, 2), "2-3", (5, 3)]
    assert ids(sink.changes) == ids(came) == wanted
    two, three = ["id", "status"], ["id", "status", "discount"]
    assert migrated == [(two, three, 3), (three, two, 5)], "each before anything of the new shape"
    added, dropped = (change for change in came if isinstance(change, SchemaChange))
    assert (added.table, added.added, added.dropped, added.position) == ("orders", ("discount",), (), came[4].position)
    assert (dropped.dropped, dropped.old, dropped.new) == (("discount",), added.new, came[6].relation)
    assert versions(pipeline) == [(1, two), (2, three), (3, two)]
    [first, second, _] = pipeline.schema_history("public.orders")
    assert first.columns[0] == pgcdc.schema.SchemaColumn("id", 20, "int8", -1, True)
    assert first.position.index == -1 and second.position == came[4].position
    # Another run knows all of it: nothing is a change, nothing runs again.
    came.clear()
    with running(pipeline) as run:
        run.streaming()
        database.execute("INSERT INTO orders VALUES (6, 'f')")
        run.catch_up(database)
    assert ids(came) == [(6, 3)]
    assert len(migrated) == 2


def test_the_stream_tells_the_shape_that_the_copy_had(database: Database) -> None:
    """All replica identities, domains, generated columns, a partitioned table: none has a second version."""
    database.execute(
        "CREATE DOMAIN price AS numeric(8,2) CHECK (value > 0)",
        "CREATE TABLE a (id int PRIMARY KEY, p price, d int GENERATED ALWAYS AS (id * 2) STORED, t varchar(7)[])",
        "CREATE TABLE b (id int PRIMARY KEY, gone int, n text)",
        "ALTER TABLE b DROP COLUMN gone",
        "ALTER TABLE b REPLICA IDENTITY FULL",
        "CREATE TABLE c (id int NOT NULL, n text NOT NULL)",
        "CREATE UNIQUE INDEX c_key ON c (n)",
        "ALTER TABLE c REPLICA IDENTITY USING INDEX c_key",
        "CREATE TABLE d (id int PRIMARY KEY, n text)",
        "ALTER TABLE d REPLICA IDENTITY NOTHING",
        "CREATE TABLE e (id int PRIMARY KEY, n text) PARTITION BY RANGE (id)",
        "CREATE TABLE e_1 PARTITION OF e FOR VALUES FROM (0) TO (100)",
    )
    for table in "abcde":
        database.execute(
            f"INSERT INTO {table} (id{', n' if table != 'a' else ''}) VALUES (1{', 1' if table != 'a' else ''})"
        )
    pipeline, sink = pgcdc.Pipeline("shop", database.dsn, tables=list("abcde")), Told()
    pipeline.add(sink)
    with running(pipeline) as run:
        run.streaming()
        for table in "abcde":
            more = "" if table == "a" else ", n"
            database.execute(f"INSERT INTO {table} (id{more}) VALUES (2{', 2' if more else ''})")
        run.catch_up(database)
    assert len(sink.changes) == 10
    assert {change.schema_version for change in sink.changes} == {1}
    assert [(one.table, one.version) for one in pipeline.schema_history()] == [(table, 1) for table in "abcde"]


def test_an_alter_between_two_runs_is_migrated_at_the_next(new_orders: Database, tmp_path: Path) -> None:
    """Also when the migration is new: which shape the consumer had is known by its position."""
    database = new_orders
    store = SqlitePositions(tmp_path / "positions.db")
    first, sink = shop(database, positions=store), Told()
    first.add(sink, name="sink")
    run_once(database, first)
    database.execute("INSERT INTO orders VALUES (2, 'b')", ADD, "INSERT INTO orders VALUES (3, 'c', 1)")
    second = shop(database, positions=store)
    second.add(sink, name="sink")
    ran: list[Any] = []
    second.migrate("orders", consumer="sink")(lambda old, new: ran.append((len(old.columns), ids(sink.changes))))
    run_once(database, second)
    assert ran == [(2, [(1, 1), (2, 1)])]
    assert ids(sink.changes) == [(1, 1), (2, 1), "1-2", (3, 2)]
    run_once(database, second)
    assert len(ran) == 1
    assert [version for version, _ in versions(second)] == [1, 2]
    second.destroy()
    assert second.schema_history() == []


@pytest.mark.parametrize("had_one", [True, False])
def test_what_was_left_out_by_the_filter_leaves_no_migration_out(new_orders: Database, had_one: bool) -> None:
    """The consumer's position goes past the first row of the new shape, which is none of its business."""
    database = new_orders
    pipeline, ran, deleted = shop(database, snapshot="initial" if had_one else "never"), list[Any](), list[Any]()
    pipeline.migrate("orders", consumer="handler")(lambda old, new: ran.append((len(old.columns), len(deleted))))

    @pipeline.on("orders", "delete", name="handler")
    def handle(change: pgcdc.Change[Any]) -> None:
        deleted.append(change)

    def do(*statements: str) -> None:
        with running(pipeline) as run:
            run.streaming()
            for statement in statements:
                database.execute(statement)
            run.catch_up(database)

    do(*["DELETE FROM orders WHERE id = 1"][:had_one])
    do(ADD, "INSERT INTO orders VALUES (2, 'b')")
    assert ran == []
    do()
    do("DELETE FROM orders WHERE id = 2")
    assert ran == [(2, had_one)]
    assert len(deleted) == 1 + had_one


def test_a_migration_that_fails_stops_there_and_is_tried_again(new_orders: Database) -> None:
    database = new_orders
    pipeline, sink = shop(database), Recorder()
    pipeline.add(sink, name="sink")
    broken, ran = threading.Event(), list[int]()
    broken.set()

    @pipeline.migrate("orders", consumer="sink")
    def migrate(old: pgcdc.Relation, new: pgcdc.Relation) -> None:
        ran.append(len(sink.changes))
        if broken.is_set():
            raise KeyError("secret value")

    run = Running(pipeline)
    run.streaming()
    with database.connect() as connection, connection.transaction():
        connection.execute("INSERT INTO orders VALUES (2, 'b')")
        connection.execute(ADD)
        connection.execute("INSERT INTO orders VALUES (3, 'c', 1)")
    for attempt in range(2):
        error = run.ended()
        assert isinstance(error, pgcdc.MigrationFailed)
        assert str(error) == (
            "the migration of consumer 'sink' for table public.orders from version 1 to 2 raised KeyError"
        )
        assert error.table == "public.orders" and isinstance(error.__cause__, KeyError)
        assert "next start tries again" in (error.hint or "")
        assert ids(sink.changes) == [(1, 1), (2, 1)], "what was before it in the same transaction came, nothing else"
        assert pipeline.statistics().consumers["sink"].state == "failed"
        if not attempt:
            run = Running(pipeline)
    broken.clear()
    run_once(database, pipeline)
    assert ids(sink.changes) == [(1, 1), (2, 1), (3, 2)], "nothing lost, nothing twice"
    assert ran == [2, 2, 2]


def test_a_target_that_is_not_available_is_waited_for(new_orders: Database) -> None:
    pipeline, sink, ran = shop(new_orders), Told(), list[int]()
    pipeline.add(sink, name="sink")

    @pipeline.migrate("orders", consumer="sink")
    async def migrate(old: pgcdc.Relation, new: pgcdc.Relation) -> None:
        ran.append(1)
        if len(ran) < 3:
            raise pgcdc.SinkUnavailable("not yet")

    with running(pipeline) as run:
        run.streaming()
        new_orders.execute(ADD, "INSERT INTO orders VALUES (2, 'b', 1)")
        run.catch_up(new_orders)
    assert len(ran) == 3
    assert ids(sink.changes) == [(1, 1), "1-2", (2, 2)]


def test_the_pipelines_migration_runs_once_before_anybodys_first_change(new_orders: Database) -> None:
    database = new_orders
    pipeline = shop(database)
    one, other = Told(), Told()
    pipeline.add(one, name="one")
    pipeline.add(other, name="other")
    ran: list[Any] = []
    inside = threading.Semaphore(0)

    @pipeline.migrate("orders")
    def migrate(old: pgcdc.Relation, new: pgcdc.Relation) -> None:
        ran.append((len(old.columns), ids(one.changes), ids(other.changes)))
        inside.release()

    pipeline.migrate("orders", consumer="other")(lambda old, new: ran.append("other"))
    with running(pipeline) as run:
        run.streaming()
        database.execute(ADD, "INSERT INTO orders VALUES (2, 'b', 1)")
        run.catch_up(database)
    assert ran == [(2, [(1, 1)], [(1, 1)]), "other"]
    assert ids(one.changes) == ids(other.changes) == [(1, 1), "1-2", (2, 2)]
    run_once(database, pipeline)
    assert len(ran) == 2


@pytest.mark.parametrize(
    ("die", "log"),
    [
        ("--die", ["1", "migrate 2 3", "migrate 2 3", "schema", "2"]),
        ("--die-after", ["1", "migrate 2 3", "schema", "2"]),
    ],
)
def test_killed_in_the_midst_it_runs_again_and_after_its_end_never(
    new_orders: Database, tmp_path: Path, die: str, log: list[str]
) -> None:
    database = new_orders

    def lines() -> list[str]:
        return (tmp_path / "log").read_text().splitlines()

    program = Program(database, tmp_path, die, module="killed_migration")
    until(lambda: (tmp_path / "log").exists() and lines() == ["1"], "the row of the copy")
    database.execute(ADD, "INSERT INTO orders VALUES (2, 'b', 1)")
    assert program.end() == -signal.SIGKILL
    assert lines()[:2] == log[:2], "nothing of the new shape before it"
    for number in (2, 3):
        program = Program(database, tmp_path, module="killed_migration")
        until(lambda number=number: lines()[-1] == str(number), "the row of the new shape")  # type: ignore[misc]
        assert program.end(signal.SIGTERM) == 0, (tmp_path / "stderr.log").read_text()
        database.execute("INSERT INTO orders VALUES (3, 'c', 1)") if number == 2 else None
    # The row of the copy can come again: it was handled less than a second before the end.
    without = [line for place, line in enumerate(lines()) if line != "1" or not place]
    assert without == [*log, "3"]


def test_a_process_that_was_taken_over_does_not_migrate(new_orders: Database) -> None:
    """Its epoch is lower than what the later owner has written."""
    database = new_orders
    pipeline, sink, ran = shop(database), Recorder(), list[int]()
    pipeline.add(sink, name="sink")
    pipeline.migrate("orders", consumer="sink")(lambda old, new: ran.append(1))
    run = Running(pipeline)
    run.streaming()
    [(oid,)] = database.execute("SELECT 'orders'::regclass::oid::bigint")
    database.execute(
        f"INSERT INTO pgcdc.schema_migrations VALUES ('shop', 'sink', {oid}, 2, 'begun', 1000)",
        ADD,
        "INSERT INTO orders VALUES (2, 'b', 1)",
    )
    error = run.ended()
    assert isinstance(error, pgcdc.PositionError)
    assert "another process has taken over consumer 'sink'" in str(error)
    assert ran == []
    assert ids(sink.changes) == [(1, 1)]


def test_policies(new_orders: Database, caplog: pytest.LogCaptureFixture) -> None:
    database = new_orders
    pipeline, warned, stopped = shop(database), Told(), Told()
    pipeline.add(warned, name="warned", on_schema_change="warn")
    pipeline.add(stopped, name="stopped", on_schema_change={"drop": "stop"})
    run = Running(pipeline)
    with caplog.at_level(logging.WARNING, "pgcdc.pipeline"):
        run.streaming()
        database.execute(ADD, "INSERT INTO orders VALUES (2, 'b', 1)")
        run.catch_up(database)
        database.execute("ALTER TABLE orders DROP COLUMN status", "INSERT INTO orders VALUES (3, 1)")
        error = run.ended()
    assert isinstance(error, pgcdc.SchemaError)
    assert str(error) == (
        "consumer 'stopped' is to stop here: table public.orders went from version 2 to 3: dropped status"
    )
    assert "on_schema_change" in (error.hint or "") and error.table == "public.orders"
    assert ids(stopped.changes) == [(1, 1), "1-2", (2, 2)]
    said = [record.getMessage() for record in caplog.records if "'warned'" in record.getMessage()]
    assert said[0] == "consumer 'warned': table public.orders went from version 1 to 2: added discount"
    again = shop(database)
    for name, sink in (("warned", warned), ("stopped", stopped)):
        again.add(sink, name=name)
    run_once(database, again)
    assert ids(warned.changes) == ids(stopped.changes) == [(1, 1), "1-2", (2, 2), "2-3", (3, 3)]


class Order(msgspec.Struct):
    id: int
    status: str | None
    discount: Decimal | None = None


def test_a_struct_with_defaults_goes_on_and_a_field_without_stops_with_one_error(new_orders: Database) -> None:
    database = new_orders
    pipeline, came = shop(database), list[Order]()

    @pipeline.on("orders", "insert", row=Order, name="typed")
    def handle(change: pgcdc.Insert[Order] | pgcdc.Update[Order]) -> None:
        came.append(change.new)

    run = Running(pipeline)
    run.streaming()
    database.execute(ADD, "INSERT INTO orders VALUES (2, 'b', 1.5)")
    run.catch_up(database)
    assert came == [Order(1, "old"), Order(2, "b", Decimal("1.50"))]
    database.execute(
        "INSERT INTO orders VALUES (3, 'c')", "ALTER TABLE orders DROP COLUMN status", "INSERT INTO orders VALUES (4)"
    )
    error = run.ended()
    assert isinstance(error, pgcdc.SchemaError)
    assert "consumer 'typed' cannot be given rows of version 3 of table public.orders" in str(error)
    assert "required field status" in str(error) and "dropped status" in str(error)
    assert "default" in (error.hint or "")
    assert [order.id for order in came] == [1, 2, 3], "what was before it came"

    class Tolerant(msgspec.Struct):
        id: int
        status: str | None = None

    again, ids = shop(database), list[int]()

    @again.on("orders", "insert", row=Tolerant, name="typed")
    def handle_again(change: pgcdc.Insert[Tolerant] | pgcdc.Update[Tolerant]) -> None:
        ids.append(change.new.id)

    run_once(database, again)
    assert ids == [4]


class Loose(msgspec.Struct):
    id: int
    status: str | None = None
    state: str | None = None


def test_a_table_that_is_renamed_may_be_followed(new_orders: Database) -> None:
    database = new_orders
    pipeline, sink, typed = shop(database), Told(), list[Any]()
    pipeline.add(sink, name="sink", on_schema_change={"rename_table": "follow"})

    @pipeline.on("orders", "insert", row=Loose, name="typed", on_schema_change="follow")
    def handle(change: pgcdc.Insert[Loose] | pgcdc.Update[Loose]) -> None:
        typed.append(change.new)

    with running(pipeline) as run:
        run.streaming()
        database.execute(
            "ALTER TABLE orders RENAME TO purchases",
            "INSERT INTO purchases VALUES (2, 'b')",
            "ALTER TABLE purchases RENAME COLUMN status TO state",
            "ALTER TABLE purchases ADD COLUMN total int",
            "INSERT INTO purchases VALUES (3, 'c', 4)",
        )
        run.catch_up(database)
    assert ids(sink.changes) == [(1, 1), "1-2", (2, 2), "2-3", (3, 3)]
    assert typed == [Loose(1, "old"), Loose(2, "b"), Loose(3, state="c")]
    renamed, more = (change for change in sink.changes if isinstance(change, SchemaChange))
    assert renamed.kinds == {"rename_table"} and renamed.summary == "was public.orders"
    assert (more.renamed, more.added) == ((("status", "state"),), ("total",))
    assert len(versions(pipeline, "purchases")) == len(versions(pipeline, "orders")) == 3


def test_a_shape_that_goes_and_comes_back_within_one_transaction(new_orders: Database) -> None:
    """All of it is in one batch: each is the next version of the one before it."""
    database = new_orders
    pipeline, sink = shop(database), Told()
    pipeline.add(sink)
    with running(pipeline) as run:
        run.streaming()
        with database.connect() as connection, connection.transaction():
            for number in range(2, 8):
                connection.execute(f"INSERT INTO orders (id) VALUES ({number})")
                connection.execute(
                    f"ALTER TABLE orders {'DROP' if number % 2 else 'ADD'} COLUMN x {'int' * (1 - number % 2)}"
                )
        database.execute("INSERT INTO orders (id) VALUES (9)")
        run.catch_up(database)
    wanted: list[Any] = [(1, 1), (2, 1)]
    for version, number in zip(range(2, 8), (3, 4, 5, 6, 7, 9), strict=True):
        wanted += [f"{version - 1}-{version}", (number, version)]
    assert ids(sink.changes) == wanted


class Gate(Recorder):
    """Takes nothing of the stream before it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def write(self, batch: pgcdc.Batch) -> None:
        self.reached.set()
        assert self.go_on.wait(2 * DEADLINE)
        super().write(batch)


def test_a_consumer_that_joins_waits_for_versions_that_the_source_has_not_seen(new_orders: Database) -> None:
    """Its snapshot has a shape that comes after the next: numbers go up for both, and mean the same."""
    database = new_orders
    first = shop(database)
    first.add(Recorder(), name="slow")
    run_once(database, first)
    pipeline, slow, late = shop(database, max_rows_in_flight=1), Gate(), Told()
    pipeline.add(slow, name="slow")
    pipeline.add(late, name="late")
    asked = threading.Event()

    def told(method: Any) -> Any:
        def call(*arguments: Any) -> Any:
            asked.set()
            return method(*arguments)

        return call

    with contextlib.ExitStack() as stack:
        for name in ("fits", "begin"):
            stack.enter_context(mock.patch.object(Versioning, name, told(getattr(Versioning, name))))
        # A slot waits for it, so the snapshot is taken when all of the following is done.
        writing = stack.enter_context(database.connect())
        writing.execute("BEGIN; CREATE TABLE another (id int)")
        stack.callback(slow.go_on.set)
        run = stack.enter_context(running(pipeline))
        run.streaming()
        database.execute("INSERT INTO orders VALUES (2, 'b')")
        assert slow.reached.wait(DEADLINE)
        with database.connect() as connection, connection.transaction():
            [(before,)] = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchall()
            connection.execute("INSERT INTO orders VALUES (3, 'b')")
        written = pgcdc.parse_lsn(before)  # its commit may be in another read, for which there is no room
        until(lambda: pipeline.statistics().source.received_lsn >= written, "the source has a row that finds no room")
        database.execute(
            "ALTER TABLE orders ADD COLUMN x int",
            "INSERT INTO orders VALUES (4, 'c', 1)",
            "ALTER TABLE orders ADD COLUMN y int",
        )
        writing.execute("COMMIT")
        assert asked.wait(DEADLINE)
        slow.go_on.set()
        database.execute("INSERT INTO orders VALUES (5, 'd', 1, 1)")
        run.catch_up(database)
    assert ids(slow.changes) == [(2, 1), (3, 1), (4, 2), (5, 3)]
    assert ids(late.changes) == [(1, 3), (2, 3), (3, 3), (4, 3), (5, 3)]
    assert [version for version, _ in versions(pipeline)] == [1, 2, 3]


def test_a_table_altered_before_and_behind_a_snapshot_is_copied_again(
    new_orders: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source has seen the shape behind it before the one of the snapshot could be taken down."""
    database = new_orders
    first = shop(database)
    first.add(Recorder(), name="early")
    run_once(database, first)
    database.execute("ALTER TABLE orders ADD COLUMN x int")
    pipeline, early, late = shop(database), Recorder(), Told()
    pipeline.add(early, name="early")
    pipeline.add(late, name="late")
    begin, snapshots = Versioning.begin, list[int]()

    def slowly(versioning: Versioning, relations: Any, lsn: int, wait: Any) -> bool:
        snapshots.append(lsn)
        if len(snapshots) == 1:
            database.execute("ALTER TABLE orders ADD COLUMN y int", "INSERT INTO orders VALUES (2, 'b', 1, 1)")
            until(lambda: bool(early.changes), "the source is ahead")
        return begin(versioning, relations, lsn, wait)

    monkeypatch.setattr(Versioning, "begin", slowly)
    with running(pipeline) as run:
        run.streaming()
        run.catch_up(database)
        database.execute("INSERT INTO orders VALUES (3, 'c', 1, 1)")
        run.catch_up(database)
    assert len(snapshots) == 2
    assert ids(early.changes) == [(2, 2), (3, 2)]
    assert ids(late.changes) == [(1, 2), (2, 2), (3, 2)]


def test_nobody_hears_of_versions_alone_but_who_asks(new_orders: Database) -> None:
    """A handler for nothing but shapes: its position goes on all the same."""
    database = new_orders
    pipeline, heard, others = shop(database), list[Any](), list[Any]()

    @pipeline.on("orders", "schema", name="watch")
    def watch(change: Any) -> None:
        heard.append(change)

    @pipeline.on("orders", "insert", name="rows")
    def rows(change: Any) -> None:
        others.append(change)

    with running(pipeline) as run:
        run.streaming()
        database.execute(ADD, "INSERT INTO orders VALUES (2, 'b', 1)", "UPDATE orders SET status = 'c'")
        run.catch_up(database)
    assert ids(heard) == ["1-2"]
    assert ids(others) == [(1, 1), (2, 2)]


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (lambda pipeline: pipeline.migrate("items"), "table 'public.items', which the pipeline does not have"),
        (
            lambda pipeline: pipeline.migrate("orders", consumer="sinc")(print),
            "consumer 'sinc', which is not registered",
        ),
        (lambda pipeline: pipeline.migrate("orders")(3), "cannot be called"),
        (
            lambda pipeline: [pipeline.migrate("orders", consumer="sink")(print) for _ in range(2)],
            "consumer 'sink' has two migrations for table public.orders",
        ),
        (
            lambda pipeline: pipeline.migrate("other", consumer="sink")(print),
            "for table public.other, which it does not",
        ),
        (lambda pipeline: pipeline.add(Told(), actions=["schema"], name="x"), "sink 'x' asks for the action 'schema'"),
    ],
)
def test_mistakes(register: Callable[[Any], Any], message: str) -> None:
    pipeline = pgcdc.Pipeline("shop", "", tables=["orders", "other"])
    pipeline.add(Recorder(), tables=["orders"], name="sink")

    def run() -> None:
        register(pipeline)
        pipeline.run()

    with pytest.raises(pgcdc.ConfigError, match=message):
        run()
