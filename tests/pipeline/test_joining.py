"""Rows for those that lack them while the stream goes on: consumers and tables added later, copies that were killed."""

from __future__ import annotations

import json
import random
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from tests.pipeline.killed_copy import TABLES
from tests.pipeline.running import Running, flushed, running, slots, until
from tests.pipeline.shop import run_once, shop
from tests.pipeline.targets import Recorder, SqliteMirror, logged, mirrored
from tests.pipeline.test_kill import Program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database

ROWS = 1500


class Gate(Recorder):
    """Takes the rows of a copy only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def write(self, batch: pgcdc.Batch) -> None:
        self.reached.set()
        assert self.go_on.wait(60)
        super().write(batch)


class Writers:
    """Two writers whose transactions change all three tables; some are rolled back."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in (1, 2)]
        self.written = [0, 0]
        for thread in self._threads:
            thread.start()

    def _write(self, number: int) -> None:
        chosen = random.Random(number)
        key = number * 1_000_000
        with self._database.connect() as connection:
            while not self._stop.is_set():
                with connection.transaction(force_rollback=chosen.random() < 0.2):
                    for table in TABLES:
                        connection.execute(f"INSERT INTO {table} VALUES (%s, %s)", (key, number))
                        old = 2 * chosen.randint(1, ROWS // 2) + number
                        connection.execute(f"UPDATE {table} SET amount = amount + 1 WHERE id = %s", (old,))
                        old = 2 * chosen.randint(1, ROWS // 2) + number
                        connection.execute(f"DELETE FROM {table} WHERE id = %s", (old,))
                key += 1
                self.written[number - 1] += 1
                self._stop.wait(0.003)

    def more(self, count: int) -> None:
        """Waits until each has written so many transactions more."""
        wanted = [written + count for written in self.written]
        until(lambda: all(now >= then for now, then in zip(self.written, wanted, strict=True)), "the writers write")

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def three(database: Database) -> Database:
    for table in TABLES:
        database.execute(
            f"CREATE TABLE {table} (id bigint PRIMARY KEY, amount int)",
            f"INSERT INTO {table} SELECT g, 0 FROM generate_series(1, {ROWS}) g",
        )
    return database


def stored_tables(database: Database, consumer: str) -> set[str]:
    """The tables that a consumer is stored to have."""
    if database.execute("SELECT to_regclass('pgcdc.positions')") == [(None,)]:
        return set()
    rows = database.execute(f"SELECT tables FROM pgcdc.positions WHERE consumer = '{consumer}'")
    oids = ", ".join(json.loads(rows[0][0] or "{}")) if rows else ""
    return {name for (name,) in database.execute(f"SELECT oid::regclass::text FROM unnest('{{{oids}}}'::oid[]) oid")}


def caught_up(database: Database, consumers: int) -> None:
    """Waits until so many consumers have all their tables, and everything that is committed now."""
    wanted = flushed(database)
    database.execute("INSERT INTO a VALUES (-1, 0)", "DELETE FROM a WHERE id = -1")
    query = (
        "SELECT count(*) FROM pgcdc.positions"
        f" WHERE snapshot = 'done' AND through_lsn >= '{pgcdc.format_lsn(wanted)}'"
        f" AND (SELECT count(*) FROM json_object_keys(tables::json)) = {len(TABLES)}"
    )
    until(lambda: database.execute(query) == [(consumers,)], "everything is stored", 60)


def to_the_end(database: Database, folder: Path, writers: Writers, consumers: list[str], *arguments: str) -> None:
    """Runs the program until its consumers have everything, with writers until they have all tables."""
    program = Program(database, folder, *arguments, module="killed_copy")
    try:
        for name in consumers:
            until(lambda name=name: stored_tables(database, name) == set(TABLES), "all tables are there", 60)  # type: ignore[misc]
        writers.more(20)
        writers.stop()
        caught_up(database, len(consumers))
    finally:
        code = program.end(signal.SIGTERM)
    assert code == 0, (folder / "stderr.log").read_text()[-3000:]


def judge(database: Database, path: Path) -> None:
    """The mirror is the source, and positions only ever went up."""
    for table in TABLES:
        source = [row for (row,) in database.execute(f"SELECT id || '|' || amount FROM {table} ORDER BY id")]
        assert mirrored(path, table) == source
    positions = [position for position, *_ in logged(path)]
    assert positions == sorted(positions)


def copies(folder: Path) -> dict[str, dict[str, int]]:
    """How many rows of each table came with which snapshot."""
    found: dict[str, dict[str, int]] = {table: {} for table in TABLES}
    for line in (folder / "copied.log").read_text().splitlines():
        table, lsn, count = line.split()
        found[table][lsn] = found[table].get(lsn, 0) + int(count)
    return found


def snapshots(folder: Path) -> list[str]:
    """The snapshots that rows came with, in their order."""
    path = folder / "copied.log"
    return list(dict.fromkeys(line.split()[1] for line in path.read_text().splitlines())) if path.exists() else []


@pytest.mark.parametrize("finished", [1, 2])
def test_a_copy_that_was_killed_goes_on(three: Database, tmp_path: Path, finished: int) -> None:
    """Finished tables stay; the others are taken again whole, in another snapshot; killed again in that, once more."""
    writers = Writers(three)
    try:
        # One connection copies one table after the other, so these rows are in the next table.
        for taken, hold in enumerate((finished * ROWS + ROWS // 2, ROWS // 2), 1):
            program = Program(three, tmp_path, "--hold", str(hold), module="killed_copy")
            try:
                until(lambda: len(stored_tables(three, "mirror")) >= finished, "finished tables are stored")
                until(lambda taken=taken: len(snapshots(tmp_path)) >= taken, "it copies, and stands still then")  # type: ignore[misc]
                writers.more(5)
            finally:
                code = program.end(signal.SIGKILL)
            assert code == -signal.SIGKILL
            assert stored_tables(three, "mirror") == set(TABLES[:finished])
        to_the_end(three, tmp_path, writers, ["mirror"])
    finally:
        writers.stop()
    judge(three, tmp_path / "mirror.db")
    found = copies(tmp_path)
    last = snapshots(tmp_path)[-1]
    assert len(snapshots(tmp_path)) == 3
    for table in TABLES:
        kept = table in TABLES[:finished]
        assert (last in found[table]) is not kept, "what was finished is not taken again, what was not is"
        assert not kept or len(found[table]) == 1
    until(lambda: slots(three) == ["pgcdc_shop"], "temporary slots are gone")


def test_a_table_more_after_a_first_copy_that_was_killed(newest_database: Database, tmp_path: Path) -> None:
    """No table was finished, so all of it is begun anew; a start that fails in between changes nothing of that."""
    database = newest_database
    tables = (*TABLES, "d")
    for table in tables:
        database.execute(
            f"CREATE TABLE {table} (id bigint PRIMARY KEY, amount int)",
            f"INSERT INTO {table} SELECT g, 0 FROM generate_series(1, {ROWS}) g",
        )
    program = Program(database, tmp_path, "--hold", str(ROWS // 2), module="killed_copy")
    try:
        until(lambda: bool(snapshots(tmp_path)), "it copies, and stands still then")
    finally:
        code = program.end(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert slots(database) == ["pgcdc_shop"]

    def pipeline(sink: Recorder, *tables: str) -> pgcdc.Pipeline:
        made = pgcdc.Pipeline("shop", database.dsn, tables=tables)
        made.add(sink, name="mirror")
        return made

    for _ in range(2):
        with pytest.raises(pgcdc.ConfigError, match="absent"):
            pipeline(Recorder(), *tables, "absent").run()
        assert slots(database) == ["pgcdc_shop"]
        assert database.execute("SELECT snapshot, tables FROM pgcdc.positions") == [("begun", "{}")]
    sink = Recorder()
    run_once(database, pipeline(sink, *tables))
    inserts = [change.table for change in sink.changes if change.action == "insert"]
    assert {table: inserts.count(table) for table in tables} == dict.fromkeys(tables, ROWS)


def test_killed_at_any_moment(three: Database, tmp_path: Path) -> None:
    chosen = random.Random(three.server.version)
    writers = Writers(three)
    try:
        for late in ((), (), ("--late",), ("--late",)):
            program = Program(three, tmp_path, "--connections", "3", *late, module="killed_copy")
            writers.more(chosen.randint(1, 60))  # any moment will do
            assert program.end(signal.SIGKILL) == -signal.SIGKILL
        to_the_end(three, tmp_path, writers, ["mirror", "late"], "--late")
    finally:
        writers.stop()
    judge(three, tmp_path / "mirror.db")
    judge(three, tmp_path / "late.db")
    until(lambda: slots(three) == ["pgcdc_shop"], "temporary slots are gone")


def test_a_consumer_that_joins_beside_writers(three: Database, tmp_path: Path) -> None:
    def pipeline() -> pgcdc.Pipeline:
        made = pgcdc.Pipeline("shop", three.dsn, tables=TABLES)
        made.add(SqliteMirror(tmp_path / "mirror.db"), name="mirror")
        return made

    run_once(three, pipeline())
    both = pipeline()
    both.add(SqliteMirror(tmp_path / "late.db"), name="late")
    writers = Writers(three)
    try:
        writers.more(20)
        with running(both) as run:
            until(lambda: stored_tables(three, "late") == set(TABLES), "all tables are there")
            writers.more(20)
            writers.stop()
            run.catch_up(three)
    finally:
        writers.stop()
    judge(three, tmp_path / "mirror.db")
    judge(three, tmp_path / "late.db")
    assert logged(tmp_path / "late.db")
    until(lambda: slots(three) == ["pgcdc_shop"], "temporary slots are gone")


def test_the_others_go_on_while_one_joins(orders: Database) -> None:
    first, late = Recorder(), Gate()
    run_once(orders, shop(orders, first))
    pipeline = shop(orders, first)
    pipeline.add(late, name="late")
    with running(pipeline) as run:
        assert late.reached.wait(30)
        assert run.pipeline.statistics().source.phase == "streaming"
        progress = run.pipeline.statistics().source.snapshot
        assert progress is not None and [table.name for table in progress.tables] == ["orders"]
        orders.execute("INSERT INTO orders VALUES (2, 'new')", "UPDATE orders SET status = 'changed' WHERE id = 1")
        until(lambda: first.actions == ["insert", "insert", "update"], "the other consumer goes on")
        assert late.changes == []
        late.go_on.set()
        run.catch_up(orders)
        until(lambda: run.pipeline.statistics().source.snapshot is None, "it has joined")
        orders.execute("DELETE FROM orders WHERE id = 2")
        run.catch_up(orders)
    assert late.actions == ["insert", "insert", "update", "delete"]
    assert [change.snapshot for change in late.changes[:2]] == [True, False]
    assert first.actions == ["insert", "insert", "update", "delete"]
    positions = [change.position for change in late.changes]
    assert positions == sorted(positions)


def test_a_table_that_is_added(orders: Database) -> None:
    sink = Recorder()
    run_once(orders, shop(orders, sink))
    orders.execute("CREATE TABLE items (id bigint PRIMARY KEY)", "INSERT INTO items VALUES (10), (11)")

    def wider() -> pgcdc.Pipeline:
        pipeline = pgcdc.Pipeline("shop", orders.dsn, tables=["orders", "items"])
        pipeline.add(sink, name="sink")
        return pipeline

    orders.execute("INSERT INTO orders VALUES (2, 'before')")
    with running(wider()) as run:
        run.catch_up(orders)
        until(lambda: stored_tables(orders, "sink") == {"orders", "items"}, "it is stored")
        orders.execute("INSERT INTO items VALUES (12)", "INSERT INTO orders VALUES (3, 'after')")
        run.catch_up(orders)
    run_once(orders, wider())
    found = [(change.table, change.new.id) for change in sink.changes if change.action == "insert"]
    assert found == [("orders", 1), ("orders", 2), ("items", 10), ("items", 11), ("items", 12), ("orders", 3)]
    positions = [change.position for change in sink.changes]
    assert positions == sorted(positions)
    # What is of no interest any more, and then is again, is a table that was added.
    run_once(orders, shop(orders, sink))
    orders.execute("INSERT INTO items VALUES (13)")
    sink.changes.clear()
    with running(wider()) as run:
        run.catch_up(orders)
        until(lambda: stored_tables(orders, "sink") == {"orders", "items"}, "it is stored")
    assert [change.new.id for change in sink.changes if change.action == "insert"] == [10, 11, 12, 13]


def test_a_table_made_again_under_its_name_is_another_one(new_orders: Database) -> None:
    sink = Recorder()
    run_once(new_orders, shop(new_orders, sink))
    new_orders.execute(
        "DROP TABLE orders",
        "CREATE TABLE orders (id bigint PRIMARY KEY, status text)",
        "INSERT INTO orders VALUES (7, 'other')",
    )
    with running(shop(new_orders, sink)) as run:
        run.catch_up(new_orders)
        until(lambda: bool(stored_tables(new_orders, "sink")), "it is stored")
        until(lambda: run.pipeline.statistics().source.snapshot is None, "it has joined")
    assert sink.actions == ["insert", "truncate", "insert"]
    assert sink.changes[-1].new.id == 7


def test_a_stop_while_one_joins(orders: Database) -> None:
    """The next run takes the rows again; nothing of the server is left behind."""
    run_once(orders, shop(orders))
    pipeline, late = shop(orders), Gate()
    pipeline.add(late, name="late")
    run = Running(pipeline)
    assert late.reached.wait(30)
    run.pipeline.stop()
    late.go_on.set()
    run.ended(10)
    assert run.error is None
    until(lambda: slots(orders) == ["pgcdc_shop"], "the temporary slot is gone")
    pipeline, again = shop(orders), Recorder()
    pipeline.add(again, name="late")
    with running(pipeline) as run:
        until(lambda: again.actions[-1:] == ["insert"] or stored_tables(orders, "late") == {"orders"}, "it joins")
        run.catch_up(orders)
    assert [change.new.id for change in late.changes + again.changes if change.action == "insert"][-1] == 1


def test_a_stop_while_the_temporary_slot_is_made(new_orders: Database) -> None:
    """A slot waits for open transactions, a stop does not."""
    run_once(new_orders, shop(new_orders))
    pipeline = shop(new_orders)
    pipeline.add(Recorder(), name="late")
    with new_orders.connect() as connection, connection.transaction():
        connection.execute("INSERT INTO orders VALUES (2, 'open')")
        run = Running(pipeline)
        waits = (
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'walsender'"
            " AND wait_event_type = 'Lock'"
        )
        until(lambda: bool(new_orders.execute(waits)), "the slot waits")
        run.stop(8)
        assert run.error is None
        until(lambda: slots(new_orders) == ["pgcdc_shop"], "no slot is left")
        names = [thread.name for thread in threading.enumerate()]
        assert "pgcdc-shop-joining" not in names


def test_a_table_rewritten_while_one_joins(new_orders: Database) -> None:
    """It is empty in the snapshot, and the stream never sends its rows: another snapshot has to be taken."""
    new_orders.execute("CREATE TABLE items (id bigint PRIMARY KEY)", "INSERT INTO items VALUES (10)")
    run_once(new_orders, shop(new_orders))
    pipeline, sink = pgcdc.Pipeline("shop", new_orders.dsn, tables=["orders", "items"]), Recorder()
    pipeline.add(sink, name="sink")
    waits = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'walsender'"
        " AND wait_event_type = 'Lock'"
    )
    with new_orders.connect() as connection:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO orders VALUES (2, 'open')")
        run = Running(pipeline)
        until(lambda: bool(new_orders.execute(waits)), "the slot waits")
        new_orders.execute("VACUUM FULL items")
        connection.execute("COMMIT")
    until(lambda: stored_tables(new_orders, "sink") == {"orders", "items"} or not run.alive, "it is stored")
    run.catch_up(new_orders)
    new_orders.execute("INSERT INTO items VALUES (11)")
    run.catch_up(new_orders)
    run.stop()
    assert run.error is None
    found: list[Any] = [
        change.new.id for change in sink.changes if change.action == "insert" and change.table == "items"
    ]
    assert found == [10, 11]
