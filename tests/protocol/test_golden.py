"""Rust = reference = SELECT, message by message, on what PostgreSQL 14 to 18 sent; text = binary."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET

from pgcdc.errors import DecodeError
from pgcdc.events import Delete, Insert, Relation, Truncate, Update
from pgcdc.protocol import Decoder
from tests.golden.make import VERSIONS
from tests.protocol.captures import ALL, FORMS, IDS, capture, messages, reference, tables
from tests.reference import plain
from tests.reference_values import SCALARS, decode_value

TYPES_TOLD_ALIKE = {oid for scalar in SCALARS.values() for oid in scalar[:2]}


@pytest.mark.parametrize(("version", "form"), ALL, ids=IDS)
def test_the_reference_reads_every_golden_message(version: int, form: str) -> None:
    """A capture that the oracle itself cannot read would compare errors with errors."""
    assert not [event for event in reference(version, form) if isinstance(event, DecodeError)]
    assert {type(event).__name__ for event in reference(version, form)} >= {
        "Begin",
        "Commit",
        "Relation",
        "Type",
        "Insert",
        "Update",
        "Delete",
        "Truncate",
        "Message",
        "Origin",
    }


@pytest.mark.parametrize(("version", "form"), ALL, ids=IDS)
def test_every_message_decodes_as_the_reference_says(version: int, form: str) -> None:
    """Fields, rows, positions and NULLs of every message of the capture."""
    decoder = Decoder(rows="dict")
    for (lsn, message), expected in zip(capture(version, form), reference(version, form), strict=True):
        assert plain(decoder.decode(message, lsn)) == plain(expected)


@pytest.mark.parametrize(("version", "form"), ALL, ids=IDS)
def test_one_crossing_gives_what_single_calls_give(version: int, form: str) -> None:
    """decode_many is decode, many times."""
    captured = capture(version, form)
    events = Decoder(rows="dict").decode_many([message for _, message in captured], [lsn for lsn, _ in captured])
    assert [plain(event) for event in events] == [plain(event) for event in reference(version, form)]


@pytest.mark.parametrize(("version", "form"), ALL, ids=IDS)
def test_structs_and_tuples_hold_the_same_values_as_dicts(version: int, form: str) -> None:
    """The three kinds of rows differ in nothing but their kind."""
    structs = Decoder().decode_many(messages(version, form))
    dicts = Decoder(rows="dict").decode_many(messages(version, form))
    tuples = Decoder(rows="tuple").decode_many(messages(version, form))
    seen = 0
    for struct, mapping, sequence in zip(structs, dicts, tuples, strict=True):
        assert type(struct) is type(mapping) is type(sequence)
        if isinstance(mapping, Insert | Update | Delete):
            for side in ("new", "old"):
                row = getattr(mapping, side)
                if row is UNSET:
                    assert getattr(struct, side) is UNSET
                    assert getattr(sequence, side) is UNSET
                    continue
                seen += 1
                assert isinstance(getattr(sequence, side), tuple)
                assert plain(list(getattr(sequence, side))) == plain(list(row.values()))
                values = getattr(struct, side)
                assert plain([getattr(values, field) for field in values.__struct_fields__]) == plain(
                    list(row.values())
                )
    assert seen > 80


@pytest.mark.parametrize("version", VERSIONS)
def test_text_and_binary_give_equal_values(version: int) -> None:
    """Of one transaction, captured in both forms, for every type whose values have one meaning."""
    text, binary = (Decoder(rows="dict").decode_many(messages(version, form)) for form in FORMS)
    compared = 0
    for one, other in zip(text, binary, strict=True):
        assert type(one) is type(other)
        if not isinstance(one, Insert | Update | Delete):
            assert plain(one) == plain(other)
            continue
        assert isinstance(other, Insert | Update | Delete)
        for side in ("new", "old"):
            left: Any = getattr(one, side)
            right: Any = getattr(other, side)
            for column in one.relation.columns if left is not UNSET else ():
                if column.type_oid in TYPES_TOLD_ALIKE:
                    compared += 1
                    assert plain(left[column.name]) == plain(right[column.name]), column
    assert compared > 900


def final_state(events: list[Any], table: str) -> dict[int, dict[str, Any]]:
    """A table's rows by id after all events, an unchanged TOAST value kept from before."""
    rows: dict[int, dict[str, Any]] = {}
    for event in events:
        if not isinstance(event, Insert | Update | Delete) or event.table != table:
            continue
        kept: dict[str, Any] = {}
        if not isinstance(event, Insert):
            before: Any = event.new if event.old is UNSET else event.old
            kept = rows.pop(before["id"])
        if not isinstance(event, Delete):
            rows[event.new["id"]] = {name: kept[name] if value is UNSET else value for name, value in event.new.items()}
    return rows


@pytest.mark.parametrize(("version", "form"), ALL, ids=IDS)
def test_the_decoded_rows_are_what_select_prints(version: int, form: str) -> None:
    """The stream, applied, ends where the tables ended; what SELECT printed is read by the reference."""
    events: list[Any] = Decoder(rows="dict").decode_many(messages(version, form))
    types = {
        (event.name, column.name): column.type_oid
        for event in events
        if isinstance(event, Relation)
        for column in event.columns
    }
    for table, selected in tables(version).items():
        state = final_state(events, table)
        assert len(state) == len(selected["rows"]) > 0
        for printed in selected["rows"]:
            expected: dict[str, Any] = {
                name: None if value is None else decode_value(types[table, name], False, value.encode())
                for name, value in zip(selected["columns"], printed, strict=True)
            }
            got = state[expected["id"]]
            for name, value in expected.items():
                # A column added later is missing in rows that were not touched since.
                if name in got or value is not None:
                    assert plain(got[name]) == plain(value), (table, name)


@pytest.mark.parametrize(("version", "form"), ALL, ids=IDS)
def test_positions_count_every_change_of_a_transaction_from_zero(version: int, form: str) -> None:
    """Position = (commit LSN, index), strictly rising; Relation, Type and Origin do not count (correctness rule 1)."""
    positions: list[Any] = []
    expected = -1
    events: list[Any] = Decoder().decode_many(messages(version, form))
    for event in events:
        name = type(event).__name__
        if name == "Begin":
            expected = 0
        elif isinstance(event, Insert | Update | Delete | Truncate) or (name == "Message" and event.transactional):
            assert event.index == expected
            expected += 1
            positions.append(event.position)
        elif name == "Message":
            assert event.position is UNSET
    assert positions == sorted(set(positions))
    assert len(positions) > 90
