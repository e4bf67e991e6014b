"""What every type's literals decode to, on PostgreSQL 14 to 18: Rust = reference = SELECT, text = binary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pgcdc.events import Insert
from tests.protocol.conformance import World, literals, make_tables, world
from tests.reference import ReferenceDecoder, plain
from tests.reference_values import NAMES
from tests.servers.postgres import PostgresServer


@pytest.fixture(scope="module")
def everything(postgres: PostgresServer) -> Iterator[World]:
    """All types and all literals, captured."""
    with world(postgres, f"conformance_{postgres.version}") as one:
        one.capture(list(make_tables(one.connection, one.version).values()))
        yield one


def rows(events: list[Any]) -> dict[str, list[dict[str, Any]]]:
    """The inserted rows by table, by id."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if isinstance(event, Insert):
            tables.setdefault(event.table, []).append(event.new)
    return {name: sorted(some, key=lambda row: int(row["id"])) for name, some in tables.items()}


@pytest.fixture(scope="module")
def referred(everything: World) -> dict[str, list[dict[str, Any]]]:
    """The rows as the reference reads them, from binary."""
    return rows(ReferenceDecoder(everything.types).decode_many([message for _, message in everything.binary]))


def test_every_type_has_literals(everything: World) -> None:
    """None was forgotten."""
    assert set(NAMES) - set(literals(everything.version)) == {"pg_node_tree"}


def test_the_reference_reads_text_and_binary_and_select_alike(
    everything: World, referred: dict[str, list[dict[str, Any]]]
) -> None:
    """The oracle itself: what the server prints for each value is what it sends."""
    text = rows(ReferenceDecoder(everything.types).decode_many([message for _, message in everything.text]))
    assert set(text) == set(referred) == set(everything.tables)
    wrong = []
    compared = 0
    for table, column, number, expected in everything.selected():
        compared += expected is not None
        if not plain(text[table][number][column]) == plain(referred[table][number][column]) == plain(expected):
            wrong.append((table, column, number))
    assert wrong == []
    assert compared > 15_000
