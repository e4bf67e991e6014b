"""Random schemas and rows on PostgreSQL 14 to 18: Rust = reference = SELECT, text = binary = COPY BINARY."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from psycopg import sql

from pgcdc.events import Delete, Insert, Relation, Update
from pgcdc.protocol import CopyReader, Decoder, RowFormat
from tests.golden.make import connect, peek
from tests.golden.workload import declared
from tests.protocol.literals import values
from tests.reference import ReferenceDecoder, plain
from tests.reference_values import SCALARS, decode_value
from tests.servers.postgres import PostgresServer

PSYCOPG_READS_ALIKE = (
    "bool",
    "int2",
    "int4",
    "int8",
    "oid",
    "float4",
    "float8",
    "numeric",
    "text",
    "varchar",
    "bytea",
    "uuid",
)
IDENTITIES = ("DEFAULT", "FULL")
numbers = itertools.count()


@pytest.fixture(scope="module")
def live(postgres: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a database with a slot and a publication of all its tables."""
    name = f"live_{postgres.version}"
    with postgres.connect() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with connect(postgres.dsn(name)) as connection:
        connection.execute("CREATE PUBLICATION live FOR ALL TABLES")
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
        yield connection
        connection.execute("SELECT pg_drop_replication_slot(%s)", (name,))
    with postgres.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@dataclass
class Table:
    """A table as chance made it: its columns' types, whether each is an array, and what is done to it."""

    types: list[tuple[str, bool]]
    identity: str
    rows: list[list[str | None]]
    updates: list[tuple[int, int, str | None]]
    deletes: list[int]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """One to eight columns of any everyday types, up to five rows, some of them changed or deleted."""
    types = draw(st.lists(st.tuples(st.sampled_from(list(SCALARS)), st.booleans()), min_size=1, max_size=8))
    rows = [[draw(values(name, array=array)) for name, array in types] for _ in range(draw(st.integers(1, 5)))]
    updates = []
    for _ in range(draw(st.integers(0, 3))):
        column = draw(st.integers(0, len(types) - 1))
        name, array = types[column]
        updates.append((draw(st.integers(0, len(rows) - 1)), column, draw(values(name, array=array))))
    return Table(types, draw(st.sampled_from(IDENTITIES)), rows, updates, draw(st.lists(st.integers(0, 4), max_size=2)))


def fill(connection: psycopg.Connection[Any], name: str, table: Table) -> None:
    """Make the table and do to it what was drawn."""
    types = [f"{type_name}[]" if array else declared(type_name) for type_name, array in table.types]
    columns = ", ".join(f"c{number} {type_name}" for number, type_name in enumerate(types))
    connection.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, {columns})")
    connection.execute(f"ALTER TABLE {name} REPLICA IDENTITY {table.identity}")
    casts = ", ".join(f"%s::text::{type_name}" for type_name in types)
    for number, row in enumerate(table.rows):
        connection.execute(f"INSERT INTO {name} VALUES ({number}, {casts})", row)
    for number, column, value in table.updates:
        connection.execute(f"UPDATE {name} SET c{column} = %s::text::{types[column]} WHERE id = {number}", (value,))
    for number in table.deletes:
        connection.execute(f"DELETE FROM {name} WHERE id = {number}")


def applied(events: list[Any]) -> dict[int, dict[str, Any]]:
    """The rows after all events."""
    rows: dict[int, dict[str, Any]] = {}
    for event in events:
        if isinstance(event, Insert | Update):
            kept = rows.get(event.new["id"], {})
            rows[event.new["id"]] = {n: kept[n] if v is UNSET else v for n, v in event.new.items()}
        elif isinstance(event, Delete):
            del rows[event.old["id"]]
    return rows


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    database=None,
)
@given(table=tables())
def test_random_tables_decode_to_what_select_prints(live: psycopg.Connection[Any], table: Table) -> None:
    """Four readings of the same rows: the stream as text and as binary, a binary copy, and SELECT."""
    name = f"t{next(numbers)}"
    fill(live, name, table)
    slot = live.info.dbname
    captured = {
        form: peek(live, slot, "live", binary=form == "binary", consume=form == "binary") for form in ("text", "binary")
    }
    states = {}
    relation: Relation | None = None
    for form, messages in captured.items():
        decoder, reference = Decoder(rows="dict"), ReferenceDecoder()
        events = []
        for lsn, message in messages:
            event, expected = decoder.decode(message, lsn), reference.decode(message, lsn)
            assert plain(event) == plain(expected)
            events.append(event)
            relation = event if isinstance(event, Relation) else relation
        states[form] = applied(events)
    assert relation is not None
    assert plain(states["text"]) == plain(states["binary"])

    selected = live.pgconn.exec_params(f"SELECT * FROM {name} ORDER BY id".encode(), [])
    for row in range(selected.ntuples):
        printed = [selected.get_value(row, number) for number in range(selected.nfields)]
        expected_row: dict[str, Any] = {
            column.name: None if value is None else decode_value(column.type_oid, False, value)
            for column, value in zip(relation.columns, printed, strict=True)
        }
        assert plain(states["binary"].pop(expected_row["id"])) == plain(expected_row)
    assert states["binary"] == {}

    reader = CopyReader(relation, 1)
    copied: dict[int, Any] = {}
    with live.cursor().copy(f"COPY {name} TO STDOUT (FORMAT binary)") as copy:
        for block in copy:
            rows: list[Any] = reader.read([block]).events(RowFormat("dict"))
            copied |= {event.new["id"]: event.new for event in rows}
    assert reader.finished
    assert plain(dict(sorted(copied.items()))) == plain(dict(sorted(states["text"].items())))

    alike = [n for n, (type_name, _) in enumerate(table.types) if type_name in PSYCOPG_READS_ALIKE]
    for row in live.execute(", ".join(["SELECT id", *(f"c{number}" for number in alike)]) + f" FROM {name}"):
        for number, theirs in zip(alike, row[1:], strict=True):
            ours = states["text"][row[0]][f"c{number}"]
            assert plain(list(ours) if isinstance(ours, list) else ours) == plain(theirs), (
                "psycopg reads it differently"
            )


def test_invalid_utf8_of_a_sql_ascii_database(postgres: PostgresServer) -> None:
    """Comes through both forms and back (protocol fact 12)."""
    name = f"ascii_{postgres.version}"
    with postgres.connect() as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    try:
        with psycopg.connect(postgres.dsn(name), autocommit=True, client_encoding="sql_ascii") as connection:
            connection.execute("CREATE TABLE t (id int PRIMARY KEY, v text, a text[], j json)")
            connection.execute("CREATE PUBLICATION p FOR ALL TABLES")
            connection.execute(f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
            connection.execute(
                rb"""INSERT INTO t VALUES (1, E'a\xff\x80b', ARRAY[E'\xc3'], ('"' || E'\xe4' || '"')::json)"""
            )
            expected = {"id": 1, "v": "a\udcff\udc80b", "a": ["\udcc3"], "j": "\udce4"}
            for binary in (False, True):
                decoder = Decoder(rows="dict")
                events = decoder.decode_many([message for _, message in peek(connection, name, "p", binary=binary)])
                (row,) = [event.new for event in events if isinstance(event, Insert)]
                assert row == expected
                assert row["v"].encode("utf-8", "surrogateescape") == b"a\xff\x80b"
            connection.execute(f"SELECT pg_drop_replication_slot('{name}')")
    finally:
        with postgres.connect() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
