"""What a start finds: slots, positions and servers that do not fit together, unfinished copies, failed starts.

Over 400 lines because each refusal is a few lines of its own and all share what is found.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import pgcdc
import pgcdc.replication
from pgcdc import ConfigError, PositionError, SlotInUse, SlotNotFound
from pgcdc.pipeline import MemoryPositions, Move, SqlitePositions, publishing
from pgcdc.pipeline.signals import Signals
from pgcdc.replication.timeline import switch_point
from tests.pipeline.running import Running, confirmed, counted_saves, running, slots, until
from tests.pipeline.shop import ORDERS, left_behind, publications, run_once, shop
from tests.pipeline.targets import Recorder, SqliteMirror
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database

# Slots that are not as they were left.


def test_a_slot_that_was_dropped_is_not_made_again(orders: Database) -> None:
    run_once(orders, shop(orders))
    orders.execute("SELECT pg_drop_replication_slot('pgcdc_shop')", "INSERT INTO orders VALUES (2, 'lost')")
    with pytest.raises(SlotNotFound, match="'pgcdc_shop' does not exist any more") as raised:
        shop(orders).run()
    assert "destroy()" in (raised.value.hint or "")
    assert slots(orders) == []
    # An explicit wish is another thing: a new copy, and targets are emptied first.
    sink = Recorder()
    with running(shop(orders, sink, snapshot="when_needed")) as run:
        run.streaming()
    assert sink.actions == ["truncate", "insert", "insert"]


def test_a_slot_that_somebody_made_again_is_not_trusted(orders: Database) -> None:
    run_once(orders, shop(orders))
    orders.execute(
        "SELECT pg_drop_replication_slot('pgcdc_shop')",
        "INSERT INTO orders VALUES (2, 'lost')",
        "SELECT pg_create_logical_replication_slot('pgcdc_shop', 'pgoutput')",
    )
    with pytest.raises(PositionError, match=r"confirmed up to .*: what is between is lost"):
        shop(orders).run()


def test_a_slot_that_something_else_confirmed_is_noticed(orders: Database) -> None:
    run_once(orders, shop(orders))
    orders.execute(
        "INSERT INTO orders VALUES (2, 'taken by another')",
        "SELECT pg_replication_slot_advance('pgcdc_shop', pg_current_wal_lsn())",
    )
    with pytest.raises(PositionError, match="what is between is lost"):
        shop(orders).run()


def test_a_slot_whose_wal_is_gone(new_orders: Database) -> None:
    database = new_orders
    run_once(database, shop(database))
    with database.server.settings(max_slot_wal_keep_size="1MB"):

        def lost() -> bool:
            database.execute(
                "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000))", "SELECT pg_switch_wal()"
            )
            database.execute("CHECKPOINT")
            return bool(database.execute("SELECT wal_status FROM pg_replication_slots")[0][0] == "lost")

        until(lost, "the slot is lost")
        with pytest.raises(pgcdc.SlotLost, match="pgcdc_shop"):
            shop(database).run()
        assert slots(database) == ["pgcdc_shop"]
        sink = Recorder()
        with running(shop(database, sink, snapshot="when_needed")) as run:
            run.streaming()
        assert sink.actions == ["truncate", "insert"]


def test_a_slot_without_positions(orders: Database) -> None:
    orders.execute(
        "CREATE PUBLICATION pgcdc_shop FOR TABLE orders",
        "SELECT pg_create_logical_replication_slot('pgcdc_shop', 'pgoutput')",
        "INSERT INTO orders VALUES (2, 'in the slot')",
    )
    with pytest.raises(PositionError, match="no position is stored for pipeline 'shop'") as raised:
        shop(orders).run()
    assert 'snapshot="never"' in (raised.value.hint or "")
    assert slots(orders) == ["pgcdc_shop"]
    sink = Recorder()
    run_once(orders, shop(orders, sink, snapshot="never"))
    assert [change.new.id for change in sink.changes] == [2]


@pytest.mark.parametrize(("plugin", "elsewhere"), [("test_decoding", False), ("pgoutput", True)])
def test_a_slot_that_is_not_ours(new_orders: Database, plugin: str, elsewhere: bool) -> None:
    make = f"SELECT pg_create_logical_replication_slot('pgcdc_shop', '{plugin}')"
    if elsewhere:
        with new_orders.server.connect() as connection:
            connection.execute(make)
    else:
        new_orders.execute(make)
    try:
        with pytest.raises(ConfigError, match="it is not of this pipeline"):
            shop(new_orders).run()
    finally:
        with new_orders.server.connect() if elsewhere else new_orders.connect() as connection:
            connection.execute("SELECT pg_drop_replication_slot('pgcdc_shop')")


@pytest.mark.parametrize("late", [False, True], ids=["before the copy", "in its last moment"])
def test_a_slot_that_another_database_makes_meanwhile_is_left_alone(
    newest_database: Database, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """The names of slots are the cluster's, and the lock of a pipeline is its database's."""
    database = newest_database
    database.execute("CREATE TABLE orders (id bigint PRIMARY KEY)")
    made: list[bool] = []

    def make(*_: Any) -> None:
        if not made:
            made.append(True)
            with database.server.connect() as connection:
                connection.execute("SELECT pg_create_logical_replication_slot('pgcdc_shop', 'pgoutput')")

    original: Any = pgcdc.replication.Connection.create_slot if late else publishing.make

    def first(*arguments: Any, **options: Any) -> Any:
        make()
        return original(*arguments, **options)

    if late:
        monkeypatch.setattr(pgcdc.replication.Connection, "create_slot", first)
    else:
        monkeypatch.setattr(publishing, "make", first)
    try:
        with pytest.raises(ConfigError, match="already exists" if late else "it is not of this pipeline"):
            shop(database).run()
        with database.server.connect() as connection:
            found = connection.execute("SELECT database FROM pg_replication_slots WHERE slot_name = 'pgcdc_shop'")
            assert found.fetchall() == [("postgres",)]
    finally:
        with database.server.connect() as connection:
            connection.execute("SELECT pg_drop_replication_slot('pgcdc_shop')")
    with running(shop(database)) as run:
        run.streaming()


def test_a_slot_that_decodes_at_prepare_is_refused(new_orders: Database) -> None:
    """It would send rows that may be rolled back yet, also to a client that knows nothing of it (protocol fact 17)."""
    new_orders.execute("SELECT pg_create_logical_replication_slot('pgcdc_shop', 'pgoutput', false, true)")
    with pytest.raises(ConfigError, match=r"'pgcdc_shop' decodes .* prepared \(two_phase\)") as raised:
        shop(new_orders).run()
    assert "without two_phase" in (raised.value.hint or "")
    new_orders.execute("SELECT pg_drop_replication_slot('pgcdc_shop')")


class OtherSlot(MemoryPositions):
    """A store in whose last moment before the stream somebody else makes the slot again, with two_phase."""

    database: Database | None = None

    def move(self, pipeline: str, moves: Any) -> None:
        if self.database is not None:
            database, self.database = self.database, None
            database.execute(
                "SELECT pg_drop_replication_slot('pgcdc_shop')",
                "SELECT pg_create_logical_replication_slot('pgcdc_shop', 'pgoutput', false, true)",
            )
            with database.connect() as connection:
                connection.execute("INSERT INTO orders VALUES (2, 'committed')")
                connection.execute("BEGIN")
                connection.execute("INSERT INTO orders VALUES (3, 'prepared')")
                connection.execute("PREPARE TRANSACTION 'shop'")
        super().move(pipeline, moves)


def test_a_prepared_transaction_stops_the_pipeline(new_orders: Database) -> None:
    """It is not handed over as rows without a place, and nothing after it is confirmed."""
    store = OtherSlot()
    sink = Recorder()
    run_once(new_orders, shop(new_orders, sink, positions=store))
    before = len(sink.actions)
    store.database = new_orders
    try:
        with pytest.raises(ConfigError, match="slot 'pgcdc_shop' sent a transaction that is prepared") as raised:
            shop(new_orders, sink, positions=store).run()
        assert "two_phase" in (raised.value.hint or "")
        assert sink.actions[before:] in ([], ["insert"])
        assert not [change for change in sink.changes[before:] if change.new.id == 3]
    finally:
        with new_orders.connect() as connection:
            connection.execute("ROLLBACK PREPARED 'shop'")


def test_a_stream_abort_without_a_stream_does_not_stop_the_pipeline(orders: Database) -> None:
    """PostgreSQL 18 sends one for a large transaction that was rolled back with a savepoint in it."""
    sink, store = Recorder(), MemoryPositions()
    with orders.server.settings(logical_decoding_work_mem="64kB"):
        run_once(orders, shop(orders, sink, positions=store))
        with orders.connect() as connection:
            for statement in LARGE_AND_ROLLED_BACK:
                connection.execute(statement)
        orders.execute("INSERT INTO orders VALUES (2, 'behind')")
        run_once(orders, shop(orders, sink, positions=store))
    assert [change.new.id for change in sink.changes] == [1, 2]


LARGE_AND_ROLLED_BACK = (
    "BEGIN",
    "INSERT INTO orders SELECT i, 'rolled back' FROM generate_series(1001, 1400) i",
    "SAVEPOINT a",
    "INSERT INTO orders SELECT i, 'rolled back' FROM generate_series(2001, 2300) i",
    "ROLLBACK",
)


# Positions that belong elsewhere.


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"system_identifier": "1"}, "belongs to the cluster 1, but this server is"),
        ({"timeline": 7}, "on timeline 7, which is not one of its ancestors"),
        ({"slot": "other"}, "belongs to slot 'other', not 'pgcdc_shop'"),
        ({"through_lsn": 2**62}, "the server's WAL ends at"),
    ],
)
def test_positions_of_something_else(new_orders: Database, change: dict[str, Any], says: str) -> None:
    positions = MemoryPositions()
    run_once(new_orders, shop(new_orders, positions=positions))
    before = confirmed(new_orders)
    stored = positions.load("shop")["sink"]
    wrong = msgspec.structs.replace(stored, **change)
    positions.move("shop", [Move(stored, wrong)])
    new_orders.execute("INSERT INTO orders VALUES (2, 'new')")
    with pytest.raises(PositionError, match=says) as raised:
        shop(new_orders, positions=positions).run()
    assert raised.value.slot == "pgcdc_shop"
    assert raised.value.hint
    assert positions.load("shop") == {"sink": wrong}
    assert confirmed(new_orders) == before


def test_where_a_timeline_ended() -> None:
    history = "1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tbefore 2000-01-01\n# a comment 3\t0/1\n"
    assert switch_point(history, 1) == 0x3000148
    assert switch_point(history, 2) == 0x5000000
    assert switch_point(history, 3) is None


def test_a_target_that_lost_rows_or_is_of_another_server(new_orders: Database, tmp_path: Path) -> None:
    database = new_orders
    pipeline = shop(database, SqliteMirror(tmp_path / "one.db"))
    with running(pipeline) as run:
        run.streaming()
        database.execute("INSERT INTO orders VALUES (2, 'new')")
        run.catch_up(database)
    with pytest.raises(PositionError, match=r"is empty, but .* was reported durable"):
        shop(database, SqliteMirror(tmp_path / "another.db")).run()

    class Ahead(Recorder):
        def position(self) -> pgcdc.Position:
            return pgcdc.Position(2**60, 0)

    with pytest.raises(PositionError, match="filled from another server"):
        shop(database, Ahead()).run()


def test_a_consumer_that_is_gone_is_renamed_or_forgotten(new_orders: Database) -> None:
    database = new_orders
    run_once(database, shop(database))
    database.execute("INSERT INTO orders VALUES (2, 'new')")
    pipeline, sink = pgcdc.Pipeline("shop", database.dsn, tables=["orders"]), Recorder()
    pipeline.add(sink, name="target")
    with pytest.raises(PositionError, match="for consumer 'sink', which is not registered") as raised:
        pipeline.run()
    assert "rename('sink'" in (raised.value.hint or "") and "forget('sink')" in (raised.value.hint or "")
    with pytest.raises(PositionError, match="no stored position for consumer 'other'"):
        pipeline.rename("other", "target")
    pipeline.rename("sink", "target")
    run_once(database, pipeline)
    assert [change.new.id for change in sink.changes] == [2]


def test_a_new_consumer_that_wants_no_rows(orders: Database) -> None:
    run_once(orders, shop(orders))
    for key in (2, 3):
        pipeline, another = shop(orders), Recorder()
        pipeline.add(another, name="another", snapshot="never")
        with running(pipeline) as run:
            run.streaming()
            orders.execute(f"INSERT INTO orders VALUES ({key}, 'new')")
            run.catch_up(orders)
        assert [change.new.id for change in another.changes] == [key]


def test_a_table_more_is_not_published_silently(new_orders: Database) -> None:
    """A publication that is not the pipeline's is not changed by it."""
    database = new_orders
    database.execute("CREATE PUBLICATION mine FOR TABLE orders")
    run_once(database, shop(database, publication="mine"))
    database.execute("CREATE TABLE items (id bigint PRIMARY KEY)", "INSERT INTO items VALUES (1)")
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders", "items"], publication="mine")
    pipeline.add(Recorder(), name="sink")
    with pytest.raises(ConfigError, match=r"public\.items is not published by 'mine'") as raised:
        pipeline.run()
    assert "ALTER PUBLICATION" in (raised.value.hint or "")


def test_a_publication_that_was_dropped(orders: Database) -> None:
    run_once(orders, shop(orders))
    orders.execute("DROP PUBLICATION pgcdc_shop")
    with pytest.raises(pgcdc.PublicationNotFound, match="'pgcdc_shop' of pipeline 'shop' does not exist any more"):
        shop(orders).run()
    assert publications(orders) == []


def test_a_publication_that_is_dropped_while_it_runs(orders: Database) -> None:
    """The same advice as at a start (fault F6); the server sees it at the next change."""
    run = Running(shop(orders))
    run.streaming()
    orders.execute("DROP PUBLICATION pgcdc_shop", "INSERT INTO orders VALUES (2, 'unseen')")
    error = run.ended()
    assert isinstance(error, pgcdc.PublicationNotFound)
    assert "Pipeline.destroy()" in (error.hint or "")


# One after the other.


def test_a_second_signal_does_not_stop_the_next_run(new_orders: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come when the run has ended and `run` has not returned yet."""
    pipeline = shop(new_orders)
    close = Signals.close

    def signal_and_close(signals: Signals) -> None:
        signal.raise_signal(signal.SIGTERM)
        close(signals)

    monkeypatch.setattr(Signals, "close", signal_and_close)
    for _ in range(2):
        streamed: list[bool] = []

        def stop_when_streaming(streamed: list[bool] = streamed) -> None:
            until(lambda: pipeline.statistics().source.phase == "streaming" or bool(streamed), "streaming")
            streamed.append(pipeline.statistics().source.phase == "streaming")
            pipeline.stop()

        stopper = threading.Thread(target=stop_when_streaming)
        stopper.start()
        pipeline.run()
        streamed.append(False)
        stopper.join()
        assert streamed[0], "it was stopped before it streamed"


# Two at once.


def test_a_second_process_is_told_who_works(orders: Database) -> None:
    first = shop(orders)
    with running(first) as run:
        run.streaming()
        with pytest.raises(SlotInUse, match=r"slot 'pgcdc_shop' \(server process \d+\)"):
            shop(orders).run()
        with pytest.raises(SlotInUse):
            shop(orders).destroy()
        orders.execute("INSERT INTO orders VALUES (2, 'new')")
        run.catch_up(orders)
    assert run.error is None


def test_a_second_process_does_not_drop_a_slot_whose_copy_goes_on(new_orders: Database) -> None:
    copying, go_on = threading.Event(), threading.Event()

    class Slow(Recorder):
        def write(self, batch: pgcdc.Batch) -> None:
            copying.set()
            assert go_on.wait(30)
            super().write(batch)

    sink = Slow()
    with running(shop(new_orders, sink)) as run:
        assert copying.wait(20)
        with pytest.raises(SlotInUse):
            shop(new_orders).run()
        # What is handed over is not yet durable: the copy is not over, and nothing is streamed.
        assert new_orders.execute("SELECT snapshot FROM pgcdc.positions") == [("begun",)]
        assert run.pipeline.statistics().source.phase == "snapshot"
        go_on.set()
        run.streaming()
    assert sink.actions == ["insert"]


def test_a_start_that_was_given_up_does_not_go_on_behind_our_back(new_orders: Database) -> None:
    """The store blocks while it opens, the run is stopped meanwhile; when the store answers, nothing may be made."""
    # What is made and then cleaned up again counts too.
    new_orders.execute(
        "CREATE TABLE made (what text)",
        "CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO public.made VALUES (tg_tag); END $$",
        "CREATE EVENT TRIGGER note ON ddl_command_end WHEN TAG IN ('CREATE PUBLICATION') EXECUTE FUNCTION note()",
    )
    opening, go_on = threading.Event(), threading.Event()

    class Blocked(MemoryPositions):
        def open(self) -> None:
            opening.set()
            assert go_on.wait(60)

    run = Running(shop(new_orders, positions=Blocked()))
    assert opening.wait(20)
    run.stop()
    assert run.error is None
    [source] = [thread for thread in threading.enumerate() if thread.name == "pgcdc-shop-source"]
    go_on.set()
    source.join(30)
    assert not source.is_alive()
    assert new_orders.execute("SELECT * FROM made") == []
    assert left_behind(new_orders) == ([], [], 0)


def test_who_was_taken_over_is_refused(new_orders: Database) -> None:
    """A process that slept while another one took over must not store or confirm anything (fault F19)."""
    positions, sink = MemoryPositions(), Recorder()
    run = Running(shop(new_orders, sink, positions=positions))
    run.streaming()
    stored = positions.load("shop")["sink"]
    positions.move("shop", [Move(stored, msgspec.structs.replace(stored, epoch=stored.epoch + 1))])
    before = confirmed(new_orders)
    new_orders.execute("INSERT INTO orders VALUES (2, 'new')")
    error = run.ended()
    assert isinstance(error, PositionError)
    assert "another process has taken over consumer 'sink'" in str(error)
    assert confirmed(new_orders) == before


# Other modes, and the end of a pipeline.


def test_never_a_copy(orders: Database) -> None:
    for key in (2, 3):
        sink = Recorder()
        with running(shop(orders, sink, snapshot="never")) as run:
            run.streaming()
            orders.execute(f"INSERT INTO orders VALUES ({key}, 'new')")
            run.catch_up(orders)
        assert [change.new.id for change in sink.changes] == [key]


def test_destroy_leaves_nothing_and_what_is_not_ours(orders: Database, tmp_path: Path) -> None:
    run_once(orders, shop(orders))
    shop(orders).destroy()
    shop(orders).destroy()
    assert left_behind(orders) == ([], [], 0)
    orders.execute("CREATE PUBLICATION mine FOR TABLE orders")
    settings = {"publication": "mine", "positions": SqlitePositions(tmp_path / "positions.db")}
    run_once(orders, shop(orders, **settings))
    shop(orders, **settings).destroy()
    assert left_behind(orders) == ([], ["mine"], 0)


def test_the_pipelines_own_writes_do_not_come_back(new_orders: Database) -> None:
    """A publication of all tables has the positions' table in it: its changes reach nobody and move nothing."""
    database = new_orders
    database.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    sink = Recorder()
    pipeline = shop(database, sink, publication="everything")
    with counted_saves() as saves, running(pipeline) as run:
        run.streaming()
        database.execute("INSERT INTO orders VALUES (2, 'new')")
        run.catch_up(database)
        until(lambda: confirmed(database) >= sink.changes[-1].commit_lsn, "stored and confirmed")
        # Each write of a position makes WAL, which the stream brings, which must not make the next write.
        written = "SELECT xmin::text FROM pgcdc.positions"
        before = database.execute(written)
        saves(4)
        assert database.execute(written) == before
    assert [change.new.id for change in sink.changes] == [1, 2]


def test_a_copy_of_the_database_leaves_the_slot_of_the_original(new_orders: Database) -> None:
    """Names of slots are a server's, and the copy has the positions that go with one."""
    run_once(new_orders, shop(new_orders))
    name = f"{new_orders.name}_copy"
    with new_orders.server.connect() as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{new_orders.name}"')
    try:
        copy = shop(type(new_orders)(new_orders.server, name))
        with pytest.raises(pgcdc.Error):
            copy.run()
        [step] = [one for one in copy.plan_destroy().steps if one.kind == "slot"]
        assert (step.state, new_orders.name in step.says) == ("stays", True)
        copy.destroy()
    finally:
        with new_orders.server.connect() as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    assert slots(new_orders) == ["pgcdc_shop"]
    run_once(new_orders, shop(new_orders))


def test_a_server_without_logical_decoding_is_left_as_it_is(newest_database: Database) -> None:
    with PostgresServer(newest_database.server.version, {"wal_level": "replica"}) as server:
        database = type(newest_database)(server, "postgres")
        database.execute(ORDERS)
        with pytest.raises(ConfigError, match="wal_level is replica"):
            shop(database).run()
        assert database.execute("SELECT FROM pg_namespace WHERE nspname = 'pgcdc'") == []
