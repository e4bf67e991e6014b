"""`pgcdc doctor`: each check on real servers and on made facts; what it advises mends what it found.

Over 400 lines because each check is tried on a server that has it wrong.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
import pytest
from psycopg import sql

import pgcdc
from pgcdc.cli.building import build
from pgcdc.cli.redaction import Redactor
from pgcdc.observe import Finding, examine, role_sql
from pgcdc.observe.access_checks import ACCESS_CHECKS
from pgcdc.observe.facts import Asked, Facts, PublicationFacts, RoleFacts, TableFacts
from pgcdc.observe.overview import overview_of
from pgcdc.observe.server_checks import SERVER_CHECKS
from pgcdc.observe.slot_checks import SLOT_CHECKS
from pgcdc.pipeline import MemoryPositions
from pgcdc.replication import SlotState
from tests.demo.running import run
from tests.pipeline.running import running
from tests.pipeline.shop import ORDERS, run_once, shop
from tests.pipeline.targets import Recorder
from tests.program import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Database


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    assert len({finding.check for finding in findings}) == len(findings)
    return {finding.check: finding for finding in findings}


def statuses(findings: list[Finding], *words: str) -> set[str]:
    return {finding.check for finding in findings if finding.status in words}


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """The name of a role that the test makes, which goes with its database."""
    name = f"reader_{uuid.uuid4().hex[:8]}"
    yield name
    with database.connect() as connection:
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,)).fetchone():
            connection.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(*[sql.Identifier(name)] * 2))


def of(database: Database, role: str) -> str:
    return psycopg.conninfo.make_conninfo(database.dsn, user=role)


def test_a_server_that_is_ready_and_a_pipeline_that_has_run(database: Database) -> None:
    database.execute(ORDERS)
    pipeline = shop(database)
    before = examine(database.dsn, pipeline.outline())
    assert statuses(before, "failed") == set(), before
    assert by_name(before)["slot"].found == "it is made when the pipeline starts first"
    with running(pipeline) as running_one:
        running_one.streaming()
        copied = by_name(examine(database.dsn, pipeline.outline()))
        assert copied["positions"].found == "PostgresPositions; 1 of 1 consumers have one", "the copy is one, too"
        database.execute("ALTER TABLE orders ADD COLUMN tried int", "INSERT INTO orders VALUES (1, 'new')")
        running_one.catch_up(database)
        during = by_name(examine(database.dsn, pipeline.outline()))
        assert during["slot"].status in ("ok", "warning") and during["slot"].found.startswith("a process streams")
    after = examine(database.dsn, pipeline.outline())
    assert statuses(after, "failed") == set(), after
    found = by_name(after)
    assert found["positions"].found == "PostgresPositions; 1 of 1 consumers have one"
    assert found["schema_change_tried"].found == "1 change of tables followed"
    assert found["slot_lag"].found.startswith("pgcdc_shop ") and found["slot_lag"].status == "ok"
    assert found["slot"].found.startswith("no process streams from it")
    assert statuses(after, "warning") <= {"kept_wal", "slot", "schema_plan", "dead_letters", "free_slots"}


def test_a_role_that_has_nothing_is_told_what_it_lacks_and_that_is_enough(database: Database, role: str) -> None:
    """What the doctor advises is run, statement by statement; then a pipeline runs under the role."""
    database.execute(ORDERS, f"CREATE ROLE {role} LOGIN", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    pipeline = pgcdc.Pipeline("shop", of(database, role), tables=["orders"])
    pipeline.add(Recorder(), name="sink")
    lacking = ["replication_role", "own_tables", "tables", "publication"]
    for check in lacking:
        findings = by_name(examine(of(database, role), pipeline.outline()))
        assert findings[check].status == "failed" and findings[check].mend
        database.execute(*statements(findings[check].mend or ""))
    after = examine(of(database, role), pipeline.outline())
    assert statuses(after, "failed") == set(), after
    database.execute("INSERT INTO orders VALUES (1, 'new')")
    run_once(database, pipeline)
    assert by_name(examine(of(database, role), pipeline.outline()))["positions"].status == "ok"


def statements(mend: str) -> list[str]:
    lines = [line.partition("--")[0].strip() for line in mend.splitlines()]
    return [one for line in lines for one in line.split(";") if one.strip()]


def test_the_script_of_a_role_is_enough_and_no_more(database: Database, role: str) -> None:
    database.execute(ORDERS, "CREATE TABLE secrets (id int PRIMARY KEY)", "INSERT INTO orders VALUES (1, 'new')")
    script = role_sql(role, database.name, [("public", "orders")], "pgcdc_shop")
    database.execute(script)
    sink = Recorder()
    pipeline = pgcdc.Pipeline("shop", of(database, role), tables=["orders"])
    pipeline.add(sink, name="sink")
    assert statuses(examine(of(database, role), pipeline.outline()), "failed") == set()
    run_once(database, pipeline)
    assert [change.new.id for change in sink.changes] == [1]
    found = by_name(examine(of(database, role), pipeline.outline()))
    assert found["slot_lag"].status == "ok", "it may look at the times of WAL files"
    with psycopg.connect(of(database, role), autocommit=True) as connection:
        for refused in ("SELECT * FROM secrets", "INSERT INTO orders VALUES (2, 'x')", "DROP TABLE orders"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused)
    pipeline.destroy()


def test_the_script_is_enough_after_the_admin_has_made_it_all(newest_database: Database, role: str) -> None:
    """Two roles: `pgcdc init` is the admin's, the pipeline runs as another; until the script was run, that is said."""
    database = newest_database
    database.execute(ORDERS, f"CREATE ROLE {role} LOGIN", "INSERT INTO orders VALUES (1, 'new')")
    admin = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    admin.add(Recorder(), name="sink")
    admin.init()
    sink = Recorder()
    pipeline = pgcdc.Pipeline("shop", of(database, role), tables=["orders"])
    pipeline.add(sink, name="sink")
    with psycopg.connect(of(database, role), autocommit=True) as connection:
        assert overview_of(connection).consumers is None
    before = by_name(examine(of(database, role), pipeline.outline()))
    assert before["own_tables"].status == before["replication_role"].status == "failed"
    script = role_sql(role, database.name, [("public", "orders")], "pgcdc_shop")
    database.execute(script)
    after = examine(of(database, role), pipeline.outline())
    assert statuses(after, "failed") == set(), after
    run_once(database, pipeline)
    assert [change.new.id for change in sink.changes] == [1]
    database.execute(script)  # a second time it changes nothing
    run_once(database, pipeline)
    admin.destroy()


@pytest.mark.parametrize("first_runs_first", [True, False])
def test_two_pipelines_have_a_role_each(newest_database: Database, role: str, first_runs_first: bool) -> None:
    """They share pgcdc's own tables, whoever has made them, and none is locked out by the script of the other."""
    database, roles = newest_database, [role, f"{role}_other"]
    database.execute(ORDERS, "INSERT INTO orders VALUES (1, 'new')")
    pipelines = []
    for number, one in enumerate(roles):
        database.execute(role_sql(one, database.name, [("public", "orders")], f"pgcdc_shop{number}"))
        pipeline = pgcdc.Pipeline(f"shop{number}", of(database, one), tables=["orders"])
        pipeline.add(Recorder(), name="sink")
        pipelines.append(pipeline)
        if first_runs_first:
            run_once(database, pipeline)
    try:
        for pipeline in reversed(pipelines):
            run_once(database, pipeline)
        for one, pipeline in zip(roles, pipelines, strict=True):
            assert statuses(examine(of(database, one), pipeline.outline()), "failed") == set()
    finally:
        for name in ("pgcdc_shop0", "pgcdc_shop1"):
            database.execute(
                f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{name}'"
            )
        database.execute(f'DROP OWNED BY "{roles[1]}" CASCADE', f'DROP ROLE "{roles[1]}"')


def test_the_script_is_run_by_an_administrator_who_is_no_superuser(database: Database, role: str) -> None:
    """As of a managed server: it owns the database and the tables, and may create roles; names are as odd as can be."""
    admin, odd = f"{role}_admin", f"{role} $pgcdc$ \"'"
    database.execute(
        f"CREATE ROLE {admin} LOGIN CREATEROLE REPLICATION", f'ALTER DATABASE "{database.name}" OWNER TO {admin}',
        f"GRANT CREATE ON SCHEMA public TO {admin}",
    )  # fmt: skip
    sink = Recorder()
    pipeline = pgcdc.Pipeline("shop", of(database, odd), tables=["orders"])
    pipeline.add(sink, name="sink")
    try:
        with psycopg.connect(of(database, admin), autocommit=True) as connection:
            connection.execute(ORDERS.encode())
            connection.execute(b"INSERT INTO orders VALUES (1, 'new')")
            for _ in range(2):
                connection.execute(role_sql(odd, database.name, [("public", "orders")], "pgcdc_shop").encode())
        if database.server.version < 16:  # only a superuser gives REPLICATION there; a provider has its own way
            assert statuses(examine(of(database, odd), pipeline.outline()), "failed") == {"replication_role"}
            database.execute(f"ALTER ROLE {sql.Identifier(odd).as_string()} REPLICATION")
        after = examine(of(database, odd), pipeline.outline())
        assert statuses(after, "failed") == set(), after
        run_once(database, pipeline)
        assert [change.new.id for change in sink.changes] == [1]
    finally:
        database.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'pgcdc_shop'"
        )
        database.execute(f'ALTER DATABASE "{database.name}" OWNER TO postgres')
        for one in (odd, admin):
            quoted = sql.Identifier(one).as_string()
            database.execute(f"DROP OWNED BY {quoted} CASCADE", f"DROP ROLE {quoted}")


def test_the_script_publishes_nothing_that_stops_the_applications_writes(newest_database: Database, role: str) -> None:
    newest_database.execute("CREATE TABLE keyless (id int)", "INSERT INTO keyless VALUES (1)")
    script = role_sql(role, newest_database.name, [("public", "keyless")], "p")
    with pytest.raises(psycopg.errors.RaiseException, match="UPDATE and DELETE on keyless would fail"):
        newest_database.execute(script)
    newest_database.execute("UPDATE keyless SET id = 2", "ALTER TABLE keyless REPLICA IDENTITY FULL", script)
    newest_database.execute("UPDATE keyless SET id = 3")
    assert newest_database.execute("SELECT tablename FROM pg_publication_tables WHERE pubname = 'p'") == [("keyless",)]


def test_a_partitioned_table_is_published_as_its_partitions(newest_database: Database) -> None:
    newest_database.execute(
        "CREATE TABLE orders (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE one PARTITION OF orders FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE two PARTITION OF orders FOR VALUES FROM (10) TO (20)",
        "CREATE PUBLICATION whole FOR TABLE orders",
        "CREATE PUBLICATION half FOR TABLE one",
    )
    for name, status in (("whole", "ok"), ("half", "failed")):
        found = by_name(examine(newest_database.dsn, publication=name, tables=["public.orders"]))
        assert (found["publication"].status, found["replica_identity"].status) == (status, "ok")


def test_tables_that_cannot_be_followed(newest_database: Database) -> None:
    newest_database.execute(
        "CREATE TABLE keyless (id int)",
        "CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY)",
        "CREATE TABLE orders (id int PRIMARY KEY)",
        "CREATE PUBLICATION p FOR TABLE keyless WITH (publish = 'insert, update')",
    )
    tables = ["public.keyless", "public.fleeting", "public.orders", "public.nowhere"]

    def look() -> dict[str, Finding]:
        return by_name(examine(newest_database.dsn, publication="p", tables=tables))

    found = look()
    assert found["tables"].found == "not there: public.nowhere; not logged: public.fleeting"
    assert found["replica_identity"].found == "no replica identity: public.keyless"
    assert found["publication"].found == "without public.fleeting, public.orders; no delete; no truncate"
    assert {found[check].status for check in ("tables", "replica_identity", "publication")} == {"failed"}
    for check in ("tables", "replica_identity", "publication"):
        newest_database.execute(*statements(found[check].mend or ""))
    tables.remove("public.nowhere")
    found = look()
    assert {found[check].status for check in ("tables", "replica_identity", "publication")} == {"ok"}
    assert found["replica_identity"].found == "whole rows of public.keyless"


REFUSED = (
    # The table, its publication, and what the doctor says of it; the server refuses the application's UPDATE.
    ("CREATE TABLE t (id int PRIMARY KEY, n int)", "t (n)", "public.t is published without id"),
    ("CREATE TABLE t (id int PRIMARY KEY, n int)", "t WHERE (n > 5)", "filter of public.t looks at n,"),
    ("CREATE TABLE t (id int PRIMARY KEY, n int)", "t (n) WHERE (id > 0)", "published without id"),
    ("CREATE TABLE t (id int, n int); ALTER TABLE t REPLICA IDENTITY FULL", "t (n)", "identity is FULL"),
    ("CREATE TABLE t (id int, n int); ALTER TABLE t REPLICA IDENTITY FULL", "t (id, n)", "identity is FULL"),
    ("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, n int)", "t", "no replica identity: public.t"),
    (
        "CREATE TABLE t (id int NOT NULL, n int); CREATE UNIQUE INDEX i ON t (id);"
        " ALTER TABLE t REPLICA IDENTITY USING INDEX i; DROP INDEX i",
        "t",
        "no replica identity: public.t",
    ),
)


@pytest.mark.parametrize(("table", "published", "says"), REFUSED)
def test_what_the_application_may_not_do_with_a_published_table(
    database: Database, table: str, published: str, says: str
) -> None:
    database.execute(*table.split("; "), "INSERT INTO t VALUES (1, 1)")
    if database.server.version < 15 and published != "t":
        with pytest.raises(psycopg.errors.SyntaxError):  # lists of columns and filters came with PostgreSQL 15
            database.execute(f"CREATE PUBLICATION p FOR TABLE {published}")
        return
    database.execute(f"CREATE PUBLICATION p FOR TABLE {published}")
    with pytest.raises(psycopg.Error):
        database.execute("UPDATE t SET n = 7")
    found = by_name(examine(database.dsn, publication="p", tables=["public.t"]))["replica_identity"]
    assert found.status == "failed" and says in found.found
    database.execute(*(one for one in statements(found.mend or "") if one.strip() not in ("BEGIN", "COMMIT")))
    assert by_name(examine(database.dsn, publication="p", tables=["public.t"]))["replica_identity"].status == "ok"
    database.execute("UPDATE t SET n = 7")


@pytest.mark.parametrize("published", ["t (id)", "t WHERE (id > 1)", "t (id, n) WHERE (id > 1)"])
def test_what_the_application_may_do_with_a_published_table(newest_database: Database, published: str) -> None:
    newest_database.execute("CREATE TABLE t (id int PRIMARY KEY, n int)", f"CREATE PUBLICATION p FOR TABLE {published}")
    found = by_name(examine(newest_database.dsn, publication="p", tables=["public.t"]))["replica_identity"]
    assert (found.status, found.found) == ("ok", "by primary key or index")
    newest_database.execute("UPDATE t SET n = 7")


def test_rows_that_a_role_may_not_see(newest_database: Database, role: str, tmp_path: Path) -> None:
    """Row-level security, and a schema and tables of pgcdc that the role may only look at; names with full stops."""
    newest_database.execute(
        'CREATE SCHEMA "we.ird"',
        'CREATE TABLE "we.ird"."t.a" (id int PRIMARY KEY)',
        'ALTER TABLE "we.ird"."t.a" ENABLE ROW LEVEL SECURITY',
        f"CREATE ROLE {role} LOGIN REPLICATION",
    )
    admin = pgcdc.Pipeline("shop", newest_database.dsn, tables=[("we.ird", "t.a")])
    admin.add(Recorder(), name="sink")
    admin.init()
    newest_database.execute(f"GRANT USAGE ON SCHEMA pgcdc TO {role}")
    pipeline = pgcdc.Pipeline("shop", of(newest_database, role), tables=[("we.ird", "t.a")])
    pipeline.add(Recorder(), name="sink")
    for check, says in (
        ("own_tables", "may not use the schema"),
        ("tables", "not readable: we.ird.t.a; not all rows, by row-level security: we.ird.t.a"),
    ):
        found = by_name(examine(of(newest_database, role), pipeline.outline()))[check]
        assert found.status == "failed" and says in found.found
        newest_database.execute(*statements(found.mend or ""))
    assert statuses(examine(of(newest_database, role), pipeline.outline()), "failed") == set()
    run_once(newest_database, pipeline)
    module = tmp_path / "follows.py"
    module.write_text(
        f"import pgcdc\npipeline = pgcdc.Pipeline('shop', {newest_database.dsn!r}, tables=[('we.ird', 't.a')])\n"
        "pipeline.on(('we.ird', 't.a'))(print)\n"
    )
    ended = run("doctor", "--role", "reader", "follows:pipeline", PYTHONPATH=f"{tmp_path}:{REPOSITORY}/python")
    assert ended.code == 0 and 'GRANT SELECT ON "we.ird"."t.a"' in ended.stdout


FACTS = Facts(
    asked=Asked(slot="shop", publication="shop", pipeline="shop", slots=["shop"]),
    version=180004,
    database="shop",
    standby=False,
    settings={
        "wal_level": "logical",
        "max_replication_slots": "10",
        "max_wal_senders": "10",
        "hot_standby_feedback": "off",
        "max_slot_wal_keep_size": "51200",
        "wal_sender_timeout": "60000",
        "idle_replication_slot_timeout": "0",
    },
    walsenders=1,
    slots=[],
    prepared=0,
    role=RoleFacts(name="pgcdc", superuser=False, replication=True, create=True, own_schema=None, refused=None),
    publication=PublicationFacts(
        actions=frozenset({"insert", "update", "delete", "truncate"}), tables=frozenset({"public.orders"})
    ),
    tables=[
        TableFacts(relation=("public", "orders"), identity="d", keyed=True, logged=True, readable=True, owned=True)
    ],
    missing=[],
    store={},
)
SLOT = SlotState(
    name="shop", plugin="pgoutput", database="shop", temporary=False, active=True, active_pid=1, restart_lsn=1,
    confirmed_flush_lsn=1, wal_status="reserved", safe_wal_size=None, two_phase=False, conflicting=False,
    invalidation_reason=None, failover=False, synced=False, lag_bytes=5, lag_seconds=3.0, held_bytes=5,
)  # fmt: skip


def settings(**changed: str) -> dict[str, Any]:
    return {"settings": {**FACTS.settings, **changed}}


def a_slot(**changed: Any) -> dict[str, Any]:
    return {"slots": [msgspec.structs.replace(SLOT, **changed)]}


def asked(**changed: Any) -> dict[str, Any]:
    return {"asked": msgspec.structs.replace(FACTS.asked, **changed)}


def a_role(**changed: Any) -> dict[str, Any]:
    return {"role": msgspec.structs.replace(FACTS.role, **changed)}


@pytest.mark.parametrize(
    ("changed", "check", "status", "mend"),
    [
        ({"version": 130010}, "version", "failed", "upgrade"),
        (settings(wal_level="replica"), "wal_level", "failed", "ALTER SYSTEM SET wal_level = logical"),
        ({"standby": True}, "standby_feedback", "failed", "hot_standby_feedback = on"),
        ({"standby": True} | settings(hot_standby_feedback="on"), "standby_feedback", "ok", None),
        ({"standby": True, "version": 150001}, "standby_feedback", "failed", "connect to the primary"),
        (settings(max_replication_slots="0"), "free_slots", "failed", "max_replication_slots = 10"),
        (settings(max_replication_slots="1"), "free_slots", "warning", "max_replication_slots = 11"),
        (a_slot() | settings(max_replication_slots="2"), "free_slots", "ok", None),
        (settings(max_wal_senders="1"), "free_walsenders", "failed", "max_wal_senders = 11"),
        (settings(max_wal_senders="2"), "free_walsenders", "warning", "max_wal_senders = 12"),
        (settings(max_slot_wal_keep_size="-1"), "kept_wal", "warning", "max_slot_wal_keep_size"),
        (settings(wal_sender_timeout="0"), "timeouts", "warning", "wal_sender_timeout = '60s'"),
        (settings(idle_replication_slot_timeout="600"), "timeouts", "warning", "idle_replication_slot_timeout = 0"),
        (a_slot(wal_status="lost"), "slot", "failed", "pg_drop_replication_slot('shop')"),
        (a_slot(invalidation_reason="idle_timeout"), "slot", "failed", "when_needed"),
        (a_slot(wal_status="unreserved"), "slot", "warning", "max_slot_wal_keep_size"),
        (a_slot(safe_wal_size=1024), "slot", "warning", "max_slot_wal_keep_size"),
        (a_slot(active=False), "slot", "warning", "start the consumer; or"),
        (a_slot(plugin="test_decoding"), "slot", "failed", "choose another name: something else needs this one"),
        (a_slot(plugin=None, database=None), "slot", "failed", "as a standby or a backup does"),
        (a_slot(synced=True, active=False) | {"standby": True}, "slot", "failed", "its primary"),
        (a_slot(database="other"), "slot", "failed", "connect to that database"),
        (asked(slots=["shop", "x"]) | a_slot() | settings(max_replication_slots="2"), "free_slots", "warning", "12"),
        (asked(slots=["shop", "x"]) | a_slot() | settings(max_replication_slots="3"), "free_slots", "ok", None),
        (a_role(own_schema=True, foreign=["positions"]), "own_tables", "failed", "ON ALL TABLES IN SCHEMA pgcdc"),
        (a_role(own_schema=False), "own_tables", "failed", "GRANT CREATE, USAGE ON SCHEMA pgcdc"),
        ({"standby": True}, "own_tables", "failed", "SqlitePositions"),
        ({"standby": True} | asked(positions="SqlitePositions"), "own_tables", "skipped", None),
        ({"standby": True, "publication": None}, "publication", "failed", "on the primary"),
        (asked(pipeline=None), "slot", "failed", "pgcdc slots"),
        ({"store": {"positions": 2}}, "slot", "failed", "when_needed"),
        (asked(stored=1, positions="SqlitePositions"), "slot", "failed", "when_needed"),
        (asked(stored=0, positions="SqlitePositions"), "slot", "ok", None),
        (asked(positions="SqlitePositions"), "slot", "skipped", None),
        ({"store": {"positions": 1}} | asked(from_kafka=True), "slot", "skipped", None),
        ({"store": {"positions": 1}} | asked(snapshot="when_needed"), "slot", "warning", "takes a new copy"),
        ({}, "slot", "ok", None),
        (asked(pipeline=None) | {"publication": None}, "publication", "failed", 'CREATE PUBLICATION "shop" FOR TABLE'),
        ({"publication": None}, "publication", "ok", None),
        (a_slot(), "slot", "ok", None),
        (a_slot(lag_seconds=601.0), "slot_lag", "failed", "start the consumer"),
        (a_slot(lag_seconds=None), "slot_lag", "warning", "pg_monitor"),
        (a_slot(lag_seconds=599.0), "slot_lag", "ok", None),
        ({}, "slot_lag", "skipped", None),
        (a_slot(name="x", active=False, held_bytes=2**31), "other_slots", "warning", "pg_drop_replication_slot('x')"),
        (a_slot(name="x", active=False, held_bytes=2**31, database="b"), "other_slots", "warning", "-- x is of data"),
        (a_slot(name="x", active=False, held_bytes=2**31, plugin=None, database=None), "other_slots", "warning",
         "-- x is of a standby or a backup, which"),
        (a_slot(name="x", active=False, held_bytes=2**31, synced=True) | {"standby": True}, "other_slots", "warning",
         "-- x follows a slot of the primary"),
        (a_slot(name="used", active=True, held_bytes=2**31), "other_slots", "ok", None),
        ({"prepared": 2}, "prepared_transactions", "warning", "ROLLBACK PREPARED"),
    ],
)  # fmt: skip
def test_what_is_said_of(changed: dict[str, Any], check: str, status: str, mend: str | None) -> None:
    facts = msgspec.structs.replace(FACTS, **changed)
    findings = by_name([one(facts) for one in (*SERVER_CHECKS, *ACCESS_CHECKS, *SLOT_CHECKS)])
    finding = findings[check]
    assert (finding.status, finding.mend is None) == (status, mend is None)
    assert mend is None or mend in (finding.mend or "")
    assert (finding.why in str(finding)) == (mend is not None)


def test_a_pipeline_that_forgets_is_not_in_order(newest_database: Database) -> None:
    newest_database.execute(ORDERS)
    pipeline = pgcdc.Pipeline("shop", newest_database.dsn, tables=["orders"], positions=MemoryPositions())
    pipeline.add(Recorder(), name="plain")
    pipeline.add(Recorder(), name="careful", on_failure="park", on_schema_change="stop")
    found = by_name(examine(newest_database.dsn, pipeline.outline()))
    assert found["positions"].status == "failed" and found["positions"].found == "MemoryPositions"
    assert found["schema_plan"].found.endswith(": plain") and found["dead_letters"].found.endswith(": plain")
    assert (found["replay"].status, found["schema_change_tried"].status) == ("skipped", "skipped")


def test_a_slot_that_is_gone_and_positions_elsewhere(newest_database: Database, tmp_path: Path) -> None:
    newest_database.execute(ORDERS)
    path = tmp_path / "shop.toml"
    path.write_text(
        f'[pipeline]\nname = "shop"\ndsn = "{newest_database.dsn}"\ntables = ["orders"]\n'
        f'[positions]\nstore = "sqlite"\noptions = {{ path = "{tmp_path}/positions" }}\n'
        '[consumers.sink]\nsink = "tests.pipeline.targets:Recorder"\n'
    )

    def found() -> dict[str, Finding]:
        ended = run("doctor", str(path), "--json")
        return by_name([msgspec.json.decode(line, type=Finding) for line in ended.stdout.splitlines()])

    assert found()["slot"].found == "it is made when the pipeline starts first"
    assert not (tmp_path / "positions").exists(), "who looks makes nothing"
    with running(build(str(path), Redactor({}))) as running_one:
        running_one.streaming()
        assert found()["positions"].found == "SqlitePositions; 1 of 1 consumers have one"
    newest_database.execute("SELECT pg_drop_replication_slot('pgcdc_shop')")
    after = found()["slot"]
    assert after.status == "failed" and after.found.endswith("1 stored position is of it"), after
    ended = run("init", str(path), "--yes")
    assert ended.code == 2 and ended.stdout == "" and "does not exist any more, and pipeline 'shop'" in ended.stderr
    assert "hint: call Pipeline.destroy() once" in ended.stderr and "when_needed" in ended.stderr


def test_the_command(newest_database: Database) -> None:
    newest_database.execute(ORDERS, "CREATE PUBLICATION shop FOR TABLE orders")
    arguments = ("doctor", "--dsn", newest_database.dsn, "--table", "orders", "--publication", "shop")
    ended = run(*arguments)
    assert ended.code == 0 and ended.stderr == "", ended
    assert "wal_level is logical: logical" in ended.stdout and " ok" in ended.stdout.splitlines()[-1]
    ended = run(*arguments, "--json")
    lines = [msgspec.json.decode(line, type=Finding) for line in ended.stdout.splitlines()]
    assert len(lines) > 12 and statuses(lines, "failed") == set()
    newest_database.execute("ALTER TABLE orders DROP CONSTRAINT orders_pkey")
    ended = run(*arguments)
    assert ended.code == 1 and 'ALTER TABLE "public"."orders" REPLICA IDENTITY FULL' in ended.stdout
    ended = run("doctor", "--role", "reader", "--table", "orders", "--dsn", newest_database.dsn)
    assert ended.code == 0 and 'CREATE ROLE "reader" LOGIN;' in ended.stdout
    ended = run("doctor", "--role", "reader")
    assert ended.code == 2 and "hint: name a pipeline" in ended.stderr
    ended = run("doctor", "--dsn", "host=/nowhere user=u password=sesame")
    assert ended.code == 1 and "sesame" not in ended.stderr and ended.stderr.startswith("error: the server cannot")
    assert json.loads(run(*arguments, "--json").stdout.splitlines()[0])["check"] == "version"
