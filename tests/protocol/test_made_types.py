"""Random types made of types, and random rows, on PostgreSQL 14 to 18: Rust = reference = SELECT, text = binary."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from tests.protocol import agreement
from tests.protocol.agreement import FORMS
from tests.protocol.conformance import World, world
from tests.protocol.made_types import Table, tables
from tests.servers.postgres import PostgresServer


@pytest.fixture(scope="module")
def empty(postgres: PostgresServer) -> Iterator[World]:
    """A database with the extensions and no tables."""
    with world(postgres, f"made_{postgres.version}") as one:
        yield one


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    database=None,
)
@given(table=tables())
def test_random_types_decode_to_what_select_prints(empty: World, table: Table) -> None:
    """Values, lines of JSON, Arrow tables; the reference first, because a difference there is its own."""
    connection = empty.connection
    connection.execute("CREATE SCHEMA made")
    try:
        connection.execute("SET search_path = made, public")
        for column in table.columns:
            for statement in column.statements:
                connection.execute(statement)
        columns = "".join(f", c{number} {column.name}" for number, column in enumerate(table.columns))
        connection.execute(f"CREATE TABLE t (id int PRIMARY KEY{columns})")
        casts = "".join(f", %s::text::{column.name}" for column in table.columns)
        for number, row in enumerate(table.rows):
            connection.execute(f"INSERT INTO t VALUES ({number}{casts})", row)
        empty.capture(["t"])
    finally:
        connection.execute("RESET search_path; DROP SCHEMA made CASCADE")
    for form in FORMS:
        assert agreement.of_rows(empty, agreement.referred(empty, form)) == []
        assert agreement.of_rows(empty, agreement.decoded(empty, form)) == []
        assert agreement.of_json(empty, form) == []
        assert agreement.of_arrow(empty, form, "made") == []
