"""`Batch.folded`: applied to a table it gives what all the changes give one by one; `to_copy` says the same rows."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from pgcdc import Batch, DecodeError
from pgcdc.protocol import RowFormat, RowPlan, copied_values
from pgcdc.testing.capture import Capture
from pgcdc.testing.changes import Change, Table, delete, insert, message, truncate, update

if TYPE_CHECKING:
    from collections.abc import Sequence

DICTS = RowFormat("dict")
COLUMNS: dict[str, str | int] = {"id": "bigint", "name": "text", "note": "text"}
PLAIN = Table("plain", COLUMNS, key=("id",))
FULL = Table("full_", COLUMNS, key=("id",), replica_identity="f")

Rows = dict[int, dict[str, Any]]


def batch_of(changes: Sequence[Change]) -> Batch:
    capture = Capture.of(changes)
    return Batch.of([payload for _, payload in capture.messages], [lsn for lsn, _ in capture.messages])


def actions(batch: Batch) -> list[str]:
    return [change.action for change in batch.changes() if not isinstance(change, DecodeError)]


def keys_of(batch: Batch) -> dict[int, list[str]]:
    return {relation.oid: ["id"] for relation in batch.relations}


@st.composite
def histories(draw: st.DrawFn) -> tuple[Table, dict[int, dict[str, Any]], list[Change]]:
    """A table's rows before, and changes that a server could send of it."""
    table = draw(st.sampled_from([PLAIN, FULL]))
    before = {key: {"id": key, "name": f"old {key}", "note": f"old note {key}"} for key in range(3)}
    rows, changes = dict(before), list[Change]()
    for number in range(draw(st.integers(0, 12))):
        free = [key for key in range(5) if key not in rows]
        what = draw(st.sampled_from(["insert", "update", "move", "delete", "truncate"]))
        if what == "insert" and free:
            key = draw(st.sampled_from(free))
            rows[key] = {"id": key, "name": f"name {number}", "note": f"note {number}"}
            changes.append(insert(table, rows[key]))
        elif what == "truncate" and draw(st.integers(0, 3)) == 0:
            rows.clear()
            changes.append(truncate(table))
        elif what != "truncate" and rows:
            key = draw(st.sampled_from(sorted(rows)))
            old = rows.pop(key)
            if what == "delete":
                changes.append(delete(table, old))
                continue
            new = draw(st.sampled_from(free)) if what == "move" and free else key
            rows[new] = {"id": new, "name": f"name {number}", "note": old["note"]}
            unsent = draw(st.booleans())
            if not unsent:
                rows[new]["note"] = f"note {number}"
            sent = rows[new] | ({"note": UNSET} if unsent else {})
            changes.append(update(table, sent, old=old if new != key or table is FULL else None))
    return table, before, changes


def applied(rows: Rows, batch: Batch, keys: dict[int, list[str]]) -> Rows:
    """What the documentation of `folded` says that a target does."""
    rows = dict(rows)
    parts: list[list[Any]] = [[]]
    for change in batch.folded(keys).changes(DICTS):
        assert not isinstance(change, DecodeError)
        if change.action == "truncate":
            parts.append([])
        parts[-1].append(change)
    for part in parts:
        if part and part[0].action == "truncate":
            rows.clear()
            part = part[1:]
        before = dict(rows)
        written = set[int]()
        for change in part:
            if change.action == "delete":
                assert not written, "deletes come first"
                rows.pop(change.old["id"], None)
                continue
            key = change.new["id"]
            assert key not in written, "each key once"
            written.add(key)
            of = before[change.old["id"]] if change.action == "update" and change.old is not UNSET else before.get(key)
            rows[key] = {name: of[name] if value is UNSET and of else value for name, value in change.new.items()}
    return rows


@settings(max_examples=300, derandomize=True, deadline=None)
@given(histories())
def test_a_folded_batch_gives_the_same_rows(history: tuple[Table, Rows, list[Change]]) -> None:
    _, before, changes = history
    batch = batch_of(changes)
    expected = dict(before)
    for change in batch.changes(DICTS):
        assert not isinstance(change, DecodeError)
        if change.action == "truncate":
            expected.clear()
        elif change.action == "delete":
            del expected[change.old["id"]]
        elif change.action in ("insert", "update"):
            new = change.new
            old = new if change.action == "insert" or change.old is UNSET else change.old
            was = expected.pop(old["id"], {})
            expected[new["id"]] = {name: was[name] if value is UNSET else value for name, value in new.items()}
    assert applied(before, batch, keys_of(batch)) == expected


def test_what_cannot_be_folded_stays_as_it_is() -> None:
    keyless = Table("keyless", COLUMNS, replica_identity="f")
    row = {"id": 1, "name": "a", "note": "b"}
    batch = batch_of([insert(keyless, row), message("prefix", "content"), insert(keyless, row), delete(keyless, row)])
    assert actions(batch.folded()) == ["insert", "message", "insert", "delete"]


def test_positions_and_lsns_stay_with_the_changes() -> None:
    batch = batch_of(
        [insert(PLAIN, {"id": 1, "name": "a", "note": "b"}), insert(PLAIN, {"id": 2}), delete(PLAIN, {"id": 1})]
    )
    of = [change.position for change in batch.changes()]
    folded = batch.folded()
    assert actions(folded) == ["delete", "insert"]
    assert [change.position for change in folded.changes()] == [batch.last_position, of[1]]


def test_a_key_that_was_not_sent_is_refused() -> None:
    batch = batch_of([delete(PLAIN, {"id": 1})])
    [relation] = batch.relations
    with pytest.raises(DecodeError, match="a row whose key was not sent"):
        batch.folded({relation.oid: ["name"]})


def fields(data: bytes) -> list[list[bytes | None]]:
    """COPY BINARY, read as the manual says."""
    assert data[:11] == b"PGCOPY\n\xff\r\n\0"
    at, rows = 19, []
    while (count := struct.unpack_from(">h", data, at)[0]) != -1:
        at += 2
        row: list[bytes | None] = []
        for _ in range(count):
            (size,) = struct.unpack_from(">i", data, at)
            at += 4
            row.append(None if size < 0 else data[at : at + size])
            at += max(size, 0)
        rows.append(row)
    assert at + 2 == len(data)
    return rows


def test_rows_that_are_not_whole_are_refused() -> None:
    [(_, _, _, data)] = batch_of([insert(PLAIN, {"id": 5, "name": None, "note": "e"})]).to_copy()
    assert len(copied_values(data)) == 1
    for size in range(len(data)):
        with pytest.raises(ValueError, match="whole"):
            copied_values(data[:size])


def test_rows_of_a_plan_are_those_for_copy_of_what_is_folded() -> None:
    changes = [
        update(PLAIN, {"id": 3, "name": "c", "note": UNSET}, old={"id": 2}),
        update(PLAIN, {"id": 4, "name": "d", "note": UNSET}),
        insert(FULL, {"id": 1, "name": "a", "note": "e"}),
        truncate(FULL),
        update(PLAIN, {"id": 4, "name": "e", "note": "n"}),
        insert(PLAIN, {"id": 5, "name": None, "note": "e"}),
        delete(PLAIN, {"id": 6}),
        delete(FULL, {"id": 7, "name": "g", "note": None}),
    ]
    for batch in (batch_of(changes), batch_of(changes[:2]), batch_of([])):
        for keys in (keys_of(batch), {}):
            text = {relation.oid: {1} for relation in batch.relations}
            left = batch.folded(keys)
            rows = [(one.oid, *more, copied_values(data)) for one, *more, data in left.to_copy(text=text)]
            assert batch.planned(RowPlan(keys, text)) == (left.changes_count, rows)
    with pytest.raises(DecodeError):
        batch_of([insert(PLAIN, {"id": UNSET, "name": "a", "note": "b"})]).planned(RowPlan({}, {}))


def test_rows_for_copy_say_what_they_are() -> None:
    changes = [
        update(PLAIN, {"id": 3, "name": "c", "note": UNSET}, old={"id": 2}),
        update(PLAIN, {"id": 4, "name": "d", "note": UNSET}),
        insert(PLAIN, {"id": 5, "name": None, "note": "e"}),
        delete(PLAIN, {"id": 6}),
    ]
    [(relation, text, counts, data)] = batch_of(changes).to_copy()
    assert (relation.name, text, counts) == ("plain", (True, True, True), (1, 3, 2, 1))
    assert copied_values(data) == fields(data)
    number = [struct.pack(">i", one) for one in range(5)]
    assert fields(data) == [
        [number[0], b"o", None, b"2", None, None],
        [number[1], b"m", b"\x04", b"3", b"c", None],
        [number[2], b"u", b"\x04", b"4", b"d", None],
        [number[3], b"u", None, b"5", None, b"e"],
        [number[4], b"d", None, b"6", None, None],
    ]


def test_plain_rows_for_copy_are_inserts() -> None:
    good = insert(PLAIN, {"id": 5, "name": None, "note": "e"})
    [(_, _, counts, data)] = batch_of([good]).to_copy(marked=False)
    assert counts == (0, 1, 0, 0) and fields(data) == [[b"5", None, b"e"]]
    with pytest.raises(DecodeError, match="a change that is no insert"):
        batch_of([good, delete(PLAIN, {"id": 6})]).to_copy(marked=False)
