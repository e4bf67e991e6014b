"""What a pipeline sees of the partitions of its tables: routine does not stop it, rows that are in no stream do.

Over 400 lines because each way in which a partition comes, goes and returns is listed here, in one place.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
import pgcdc.replication
from pgcdc import ConfigError, ConnectionLost, PositionError
from pgcdc.pipeline import SqlitePositions, guarding, publishing, source
from pgcdc.pipeline.guarding import Guard
from pgcdc.pipeline.seen import Seen, full_xid
from pgcdc.pipeline.source import Source
from tests.pipeline.running import DEADLINE, Running, confirmed, flushed, running, until
from tests.pipeline.targets import Recorder, SqliteMirror, mirrored

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pgcdc.pipeline import Move
    from pgcdc.replication import Connection
    from tests.conftest import Database

# With defaults, a check, and keys: making a partition of it writes most rows of the catalog more than once.
ORDERS = (
    "CREATE SEQUENCE numbers",
    "CREATE TABLE orders (id bigint DEFAULT nextval('numbers') CONSTRAINT positive CHECK (id > 0),"
    " status text NOT NULL DEFAULT 'new', PRIMARY KEY (id)) PARTITION BY RANGE (id)",
    "CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (1) TO (100)",
    "INSERT INTO orders VALUES (1, 'old')",
)
APART = "CREATE TABLE orders_2 (LIKE orders INCLUDING ALL)"
ATTACH = "ALTER TABLE orders ATTACH PARTITION orders_2 FOR VALUES FROM (100) TO (200)"
DETACH = "ALTER TABLE orders DETACH PARTITION orders_1"
ATTACH_AGAIN = "ALTER TABLE orders ATTACH PARTITION orders_1 FOR VALUES FROM (1) TO (100)"


class Watch:
    """A guard, and what it is made of."""

    def __init__(self, connection: Connection, *tables: str, publication: str = "mine") -> None:
        self.connection = connection
        self._settings = pgcdc.Pipeline("shop", connection.dsn, tables=tables, publication=publication)._settings
        self.guard = self.anew()

    def anew(self) -> Guard:
        """A guard of the next start."""
        found = publishing.published(self.connection, self._settings)
        return Guard(self.connection, self._settings, found.tables)

    def says(self) -> str | None:
        """What it says about what is different now."""
        difference = self.guard.check(self.connection)
        return None if difference is None else str(difference.error)

    def missed(self, seen: Seen) -> set[int]:
        return self.anew().missed(self.connection, seen)


@contextlib.contextmanager
def watching(database: Database, *setup: str, tables: tuple[str, ...] = ("orders",)) -> Iterator[Watch]:
    database.execute(*setup)
    with pgcdc.connect(database.dsn) as connection:
        yield Watch(connection, *tables)


@pytest.fixture
def watch(database: Database) -> Iterator[Watch]:
    publication = "CREATE PUBLICATION mine FOR TABLE orders WITH (publish_via_partition_root = true)"
    with watching(database, *ORDERS, publication) as watch:
        yield watch


def in_one(database: Database, *statements: str) -> None:
    """Runs statements in one transaction."""
    with database.connect() as connection, connection.transaction():
        for statement in statements:
            connection.execute(statement)


def test_routine(database: Database, watch: Watch) -> None:
    """What is made as a partition is well with rows in it, in whatever transaction; what is attached, when empty."""
    before = watch.guard.seen
    in_one(
        database,
        "CREATE TABLE a PARTITION OF orders FOR VALUES FROM (200) TO (300)",
        "INSERT INTO orders VALUES (200)",
        "SAVEPOINT one",
        "CREATE TABLE b PARTITION OF orders FOR VALUES FROM (300) TO (400) PARTITION BY RANGE (id)",
        "RELEASE one",
        "SAVEPOINT two",
        "CREATE TABLE b_1 PARTITION OF b FOR VALUES FROM (300) TO (350)",
        "INSERT INTO orders VALUES (300)",
    )
    assert watch.says() is None
    in_one(database, APART, ATTACH)
    assert watch.says() is None
    database.execute("INSERT INTO orders VALUES (100)")
    assert watch.says() is None
    if database.server.version > 14:
        assert watch.missed(before) == {oid(database, "orders")}, "at a start, it is not known that it was empty"
    assert watch.missed(watch.guard.seen) == set(), "that is why it is stored"
    database.execute(
        "ALTER TABLE orders DETACH PARTITION b CONCURRENTLY",
        "DROP TABLE b",
        "ALTER TABLE orders DETACH PARTITION a",
        "ALTER TABLE orders_2 SET (fillfactor = 50)",
        "ALTER TABLE orders_2 RENAME TO orders_b",
        "ALTER TABLE orders_b OWNER TO CURRENT_USER",
        "CREATE INDEX ON orders (status)",
        "VACUUM (ANALYZE, FREEZE)",
        "VACUUM FULL orders_b",
        "CREATE TABLE rest PARTITION OF orders DEFAULT",
        "INSERT INTO orders VALUES (1000)",
        "VACUUM FULL pg_catalog.pg_inherits",
        "VACUUM FULL pg_catalog.pg_attribute",
    )
    assert watch.says() is None
    assert watch.missed(watch.guard.seen) == set()


def oid(database: Database, table: str) -> int:
    [(oid,)] = database.execute(f"SELECT '{table}'::regclass::oid::bigint")
    return int(oid)


LOADED = ("INSERT INTO orders_2 VALUES (100)",)
# A dropped column stays as it was made.
DROPPED = (APART, "ALTER TABLE orders_2 ADD extra int", "ALTER TABLE orders_2 DROP extra", *LOADED, ATTACH)
MADE_BUT_DROPPED = (
    "CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (100) TO (200)",
    "ALTER TABLE orders DETACH PARTITION orders_2",
    "ALTER TABLE orders_2 ADD extra int",
    "ALTER TABLE orders_2 DROP extra",
    *LOADED,
    ATTACH,
)
TREE = (
    "CREATE TABLE orders_2 (LIKE orders INCLUDING ALL) PARTITION BY RANGE (id)",
    "CREATE TABLE orders_2a PARTITION OF orders_2 FOR VALUES FROM (100) TO (150)",
    "INSERT INTO orders_2 VALUES (100)",
)


@pytest.mark.parametrize(
    ("change", "together"),
    [
        ((APART, *LOADED, ATTACH), True),
        ((APART, *LOADED, ATTACH), False),
        (("SAVEPOINT one", APART, *LOADED, "RELEASE one", ATTACH), True),
        ((*TREE, ATTACH), True),
        (DROPPED, True),
        (MADE_BUT_DROPPED, True),
        ((DETACH, "INSERT INTO orders_1 VALUES (2)", ATTACH_AGAIN), True),
        ((DETACH, "INSERT INTO orders_1 VALUES (2)", ATTACH_AGAIN), False),
    ],
    ids=[
        "in one transaction",
        "in several",
        "in a savepoint",
        "a tree",
        "a dropped column",
        "made as one, and a dropped column",
        "detached and back",
        "and back later",
    ],
)
def test_rows_from_before(database: Database, watch: Watch, change: tuple[str, ...], together: bool) -> None:
    before = watch.guard.seen
    if together:
        in_one(database, *change)
    else:
        database.execute(*change)
    partition = "orders_1" if DETACH in change else "orders_2"
    database.execute(f"ALTER TABLE {partition} ALTER status SET STATISTICS 10")
    said = f"partition public.{partition} was attached to table public.orders while pipeline 'shop' "
    for _ in range(2):
        assert (watch.says() or "").startswith(said + "ran, and is not empty"), "it is not forgotten"
    assert watch.guard.seen == before
    if database.server.version > 14:
        assert watch.missed(before) == {oid(database, "orders")}
    else:
        with pytest.raises(PositionError, match="did not run"):
            watch.missed(before)


def test_a_partition_that_was_emptied(database: Database, watch: Watch) -> None:
    """PostgreSQL 14 would not send what is written to it later: it has decoded a row of it that was not published."""
    in_one(database, APART, *LOADED)
    database.execute("TRUNCATE orders_2", ATTACH)
    assert (watch.says() is None) == (database.server.version > 14)


def test_what_is_not_in_the_wal(new_database_of_orders: Database) -> None:
    """An unlogged partition, at a start and later; a table of all tables that is unlogged, or dropped."""
    database = new_database_of_orders
    setup = (
        "CREATE TABLE other (id bigint)",
        "CREATE PUBLICATION mine FOR ALL TABLES WITH (publish_via_partition_root = true)",
    )
    with watching(database, *setup, tables=("orders", "other")) as watch:
        assert watch.guard.unlogged() is None
        database.execute("ALTER TABLE other SET UNLOGGED")
        assert (watch.says() or "").startswith("table public.other was made unlogged while pipeline 'shop' ran")
        database.execute("ALTER TABLE other SET LOGGED")
        assert watch.says() is None
        database.execute("ALTER TABLE orders_1 SET UNLOGGED")
        said = "partition public.orders_1 of table public.orders is unlogged"
        assert (watch.says() or "").startswith(said)
        difference = watch.anew().unlogged()
        assert difference is not None and str(difference.error).startswith(said)
        assert difference.tables == [oid(database, "orders")]
        database.execute("ALTER TABLE orders_1 SET LOGGED", "DROP TABLE other")
        assert (watch.says() or "").startswith("table public.other was dropped while pipeline 'shop' ran")


def test_a_foreign_partition_is_said(new_database_of_orders: Database, caplog: pytest.LogCaptureFixture) -> None:
    setup = (
        "CREATE FOREIGN DATA WRAPPER nothing",
        "CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing",
        "CREATE PUBLICATION mine FOR TABLE orders WITH (publish_via_partition_root = true)",
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey",
    )
    with watching(new_database_of_orders, *setup) as watch:
        new_database_of_orders.execute(
            "CREATE FOREIGN TABLE far PARTITION OF orders FOR VALUES FROM (500) TO (600) SERVER nowhere"
        )
        for _ in range(2):
            assert watch.says() is None
    assert caplog.text.count("partition public.far of table public.orders is a foreign table") == 1


def test_the_way_by_which_a_partition_is_published(new_database_of_orders: Database) -> None:
    """A pipeline of a leaf that is published because what it is a partition of is."""
    database = new_database_of_orders
    with watching(database, "CREATE PUBLICATION mine FOR TABLE orders", tables=("orders_1",)) as watch:
        before = watch.guard.seen
        database.execute("CREATE TABLE a PARTITION OF orders FOR VALUES FROM (200) TO (300)", "ANALYZE")
        assert watch.says() is None and watch.missed(before) == set()
        in_one(database, DETACH, "INSERT INTO orders_1 VALUES (2)", ATTACH_AGAIN)
        assert (watch.says() or "").startswith("table public.orders_1 was attached to, or detached from, a partitioned")
        assert watch.missed(before) == {oid(database, "orders_1")}


def test_what_a_published_table_becomes_a_partition_of(new_database_of_orders: Database) -> None:
    """Its rows come as those of the other one from then on."""
    publication = "CREATE PUBLICATION mine FOR ALL TABLES WITH (publish_via_partition_root = true)"
    with watching(new_database_of_orders, publication) as watch:
        new_database_of_orders.execute(
            "CREATE TABLE whole (LIKE orders INCLUDING ALL) PARTITION BY RANGE (id)",
            "ALTER TABLE whole ATTACH PARTITION orders FOR VALUES FROM (1) TO (1000)",
        )
        assert (watch.says() or "").startswith("table public.orders was attached to, or detached from, a partitioned")


def test_a_table_that_leaves_a_published_schema(new_database_of_orders: Database) -> None:
    database = new_database_of_orders
    setup = (
        "CREATE SCHEMA away",
        "CREATE TABLE plain (id bigint)",
        "CREATE PUBLICATION mine FOR TABLES IN SCHEMA public",
    )
    with watching(database, *setup, tables=("plain",)) as watch:
        before = watch.guard.seen
        database.execute(
            "ALTER TABLE plain OWNER TO CURRENT_USER",
            "ALTER TABLE plain ADD COLUMN more int",
            "VACUUM FULL plain",
            "VACUUM FULL pg_catalog.pg_depend",
        )
        assert watch.says() is None and watch.missed(before) == set()
        in_one(
            database,
            "ALTER TABLE plain SET SCHEMA away",
            "INSERT INTO away.plain VALUES (1)",
            "ALTER TABLE away.plain SET SCHEMA public",
        )
        assert (watch.says() or "").startswith("table public.plain was moved to another schema than publication 'mine'")
        assert watch.missed(before) == {oid(database, "plain")}


@pytest.fixture
def new_database_of_orders(newest_database: Database) -> Database:
    newest_database.execute(*ORDERS)
    return newest_database


def test_a_transaction_that_was_open_at_a_look_was_not_seen(newest_database: Database, watch_newest: Watch) -> None:
    """It has a lower ID than others that were: those it is told apart from one by one."""
    database, watch = newest_database, watch_newest
    with database.connect() as connection, connection.transaction():
        connection.execute("SELECT pg_current_xact_id()")
        in_one(database, "CREATE TABLE apart (LIKE orders INCLUDING ALL)")
        database.execute("ALTER TABLE orders ATTACH PARTITION apart FOR VALUES FROM (500) TO (600)")
        assert watch.says() is None
        seen = Seen.parse(str(watch.guard.seen))
        database.execute("INSERT INTO orders VALUES (500)")
        connection.execute("SAVEPOINT one")
        for statement in (APART, *LOADED, ATTACH):
            connection.execute(statement)
        assert seen.newer, "it was seen above the oldest open transaction"
        assert watch.missed(seen) == set(), "nothing of the open one is seen"
    assert watch.missed(seen) == {oid(database, "orders")}


@pytest.fixture
def watch_newest(newest_database: Database) -> Iterator[Watch]:
    publication = "CREATE PUBLICATION mine FOR TABLE orders WITH (publish_via_partition_root = true)"
    with watching(newest_database, *ORDERS, publication) as watch:
        yield watch


def test_what_was_seen_is_stored() -> None:
    seen = Seen.of(1000, {5, 999, 1000, 2**40})
    assert Seen.parse(str(seen)) == seen
    assert [seen.has(xid) for xid in (0, 999, 1000, 1001, 2**40)] == [True, True, True, False, True]
    assert Seen.parse(str(Seen.of(7, ()))) == Seen(7, frozenset())


@pytest.mark.parametrize(
    ("xid", "next_xid", "full"),
    [
        (700, 701, 700),
        (2, 2**40, 0),
        (700, (5 << 32) + 701, (5 << 32) + 700),
        (2**32 - 1, (5 << 32) + 10, (5 << 32) - 1),
        (10, (5 << 32) + 10, (5 << 32) + 10),
        (11, (5 << 32) + 10, (4 << 32) + 11),
    ],
)
def test_the_bits_that_a_row_does_not_have(xid: int, next_xid: int, full: int) -> None:
    assert full_xid(str(xid), next_xid) == full


# A pipeline that runs.


def shop(database: Database, folder: Path) -> pgcdc.Pipeline:
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    pipeline.add(SqliteMirror(folder / "mirror.db"), name="mirror")
    return pipeline


def assert_mirrored(database: Database, folder: Path) -> None:
    rows = database.execute("SELECT id || '|' || status FROM orders ORDER BY id")
    assert mirrored(folder / "mirror.db", "orders") == [row for (row,) in rows]


def test_a_running_pipeline_stops_and_the_next_start_copies(database: Database, tmp_path: Path) -> None:
    """PostgreSQL 14 needs another slot: the next start says so."""
    database.execute(*ORDERS)
    run = Running(shop(database, tmp_path))
    run.streaming()
    database.execute("CREATE TABLE orders_3 PARTITION OF orders FOR VALUES FROM (200) TO (300)")
    database.execute("INSERT INTO orders VALUES (200)")
    run.catch_up(database)
    in_one(database, APART, *LOADED, ATTACH)
    attached = flushed(database)
    error = run.ended()
    assert isinstance(error, PositionError) and "partition public.orders_2 was attached" in str(error)
    assert error.table == "public.orders" and confirmed(database) <= attached
    database.execute("INSERT INTO orders VALUES (101)")
    if database.server.version == 14:
        run = Running(shop(database, tmp_path))
        error = run.ended()
        assert isinstance(error, PositionError) and "did not run" in str(error) and "destroy()" in (error.hint or "")
        (tmp_path / "mirror.db").unlink()
        shop(database, tmp_path).destroy()
    with running(shop(database, tmp_path)) as run:
        run.streaming()
        run.catch_up(database)
        database.execute("INSERT INTO orders VALUES (102)")
        run.catch_up(database)
    assert_mirrored(database, tmp_path)


@pytest.mark.parametrize("full", [False, True], ids=["nothing comes", "lanes are full"])
def test_it_looks_though_there_is_nothing_to_confirm(
    newest_database: Database, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """What was just attached is empty as a rule, and will not be for ever."""
    database, go_on = newest_database, threading.Event()
    database.execute(*ORDERS)
    monkeypatch.setattr(Source, "_confirm", lambda source, tenure: None)

    class Slow(Recorder):
        def write(self, batch: pgcdc.Batch) -> None:
            super().write(batch)
            assert not full or batch.first_position is None or batch.first_position.index < 0 or go_on.wait(DEADLINE)

    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"], max_rows_in_flight=2)
    pipeline.add(Slow(), name="sink")
    run = Running(pipeline)
    run.streaming()
    if full:
        for number in range(2, 9):
            database.execute(f"INSERT INTO orders VALUES ({number})")
        until(lambda: run.pipeline.statistics().consumers["sink"].queued_rows >= 2, "the lane is full")
    in_one(database, APART, *LOADED, ATTACH)
    until(lambda: run.pipeline.statistics().source.phase == "stopped", "it has noticed")
    go_on.set()
    error = run.ended()
    assert isinstance(error, PositionError) and "partition public.orders_2 was attached" in str(error)


def test_an_attached_partition_that_is_locked_keeps_nothing_waiting(
    newest_database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not known whether it is empty: the stream goes on, and is confirmed when that is known."""
    database, sink, looking = newest_database, Recorder(), threading.Lock()
    monkeypatch.setattr(guarding, "PATIENCE", 10 * DEADLINE)  # whoever waits for the lock waits too long
    monkeypatch.setattr(source, "LONGEST_BLIND", 0.1)
    check = Guard.check

    def checks(guard: Guard, connection: Connection) -> Any:
        with looking:
            return check(guard, connection)

    monkeypatch.setattr(Guard, "check", checks)
    database.execute(*ORDERS, "CREATE TABLE plain (id bigint PRIMARY KEY)", APART)
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders", "plain"])
    pipeline.add(sink, name="sink")
    with running(pipeline) as run, database.connect() as other:
        run.streaming()
        run.catch_up(database)
        with other.transaction():
            with looking:
                database.execute(ATTACH)
                attached = flushed(database)
                other.execute("LOCK orders_2 IN ACCESS EXCLUSIVE MODE")
            until(lambda: "nothing is confirmed: a partition that was attached is locked" in caplog.text, "it is seen")
            for number in range(3):
                database.execute(f"INSERT INTO plain VALUES ({number})")
                run.catch_up(database)
            assert [change.new.id for change in sink.changes] == [1, 0, 1, 2]
            assert confirmed(database) <= attached
        until(lambda: confirmed(database) > attached, "it is confirmed")


def test_changed_while_the_slot_was_made(newest_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the snapshot, and before what is published is looked at again: the leaves are the same then."""
    database = newest_database
    database.execute(*ORDERS)
    create_slot = pgcdc.replication.Connection.create_slot

    def slowly(connection: Connection, *arguments: Any, **options: Any) -> Any:
        slot = create_slot(connection, *arguments, **options)
        in_one(database, DETACH, "INSERT INTO orders_1 VALUES (2)", ATTACH_AGAIN)
        return slot

    monkeypatch.setattr(pgcdc.replication.Connection, "create_slot", slowly)
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    pipeline.add(Recorder(), name="sink")
    error = Running(pipeline).ended()
    assert isinstance(error, PositionError) and "partition public.orders_1 was attached" in str(error)


def test_attached_while_it_is_stopped(
    newest_database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also what was taken out of its publication, and put back, meanwhile; and a run on which nothing happened."""
    database = newest_database
    database.execute(*ORDERS)

    def run_once() -> None:
        with running(shop(database, tmp_path)) as run:
            run.streaming()
            run.catch_up(database)
        assert_mirrored(database, tmp_path)

    run_once()
    in_one(database, APART, *LOADED, ATTACH)
    run_once()
    assert caplog.text.count("consumer 'mirror': table public.orders is copied anew") == 1
    run_once()
    database.execute("CREATE TABLE orders_3 PARTITION OF orders FOR VALUES FROM (200) TO (300)")
    database.execute("INSERT INTO orders VALUES (200)")
    run_once()
    assert caplog.text.count("is copied anew") == 1
    database.execute(
        "ALTER PUBLICATION pgcdc_shop DROP TABLE orders",
        "DELETE FROM orders WHERE id = 1",
        "ALTER PUBLICATION pgcdc_shop ADD TABLE orders",
    )
    run_once()
    assert caplog.text.count("is copied anew") == 2


class FailsOnce(SqlitePositions):
    """A store that is away for the first write of a start."""

    fails = False

    def move(self, pipeline: str, moves: Sequence[Move]) -> None:
        if self.fails:
            self.fails = False
            raise ConnectionLost("away for a moment")
        super().move(pipeline, moves)


def test_what_changed_while_it_was_stopped_is_not_forgotten_by_a_start_that_fails(
    newest_database: Database, tmp_path: Path
) -> None:
    database = newest_database
    database.execute("CREATE TABLE orders (id bigint PRIMARY KEY)")
    store = FailsOnce(tmp_path / "positions.db")

    def started() -> tuple[Running, Recorder]:
        sink = Recorder()
        pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"], positions=store)
        pipeline.add(sink, name="sink")
        return Running(pipeline), sink

    run, _ = started()
    run.streaming()
    run.stop()
    database.execute(
        "ALTER PUBLICATION pgcdc_shop DROP TABLE orders",
        "INSERT INTO orders VALUES (1)",
        "ALTER PUBLICATION pgcdc_shop ADD TABLE orders",
    )
    store.fails = True
    run, _ = started()
    assert isinstance(run.ended(), ConnectionLost)
    run, sink = started()
    run.streaming()
    run.catch_up(database)
    run.stop()
    assert [change.new.id for change in sink.changes if change.action == "insert"] == [1]


def test_what_was_found_to_be_empty_is_stored(newest_database: Database, tmp_path: Path) -> None:
    """Also before a kill: the next start knows that the rows that it has now came later."""
    database = newest_database
    database.execute(*ORDERS)
    stored = "SELECT seen FROM pgcdc.positions"
    with running(shop(database, tmp_path)) as run:
        run.streaming()
        [before] = database.execute(stored)
        in_one(database, APART, ATTACH)
        until(lambda: database.execute(stored) != [before], "it is stored that it was empty")
        database.execute("INSERT INTO orders VALUES (100)")
        run.catch_up(database)
        [(seen,)] = database.execute(stored)
    with pgcdc.connect(database.dsn) as connection:
        assert Watch(connection, "orders", publication="pgcdc_shop").missed(Seen.parse(seen)) == set()


def test_an_unlogged_partition_is_refused_until_it_is_logged(newest_database: Database, tmp_path: Path) -> None:
    """And its table is copied then: what was written to it meanwhile is in no stream."""
    database = newest_database
    database.execute(*ORDERS)
    with running(shop(database, tmp_path)) as run:
        run.streaming()
        run.catch_up(database)
    database.execute("ALTER TABLE orders_1 SET UNLOGGED", "INSERT INTO orders VALUES (2)")
    error = Running(shop(database, tmp_path)).ended()
    assert isinstance(error, ConfigError) and "orders_1 of table public.orders is unlogged" in str(error)
    database.execute((error.hint or "").split(";")[0])
    with running(shop(database, tmp_path)) as run:
        run.streaming()
        run.catch_up(database)
    assert_mirrored(database, tmp_path)


def test_a_consumer_without_copies_is_told_of(newest_database: Database, caplog: pytest.LogCaptureFixture) -> None:
    database = newest_database
    database.execute(*ORDERS)

    def pipeline() -> pgcdc.Pipeline:
        made = pgcdc.Pipeline("shop", database.dsn, tables=["orders"], snapshot="never")
        made.add(Recorder(), name="sink")
        return made

    database.execute("CREATE PUBLICATION pgcdc_shop FOR TABLE orders WITH (publish_via_partition_root = true)")
    for statement in ("SELECT 1", "; ".join((APART, *LOADED, ATTACH)), "SELECT 1"):
        database.execute(statement)
        with running(pipeline()) as run:
            run.streaming()
            run.catch_up(database)
    assert caplog.text.count("consumer 'sink' takes no copies and may lack rows of table public.orders") == 1
