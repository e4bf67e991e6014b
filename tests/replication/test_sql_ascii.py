"""A database in SQL_ASCII, whose bytes need not be UTF-8: copied and streamed like any other."""

from __future__ import annotations

import msgspec
import psycopg

import pgcdc
from pgcdc.replication import Publication, PublicationTable
from tests.pipeline.running import running, until
from tests.pipeline.targets import Recorder
from tests.servers.postgres import PostgresServer


def test_bytes_that_are_not_utf_8_go_through(postgres: PostgresServer) -> None:
    """Values and names, from the copy and from the stream (protocol fact 12)."""
    name = f"any_bytes_{postgres.version}"
    with postgres.connect() as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    try:
        dsn = postgres.dsn(name)
        with psycopg.connect(dsn, autocommit=True, client_encoding="sql_ascii") as connection:
            connection.execute(b'CREATE TABLE orders (id int PRIMARY KEY, "\xf6l" text)')
            connection.execute(b'CREATE TABLE "t\xe9" (id int PRIMARY KEY)')
            connection.execute(rb"INSERT INTO orders VALUES (1, E'a\xe9')")
            pipeline, sink = pgcdc.Pipeline("ascii", dsn, tables=["orders"]), Recorder()
            pipeline.add(sink, name="sink")
            with running(pipeline) as run:
                run.streaming()
                connection.execute(rb"INSERT INTO orders VALUES (2, E'\xff')")
                until(lambda: len(sink.changes) == 2, "both rows")
            pipeline.destroy()
            with pgcdc.connect(dsn) as replication:
                lists = replication.server_version >= 150000
                table = PublicationTable("orders", ["id", "\udcf6l"] if lists else None, "id > 0" if lists else None)
                plan = replication.plan_publication(Publication("p\udcff", [table, PublicationTable("t\udce9")]))
                replication.apply(plan)
                found = replication.publication("p\udcff")
                assert found is not None and [t.table for t in found.tables] == ["public.orders", "public.t\udce9"]
                assert not replication.plan_publication(found).steps
        rows = [msgspec.structs.astuple(change.new) for change in sink.changes]
        assert rows == [(1, "a\udce9"), (2, "\udcff")]
        assert [column.name for column in sink.changes[0].relation.columns] == ["id", "\udcf6l"]
    finally:
        with postgres.connect() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
