"""Publications: what they publish is what the stream's Relation messages will say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc.events import Column, Relation
from pgcdc.replication import ensure_publication, parse_table, published_tables
from tests.replication.reading import read_past
from tests.replication.streams import new_name, refuses_column_lists, statements, wal_end

if TYPE_CHECKING:
    from pgcdc.replication import Connection
    from tests.conftest import Database

INT4, TEXT = 23, 25


def shape(columns: list[Column]) -> list[tuple[str, int, bool]]:
    return [(column.name, column.type_oid, column.is_key) for column in columns]


def streamed_relations(connection: Connection, database: Database, publications: list[str], *writes: str) -> list[Any]:
    """What the stream says of the tables that are written to."""
    connection.create_slot(name := new_name())
    database.execute(*writes)
    with connection.stream(name, publications) as stream:
        return [event for event in read_past(stream, wal_end(database)) if isinstance(event, Relation)]


def test_a_plain_table(connection: Connection, database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, gone int, name varchar(20) NOT NULL, extra text)",
        "ALTER TABLE t DROP COLUMN gone",
        "CREATE PUBLICATION p FOR TABLE t",
    )
    (table,) = published_tables(connection, ["p"])
    assert (table.schema, table.name, table.relation.replica_identity) == ("public", "t", "d")
    assert shape(table.relation.columns) == [("id", INT4, True), ("name", 1043, False), ("extra", TEXT, False)]
    assert table.relation.columns[1].type_modifier == 24
    assert table.primary_key == ["id"]
    assert table.row_filter is None and not table.partitioned
    assert table.binary_columns == [True, True, True]
    assert table.storage == ((table.relation.oid, table.filenode),)
    assert table.filenode == database.execute("SELECT pg_relation_filenode('t')")[0][0]


@pytest.mark.parametrize("identity", ["DEFAULT", "NOTHING", "FULL", "USING INDEX other"])
def test_it_is_what_the_stream_says(connection: Connection, database: Database, identity: str) -> None:
    database.execute(
        "CREATE TABLE t (a int NOT NULL, id int, b text NOT NULL, c numeric(9,2), gone int, PRIMARY KEY (id, a))",
        "CREATE UNIQUE INDEX other ON t (b, a) INCLUDE (c)",
        "ALTER TABLE t DROP COLUMN gone",
        f"ALTER TABLE t REPLICA IDENTITY {identity}",
        "CREATE PUBLICATION p FOR TABLE t",
    )
    (table,) = published_tables(connection, ["p"])
    (relation,) = streamed_relations(connection, database, ["p"], "INSERT INTO t VALUES (1, 2, 'x', 3)")
    assert table.relation == relation
    assert table.primary_key == ["id", "a"]


def test_without_a_primary_key(connection: Connection, database: Database) -> None:
    database.execute("CREATE TABLE t (a int)", "CREATE PUBLICATION p FOR TABLE t")
    (table,) = published_tables(connection, ["p"])
    assert table.primary_key == []
    assert shape(table.relation.columns) == [("a", INT4, False)]


def test_awkward_names(connection: Connection, database: Database) -> None:
    database.execute(
        'CREATE SCHEMA "Sch.e""ma"',
        """CREATE TABLE "Sch.e""ma"."Tä ble's" ("I d" int PRIMARY KEY, "表" text, "qu""ote" int)""",
        """INSERT INTO "Sch.e""ma"."Tä ble's" VALUES (1, 'x', 2)""",
    )
    awkward = "Pub, \"lic'ä"
    assert ensure_publication(connection, awkward, [('Sch.e"ma', "Tä ble's")]) == [('Sch.e"ma', "Tä ble's")]
    (table,) = published_tables(connection, [awkward])
    assert (table.schema, table.name) == ('Sch.e"ma', "Tä ble's")
    assert [column.name for column in table.relation.columns] == ["I d", "表", 'qu"ote']
    write = """UPDATE "Sch.e""ma"."Tä ble's" SET "表" = 'y'"""
    (relation,) = streamed_relations(connection, database, [awkward], write)
    assert relation == table.relation


def test_column_lists_and_row_filters(connection: Connection, database: Database) -> None:
    if connection.server_version < 150000:
        refuses_column_lists(database)
        return
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a int, secret text)",
        "CREATE PUBLICATION p FOR TABLE t (a, id) WHERE (id > 10)",
        "CREATE PUBLICATION q FOR TABLE t (a, id) WHERE (id < 5)",
        "CREATE PUBLICATION r FOR TABLE t (a, id)",
    )
    (table,) = published_tables(connection, ["p"])
    assert shape(table.relation.columns) == [("id", INT4, True), ("a", INT4, False)]
    assert table.row_filter == "((id > 10))"
    (both,) = published_tables(connection, ["p", "q"])
    assert both.row_filter in ("((id < 5)) OR ((id > 10))", "((id > 10)) OR ((id < 5))")
    (unfiltered,) = published_tables(connection, ["p", "r"])
    assert unfiltered.row_filter is None
    (relation,) = streamed_relations(connection, database, ["p"], "INSERT INTO t VALUES (11, 1, 's')")
    assert relation == table.relation


@pytest.mark.parametrize("via_root", [True, False])
def test_partitions(connection: Connection, database: Database, via_root: bool) -> None:
    database.execute(
        "CREATE TABLE t (id int, part int, note text, PRIMARY KEY (id, part)) PARTITION BY LIST (part)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)",
        "CREATE TABLE t2 (note text, part int NOT NULL, id int NOT NULL)",
        "ALTER TABLE t ATTACH PARTITION t2 FOR VALUES IN (2)",
        f"CREATE PUBLICATION p FOR TABLE t WITH (publish_via_partition_root = {via_root})",
    )
    tables = published_tables(connection, ["p"])
    assert [table.name for table in tables] == (["t"] if via_root else ["t1", "t2"])
    filenodes = database.execute(
        "SELECT oid::int, pg_relation_filenode(oid)::int FROM pg_class WHERE relname IN ('t1','t2')"
    )
    assert sorted(pair for table in tables for pair in table.storage) == sorted(filenodes)
    assert [table.partitioned for table in tables] == ([True] if via_root else [False, False])
    relations = streamed_relations(connection, database, ["p"], "INSERT INTO t VALUES (1, 1), (2, 2)")
    for table in tables:
        assert table.relation in relations


def test_a_root_in_one_publication_and_its_leaf_in_another(connection: Connection, database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10)",
        "CREATE PUBLICATION p FOR TABLE t WITH (publish_via_partition_root = true)",
        "CREATE PUBLICATION q FOR TABLE t1",
    )
    assert [table.name for table in published_tables(connection, ["p", "q"])] == ["t"]


def test_generated_columns(connection: Connection, database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, doubled int GENERATED ALWAYS AS (id * 2) STORED, note text)",
        "CREATE PUBLICATION p FOR TABLE t",
    )
    publications = ["p"]
    if connection.server_version >= 180000:
        database.execute("CREATE PUBLICATION q FOR TABLE t WITH (publish_generated_columns = stored)")
        publications.append("q")
    expected = {"p": ["id", "note"], "q": ["id", "doubled", "note"]}
    for name in publications:
        (table,) = published_tables(connection, [name])
        assert [column.name for column in table.relation.columns] == expected[name]
        (relation,) = streamed_relations(connection, database, [name], "DELETE FROM t", "INSERT INTO t VALUES (1)")
        assert relation == table.relation


def test_all_tables_and_schemas(connection: Connection, database: Database) -> None:
    database.execute("CREATE SCHEMA s", "CREATE TABLE s.t (id int)", "CREATE TABLE u (id int)")
    database.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    assert [(t.schema, t.name) for t in published_tables(connection, ["everything"])] == [("public", "u"), ("s", "t")]
    assert ensure_publication(connection, "everything", ["u"]) == []
    if connection.server_version >= 150000:
        database.execute("CREATE PUBLICATION one FOR TABLES IN SCHEMA s")
        assert [t.name for t in published_tables(connection, ["one"])] == ["t"]
        assert ensure_publication(connection, "one", ["s.t", "u"]) == [("public", "u")]


def test_types_without_a_binary_form(connection: Connection, database: Database) -> None:
    database.execute(
        "CREATE DOMAIN rights AS aclitem[]",
        "CREATE TABLE t (id int, a aclitem, b aclitem[], c rights, d text[], e int2vector)",
        "CREATE PUBLICATION p FOR TABLE t",
    )
    (table,) = published_tables(connection, ["p"])
    assert table.binary_columns == [True, False, False, False, True, True]
    assert table.column_types[3] == "public.rights"


def test_a_publication_that_is_not_there(connection: Connection) -> None:
    for call in (lambda: published_tables(connection, ["p"]), lambda: connection.stream(_slot(connection), ["p"])):
        with pytest.raises(pgcdc.PublicationNotFound, match='publication "p" does not exist') as caught:
            call()
        assert 'CREATE PUBLICATION "p" FOR TABLE' in (caught.value.hint or "")
        assert caught.value.publication == "p"
    with pytest.raises(pgcdc.ConfigError, match="no publication"):
        published_tables(connection, [])


def _slot(connection: Connection) -> str:
    return connection.create_slot(new_name(), temporary=True).name


def test_ensure(connection: Connection, database: Database) -> None:
    database.execute(
        "CREATE TABLE a (id int)", "CREATE TABLE b (id int)", "CREATE SCHEMA s", "CREATE TABLE s.c (id int)"
    )
    assert ensure_publication(connection, "p", ["a"]) == [("public", "a")]
    assert ensure_publication(connection, "p", ["a"]) == []
    assert ensure_publication(connection, "p", ["b", "s.c", "a", "b"]) == [("public", "b"), ("s", "c")]
    assert [t.name for t in published_tables(connection, ["p"])] == ["a", "b", "c"]


def test_ensure_publishes_partitions_by_their_root(connection: Connection, database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int) PARTITION BY RANGE (id)", "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10)"
    )
    ensure_publication(connection, "p", ["t"])
    assert [t.name for t in published_tables(connection, ["p"])] == ["t"]
    assert ensure_publication(connection, "p", ["t"]) == []


def test_ensure_refuses(connection: Connection, database: Database) -> None:
    database.execute("CREATE VIEW v AS SELECT 1 AS one", "CREATE UNLOGGED TABLE fast (id int)")
    with pytest.raises(pgcdc.ConfigError, match=r"table public\.nowhere does not exist") as caught:
        ensure_publication(connection, "p", ["nowhere"])
    assert caught.value.table == "public.nowhere"
    for name in ("v", "fast"):
        with pytest.raises(pgcdc.ConfigError, match="cannot be published"):
            ensure_publication(connection, "p", [name])
    with pytest.raises(pgcdc.ConfigError, match="would publish no table"):
        ensure_publication(connection, "p", [])
    assert database.execute("SELECT count(*) FROM pg_publication") == [(0,)]


def test_ensure_without_the_right_to(database: Database) -> None:
    role = new_name("r")
    database.execute(f"CREATE ROLE {role} LOGIN REPLICATION", "CREATE TABLE t (id int)")
    try:
        with pgcdc.connect(database.server.dsn(database.name, user=role)) as connection:
            with pytest.raises(pgcdc.ConfigError) as caught:
                ensure_publication(connection, "p", ["t"])
            assert caught.value.sqlstate == "42501"
            assert 'CREATE PUBLICATION "p" FOR TABLE "public"."t"' in (caught.value.hint or "")
            database.execute(*statements(caught.value))
            assert ensure_publication(connection, "p", ["t"]) == []
    finally:
        database.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("written", "parsed"),
    [
        ("orders", ("public", "orders")),
        ("sales.orders", ("sales", "orders")),
        ('"a.b"."c""d"', ("a.b", 'c"d')),
        ('sales."Or.ders"', ("sales", "Or.ders")),
        (("we.ird", "t"), ("we.ird", "t")),
        ("Ünï", ("public", "Ünï")),
    ],
)
def test_names_of_tables(written: Any, parsed: tuple[str, str]) -> None:
    assert parse_table(written) == parsed


@pytest.mark.parametrize("written", ["", ".", "a.", "a.b.c", '"open', ("a",), ("", "b")])
def test_what_is_not_a_name_of_a_table(written: Any) -> None:
    with pytest.raises(pgcdc.ConfigError):
        parse_table(written)
