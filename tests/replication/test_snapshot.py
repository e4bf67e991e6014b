"""The initial copy: what is in it, and that it and the stream together are the table.

Over 400 lines, because each kind of table (partitions, filters, lists, generated columns) has its own.
"""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc.events import Delete, Insert, Update
from pgcdc.replication import Snapshot, SnapshotStale, ensure_publication, published_tables
from pgcdc.replication.copy_command import copy_command
from tests.replication.reading import read_past, until
from tests.replication.streams import changes, new_name, refuses_column_lists, statements, wal_end
from tests.replication.test_stream import VALUES

if TYPE_CHECKING:
    from pgcdc.replication import Connection, PublishedTable, Slot
    from tests.conftest import Database


def begin(connection: Connection, publications: list[str]) -> tuple[list[PublishedTable], Slot]:
    """The tables, and then the slot: in this order."""
    tables = published_tables(connection, publications)
    return tables, connection.create_slot(new_name(), export_snapshot=True)


def copied(connection: Connection, publications: list[str], **limits: int) -> list[Any]:
    """All rows of the initial copy, as Inserts."""
    tables, slot = begin(connection, publications)
    catalog = pgcdc.Catalog.load(connection)
    row_format = pgcdc.RowFormat(catalog=catalog)
    events: list[Any] = []
    with Snapshot(connection.dsn, slot, tables, catalog) as snapshot:
        for batch in snapshot.batches(**limits):
            events += batch.events(row_format)
    assert all(isinstance(event, Insert) and event.snapshot for event in events), events
    assert {event.commit_lsn for event in events} <= {slot.consistent_point}
    return events


def rows(events: list[Any], *columns: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(getattr(event.new, column) for column in columns) for event in events)


def test_all_rows_in_bounded_batches(connection: Connection, database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, note text)",
        "CREATE TABLE u (a text)",
        "CREATE TABLE nothing_in_it (a text)",
        "INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 3000) i",
        "INSERT INTO u VALUES ('one'), (NULL)",
        "CREATE PUBLICATION p FOR TABLE t, u, nothing_in_it",
    )
    tables, slot = begin(connection, ["p"])
    sizes = []
    ids = []
    with Snapshot(database.dsn, slot, tables, pgcdc.Catalog()) as snapshot:
        for batch in snapshot.batches(max_rows=1000, max_bytes=50_000):
            assert 0 < len(batch) <= 1000 and batch.nbytes < 70_000
            assert len(batch.relations) == 1
            assert batch.last_position == (slot.consistent_point, -1)
            sizes.append((batch.relations[0].name, len(batch)))
            ids += [event.new.id for event in changes(batch.events()) if event.table == "t"]
    assert ids == list(range(1, 3001))
    assert sum(size for name, size in sizes if name == "u") == 2
    assert len(sizes) > 4


def test_it_is_as_of_the_consistent_point(connection: Connection, database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1), (2)", "CREATE PUBLICATION p FOR TABLE t"
    )
    tables, slot = begin(connection, ["p"])
    database.execute("INSERT INTO t VALUES (3)", "DELETE FROM t WHERE id = 1")
    with Snapshot(database.dsn, slot, tables, pgcdc.Catalog()) as snapshot:
        events = [event for batch in snapshot.batches() for event in batch.events()]
    assert rows(events, "id") == [(1,), (2,)]
    with connection.stream(slot.name, ["p"]) as stream:
        after = changes(read_past(stream, wal_end(database)))
    assert [type(event) for event in after] == [Insert, Delete]


def test_nothing_missing_and_nothing_twice_beside_writers(connection: Connection, database: Database) -> None:
    """Four writers insert, update and delete all the time; copy + stream is the table, and no row comes in both."""
    database.execute(
        "CREATE TABLE t (id bigserial PRIMARY KEY, writer int, version int)",
        "ALTER SEQUENCE t_id_seq CACHE 10",
        "INSERT INTO t (writer, version) SELECT 0, 0 FROM generate_series(1, 20000)",
        "CREATE PUBLICATION p FOR TABLE t",
    )
    stop = threading.Event()
    writers = [threading.Thread(target=churn, args=(database, number, stop)) for number in range(1, 5)]
    for writer in writers:
        writer.start()
    try:
        until(lambda: database.execute("SELECT count(DISTINCT writer) FROM t")[0][0] == 5)
        tables, slot = begin(connection, ["p"])
        mirror: dict[int, tuple[int, int]] = {}
        with Snapshot(database.dsn, slot, tables, pgcdc.Catalog()) as snapshot:
            for batch in snapshot.batches(max_rows=500):
                for event in changes(batch.events()):
                    assert event.new.id not in mirror
                    mirror[event.new.id] = (event.new.writer, event.new.version)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    with connection.stream(slot.name, ["p"]) as stream:
        applied = changes(read_past(stream, wal_end(database)))
    assert applied, "the writers wrote while the copy was made"
    for event in applied:
        if isinstance(event, Insert):
            assert event.new.id not in mirror, "a row that is in the copy came again"
            mirror[event.new.id] = (event.new.writer, event.new.version)
        elif isinstance(event, Update):
            assert event.new.version == mirror[event.new.id][1] + 1, "an update was lost or came twice"
            mirror[event.new.id] = (event.new.writer, event.new.version)
        elif isinstance(event, Delete):
            del mirror[event.old.id]
    assert mirror == {row[0]: row[1:] for row in database.execute("SELECT id, writer, version FROM t")}


def churn(database: Database, number: int, stop: threading.Event) -> None:
    choice = random.Random(number)
    with database.connect() as connection:
        while not stop.is_set():
            connection.execute("BEGIN")
            connection.execute("INSERT INTO t (writer, version) VALUES (%s, 0), (%s, 0)", (number, number))
            # Each writer has its own rows, so that nobody waits for anybody.
            place = choice.randrange(0, 5000) * 4 + number
            connection.execute("UPDATE t SET version = version + 1 WHERE id = %s", (place,))
            connection.execute("DELETE FROM t WHERE id = %s", (choice.randrange(0, 5000) * 4 + number,))
            connection.execute("COMMIT" if choice.random() < 0.8 else "ROLLBACK")


def test_every_everyday_type_is_as_in_the_stream(connection: Connection, database: Database) -> None:
    columns = ", ".join(f'"{kind}" {kind}' for kind in VALUES)
    longest = max(map(len, VALUES.values()))
    written = [
        "(" + ", ".join(values[n] if n < len(values) else "NULL" for values in VALUES.values()) + ")"
        for n in range(longest)
    ]
    listed = ", ".join(f'"{kind}"' for kind in VALUES)
    database.execute(
        "CREATE TYPE mood AS ENUM ('sad', 'happy')",
        "CREATE DOMAIN short AS varchar(5)",
        f"CREATE TABLE t (place serial, {columns})",
        "CREATE PUBLICATION p FOR TABLE t",
    )
    slot = connection.create_slot(new_name()).name
    database.execute(f"INSERT INTO t ({listed}) VALUES {', '.join(written)}")
    from_copy = copied(connection, ["p"])
    with connection.stream(slot, ["p"]) as stream:
        from_stream = changes(read_past(stream, wal_end(database)))
    assert [repr(event.new) for event in from_copy] == [repr(event.new) for event in from_stream]
    assert len(from_copy) == longest


def test_types_that_are_copied_as_text(connection: Connection, database: Database) -> None:
    """A type that cannot be read in binary comes as its output function writes it, NULL and rows of NULLs apart."""
    database.execute(
        "CREATE TYPE pair AS (a aclitem, b text)",
        "CREATE DOMAIN rights AS aclitem[]",
        "CREATE TABLE t (id int PRIMARY KEY, p pair, r rights, s int4range[])",
        """INSERT INTO t VALUES (1, ROW('=r/postgres', 'x y'), '{=r/postgres}', '{"[1,3)"}'), (2, NULL, NULL, NULL),
                                (3, ROW(NULL, NULL), '{}', '{}')""",
        "CREATE PUBLICATION p FOR TABLE t",
    )
    slot = connection.create_slot(new_name()).name
    database.execute("DELETE FROM t WHERE id = 4", "UPDATE t SET id = id")
    from_copy = copied(connection, ["p"])
    pairs = [event.new.p for event in sorted(from_copy, key=lambda event: event.new.id)]
    assert pairs == ['(=r/postgres,"x y")', None, "(,)"]
    with connection.stream(slot, ["p"]) as stream:
        from_stream = changes(read_past(stream, wal_end(database)))
    assert [repr(event.new) for event in from_copy] == [repr(event.new) for event in from_stream]


def test_column_lists_and_row_filters(connection: Connection, database: Database) -> None:
    if connection.server_version < 150000:
        refuses_column_lists(database)
        return
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, secret text, kind text)",
        "INSERT INTO t SELECT i, 'secret', (ARRAY['even', 'odd'])[i % 2 + 1] FROM generate_series(1, 10) i",
        "CREATE PUBLICATION p FOR TABLE t (id, kind) WHERE (id > 7 AND kind = 'even')",
        "CREATE PUBLICATION q FOR TABLE t (id, kind) WHERE (id = 1)",
        "CREATE PUBLICATION r FOR TABLE t (id, kind)",
    )
    assert rows(copied(connection, ["p"]), "id", "kind") == [(8, "even"), (10, "even")]
    assert rows(copied(connection, ["p", "q"]), "id") == [(1,), (8,), (10,)]
    everything = copied(connection, ["p", "r"])
    assert len(everything) == 10
    assert not hasattr(everything[0].new, "secret")


@pytest.mark.parametrize("via_root", [True, False])
def test_partitions(connection: Connection, database: Database, via_root: bool) -> None:
    database.execute(
        "CREATE TABLE t (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1) PARTITION BY RANGE (id)",
        "CREATE TABLE t1a PARTITION OF t1 FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE t2 (part int NOT NULL, id int NOT NULL)",
        "ALTER TABLE t ATTACH PARTITION t2 FOR VALUES IN (2)",
        "INSERT INTO t VALUES (1, 1), (2, 2), (3, 1)",
        f"CREATE PUBLICATION p FOR TABLE t WITH (publish_via_partition_root = {via_root})",
    )
    events = copied(connection, ["p"])
    assert rows(events, "id", "part") == [(1, 1), (2, 2), (3, 1)]
    assert {event.table for event in events} == ({"t"} if via_root else {"t1a", "t2"})


def test_inheritance_is_not_copied_twice(connection: Connection, database: Database) -> None:
    database.execute(
        "CREATE TABLE parent (id int)",
        "CREATE TABLE child () INHERITS (parent)",
        "INSERT INTO parent VALUES (1)",
        "INSERT INTO child VALUES (2)",
        "CREATE PUBLICATION p FOR TABLE parent",
    )
    events = copied(connection, ["p"])
    assert sorted((event.table, event.new.id) for event in events) == [("child", 2), ("parent", 1)]
    assert "ONLY" in copy_command(published_tables(connection, ["p"])[0], [True])


def test_generated_columns(connection: Connection, database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, doubled int GENERATED ALWAYS AS (id * 2) STORED)",
        "INSERT INTO t VALUES (1)",
        "CREATE PUBLICATION p FOR TABLE t",
    )
    (event,) = copied(connection, ["p"])
    assert not hasattr(event.new, "doubled")
    if connection.server_version >= 180000:
        database.execute("CREATE PUBLICATION q FOR TABLE t WITH (publish_generated_columns = stored)")
        assert rows(copied(connection, ["q"]), "id", "doubled") == [(1, 2)]


def test_awkward_names_and_tables(connection: Connection, database: Database) -> None:
    database.execute(
        'CREATE SCHEMA "Sch.e""ma"',
        'CREATE TABLE "Sch.e""ma"."Tä \'ble" ("表" int, "qu""ote" text)',
        """INSERT INTO "Sch.e""ma"."Tä 'ble" VALUES (1, 'ä')""",
        "CREATE TABLE no_columns ()",
        "INSERT INTO no_columns DEFAULT VALUES",
        "CREATE TABLE no_key (a int)",
        "INSERT INTO no_key VALUES (1), (1)",
    )
    ensure_publication(connection, "p'\"ub", [('Sch.e"ma', "Tä 'ble"), "no_columns", "no_key"])
    events = copied(connection, ["p'\"ub"])
    assert sorted(event.table for event in events) == ["Tä 'ble", "no_columns", "no_key", "no_key"]
    (awkward,) = (event.new for event in events if event.table == "Tä 'ble")
    assert list(awkward.__struct_fields__) == ["表", "qu_ote"]


def test_row_security_is_refused_not_obeyed(connection: Connection, database: Database) -> None:
    """A role that sees 2 of 10 rows would copy 2 and call it the table."""
    role = new_name("r")
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY)",
        "INSERT INTO t SELECT generate_series(1, 10)",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY few ON t USING (id <= 2)",
        "CREATE PUBLICATION p FOR TABLE t",
        f"CREATE ROLE {role} LOGIN REPLICATION",
        f"GRANT SELECT ON t TO {role}",
    )
    try:
        with pgcdc.connect(database.server.dsn(database.name, user=role)) as limited:
            with pytest.raises(pgcdc.ConfigError) as caught:
                copied(limited, ["p"])
            assert caught.value.sqlstate == "42501"
            assert caught.value.table == "public.t"
            assert statements(caught.value)[-1] == f'ALTER ROLE "{role}" BYPASSRLS;'
            database.execute(statements(caught.value)[-1])
            assert len(copied(limited, ["p"])) == 10
            database.execute(f"REVOKE SELECT ON t FROM {role}", "REVOKE USAGE ON SCHEMA public FROM PUBLIC")
            with pytest.raises(pgcdc.ConfigError, match="permission denied") as caught:
                copied(limited, ["p"])
            assert statements(caught.value)[:2] == [
                f'GRANT USAGE ON SCHEMA "public" TO "{role}";',
                f'GRANT SELECT ON "public"."t" TO "{role}";',
            ]
            database.execute(*statements(caught.value)[:2])
            assert len(copied(limited, ["p"])) == 10
    finally:
        database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE t",
        "ALTER TABLE t ALTER note TYPE int USING length(note)",
        "ALTER TABLE t ALTER note TYPE varchar(500)",  # no rewrite
        "ALTER TABLE t ALTER short TYPE text",  # no rewrite
        "ALTER TABLE t RENAME note TO remark",
        "ALTER TABLE t DROP COLUMN note",
        "ALTER TABLE t RENAME TO other",
        "ALTER TABLE t SET SCHEMA elsewhere",
        "DROP TABLE t",
        "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, note text)",
        "VACUUM FULL t",
    ],
)
def test_a_table_that_changed_after_the_export_is_noticed(
    connection: Connection, database: Database, statement: str
) -> None:
    database.execute(
        "CREATE SCHEMA elsewhere",
        "CREATE DOMAIN short AS varchar(10)",
        "CREATE TABLE t (id int PRIMARY KEY, note varchar(10), short short)",
        "INSERT INTO t VALUES (1, 'x')",
        "CREATE PUBLICATION p FOR TABLE t",
    )
    tables, slot = begin(connection, ["p"])
    with Snapshot(database.dsn, slot, tables, pgcdc.Catalog()) as snapshot:
        database.execute(*statement.split("; "))
        with pytest.raises(SnapshotStale, match=r"public\.t was") as caught:
            list(snapshot.batches())
    assert caught.value.table == "public.t"
    assert caught.value.slot == slot.name
    assert caught.value.hint


def test_a_leaf_that_was_rewritten_is_noticed(connection: Connection, database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int) PARTITION BY RANGE (id)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10)",
        "INSERT INTO t VALUES (1)",
        "CREATE PUBLICATION p FOR TABLE t WITH (publish_via_partition_root = true)",
    )
    tables, slot = begin(connection, ["p"])
    database.execute("TRUNCATE t1")
    with Snapshot(database.dsn, slot, tables, pgcdc.Catalog()) as snapshot, pytest.raises(SnapshotStale):
        list(snapshot.batches())


def test_a_table_that_changed_harmlessly_is_copied(connection: Connection, database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, note text)",
        "INSERT INTO t VALUES (1, 'x')",
        "CREATE PUBLICATION p FOR TABLE t",
    )
    tables, slot = begin(connection, ["p"])
    database.execute("ALTER TABLE t ADD extra int DEFAULT 5", "ANALYZE t", "CREATE INDEX ON t (note)")
    with Snapshot(database.dsn, slot, tables, pgcdc.Catalog()) as snapshot:
        events = [event for batch in snapshot.batches() for event in batch.events()]
    assert rows(events, "id", "note") == [(1, "x")]


def test_the_snapshot_outlives_sql_but_not_commands(connection: Connection, database: Database) -> None:
    database.execute("CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)", "CREATE PUBLICATION p FOR TABLE t")
    tables, slot = begin(connection, ["p"])
    connection.execute("SELECT 1")
    connection.slot(slot.name)
    with Snapshot(database.dsn, slot, tables, pgcdc.Catalog()) as snapshot:
        connection.create_slot(new_name(), temporary=True)  # imported by now: the exporter may go on
        assert [len(batch) for batch in snapshot.batches()] == [1]
    with pytest.raises(SnapshotStale, match="is gone"), Snapshot(database.dsn, slot, tables, pgcdc.Catalog()):
        pass


def test_a_slot_without_a_snapshot(connection: Connection) -> None:
    with pytest.raises(pgcdc.ConfigError, match="exported no snapshot"):
        Snapshot(connection.dsn, connection.create_slot(new_name()), [], pgcdc.Catalog())


def test_left_in_the_middle(connection: Connection, database: Database) -> None:
    """Whoever stops reading leaves no lock behind."""
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, note text)",
        "INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 50000) i",
        "CREATE PUBLICATION p FOR TABLE t",
    )
    tables, slot = begin(connection, ["p"])
    with Snapshot(database.dsn, slot, tables, pgcdc.Catalog()) as snapshot:
        for _ in snapshot.batches(max_rows=10):
            break
    until(
        lambda: (
            not database.execute("SELECT 1 FROM pg_locks WHERE relation = 't'::regclass AND pid <> pg_backend_pid()")
        )
    )


def test_the_server_dies_in_the_middle(connection: Connection, database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, note text)",
        "INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 50000) i",
        "CREATE PUBLICATION p FOR TABLE t",
    )
    tables, slot = begin(connection, ["p"])
    with Snapshot(database.dsn, slot, tables, pgcdc.Catalog()) as snapshot:
        batches = snapshot.batches(max_rows=10)
        next(batches)
        database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY%'")
        with pytest.raises(pgcdc.ConnectionLost) as caught:
            list(batches)
    assert caught.value.table == "public.t"
