"""A batch carries the versions of its tables' shapes: events and JSON say them, and it is cut where they change."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from pgcdc import Batch, Position, RowFormat
from pgcdc.protocol import SchemaVersions
from tests.protocol import wire

OID = 16385
MESSAGES = [
    wire.begin(100),
    wire.relation(OID, "orders", [("id", 23)]),
    wire.relation(2, "items", [("id", 23)]),
    wire.insert(OID, ["1"]),
    wire.insert(2, ["9"]),
    wire.insert(OID, ["2"]),
    wire.commit(100, 108),
    wire.begin(200),
    wire.relation(OID, "orders", [("id", 23), ("note", 25)]),
    wire.insert(OID, ["3", "n"]),
    wire.relation(OID, "orders", [("id", 23)]),
    wire.insert(OID, ["4"]),
    wire.truncate([2, OID]),
    wire.commit(200, 208),
]
VERSIONS = SchemaVersions(
    {OID: [((200, 1), 3), ((50, -1), 1), ((200, 0), 2)], 2: [((60, -1), 7)], 4: []},
)


def versions_of(batch: Batch) -> list[Any]:
    changes: list[Any] = batch.changes()
    return [change.schema_version for change in changes]


def test_events_say_the_version_in_force_at_their_position() -> None:
    batch = Batch.of(MESSAGES)
    assert versions_of(batch) == [UNSET] * 6
    versioned = batch.with_versions(VERSIONS)
    assert versions_of(versioned) == [1, 7, 1, 2, 3, 7]
    assert versions_of(batch) == [UNSET] * 6, "the batch itself is as it was, and so are its events"
    assert versioned.versions == VERSIONS
    assert batch.versions is None
    for rows in ("dict", "tuple"):
        changes: list[Any] = versioned.changes(RowFormat(rows))
        assert [change.schema_version for change in changes] == [1, 7, 1, 2, 3, 7]


def test_whatever_is_cut_or_put_together_keeps_them() -> None:
    batch = Batch.of(MESSAGES).with_versions(VERSIONS)
    assert versions_of(batch.after((100, 2))) == [2, 3, 7]
    assert versions_of(batch.up_to((100, 2))) == [1, 7, 1]
    assert versions_of(batch.select([("public", "orders")], ["insert"])) == [1, 1, 2, 3]
    before, rest = batch.split_at(9)
    assert versions_of(before) == [1, 7, 1]
    assert versions_of(rest) == [2, 3, 7]
    assert versions_of(Batch.concat([before, rest])) == [1, 7, 1, 2, 3, 7]
    older = before.with_versions(SchemaVersions({OID: [((50, -1), 1)]}))
    assert versions_of(Batch.concat([older, rest])) == [1, 7, 1, 2, 3, 7], "the later one knows more"


def test_what_was_made_without_them_is_not_taken_over() -> None:
    before, rest = Batch.of(MESSAGES).split_at(9)
    assert versions_of(before) == [UNSET] * 3
    assert versions_of(Batch.concat([before, rest.with_versions(VERSIONS)])) == [1, 7, 1, 2, 3, 7]
    assert versions_of(Batch.concat([before, rest])) == [UNSET] * 6


def test_an_unknown_table_and_what_has_no_position_have_none() -> None:
    batch = Batch.of(MESSAGES[1:6]).with_versions(VERSIONS)  # no Begin: no position is known
    assert versions_of(batch) == [UNSET] * 3
    assert versions_of(Batch.of(MESSAGES).with_versions(SchemaVersions({}))) == [UNSET] * 6


def test_lines_of_json_have_the_version_behind_the_table() -> None:
    batch = Batch.of(MESSAGES).with_versions(VERSIONS)
    lines = [json.loads(line) for line in batch.to_json().splitlines()]
    assert [line.get("schema_version") for line in lines] == [1, 7, 1, 2, 3, None]
    assert list(lines[0])[:4] == ["action", "schema", "table", "schema_version"]
    assert lines[-1]["relations"] == [
        {"schema": "public", "table": "items", "schema_version": 7},
        {"schema": "public", "table": "orders", "schema_version": 3},
    ]
    without = b"".join(
        line.replace(b',"schema_version":%d' % version, b"")
        for line, version in zip(batch.to_json().splitlines(keepends=True), (1, 7, 1, 2, 3, 7), strict=True)
    ).replace(b',"schema_version":3', b"")
    assert without == Batch.of(MESSAGES).to_json()


def test_where_shapes_change() -> None:
    batch = Batch.of(MESSAGES)
    runs = [
        (at, relation.name, len(relation.columns), position, version)
        for at, relation, position, version in batch.shape_runs()
    ]
    assert runs == [
        (3, "orders", 1, Position(100, 0), None),
        (4, "items", 1, Position(100, 1), None),
        (9, "orders", 2, Position(200, 0), None),
        (11, "orders", 1, Position(200, 1), None),
    ]
    versioned = batch.with_versions(VERSIONS)
    assert [version for *_, version in versioned.shape_runs()] == [1, 7, 2, 3]
    # Places are those of the batch that is asked: of a selection its own.
    selected = versioned.select([("public", "orders")])
    assert [(at, version) for at, *_, version in selected.shape_runs()] == [(0, 1), (2, 2), (3, 3), (4, 7)]
    rest: list[Any] = selected.split_at(2)[1].changes()
    assert [change.new.id for change in rest[:2]] == [3, 4]
    [truncate] = batch.select(None, ["truncate"]).shape_runs()[:1]
    assert truncate[:2] == (0, batch.relations[1])


def test_a_repeated_relation_is_no_other_shape() -> None:
    repeated = [*MESSAGES[:6], wire.relation(OID, "orders", [("id", 23)]), wire.insert(OID, ["5"])]
    assert len(Batch.of(repeated).shape_runs()) == 2


@pytest.mark.parametrize("at", [0, 14, 99])
def test_a_batch_is_cut_anywhere(at: int) -> None:
    before, rest = Batch.of(MESSAGES).split_at(at)
    assert (len(before), len(rest)) == (min(at, 14), 14 - min(at, 14))


POSITIONS = st.tuples(st.integers(0, 20), st.integers(-1, 3))


@given(st.dictionaries(POSITIONS, st.integers(1, 99), max_size=6), POSITIONS)
def test_the_version_is_that_of_the_last_first_position(
    known: dict[tuple[int, int], int], asked: tuple[int, int]
) -> None:
    """The oracle goes through all of them."""
    below = [position for position in known if position <= asked]
    wanted = known[max(below)] if below else known[min(known)] if known else None
    assert SchemaVersions({1: list(known.items())}).version(1, asked) == wanted
