"""Publications by a plan: what is told before is what comes of it, all of it or nothing, and only if nothing moved.

Over 400 lines, because each thing that a plan can change is tried against the server by itself.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import pgcdc
from pgcdc.replication import (
    PlanStale,
    Publication,
    PublicationPlan,
    PublicationTable,
    check_server,
    publication_changes,
    published_tables,
)
from tests.replication.reading import read_past
from tests.replication.streams import ids, new_name, refuses_column_lists, wal_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pgcdc.replication import Connection
    from tests.conftest import Database

TABLES = (
    "CREATE TABLE orders (id int PRIMARY KEY, status text, note text)",
    "CREATE TABLE items (id int PRIMARY KEY, n int)",
    "CREATE SCHEMA sales",
    "CREATE TABLE sales.invoices (id int PRIMARY KEY)",
    "CREATE TABLE parts (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part)",
    "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)",
    "CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2)",
)
ORDERS = PublicationTable("orders")
ITEMS = PublicationTable("items")
PARTS = PublicationTable("parts")


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    database.execute(*TABLES)
    with pgcdc.connect(database.dsn) as connection:
        yield connection


@pytest.fixture
def newest(newest_database: Database) -> Iterator[Connection]:
    """For what has nothing to do with the version."""
    newest_database.execute(*TABLES)
    with pgcdc.connect(newest_database.dsn) as connection:
        yield connection


def become(connection: Connection, wanted: Publication) -> PublicationPlan:
    """Plan and apply, and see that it is what was wanted; returns the plan."""
    plan = connection.plan_publication(wanted)
    assert plan.steps
    connection.apply(plan)
    again = connection.plan_publication(wanted)
    assert (again.steps, again.warnings) == ((), ()), str(again)
    connection.apply(again)
    found = connection.publication(wanted.name)
    assert found is not None and not connection.plan_publication(found).steps
    fields = ("name", "schemas", "all_tables", "publish", "publish_via_partition_root", "publish_generated_columns")
    assert [getattr(found, field) for field in fields] == [getattr(wanted, field) for field in fields]
    assert [table.table for table in found.tables] == [table.table for table in wanted.tables]
    return plan


def kinds(plan: PublicationPlan) -> list[tuple[str, tuple[str, ...]]]:
    return [(warning.kind, warning.tables) for warning in plan.warnings]


def commands(plan: PublicationPlan) -> list[str]:
    return [step.command for step in plan.steps]


def test_one_that_is_new(connection: Connection, database: Database) -> None:
    assert connection.publication("shop") is None
    plan = connection.plan_publication(Publication("shop", [ORDERS, ITEMS]))
    assert connection.publication("shop") is None, "a plan changes nothing"
    assert plan.found is None
    assert commands(plan) == ['CREATE PUBLICATION "shop" FOR TABLE ONLY "public"."items", ONLY "public"."orders"']
    assert kinds(plan) == [("snapshot_needed", ("public.items", "public.orders"))]
    connection.apply(plan)
    found = connection.publication("shop")
    assert found is not None and found.owner == "postgres" and len(found.catalog_rows) == 3
    assert msgspec.structs.replace(found, owner=None, catalog_rows=()) == Publication("shop", [ITEMS, ORDERS])
    assert found.table("orders") == ORDERS and found.table("public.nowhere") is None
    assert [publication.name for publication in connection.publications()] == ["shop"]
    assert {table.name for table in published_tables(connection, ["shop"])} == {"items", "orders"}
    assert database.execute("SELECT count(*) FROM pg_publication") == [(1,)]


def test_more_and_fewer_tables(connection: Connection) -> None:
    become(connection, Publication("shop", [ORDERS]))
    plan = become(connection, Publication("shop", [ITEMS]))
    assert commands(plan) == [
        'ALTER PUBLICATION "shop" DROP TABLE ONLY "public"."orders"',
        'ALTER PUBLICATION "shop" ADD TABLE ONLY "public"."items"',
    ]
    assert kinds(plan) == [("rows_lost", ("public.orders",)), ("snapshot_needed", ("public.items",))]
    assert "public.orders" in plan.warnings[0].says and "public.items" in plan.warnings[1].says
    text = str(plan)
    assert text.startswith('publication "shop": 2 changes\n  1. not published any more: public.orders\n     ALTER ')
    assert "\n  warning: what is written to public.orders from then on is in no stream" in text
    document = msgspec.json.decode(msgspec.json.encode(plan))
    assert document["warnings"][0]["kind"] == "rows_lost"
    assert msgspec.json.decode(msgspec.json.encode(plan), type=PublicationPlan) == plan


def test_what_is_published(newest: Connection) -> None:
    become(newest, Publication("shop", [ORDERS], publish=["insert", "delete"]))
    plan = become(newest, Publication("shop", [ORDERS], publish=["truncate", "insert"]))
    assert commands(plan) == ["ALTER PUBLICATION \"shop\" SET (publish = 'insert, truncate')"]
    assert [warning.kind for warning in plan.warnings] == ["targets_stay", "snapshot_needed"]
    assert plan.warnings[0].says.startswith("delete ") and plan.warnings[1].says.startswith("truncate ")


def test_columns_and_row_filters(connection: Connection, database: Database) -> None:
    narrow = PublicationTable("orders", columns=["status", "id"], where="id>3 and Id IS NOT NULL")
    if connection.server_version < 150000:
        refuses_column_lists(database)
        for wanted, what in (
            (Publication("shop", [PublicationTable("orders", columns=["id"])]), "lists of columns need PostgreSQL 15"),
            (Publication("shop", [PublicationTable("orders", where="id > 3")]), "row filters need PostgreSQL 15"),
            (Publication("shop", schemas=["sales"]), "whole schemas need PostgreSQL 15"),
        ):
            with pytest.raises(pgcdc.ConfigError, match=what):
                connection.plan_publication(wanted)
        return
    become(connection, Publication("shop", [ORDERS, ITEMS]))
    plan = become(connection, Publication("shop", [narrow, ITEMS]))
    assert commands(plan) == [
        'ALTER PUBLICATION "shop" SET TABLE ONLY "public"."items",'
        ' ONLY "public"."orders" ("status", "id") WHERE ((id > 3) AND (id IS NOT NULL))'
    ]
    assert kinds(plan) == [("targets_stay", ("public.orders",)), ("targets_stay", ("public.orders",))]
    (_, table) = published_tables(connection, ["shop"])
    assert [column.name for column in table.relation.columns] == ["id", "status"]
    assert table.row_filter == "(((id > 3) AND (id IS NOT NULL)))"
    plan = become(connection, Publication("shop", [PublicationTable("orders", where="id > 4"), ITEMS]))
    assert kinds(plan) == [
        ("snapshot_needed", ("public.orders",)),
        ("targets_stay", ("public.orders",)),
        ("snapshot_needed", ("public.orders",)),
    ]
    plan = become(connection, Publication("shop", [ORDERS], ["sales"]))
    assert kinds(plan) == [
        ("rows_lost", ("public.items",)),
        ("snapshot_needed", ("sales.invoices",)),
        ("snapshot_needed", ("public.orders",)),
    ]
    # A list of columns and a whole schema exclude each other: one has to go before the other comes.
    plan = become(connection, Publication("shop", [ORDERS, PublicationTable("items", columns=["id"])]))
    assert len(plan.steps) == 2
    with pytest.raises(pgcdc.ConfigError, match="list of columns") as caught:
        connection.plan_publication(Publication("shop", [narrow], ["sales"]))
    assert caught.value.table == "public.orders"


FILTERS = (
    "id = 3",
    "(id) > ( 2+1 )",
    "NOT (id <> 4 OR note LIKE 'a%')",
    "status = ')' AND id > 1 -- a comment",
    "\"status\" IN ('a', '(', '\"')",
    "note = E'it''s \\n' AND id BETWEEN 1 AND 9",
    "status || note = 'x' COLLATE \"C\"",
    "CASE WHEN id > 3 THEN status IS NULL ELSE true END",
    "true",
)


def test_the_server_reads_row_filters(connection: Connection, database: Database) -> None:
    """However it is written, one that is the same as before is no change, and one that is another is."""
    if connection.server_version < 150000:
        refuses_column_lists(database)
        return
    become(connection, Publication("shop", [ORDERS]))
    for where in FILTERS:
        plan = become(connection, Publication("shop", [PublicationTable("orders", where=where)]))
        written = plan.wanted.tables[0].where if plan.wanted else None
        [(expression,)] = database.execute("SELECT pg_get_expr(prqual, prrelid) FROM pg_publication_rel")
        assert written == expression, "as the server itself writes it in the publication"
    with pytest.raises(pgcdc.Error, match=r"row filter of public\.orders failed") as caught:
        connection.plan_publication(Publication("shop", [PublicationTable("orders", where="nothing > 3")]))
    assert (caught.value.sqlstate, caught.value.table) == ("42703", "public.orders")
    assert connection.execute("SELECT 1") == [("1",)], "the session is usable"
    before = connection.publication("shop")
    forbidden = [PublicationTable("orders", where="id::text = status")]  # a check may have that, a row filter may not
    plan = connection.plan_publication(Publication("shop", forbidden, publish=["insert"]))
    with pytest.raises(pgcdc.ConfigError) as refused:
        connection.apply(plan)
    assert refused.value.sqlstate == "0A000" and "immutable" in (refused.value.hint or "")
    assert connection.publication("shop") == before
    assert database.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'pgcdc%'") == [(0,)]


def test_partitions(connection: Connection, database: Database) -> None:
    plan = become(connection, Publication("shop", [PARTS]))
    assert kinds(plan) == [("snapshot_needed", ("public.parts_1", "public.parts_2"))]
    plan = become(connection, Publication("shop", [PARTS], publish_via_partition_root=True))
    assert kinds(plan) == [("renamed", ("public.parts",))]
    if connection.server_version < 150000:
        refuses_column_lists(database)
        return
    filtered = PublicationTable("parts", where="part = 1")
    become(connection, Publication("shop", [filtered], publish_via_partition_root=True))
    with pytest.raises(pgcdc.ConfigError, match="unless its rows are published as its own") as caught:
        connection.plan_publication(Publication("shop", [filtered]))
    assert caught.value.hint == "publish_via_partition_root=True, or name the partitions"
    # The filter has to go before the option does, and the option to come before the filter.
    assert len(become(connection, Publication("shop", [PARTS])).steps) == 2
    assert len(become(connection, Publication("shop", [filtered], publish_via_partition_root=True)).steps) == 2


def test_generated_columns(connection: Connection) -> None:
    wanted = Publication("shop", [ORDERS], publish_generated_columns="stored")
    if connection.server_version < 180000:
        with pytest.raises(pgcdc.ConfigError, match="publish_generated_columns need PostgreSQL 18"):
            connection.plan_publication(wanted)
        return
    become(connection, Publication("shop", [ORDERS]))
    plan = become(connection, wanted)
    assert commands(plan) == ['ALTER PUBLICATION "shop" SET (publish_generated_columns = stored)']


def test_inheritance(newest: Connection, newest_database: Database) -> None:
    """What is wanted is what is named: not what inherits from it."""
    newest_database.execute("CREATE TABLE more_orders () INHERITS (orders)")
    plan = become(newest, Publication("shop", [ORDERS]))
    assert kinds(plan) == [("snapshot_needed", ("public.orders",)), ("not_included", ("public.more_orders",))]
    assert [table.name for table in published_tables(newest, ["shop"])] == ["orders"]


def test_nothing_is_lost_while_it_changes(connection: Connection, database: Database) -> None:
    """Also not where it has to be dropped and made again: rows of a table that is in it before and after all come."""
    wanted = [
        Publication("shop", [ORDERS, ITEMS]),
        Publication("shop", all_tables=True),
        Publication("shop", [ORDERS], publish=["insert", "update"]),
    ]
    if connection.server_version >= 150000:
        wanted.append(Publication("shop", [PublicationTable("orders", columns=["id"], where="id > 0")]))
        wanted.append(Publication("shop", schemas=["public"]))
    become(connection, Publication("shop", [ORDERS]))
    slot = connection.create_slot(new_name()).name
    written: list[int] = []
    stop = threading.Event()

    def write() -> None:
        with database.connect() as writer:
            while not stop.is_set():
                number = len(written) + 1
                writer.execute(f"INSERT INTO orders VALUES ({number})")
                written.append(number)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for publication in wanted:
            become(connection, publication)
    finally:
        stop.set()
        thread.join()
    with connection.stream(slot, ["shop"]) as stream:
        assert ids(read_past(stream, wal_end(database))) == written


def test_one_that_is_made_again_keeps_its_owner(newest: Connection, newest_database: Database) -> None:
    role = new_name("r")
    newest_database.execute(f"CREATE ROLE {role} SUPERUSER", "CREATE PUBLICATION shop FOR ALL TABLES")
    try:
        newest_database.execute(f"ALTER PUBLICATION shop OWNER TO {role}")
        plan = become(newest, Publication("shop", [ORDERS]))
        assert [command.split()[0] for command in commands(plan)] == ["DROP", "CREATE", "ALTER"]
        found = newest.publication("shop")
        assert found is not None and found.owner == role
    finally:
        newest_database.execute("DROP PUBLICATION shop", f"DROP ROLE {role}")


def test_drop(newest: Connection) -> None:
    with pytest.raises(pgcdc.PublicationNotFound):
        newest.plan_drop_publication("shop")
    become(newest, Publication("shop", [ORDERS]))
    plan = newest.plan_drop_publication("shop")
    assert commands(plan) == ['DROP PUBLICATION "shop"']
    assert [warning.kind for warning in plan.warnings] == ["rows_lost"]
    newest.apply(plan)
    assert newest.publication("shop") is None
    with pytest.raises(PlanStale):
        newest.apply(plan)


CHANGES = {
    "there and back": ("ALTER PUBLICATION shop DROP TABLE orders", "ALTER PUBLICATION shop ADD TABLE orders"),
    "an option there and back": (
        "ALTER PUBLICATION shop SET (publish = 'insert')",
        "ALTER PUBLICATION shop SET (publish = 'insert, update, delete, truncate')",
    ),
    "made again": ("DROP PUBLICATION shop", "CREATE PUBLICATION shop FOR TABLE orders"),
    "gone": ("DROP PUBLICATION shop",),
    "a key": ("ALTER TABLE items DROP CONSTRAINT items_pkey",),
    "an identity": ("ALTER TABLE items REPLICA IDENTITY FULL",),
    "a column": ("ALTER TABLE items ADD COLUMN more int",),
    "a table made again": ("DROP TABLE items", "CREATE TABLE items (id int PRIMARY KEY, n int)"),
    "a table renamed": ("ALTER TABLE items RENAME TO things", "CREATE TABLE items (id int PRIMARY KEY, n int)"),
}


def test_what_changed_since_is_noticed(connection: Connection, database: Database) -> None:
    for what, statements in CHANGES.items():
        database.execute(
            "DROP PUBLICATION IF EXISTS shop",
            "DROP TABLE IF EXISTS items, things",
            "CREATE TABLE items (id int PRIMARY KEY, n int)",
            "CREATE PUBLICATION shop FOR TABLE orders",
        )
        plan = connection.plan_publication(Publication("shop", [ORDERS, ITEMS]))
        database.execute(*statements)
        before = connection.publication("shop")
        with pytest.raises(PlanStale) as caught:
            connection.apply(plan)
        assert caught.value.publication == "shop", what
        assert connection.publication("shop") == before, what
    # What does not matter is not taken for a change.
    plan = connection.plan_publication(Publication("shop", [ORDERS, ITEMS]))
    database.execute("INSERT INTO items VALUES (1)", "ANALYZE items", "VACUUM FREEZE items", "VACUUM FREEZE pg_class")
    database.execute("VACUUM FREEZE pg_publication_rel", "VACUUM FREEZE pg_publication", "CREATE INDEX ON items (n)")
    connection.apply(plan)


def test_somebody_else_at_the_same_time(
    newest: Connection, newest_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed after the plan was compared, and before it is done, is found in what comes of it."""
    become(newest, Publication("shop", [ORDERS]))
    plan = newest.plan_publication(Publication("shop", [ORDERS, ITEMS]))
    check = publication_changes._check_unchanged

    def and_then(*arguments: Any) -> None:
        check(*arguments)
        newest_database.execute("ALTER PUBLICATION shop DROP TABLE orders", "ALTER PUBLICATION shop ADD TABLE orders")

    monkeypatch.setattr(publication_changes, "_check_unchanged", and_then)
    with pytest.raises(PlanStale, match="at the same time"):
        newest.apply(plan)
    found = newest.publication("shop")
    assert found is not None and found.tables == (ORDERS,)


def test_all_of_it_or_nothing(newest: Connection, newest_database: Database) -> None:
    become(newest, Publication("shop", [ORDERS]))
    before = newest.publication("shop")
    plan = newest.plan_publication(Publication("shop", [ITEMS], publish=["insert"]))
    newest_database.execute("CREATE RULE one AS ON DELETE TO items DO NOTHING")  # something that concerns nobody
    newest.execute("BEGIN")
    with pytest.raises(pgcdc.ConfigError, match="a transaction is open"):
        newest.apply(plan)
    newest.execute("ROLLBACK")
    broken = msgspec.structs.replace(
        plan, steps=(*plan.steps, msgspec.structs.replace(plan.steps[0], command="ALTER PUBLICATION shop ADD TABLE x"))
    )
    with pytest.raises(pgcdc.ConfigError) as caught:
        newest.apply(broken)
    assert (caught.value.sqlstate, caught.value.publication) == ("42P01", "shop")
    assert newest.publication("shop") == before
    newest.apply(plan)


def test_a_lock_holds_it_up(newest: Connection, newest_database: Database) -> None:
    become(newest, Publication("shop", [ORDERS]))
    plan = newest.plan_publication(Publication("shop", [ORDERS, ITEMS]))
    with newest_database.connect() as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE items IN SHARE UPDATE EXCLUSIVE MODE")
        with pytest.raises(pgcdc.ReplicationError, match=r"did not end within 0\.3 s, and nothing was changed"):
            newest.apply(plan, timeout=0.3)
    newest.apply(plan)


def test_without_the_right_to(database: Database) -> None:
    role = new_name("r")
    database.execute(*TABLES, f"CREATE ROLE {role} LOGIN REPLICATION")
    try:
        with pgcdc.connect(database.server.dsn(database.name, user=role)) as connection:
            where = "id > 3" if connection.server_version >= 150000 else None
            plan = connection.plan_publication(Publication("shop", [PublicationTable("orders", where=where)]))
            unchecked = [] if where is None else [("unchecked", ("public.orders",))]
            assert kinds(plan) == [("snapshot_needed", ("public.orders",)), *unchecked]
            with pytest.raises(pgcdc.ConfigError) as caught:
                connection.apply(plan)
            assert caught.value.sqlstate == "42501"
            hint = caught.value.hint or ""
            database.execute(hint[hint.index("BEGIN;") :])
            with pytest.raises(PlanStale):
                connection.apply(plan)
            check_server(connection)
            assert [table.name for table in published_tables(connection, ["shop"])] == ["orders"]
    finally:
        database.execute(f"DROP ROLE {role}")


def test_awkward_names(connection: Connection, database: Database) -> None:
    database.execute(
        'CREATE SCHEMA "Sch.e""ma"', """CREATE TABLE "Sch.e""ma"."Tä ble's" ("I d" int PRIMARY KEY, "qu""ote" int)"""
    )
    lists = connection.server_version >= 150000
    table = PublicationTable(
        '"Sch.e""ma"."Tä ble\'s"',
        columns=["I d", 'qu"ote'] if lists else None,
        where='"I d" > 3' if lists else None,
    )
    assert table.name == ('Sch.e"ma', "Tä ble's")
    become(connection, Publication("sh'o\"p", [table]))
    if lists:
        become(connection, Publication("sh'o\"p", schemas=['Sch.e"ma']))


def test_what_cannot_be(connection: Connection, database: Database) -> None:
    database.execute("CREATE VIEW v AS SELECT 1 AS one", "CREATE UNLOGGED TABLE fast (id int)")
    lists = connection.server_version >= 150000
    cases: list[tuple[Callable[[], Publication], str]] = [
        (lambda: Publication("p"), "would publish no table"),
        (lambda: Publication("p", [ORDERS], publish=[]), "no kind of change"),
        (lambda: Publication("p", [ORDERS], all_tables=True), "all tables, and names some"),
        (lambda: Publication("p", [ORDERS, PublicationTable("public.orders")]), "names table public.orders twice"),
        (lambda: Publication("p", [ORDERS], publish=["select"]), "cannot publish 'select'"),  # type: ignore[list-item]
        (lambda: Publication("p", [PublicationTable("a.b.c")]), "not a table's name"),
        (lambda: Publication("p", [PublicationTable("orders", columns=[])]), "is not a list of names"),
        (lambda: Publication("p", [PublicationTable("nowhere")]), "public.nowhere does not exist"),
        (lambda: Publication("p", [PublicationTable("v")]), "cannot be published"),
        (lambda: Publication("p", [PublicationTable("fast")]), "cannot be published"),
        (
            lambda: Publication("p", [PublicationTable("orders", columns=["Id"])]),
            'has no column "Id"' if lists else "need PostgreSQL 15",
        ),
        (
            lambda: Publication("p", schemas=["nowhere"]),
            'schema "nowhere" does not exist' if lists else "need PostgreSQL 15",
        ),
    ]
    for make, sentence in cases:
        with pytest.raises(pgcdc.ConfigError, match=sentence):
            connection.plan_publication(make())
    assert connection.publications() == []
