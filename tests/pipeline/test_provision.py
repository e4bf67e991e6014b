"""What is made for a pipeline and removed again: the server is as it was before, and a run needs no more rights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import pgcdc
from pgcdc.pipeline import PostgresSchemas, SqlitePositions
from pgcdc.pipeline.postgres_survey import drop_unused
from tests.pipeline.running import running
from tests.pipeline.targets import Recorder

if TYPE_CHECKING:
    from pathlib import Path

    from pgcdc.pipeline import ProvisionPlan
    from tests.conftest import Database

_CATALOG = """
    SELECT 'schema', nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
    UNION ALL SELECT 'relation', oid::regclass::text FROM pg_class WHERE relnamespace::regnamespace::text !~ '^pg_'
        AND relnamespace <> 'information_schema'::regnamespace
    UNION ALL SELECT 'publication', pubname FROM pg_publication
    UNION ALL SELECT 'slot', slot_name FROM pg_replication_slots WHERE database = current_database()
    UNION ALL SELECT 'comment', objoid || description FROM pg_description WHERE classoid = 'pg_namespace'::regclass
    ORDER BY 1, 2
"""


def catalog(database: Database) -> list[tuple[Any, ...]]:
    """All that there is in a database, and its slots."""
    return database.execute(_CATALOG)


def shop(dsn: str, name: str = "shop", **options: Any) -> tuple[pgcdc.Pipeline, Recorder]:
    pipeline = pgcdc.Pipeline(name, dsn, tables=["orders"], **options)
    recorder = Recorder()
    pipeline.add(recorder, name="recorder")
    return pipeline, recorder


def states(plan: ProvisionPlan) -> dict[str, str]:
    return {f"{step.kind} {step.name}": step.state for step in plan.steps}


@pytest.fixture
def orders(database: Database) -> Database:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY)", "INSERT INTO orders SELECT generate_series(1, 3)")
    return database


@pytest.fixture
def newest_orders(newest_database: Database) -> Database:
    newest_database.execute("CREATE TABLE orders (id int PRIMARY KEY)", "INSERT INTO orders VALUES (1)")
    return newest_database


def test_what_init_makes_a_run_uses_and_destroy_removes(orders: Database) -> None:
    before = catalog(orders)
    pipeline, recorder = shop(orders.dsn)
    plan = pipeline.plan_init()
    assert catalog(orders) == before, "a plan changes nothing"
    assert states(plan) == {
        "schema pgcdc": "made",
        "table pgcdc.positions": "made",
        "table pgcdc.schema_versions": "made",
        "table pgcdc.schema_migrations": "made",
        "table pgcdc.dead_letter_owners": "made",
        "table pgcdc.dead_letters": "made",
        "publication pgcdc_shop": "made",
        "slot pgcdc_shop": "later",
    }
    assert pipeline.init() == plan
    made = catalog(orders)
    assert not pipeline.plan_init().changes and not pipeline.init().changes
    assert {("publication", "pgcdc_shop"), ("relation", "pgcdc.positions"), ("schema", "pgcdc")} <= set(made)
    with running(pipeline) as run:
        run.streaming()
    assert len(recorder.changes) == 3
    assert [kind for kind, *_ in sorted(set(catalog(orders)) - set(made))] == ["slot"], "a run makes the slot alone"
    plan = pipeline.plan_destroy()
    assert plan.changes == len(plan.steps) and not plan.warnings
    pipeline.destroy(tables=True)
    assert catalog(orders) == before
    pipeline.destroy(tables=True)
    assert catalog(orders) == before, "what is missing is no error"


def test_the_statements_of_the_plan_are_enough(newest_orders: Database) -> None:
    """Somebody else may run them."""
    pipeline, _ = shop(newest_orders.dsn, snapshot="never")
    for step in pipeline.plan_init().steps:
        assert step.sql is not None
        newest_orders.execute(*step.sql.split(";\n"))
    assert pipeline.plan_init().changes == 0
    for step in pipeline.plan_destroy().steps:
        if step.kind in ("slot", "publication"):
            newest_orders.execute(step.sql or "")
    plan = states(pipeline.plan_destroy())
    assert plan["slot pgcdc_shop"] == plan["publication pgcdc_shop"] == "absent"


def test_a_role_without_create_runs_what_another_has_made(newest_orders: Database) -> None:
    owner, _ = shop(newest_orders.dsn)
    owner.init()
    role = f"app_{newest_orders.name}"
    newest_orders.execute(
        f"CREATE ROLE {role} LOGIN REPLICATION",
        f"REVOKE CREATE ON SCHEMA public FROM {role}",
        f"GRANT SELECT ON orders TO {role}",
        f"GRANT USAGE ON SCHEMA pgcdc TO {role}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pgcdc TO {role}",
    )
    try:
        pipeline, recorder = shop(f"{newest_orders.dsn} user={role}")
        with running(pipeline) as run:
            run.streaming()
        assert len(recorder.changes) == 1
        owner.destroy(tables=True)
        with pytest.raises(pgcdc.ConfigError, match="permission denied for database"):
            pipeline.init()
    finally:
        newest_orders.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_tables_stay_for_other_pipelines(newest_orders: Database) -> None:
    before = catalog(newest_orders)
    one, _ = shop(newest_orders.dsn)
    other, _ = shop(newest_orders.dsn, "other")
    one.init()
    other.init()
    plan = one.plan_destroy()
    assert states(plan)["table pgcdc.positions"] == "stays" and "for pipeline other" in str(plan)
    one.destroy(tables=True)
    assert ("relation", "pgcdc.positions") in catalog(newest_orders)
    other.destroy(tables=True)
    assert catalog(newest_orders) == before


def test_a_schema_that_was_there_stays(newest_orders: Database) -> None:
    newest_orders.execute("CREATE SCHEMA pgcdc")
    before = catalog(newest_orders)
    pipeline, _ = shop(newest_orders.dsn)
    pipeline.init()
    assert states(pipeline.plan_destroy())["schema pgcdc"] == "stays"
    pipeline.destroy(tables=True)
    assert catalog(newest_orders) == before


def test_something_else_in_the_schema_keeps_it(newest_orders: Database) -> None:
    pipeline, _ = shop(newest_orders.dsn)
    pipeline.init()
    newest_orders.execute("CREATE TABLE pgcdc.own (id int)")
    plan = pipeline.plan_destroy()
    assert states(plan)["schema pgcdc"] == "stays" and "something else is in it" in str(plan)
    pipeline.destroy(tables=True)
    left = [name for kind, name in catalog(newest_orders) if kind == "relation"]
    assert "pgcdc.own" in left and "pgcdc.positions" not in left


def test_writes_that_the_server_will_refuse_are_a_warning(
    newest_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Of what is published and says of no row which it is: also of partitions, and of keys that may wait."""
    newest_database.execute(
        "CREATE TABLE keyless (id int)",
        "CREATE TABLE late (id int PRIMARY KEY DEFERRABLE)",
        "CREATE TABLE whole (id int)",
        "ALTER TABLE whole REPLICA IDENTITY FULL",
        "CREATE TABLE parts (id int) PARTITION BY LIST (id)",
        "CREATE TABLE part PARTITION OF parts FOR VALUES IN (1)",
        "CREATE TABLE good (id int PRIMARY KEY)",
    )
    names = ["keyless", "late", "whole", "parts", "good"]
    pipeline = pgcdc.Pipeline("shop", newest_database.dsn, tables=names)
    pipeline.add(Recorder(), name="sink", own_slot=True)
    pipeline.add(Recorder(), name="other")
    plan = pipeline.plan_init()
    [warning] = plan.warnings
    assert warning.startswith("UPDATE and DELETE on public.keyless, public.late, public.part fail for whoever runs")
    assert warning in str(plan)
    pipeline.init(plan)
    assert [record.message for record in caplog.records].count(warning) == 2, "one for each publication"
    with pytest.raises(psycopg.Error, match="does not have a replica identity"):
        newest_database.execute("UPDATE keyless SET id = 2")
    assert pipeline.plan_init().warnings == ()


def test_dead_letters_that_would_be_lost_are_a_warning(newest_orders: Database) -> None:
    pipeline, _ = shop(newest_orders.dsn)
    pipeline.init()
    newest_orders.execute(
        "INSERT INTO pgcdc.dead_letters (pipeline, consumer, commit_lsn, change_index, digest, state, action, message,"
        " holds, error_type, error_text, attempts, first_at, last_at)"
        " VALUES ('shop', 'recorder', '0/1', 0, '', 'failed', 'insert', '', '', 'E', '', 1, now(), now())"
    )
    assert pipeline.plan_destroy().warnings == ("1 dead letter is lost: nobody was given them",)


def test_a_publication_of_somebody_else_is_checked_and_stays(newest_orders: Database) -> None:
    newest_orders.execute("CREATE TABLE items (id int PRIMARY KEY)", "CREATE PUBLICATION theirs FOR TABLE items")
    pipeline, _ = shop(newest_orders.dsn, publication="theirs")
    with pytest.raises(pgcdc.ConfigError, match="is not published by 'theirs'"):
        pipeline.plan_init()
    newest_orders.execute("ALTER PUBLICATION theirs ADD TABLE orders")
    assert states(pipeline.init())["publication theirs"] == "there"
    assert states(pipeline.plan_destroy())["publication theirs"] == "stays"
    pipeline.destroy(tables=True)
    assert newest_orders.execute("SELECT pubname FROM pg_publication") == [("theirs",)]


def test_a_table_that_does_not_exist(newest_database: Database) -> None:
    with pytest.raises(pgcdc.ConfigError, match=r"table public\.orders does not exist"):
        shop(newest_database.dsn)[0].plan_init()


def test_positions_in_a_file(newest_orders: Database, tmp_path: Path) -> None:
    before = catalog(newest_orders)
    pipeline, _ = shop(newest_orders.dsn, positions=SqlitePositions(tmp_path / "positions.db"))
    assert states(pipeline.init())["positions SqlitePositions"] == "later"
    pipeline.destroy(tables=True)
    assert catalog(newest_orders) == before


@pytest.mark.parametrize("snapshot", ["initial", "never", "when_needed"])
def test_positions_of_a_slot_that_is_gone(orders: Database, snapshot: Any) -> None:
    """A slot that was made now would begin behind the positions: a run would refuse it, too."""
    pipeline, _ = shop(orders.dsn, snapshot=snapshot)
    with running(pipeline) as run:
        run.streaming()
        orders.execute("INSERT INTO orders VALUES (10)")
        run.catch_up(orders)
    orders.execute("SELECT pg_drop_replication_slot('pgcdc_shop')")
    before = catalog(orders)
    if snapshot == "when_needed":
        assert states(pipeline.plan_init())["slot pgcdc_shop"] == "later"
    else:
        for ask in (pipeline.plan_init, pipeline.init):
            with pytest.raises(pgcdc.SlotNotFound, match=r"'pgcdc_shop' does not exist any more") as caught:
                ask()
            assert "Pipeline.destroy()" in (caught.value.hint or "")
    assert catalog(orders) == before
    pipeline.destroy(tables=True)


def test_consumers_with_slots_of_their_own(newest_orders: Database) -> None:
    before = catalog(newest_orders)
    pipeline, _ = shop(newest_orders.dsn, snapshot="never")
    pipeline.add(Recorder(), name="apart", own_slot=True)
    made = states(pipeline.init())
    assert made["slot pgcdc_shop"] == made["slot pgcdc_shop__apart"] == made["publication pgcdc_shop__apart"] == "made"
    removed = states(pipeline.plan_destroy())
    assert set(removed.values()) == {"removed"} and made.keys() == removed.keys()
    pipeline.destroy(tables=True)
    assert catalog(newest_orders) == before


def test_tables_that_are_used_by_now_stay(newest_orders: Database) -> None:
    """Whatever a plan said: it is looked at again under the lock."""
    pipeline, _ = shop(newest_orders.dsn)
    pipeline.init()
    own = [PostgresSchemas(newest_orders.dsn).own_tables()]
    names = {"pgcdc.schema_versions", "pgcdc.schema_migrations"}
    newest_orders.execute("INSERT INTO pgcdc.schema_migrations VALUES ('other', 'c', 1, 1, '', 1)")
    assert set(drop_unused(own, names)) == names
    with newest_orders.connect() as connection, connection.transaction():
        connection.execute("DELETE FROM pgcdc.schema_migrations")
        assert set(drop_unused(own, names)) == names, "somebody has them locked"
    assert drop_unused(own, names) == []
    assert ("relation", "pgcdc.positions") in catalog(newest_orders), "the others, and so the schema, are there"
