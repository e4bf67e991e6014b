"""A projection that was built changes places with the live one: what can be in the way, and what goes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from pgcdc.errors import ConfigError
from pgcdc.eventstore import EventStore, EventStoreError, RebuildProgress, Recorded, Table, plan_rebuild, rollback
from pgcdc.eventstore import rebuild as build
from pgcdc.eventstore.building import Building
from pgcdc.eventstore.projecting import connect
from tests.eventstore.revenue import RIGHT, Journal, Revenue, Sold, faults, registry, revenue, right_revenue, store_of
from tests.eventstore.test_projections import caught_up
from tests.pipeline.running import running, until

if TYPE_CHECKING:
    from tests.conftest import Database


def filled(store: EventStore, events: int) -> None:
    """A pipeline that was run, before and behind these events."""
    with running(store.pipeline()):
        caught_up(store)
    for number in range(events):
        store.append(f"till-{number % 3}", [Sold("toys", number)])
    with running(store.pipeline()):
        caught_up(store)


def place(database: Database, name: str) -> int:
    """How many events the one that is being built has."""
    [(events,)] = database.execute(f"SELECT events FROM es.projections WHERE name = '{name}' AND status = 'building'")
    return int(events)


class Twice:
    """Two tables, so that a reader can have one of them and wait for the other."""

    first = Table("event_id uuid", key=["event_id"])
    second = Table("event_id uuid", key=["event_id"])

    def on_sold(self, event: Sold, recorded: Recorded) -> None:
        self.first.put(event_id=recorded.event_id)
        self.second.put(event_id=recorded.event_id)


@pytest.mark.parametrize("what", [build, rollback])
def test_a_reader_that_has_one_of_the_tables_and_waits_for_the_other(
    database: Database, what: Callable[[EventStore, str], object]
) -> None:
    """The server ends one of the two after a second, before who changes places has given way."""
    with store_of(database, ("twice", Twice)) as store:
        filled(store, 50)
        build(store, "twice")
        with database.connect() as reader, ThreadPoolExecutor(1) as threads:
            reader.execute("BEGIN")
            reader.execute("SET LOCAL deadlock_timeout = '100s'")  # so it is the other one that is ended
            reader.execute("SELECT FROM public.second")
            changing = threads.submit(what, store, "twice")
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'public.second'::regclass"
            until(lambda: database.execute(waits) == [(1,)], "it waits for the table", pause=0.01)
            assert reader.execute("SELECT count(*) FROM public.first").fetchone() == (50,)
            if what is rollback:
                with pytest.raises(EventStoreError, match="in use: they cannot change places"):
                    changing.result()
            reader.rollback()
            changing.result() if what is build else rollback(store, "twice")
        assert database.execute("SELECT count(*) FROM public.first") == [(50,)]


def test_a_table_whose_name_is_taken_is_said_before_it_is_built(newest_database: Database) -> None:
    """Also when somebody takes it meanwhile: then at the end, with what to do, and it goes on there."""
    with store_of(newest_database, ("twice", Journal)) as store:
        filled(store, 50)
    newest_database.execute("CREATE TABLE public.second (mine integer)")
    with store_of(newest_database, ("twice", Twice), version=2) as store:
        taken = pytest.raises(ConfigError, match='relation "second" already exists in the schema public')
        with taken as failed:
            build(store, "twice")
        with pytest.raises(ConfigError, match='relation "second" already exists in the schema public'):
            plan_rebuild(store, "twice")
        assert failed.value.hint is not None and "rename the table" in failed.value.hint
        assert newest_database.execute("SELECT count(*) FROM es.projections WHERE status = 'building'") == [(0,)]
        newest_database.execute("DROP TABLE public.second")

        def take_it(_progress: RebuildProgress) -> None:
            newest_database.execute("CREATE TABLE IF NOT EXISTS public.second (mine integer)")

        for told in (take_it, lambda _progress: None):
            with pytest.raises(ConfigError, match='relation "second" already exists in the schema public'):
                build(store, "twice", told=told)
            assert place(newest_database, "twice") == 50
        newest_database.execute("ALTER TABLE public.second RENAME TO third")
        build(store, "twice")
        assert newest_database.execute("SELECT count(*) FROM public.second") == [(50,)]


def test_a_rebuild_that_goes_on_with_other_tables_begins_anew(newest_database: Database) -> None:
    """Else the new table would have the events from the middle on, or not be there at all."""

    class More(Journal):
        more = Table("event_id uuid", key=["event_id"])

        def on_sold(self, event: Sold, recorded: Recorded) -> None:
            super().on_sold(event, recorded)
            self.more.put(event_id=recorded.event_id)

    def stop(_progress: RebuildProgress) -> None:
        raise KeyboardInterrupt

    with store_of(newest_database, ("journal", Journal)) as store:
        filled(store, 50)
        with pytest.raises(KeyboardInterrupt):
            build(store, "journal", told=stop)
        assert plan_rebuild(store, "journal").resumes
        assert plan_rebuild(store, "journal", restart=True).done == 0
    with store_of(newest_database, ("journal", More)) as store:
        assert not plan_rebuild(store, "journal").resumes
        assert build(store, "journal").done == 50
    assert faults(newest_database) == RIGHT
    assert newest_database.execute("SELECT count(*) FROM public.more") == [(50,)]


@pytest.fixture
def reader(newest_database: Database) -> Iterator[str]:
    newest_database.execute("CREATE ROLE reader_of_some")
    yield "reader_of_some"
    newest_database.execute("DROP OWNED BY reader_of_some", "DROP ROLE reader_of_some")


SECURITY = """
    SELECT relrowsecurity, relforcerowsecurity, relacl::text, (SELECT string_agg(attacl::text, '|' ORDER BY attname)
            FROM pg_attribute WHERE attrelid = c.oid),
        (SELECT string_agg(concat_ws('|', polname, polcmd, polpermissive, polroles::regrole[],
            pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)), ';' ORDER BY polname)
            FROM pg_policy WHERE polrelid = c.oid)
    FROM pg_class AS c WHERE oid = 'public.revenue'::regclass
"""


def test_who_sees_some_rows_sees_no_others_afterwards(newest_database: Database, reader: str) -> None:
    """Row-level security goes with the table's name, and so do privileges of columns, and what may be granted on."""
    with store_of(newest_database, ("revenue", Revenue)) as store:
        filled(store, 10)
        newest_database.execute(
            "ALTER TABLE revenue ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE revenue FORCE ROW LEVEL SECURITY",
            f"CREATE POLICY owner_sees_all ON revenue TO CURRENT_USER, {reader} USING (sales > 0) WITH CHECK (true)",
            f"CREATE POLICY no_toys ON revenue AS RESTRICTIVE FOR SELECT TO {reader} USING (category <> 'toys')",
            "CREATE POLICY few ON revenue FOR INSERT WITH CHECK (sales < 100)",
            f"GRANT SELECT ON revenue TO {reader} WITH GRANT OPTION",
            "GRANT SELECT (sales, category), UPDATE (sales) ON revenue TO PUBLIC",
        )
        before = newest_database.execute(SECURITY)
        assert before[0][:2] == (True, True)
        for change in (build, rollback):
            change(store, "revenue")
            assert newest_database.execute(SECURITY) == before
            with newest_database.connect() as connection:
                connection.execute(f"SET ROLE {reader}")
                assert connection.execute("SELECT * FROM revenue").fetchall() == []
        assert revenue(newest_database) == right_revenue(newest_database)
        newest_database.execute(
            f"REVOKE GRANT OPTION FOR SELECT ON revenue FROM {reader}",
            "REVOKE UPDATE (sales) ON revenue FROM PUBLIC",
            "ALTER TABLE revenue NO FORCE ROW LEVEL SECURITY",
            "DROP POLICY few ON revenue",
        )
        before = newest_database.execute(SECURITY)
        rollback(store, "revenue")
        assert newest_database.execute(SECURITY) == before, "what was taken away does not come again"

    class Without:
        revenue = Table("category text, total bigint", key=["category"])

        def on_sold(self, event: Sold) -> None:
            self.revenue.add(category=event.category, total=event.amount)

    with store_of(newest_database, ("revenue", Without), version=2) as store:
        with pytest.raises(
            ConfigError, match="the policy owner_sees_all of the table revenue cannot be that of the new"
        ):
            build(store, "revenue")
        assert newest_database.execute(SECURITY) == before
        newest_database.execute("DROP POLICY owner_sees_all ON revenue")
        assert build(store, "revenue").done == 10
        with newest_database.connect() as connection:
            connection.execute(f"SET ROLE {reader}")
            assert connection.execute("SELECT * FROM revenue").fetchall() == []


def test_a_pipeline_that_makes_the_first_one_at_the_same_moment(database: Database) -> None:
    with store_of(database, ("journal", Journal)) as store:
        filled(store, 20)
    with store_of(database, ("journal", Journal), ("revenue", Revenue)) as store, connect(database.dsn) as opening:
        begun: list[Future[None]] = []
        building = Building(store, "revenue", opening)

        def commit() -> None:
            waits = "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity USING (pid)"
            waits += " WHERE NOT granted AND datname = current_database()"
            until(lambda: database.execute(waits) == [(1,)], "who changes places waits", pause=0.01)
            opening.execute("COMMIT")

        def open_it(_progress: RebuildProgress) -> None:
            if not begun:  # as the pipeline's first run does
                opening.execute("BEGIN")
                building.generations.lock(opening, "revenue")
                building.generations.begin(opening, building.projection, beside=False)
                begun.append(threads.submit(commit))

        with ThreadPoolExecutor(1) as threads:
            assert build(store, "revenue", told=open_it).done == 20
            begun[0].result()
        assert revenue(database) == right_revenue(database)
        with running(store.pipeline()):
            caught_up(store)
        assert revenue(database) == right_revenue(database)


def test_a_role_that_may_make_no_schema(newest_database: Database, reader: str) -> None:
    with store_of(newest_database, ("revenue", Revenue)) as store:
        filled(store, 10)
    newest_database.execute(
        f"GRANT USAGE ON SCHEMA es TO {reader}", f"GRANT ALL ON ALL TABLES IN SCHEMA es TO {reader}"
    )
    with EventStore(f"{newest_database.dsn} options='-c role={reader}'", registry=registry) as store:
        store.projection("revenue")(Revenue)
        with pytest.raises(ConfigError, match="the projection revenue cannot have its schema es_revenue_2") as failed:
            build(store, "revenue")
        assert failed.value.hint is not None and "GRANT CREATE ON DATABASE" in failed.value.hint


def test_a_name_that_is_not_there_is_known_without_a_server() -> None:
    with EventStore("host=/nowhere") as store:
        for what in (plan_rebuild, build, rollback):
            with pytest.raises(ConfigError, match="there is no projection daily"):
                what(store, "daily")
