"""A projection that is built anew while writers append: nothing missing, nothing twice, in order."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc.eventstore import EventStore, EventStoreError, RebuildProgress, plan_rebuild, rebuild, rebuilding, rollback
from pgcdc.eventstore.projecting import Projecting
from tests.eventstore.revenue import (
    RIGHT,
    Closed,
    Journal,
    Revenue,
    Sold,
    faults,
    registry,
    revenue,
    right_revenue,
    store_of,
)
from tests.eventstore.test_projections import caught_up, write
from tests.pipeline.running import running
from tests.program import Program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database


def generations(database: Database, name: str = "revenue") -> list[tuple[int, int, str, str]]:
    """Number, version, status and schema of each."""
    return [
        (number, version, status, schema)
        for number, version, status, schema in database.execute(
            f"SELECT generation, version, status, tables_schema FROM es.projections WHERE name = '{name}' ORDER BY 1"
        )
    ]


class Twice(Revenue):
    """Another version: it counts double."""

    def on_sold(self, event: Sold) -> None:
        self.revenue.add(category=event.category, total=2 * event.amount, sales=1)


def doubled(database: Database) -> list[tuple[object, ...]]:
    """What version 2 has to say."""
    return [(category, 2 * total, sales) for category, total, sales in right_revenue(database)]


def test_beside_the_live_one_while_four_write(database: Database) -> None:
    """The pipeline goes on with the old class; after the swap it waits, and the program with the new one goes on."""
    with store_of(database) as store, store_of(database, ("revenue", Twice), ("journal", Journal), version=2) as newer:
        write(store, 1, 50)
        ended = threading.Event()

        def go_on(seed: int) -> None:
            while not ended.is_set():
                write(store, seed, 5)

        with running(store.pipeline(rows=50)), ThreadPoolExecutor(4) as threads:
            caught_up(store)
            writing = [threads.submit(go_on, seed) for seed in range(4)]
            try:
                told: list[RebuildProgress] = []
                done = [rebuild(newer, name, told=told.append) for name in ("revenue", "journal")]
            finally:
                ended.set()
            for one in writing:
                one.result()
        assert [one.done for one in told if one.name == "journal"][-1] == done[1].done
        assert generations(database) == [(1, 1, "retired", "es_revenue_1"), (2, 2, "live", "public")]
        with running(newer.pipeline(rows=50)):
            write(newer, 9, 20)
            caught_up(newer)
        assert faults(database) == RIGHT
        assert revenue(database) == doubled(database)
        assert str(plan_rebuild(newer, "revenue")).startswith("revenue: version 2 is live, version 2 is built in")


def test_rolled_back_it_takes_what_it_has_missed(newest_database: Database) -> None:
    with store_of(newest_database) as store, store_of(newest_database, ("revenue", Twice), version=2) as newer:
        write(store, 1, 20)
        with running(store.pipeline()):
            caught_up(store)
        newest_database.execute("CREATE ROLE reader_of_revenue", "GRANT SELECT ON revenue TO reader_of_revenue, PUBLIC")
        try:
            with pytest.raises(pgcdc.ConfigError, match="there is no generation that was live before"):
                rollback(newer, "revenue")
            rebuild(newer, "revenue")
            assert revenue(newest_database) == doubled(newest_database)
            granted = "SELECT count(*) FROM pg_class c, aclexplode(relacl) a WHERE c.oid = 'public.revenue'::regclass"
            assert newest_database.execute(f"{granted} AND a.grantee <> c.relowner") == [(2,)]
        finally:
            newest_database.execute("DROP OWNED BY reader_of_revenue", "DROP ROLE reader_of_revenue")
        write(store, 2, 20)
        rollback(newer, "revenue")
        assert generations(newest_database) == [(1, 1, "live", "public"), (2, 2, "retired", "es_revenue_2")]
        with running(store.pipeline()):
            caught_up(store)
        assert revenue(newest_database) == right_revenue(newest_database)
        rebuild(newer, "revenue")  # and again: of those that were replaced one stays
        assert generations(newest_database) == [(1, 1, "retired", "es_revenue_1"), (3, 2, "live", "public")]
        assert revenue(newest_database) == doubled(newest_database)


def test_what_was_parked_comes_back_by_a_rebuild(newest_database: Database) -> None:
    class Failing(Revenue):
        def on_closed(self, event: Closed) -> None:
            raise ValueError

    store, mended = store_of(newest_database, ("revenue", Failing)), store_of(newest_database)
    with store, mended, running(store.pipeline()):
        store.append("till-1", [Sold("toys", 1)])
        caught_up(store)
        store.append("till-1", [Closed()])
        with pytest.raises(EventStoreError, match="parked"):
            caught_up(store)
        with pytest.raises(EventStoreError, match="cannot be built: ValueError at event 2 of the stream till-1"):
            rebuild(store, "revenue")
        store.append("till-1", [Sold("toys", 2)])
        rebuild(mended, "revenue", restart=True)
        assert revenue(newest_database) == [("toys", 3, 2)]
        store.append("till-1", [Sold("toys", 4)])
        caught_up(store)  # the pipeline has found the new one by itself
        assert revenue(newest_database) == [("toys", 7, 3)]


def test_readers_that_do_not_end_do_not_wait_for_the_swap(newest_database: Database) -> None:
    """It gives way, tries again, and goes on when they have ended."""
    with store_of(newest_database, ("revenue", Revenue)) as store:
        write(store, 1, 5)
        with running(store.pipeline()):
            caught_up(store)
        with newest_database.connect() as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM revenue")
            tried = threading.Event()

            def told(progress: RebuildProgress) -> None:
                tried.set()

            with ThreadPoolExecutor(1) as threads:
                rebuilding = threads.submit(rebuild, store, "revenue", told=told)
                assert tried.wait(30)
                with pytest.raises(pgcdc.ConfigError, match="another rebuild of the projection revenue goes on"):
                    rebuild(store, "revenue")
                reader.execute("COMMIT")
                rebuilding.result()
        assert revenue(newest_database) == right_revenue(newest_database)


def test_killed_it_goes_on_where_it_was(database: Database, tmp_path: Path) -> None:
    with store_of(database, ("journal", Journal)) as store:
        with running(store.pipeline()):
            caught_up(store)
        for number in range(18):
            store.append(f"till-{number % 3}", [Sold("toys", number)] * 250)
        with running(store.pipeline()):
            caught_up(store)
        program = Program("tests.eventstore.killed_rebuild", tmp_path / "log", database.dsn)
        assert program.end() == -signal.SIGKILL
        plan = plan_rebuild(store, "journal")
        assert plan.resumes
        assert 0 < plan.done < plan.events == 4500
        assert f"goes on after {plan.done:,} events" in str(plan)
        told: list[int] = []
        done = rebuild(store, "journal", told=lambda progress: told.append(progress.done))
        assert done.done == 4500
        assert plan.done < told[0] < 4500, "behind what was done, in the same generation"
        assert generations(database, "journal")[-1] == (2, 1, "live", "public")
        assert faults(database) == RIGHT


def test_what_others_have_stays(newest_database: Database) -> None:
    """Schemas of a user, and of a store whose name begins in the same way, have names that it would take."""
    database = newest_database
    database.execute("CREATE SCHEMA es_revenue_1", "CREATE TABLE es_revenue_1.revenue AS SELECT 1 AS mine")
    database.execute("CREATE SCHEMA es_revenue_2")
    with store_of(database, ("revenue", Revenue)) as store:
        write(store, 1, 5)
        with running(store.pipeline()):
            caught_up(store)
        assert plan_rebuild(store, "revenue").schema == "es_revenue_2_2"
        rebuild(store, "revenue")
        assert generations(database) == [(1, 1, "retired", "es_revenue_1_2"), (2, 1, "live", "public")]
        database.execute("CREATE TABLE es_revenue_1_2.theirs AS SELECT 2 AS theirs")
        rebuild(store, "revenue")
        assert generations(database) == [(2, 1, "retired", "es_revenue_2_2"), (3, 1, "live", "public")]
        rollback(store, "revenue")
        assert generations(database) == [(2, 1, "live", "public"), (3, 1, "retired", "es_revenue_3")]
        assert revenue(database) == right_revenue(database)
    kept = "SELECT schemaname, tablename FROM pg_tables WHERE schemaname LIKE 'es_revenue%' ORDER BY 1"
    assert database.execute(kept) == [
        ("es_revenue_1", "revenue"),
        ("es_revenue_1_2", "theirs"),
        ("es_revenue_3", "revenue"),
    ]
    assert database.execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'es_revenue_2%'") == [(1,)]


def test_stores_whose_names_begin_in_the_same_way(newest_database: Database) -> None:
    stores = []
    for schema in ("shop_events_eu", "shop_events_us"):
        store = EventStore(newest_database.dsn, schema=schema, registry=registry)
        store.init(profile="lean")
        store.projection("revenue", schema=schema[-2:])(Revenue)
        stores.append(store)
    for store in stores:
        with store, running(store.pipeline()):
            store.append("till-1", [Sold("toys", 1)])
            caught_up(store, "revenue")
            rebuild(store, "revenue")
    for store in stores:
        rebuild(store, "revenue")
        rollback(store, "revenue")
    for schema in ("eu", "us"):
        assert newest_database.execute(f"SELECT * FROM {schema}.revenue") == [("toys", 1, 1)]


def test_on_a_quiet_server_it_is_brought_up_to_date(newest_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """No event comes behind the change of places, and still what came before it is applied."""
    change_places = rebuilding._change_places
    with store_of(newest_database, ("revenue", Revenue)) as store, running(store.pipeline()):
        store.append("till-1", [Sold("toys", 1)])
        caught_up(store)

        def meanwhile(*arguments: Any) -> None:
            store.append("till-1", [Sold("toys", 2)])
            change_places(*arguments)

        monkeypatch.setattr(rebuilding, "_change_places", meanwhile)
        rebuild(store, "revenue")
        store.wait_for("revenue", "till-1", 2, timeout=30)
        assert revenue(newest_database) == [("toys", 3, 2)]
        monkeypatch.undo()
        rollback(store, "revenue")
        store.wait_for("revenue", "till-1", 2, timeout=30)
        assert revenue(newest_database) == [("toys", 3, 2)]


def test_one_that_is_put_back_while_an_event_comes_misses_nothing(
    newest_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at what is live and its lock; and nothing comes behind that."""
    apply = Projecting._apply
    monkeypatch.setattr(rebuilding, "WAITING", "pgcdc nobody")
    with store_of(newest_database, ("revenue", Revenue)) as store, running(store.pipeline()):
        store.append("till-1", [Sold("toys", 1)])
        caught_up(store)
        rebuild(store, "revenue")
        store.append("till-1", [Sold("toys", 2)])
        caught_up(store)

        def meanwhile(self: Projecting, *arguments: Any, **options: Any) -> bool:
            monkeypatch.setattr(Projecting, "_apply", apply)
            rollback(store, "revenue")
            return apply(self, *arguments, **options)

        monkeypatch.setattr(Projecting, "_apply", meanwhile)
        store.append("till-1", [Sold("toys", 4)])
        store.wait_for("revenue", "till-1", 3, timeout=30)
        assert generations(newest_database)[0][2] == "live"
        assert revenue(newest_database) == [("toys", 7, 3)]


def test_what_cannot_be_applied_at_the_very_end_is_said_in_a_sentence(
    newest_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Revenue):
        def on_closed(self, event: Closed) -> None:
            raise ValueError

    replace = rebuilding._replace
    with store_of(newest_database, ("revenue", Revenue)) as store, running(store.pipeline()):
        store.append("till-1", [Sold("toys", 1)])
        caught_up(store)

        def meanwhile(*arguments: Any) -> Any:
            store.append("till-1", [Closed()])
            caught_up(store)
            return replace(*arguments)

        monkeypatch.setattr(rebuilding, "_replace", meanwhile)
        failing = store_of(newest_database, ("revenue", Failing), version=2)
        with failing, pytest.raises(EventStoreError, match="cannot be built: ValueError at event 2 of the") as failed:
            rebuild(failing, "revenue")
        assert failed.value.hint is not None and "mend the class" in failed.value.hint


def test_one_that_was_never_live_in_a_schema_that_is_not_there(newest_database: Database) -> None:
    with store_of(newest_database, ("revenue", Revenue)) as store:
        write(store, 1, 5)
        with running(store.pipeline()):
            caught_up(store)
        store.projection("journal", schema="reporting")(Journal)
        rebuild(store, "journal")
    assert faults(newest_database, "reporting.journal") == RIGHT
    assert generations(newest_database, "journal") == [(1, 1, "live", "reporting")]


def test_before_any_pipeline_was_run(newest_database: Database) -> None:
    with store_of(newest_database) as store:
        with pytest.raises(pgcdc.ConfigError, match="no pipeline of this store was ever run"):
            rebuild(store, "revenue")
        with pytest.raises(pgcdc.ConfigError, match="there is no projection other"):
            rebuild(store, "other")


def test_writers_that_are_as_fast_as_it_do_not_keep_it_for_ever(
    newest_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each stretch as many events have come as it has applied: the live one is held for the last of them."""
    monkeypatch.setattr(rebuilding, "NEAR", 5)
    rounds = 0
    with store_of(newest_database) as store, running(store.pipeline()):
        write(store, 1, 10)
        caught_up(store)

        def told(_progress: RebuildProgress) -> None:
            nonlocal rounds
            rounds += 1
            assert rounds < 50, "it has no end"
            store.append("till-1", [Sold("toys", rounds)] * 6)
            caught_up(store)

        rebuild(store, "revenue", told=told)
        caught_up(store)
        assert revenue(newest_database) == right_revenue(newest_database)
        assert faults(newest_database) == RIGHT
