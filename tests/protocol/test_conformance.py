"""What every type's literals decode to, on PostgreSQL 14 to 18: Rust = reference = SELECT, text = binary."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from pgcdc.protocol import PgMultirange, PgRange
from tests.protocol import agreement
from tests.protocol.agreement import FORMS, Form
from tests.protocol.conformance import World, literals, make_tables, world
from tests.reference_values import NAMES
from tests.servers.postgres import PostgresServer


@pytest.fixture(scope="module")
def everything(postgres: PostgresServer) -> Iterator[World]:
    """All types and all literals, captured."""
    with world(postgres, f"conformance_{postgres.version}") as one:
        one.capture(list(make_tables(one.connection, one.version).values()))
        yield one


def test_every_type_has_literals(everything: World) -> None:
    """None was forgotten (pg_node_tree takes no literal), and what they make is there, in both forms."""
    assert set(NAMES) - set(literals(everything.version)) == {"pg_node_tree"}
    for form in FORMS:
        assert set(agreement.decoded(everything, form)) == set(everything.tables)
    cells = [cell for selected in everything.tables.values() for row in selected.rows for cell in row]
    assert sum(cell is not None for cell in cells) > 15_000


@pytest.mark.parametrize("form", FORMS)
def test_the_reference_reads_what_select_prints(everything: World, form: Form) -> None:
    """The oracle itself: what the server prints for each value is what it sends."""
    assert agreement.of_rows(everything, agreement.referred(everything, form)) == []


@pytest.mark.parametrize("form", FORMS)
def test_the_decoder_reads_what_select_prints(everything: World, form: Form) -> None:
    """Every value of every type, alone and nested, in both forms."""
    assert agreement.of_rows(everything, agreement.decoded(everything, form)) == []


def test_a_binary_copy_says_the_same(everything: World) -> None:
    """What the initial copy gives and what the stream gives are equal."""
    assert agreement.of_rows(everything, agreement.copied(everything)) == []


def test_structs_print_as_the_server_does(everything: World) -> None:
    """`pg_text()` of intervals, bits, tids, geometry, ranges and multiranges."""

    def leave_out(table: str, value: Any) -> bool:
        # A bound does not say what type it was of: a float prints as a float8, an int as an integer, a dict as nothing.
        bounds = ("float4", "hstore", "jsonb", "money", "oidvector", "pg_lsn")
        return table.removeprefix("t_") in bounds and isinstance(value, PgRange | PgMultirange)

    differences, compared = agreement.of_printing(everything, agreement.decoded(everything, "binary"), leave_out)
    assert differences == []
    assert compared > 3_000


@pytest.mark.parametrize("form", FORMS)
def test_lines_of_json_say_what_select_prints(everything: World, form: Form) -> None:
    """Every value of every type, alone and nested."""
    assert agreement.of_json(everything, form) == []


@pytest.mark.parametrize("form", FORMS)
def test_arrow_tables_hold_what_select_prints(everything: World, form: Form) -> None:
    """Every value of every type, alone and nested."""
    assert agreement.of_arrow(everything, form) == []


def test_damaged_values_are_refused_or_read_as_the_reference_reads_them(everything: World) -> None:
    """No other exception, and no other value."""
    differences, both = agreement.of_damaged(everything, random.Random(everything.version), 6_000)
    assert differences == []
    assert both > 600


def test_bytes_of_a_database_in_sql_ascii(postgres: PostgresServer) -> None:
    """Bytes that are not UTF-8 come through every type that holds text, as they do through text itself."""
    with world(postgres, f"conformance_ascii_{postgres.version}", "SQL_ASCII") as one:
        one.connection.execute(b"CREATE TYPE \xe4 AS ENUM ('\xf6', '\xc3')")
        one.connection.execute(b"CREATE TYPE pair AS (v text, e \xe4)")
        one.connection.execute(
            b"CREATE TABLE t (id int PRIMARY KEY, e \xe4, es \xe4[], p pair, ps pair[], r textrange, m textmultirange,"
            b' h hstore, c citext, s tsvector, q tsquery, j jsonb, n name, b bpchar, x "char")'
        )
        literals = [
            rb"'\xf6'", rb"'{\xc3,\xf6}'", rb"""'("\xff,",\xc3)'""", rb"""'{"(\xfe,)"}'""", rb"'[\xa0,\xff)'",
            rb"'{[\x80,\x81],(\xe4,)}'", rb"""'"\xe4"=>"\xf6"'""", rb"'\xc4'", rb"'\xe4:1A \xf6'", rb"'\xe4 & \xff'",
            rb"""'{"a": "\xe4"}'""", rb"'\xfc'", rb"'\xfc '", rb"'\xe4'",
        ]  # fmt: skip
        one.connection.execute(b"INSERT INTO t VALUES (1, " + b", ".join(b"E" + literal for literal in literals) + b")")
        one.capture(["t"])
        for form in FORMS:
            assert agreement.of_rows(one, agreement.referred(one, form)) == []
            assert agreement.of_rows(one, agreement.decoded(one, form)) == []
            assert agreement.of_json(one, form) == []
        (row,) = agreement.decoded(one, "binary")["t"]
        assert row["h"] == {"\udce4": "\udcf6"}
        assert row["p"].v.encode("utf-8", "surrogateescape") == b"\xff,"
