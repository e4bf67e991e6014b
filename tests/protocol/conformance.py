"""A database with a column of every type, alone and inside other types, and what one slot sent of it in both forms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from pgcdc.protocol import Catalog
from tests.golden.make import PINNED, Captured, peek
from tests.protocol.regression_literals import EDGES, REGRESSION, SINCE
from tests.reference_values import Types, text_of
from tests.reference_values.types import EXTENSIONS, load
from tests.servers.postgres import PostgresServer

MOODS = ["sad", "with space", 'q"uote', "com,ma", "(paren)", "{brace}", "NULL", "back\\slash", "ä€漢😀", "empty", "[a"]
LABELS = ", ".join("'" + label + "'" for label in MOODS)
SETUP = [
    *(f"CREATE EXTENSION {name}" for name in sorted({extension for extension, _ in EXTENSIONS} | {"seg"})),
    'CREATE TYPE textrange AS RANGE (subtype = text, collation = "C")',
    f"CREATE TYPE mood AS ENUM ({LABELS})",
    "CREATE PUBLICATION everything FOR ALL TABLES",
]
SPELLED = {"bit": 'pg_catalog."bit"'}
"""Types whose name alone means one with a modifier."""


def literals(version: int) -> dict[str, list[str]]:
    """All literals of each type that a version takes."""
    together: dict[str, list[str]] = {"mood": list(MOODS)}
    for source in (REGRESSION, EDGES, *(more for since, more in SINCE.items() if since <= version)):
        for name, some in source.items():
            together.setdefault(name, []).extend(some)
    return together


@dataclass
class Selected:
    """A table as SELECT prints it: the columns' names and type OIDs, and a list of bytes or None for each row."""

    columns: list[str]
    types: list[int]
    rows: list[list[bytes | None]]


@dataclass
class World:
    """A database, and what is known of it.

    Attributes:
        connection: To the database, with the settings that pgcdc pins.
        slot: The slot's name; the publication is called `everything`.
        catalog: What the decoder knows of the types.
        types: What the reference knows of them.
        text: The captured messages, values in text form.
        binary: The same in binary form.
        tables: What SELECT prints, by name of the table.
        expected: What each reader should find in that, cell after cell, once it was asked.
    """

    connection: psycopg.Connection[Any]
    slot: str
    version: int
    catalog: Catalog = field(default_factory=Catalog, repr=False)
    types: Types = field(default_factory=dict, repr=False)
    text: Captured = field(default_factory=list, repr=False)
    binary: Captured = field(default_factory=list, repr=False)
    tables: dict[str, Selected] = field(default_factory=dict, repr=False)
    expected: dict[str, list[Any]] = field(default_factory=dict, repr=False)

    def capture(self, tables: list[str]) -> None:
        """Take what the slot has, in both forms, and what SELECT says now."""
        self.catalog, self.types = Catalog.load(self.connection), load(self.connection)
        self.text = peek(self.connection, self.slot, "everything", binary=False)
        self.binary = peek(self.connection, self.slot, "everything", binary=True, consume=True)
        self.expected = {}
        self.tables = {name: select(self.connection, name) for name in tables}


def select(connection: psycopg.Connection[Any], table: str) -> Selected:
    """A table's rows as the server prints them, by id."""
    result = connection.pgconn.exec_params(f"SELECT * FROM {table} ORDER BY id".encode(), [])
    assert not result.error_message, result.error_message
    columns = range(result.nfields)
    return Selected(
        [text_of(result.fname(number) or b"") for number in columns],
        [result.ftype(number) for number in columns],
        [[result.get_value(row, number) for number in columns] for row in range(result.ntuples)],
    )


@contextmanager
def world(server: PostgresServer, name: str, encoding: str = "UTF8") -> Iterator[World]:
    """A fresh database with the extensions, a slot and a publication of all tables.

    Args:
        server: Where.
        name: Of the database and of the slot.
        encoding: Of the database and of the connection.
    """
    with server.connect() as connection:
        create = sql.SQL("CREATE DATABASE {} ENCODING {} LOCALE 'C' TEMPLATE template0")
        connection.execute(create.format(sql.Identifier(name), encoding))
    options = f"{PINNED} -c lc_monetary=C -c client_min_messages=warning"
    with psycopg.connect(server.dsn(name), autocommit=True, options=options, client_encoding=encoding) as connection:
        connection.execute(";".join(SETUP).encode())
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
        yield World(connection, name, server.version)
        connection.execute("SELECT pg_drop_replication_slot(%s)", (name,))
    with server.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def make_tables(connection: psycopg.Connection[Any], version: int) -> dict[str, str]:
    """A table for each type, filled with all of its literals.

    In the row of each literal the value stands alone (`v`), and together with the next literal's in domains,
    composites, arrays of composites, arrays, domains over arrays, arrays of domains and of domains over arrays, and,
    where the type has an order, as bounds of ranges and multiranges.

    Args:
        connection: To the database.
        version: The server's.

    Returns:
        The tables' names by type.
    """

    def oids(query: str) -> set[int]:
        return {oid for (oid,) in connection.execute(query)}

    ordered = oids(
        "SELECT opcintype::int8 FROM pg_opclass o JOIN pg_am a ON a.oid = o.opcmethod"
        " WHERE amname = 'btree' AND opcdefault"
    )
    only_text = oids("SELECT oid::int8 FROM pg_type WHERE typsend::oid = 0")
    tables = {}
    with connection.transaction():
        for name, some in literals(version).items():
            spelled = SPELLED.get(name, name)
            (oid,) = connection.execute("SELECT %s::regtype::oid::int8", (spelled,)).fetchone() or (0,)
            # A range has no type modifier.
            has_order = oid in ordered or name in ("varchar", "cidr", "mood") or name.endswith("range")
            has_order = has_order and not name.endswith(")")
            slug = re.sub(r"\W", "_", name)
            tables[name] = f"t_{slug}"
            if oid in only_text:  # nothing that is made of them can be sent in binary
                connection.execute(f"CREATE TABLE t_{slug} (id int PRIMARY KEY, v {spelled})")
                _insert(connection, slug, spelled, some, [])
            else:
                _make_table(connection, slug, spelled, some, is_array=name.endswith("[]"), has_order=has_order)
        # This one takes no literal, but it can be copied from the server's own tables.
        connection.execute("CREATE TABLE t_pg_node_tree (id int PRIMARY KEY, v pg_node_tree)")
        connection.execute("INSERT INTO t_pg_node_tree SELECT row_number() OVER (), ev_action FROM pg_rewrite LIMIT 3")
        tables["pg_node_tree"] = "t_pg_node_tree"
    return tables


def _make_table(
    connection: psycopg.Connection[Any], slug: str, name: str, some: list[str], *, is_array: bool, has_order: bool
) -> None:
    domain, composite, span = f"d_{slug}", f"c_{slug}", f"r_{slug}"
    statements = [
        f"CREATE DOMAIN {domain}_base AS {name}",
        f"CREATE DOMAIN {domain} AS {domain}_base CHECK (VALUE IS NOT NULL OR true)",
        f'CREATE TYPE {composite} AS (v {name}, "of ä" {domain}, gone int, n int)',
        f"ALTER TYPE {composite} DROP ATTRIBUTE gone",
    ]
    # Each column: its name, its type, and what is in it of a literal x, the next one y, and the literal's number n.
    row = f"ROW(x, y, n)::{composite}"
    columns = [
        ("d", domain, "x"),
        ("c", composite, row),
        ("cs", f"{composite}[]", f"ARRAY[{row}, NULL, ROW(y, x, NULL)::{composite}]"),
    ]
    if not is_array:
        statements.append(f"CREATE DOMAIN {domain}_list AS {name}[]")
        quoted = r"""'"' || replace(replace(ARRAY[x, y]::text, '\', '\\'), '"', '\"') || '"'"""
        delimiter = ";" if name == "box" else ","
        columns += [
            ("a", f"{name}[]", "ARRAY[x, NULL, y]"),
            ("aa", f"{name}[]", "ARRAY[[x, y], [y, NULL]]"),
            ("da", f"{domain}_list", "ARRAY[y, x]"),
            ("ad", f"{domain}[]", "ARRAY[y, x]"),
            # By way of its text, because ARRAY[] takes such a domain for the array that it is.
            ("ada", f"{domain}_list[]", f"('{{' || {quoted} || '{delimiter}NULL}}')::{domain}_list[]"),
        ]
    if has_order:
        statements.append(f"CREATE TYPE {span} AS RANGE (subtype = {name}, multirange_type_name = m_{slug})")
        low, high = "least(x, y)", "greatest(x, y)"
        between = f"{span}({low}, {high}, (ARRAY['[)', '(]', '[]', '()'])[mod(n, 4) + 1])"
        columns += [
            ("r", span, between),
            (
                "rs",
                f"{span}[]",
                f"ARRAY[{span}(NULL, {low}), {between}, {span}({high}, NULL, '()'), {span}(NULL, NULL), NULL]",
            ),
            ("m", f"m_{slug}", f"m_{slug}({span}(NULL, {low}, '()'), {span}({high}, NULL))"),
        ]
    declared = ", ".join(f"{column} {type_name}" for column, type_name, _ in columns)
    statements.append(f"CREATE TABLE t_{slug} (id int PRIMARY KEY, v {name}, {declared})")
    connection.execute(";".join(statements))
    _insert(connection, slug, name, some, [how for _, _, how in columns])


def _insert(connection: psycopg.Connection[Any], slug: str, name: str, some: list[str], columns: list[str]) -> None:
    # Very long values stand alone only: together they would be most of the run's time.
    together = "".join(f", CASE WHEN short THEN {how} END" for how in columns)
    connection.execute(
        f"WITH given AS (SELECT n::int, text::{name} AS x FROM unnest(%s::text[]) WITH ORDINALITY AS _(text, n)),"
        " pairs AS (SELECT n, x, lead(x) OVER (ORDER BY n) AS y FROM given)"
        f" INSERT INTO t_{slug} SELECT n, x{together} FROM pairs,"
        " LATERAL (SELECT coalesce(greatest(length(x::text), length(y::text)), 0) < 100 AS short) AS _",
        (some,),
    )
