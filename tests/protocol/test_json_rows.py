"""Batches change by change, with key and row: they say what the lines say, and which key a row has and had."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from pgcdc.errors import DecodeError
from pgcdc.events import Delete, Insert, Relation, Truncate, Update
from pgcdc.lsn import Position
from pgcdc.protocol import Batch, JsonRow, RowFormat, json_fields
from pgcdc.testing import Capture, Table, delete, insert, message, transaction, truncate, update
from tests.golden.make import VERSIONS
from tests.protocol.captures import ALL, IDS
from tests.protocol.test_golden import TYPES_TOLD_ALIKE
from tests.protocol.test_json import golden

WIDE = {"a": "bigint", "b": "text", "note": "text"}
ROWS = RowFormat("dict", json="text")


def rows_of(*changes: Any, keys: dict[int, tuple[str, ...]] | None = None) -> list[JsonRow]:
    """The rows of some changes, as one batch."""
    batch = batch_of(*changes)
    return (batch if keys is None else batch.with_primary_keys(keys)).json_rows()


def batch_of(*changes: Any) -> Batch:
    """Some changes as one batch."""
    capture = Capture.of(changes)
    return Batch.of([payload for _, payload in capture.messages], [lsn for lsn, _ in capture.messages])


def all_columns(relation: Relation) -> list[str]:
    """A key of everything, so that every type is printed."""
    return [column.name for column in relation.columns]


@pytest.mark.parametrize(("version", "form"), ALL, ids=IDS)
def test_rows_say_what_the_lines_say(version: int, form: str) -> None:
    """The new row is the one of the line, and the rest that of the event, for every change of the captures."""
    batch = golden(version, form)
    lines, changes = batch.to_json().splitlines(), batch.changes(ROWS)
    rows = batch.json_rows()
    assert len(changes) > 100
    assert sorted({row.number for row in rows}) == list(range(len(changes)))
    for row in rows:
        change = changes[row.number]
        assert not isinstance(change, DecodeError)
        assert row.action == change.action
        assert row.position == (None if change.position is UNSET else change.position)
        assert row.commit_lsn == (None if change.commit_lsn is UNSET else change.commit_lsn)
        if not isinstance(change, Insert | Update | Delete):
            assert (row.key, row.old_key, row.new, row.unsent) == (None, None, None, ())
            assert (row.relation in change.relations) if isinstance(change, Truncate) else row.relation is None
            continue
        assert row.relation == change.relation
        if isinstance(change, Delete):
            assert row.new is None
            assert row.unsent == ()
            continue
        assert row.new is not None
        assert row.new in lines[row.number]
        assert json.loads(row.new) == json.loads(lines[row.number])["new"]
        assert list(row.unsent) == [name for name, value in change.new.items() if value is UNSET]
    truncates = [change for change in changes if isinstance(change, Truncate)]
    assert sum(len(change.relations) for change in truncates) == sum(row.action == "truncate" for row in rows)


@pytest.mark.parametrize("version", VERSIONS)
def test_text_and_binary_give_the_same_keys(version: int) -> None:
    """With everything as the key, of each column whose type is known."""
    compared = 0
    pairs = [golden(version, form).json_rows(all_columns) for form in ("text", "binary")]
    for one, other in zip(*pairs, strict=True):
        assert (one.key is None) == (other.key is None)
        if one.key is None or other.key is None or one.relation is None:
            continue
        for column, left, right in zip(one.relation.columns, one.key, other.key, strict=True):
            if column.type_oid in TYPES_TOLD_ALIKE:
                assert left == right, column
                compared += 1
    assert compared > 100


def test_a_key_is_the_replica_identity() -> None:
    """In the table's order, or in the primary key's when the batch knows that; an old one only when it was another."""
    table = Table("t", WIDE, key=("b", "a"))
    changes = (
        insert(table, {"a": 1, "b": "x"}),
        update(table, {"a": 1, "b": "x", "note": "n"}),
        update(table, {"a": 2, "b": "x", "note": UNSET}, old={"a": 1, "b": "x"}),
        delete(table, {"a": 2, "b": "x"}),
    )
    rows = rows_of(*changes)
    assert [row.key for row in rows] == [("1", "x"), ("1", "x"), ("2", "x"), ("2", "x")]
    assert [row.old_key for row in rows] == [None, None, ("1", "x"), None]
    assert [row.unsent for row in rows] == [(), (), ("note",), ()]
    assert rows[2].new == b'{"a":2,"b":"x"}'
    relation = rows[0].relation
    assert relation is not None
    assert batch_of(*changes).key_columns(relation) == ("a", "b")
    known = batch_of(*changes).with_primary_keys({relation.oid: ("b", "a")})
    assert known.key_columns(relation) == ("b", "a")
    assert known.json_rows()[2].old_key == ("x", "1")


def test_a_key_that_was_altered_is_what_the_stream_says() -> None:
    """What was known at the start is not, when the replica identity has other columns by now."""
    changes = [insert(Table("t", WIDE, key=("a", "b")), {"a": 1, "b": "x"})]
    [row] = rows_of(*changes)
    assert row.relation is not None
    for stale in [("a",), ("a", "note"), ("gone",)]:
        assert batch_of(*changes).with_primary_keys({row.relation.oid: stale}).json_rows()[0].key == ("1", "x")


def test_under_replica_identity_full_the_key_is_what_the_batch_was_told() -> None:
    """All columns are flagged then, and a row would have another key after each update."""
    table = Table("t", WIDE, key=("a",), replica_identity="f")
    row = {"a": 1, "b": "x", "note": None}
    changes = (insert(table, row), update(table, row | {"a": 2}, old=row), delete(table, row | {"a": 2}))
    assert [one.key for one in rows_of(*changes)] == [None, None, None]
    relation = batch_of(*changes).relations[0]
    rows = rows_of(*changes, keys={relation.oid: ("a",)})
    assert [one.key for one in rows] == [("1",), ("2",), ("2",)]
    assert [one.old_key for one in rows] == [None, ("1",), None]
    assert rows_of(*changes, keys={relation.oid: ("gone",)})[0].key is None


def test_a_chosen_key() -> None:
    """What is NULL in it is None, and what was not sent makes no key."""
    table = Table("t", WIDE, key=("a",))
    batch = batch_of(insert(table, {"a": 1, "b": None}), delete(table, {"a": 1}))
    asked: list[Relation] = []

    def choose(relation: Relation) -> list[str]:
        asked.append(relation)
        return ["b", "a"]

    assert [row.key for row in batch.json_rows(choose)] == [(None, "1"), None]
    assert asked == batch.relations
    assert [row.key for row in batch.json_rows(lambda _: ["nothing"])] == [None, None]
    assert [row.key for row in batch.json_rows(lambda _: [])] == [None, None]


def test_what_is_cut_from_a_batch_knows_the_keys() -> None:
    """And what is made of several."""
    table = Table("t", WIDE, key=("a",), replica_identity="f")
    batch = batch_of(transaction(*(insert(table, {"a": key, "b": "x"}) for key in range(4))))
    oid = batch.relations[0].oid
    known = batch.with_primary_keys({oid: ("a",)})
    position = known.json_rows()[1].position
    assert position is not None
    parts = [
        known.after(position),
        known.up_to(position),
        known.take([1]),
        known.select(actions=["insert"]),
        *known.pieces(3),
        *known.split_at(2),
        Batch.concat([known, batch]),
        known.reshaped(lambda _: None),
        known.rewritten([0]),
    ]
    for part in parts:
        for row in part.json_rows():
            assert row.key is not None
    assert batch.json_rows()[0].key is None


def test_truncates_and_messages() -> None:
    """A truncate is one for each table, with the number of one change."""
    one, two = Table("one", WIDE), Table("two", WIDE)
    rows = rows_of(
        insert(one, {"a": 1}),
        insert(two, {"a": 1}),
        transaction(truncate(one, two), message("p", "c"), delete(one, {"a": 1})),
    )
    assert [(row.action, row.number, row.relation and row.relation.name) for row in rows] == [
        ("insert", 0, "one"),
        ("insert", 1, "two"),
        ("truncate", 2, "one"),
        ("truncate", 2, "two"),
        ("message", 3, None),
        ("delete", 4, "one"),
    ]
    assert repr(rows[2]) == "<JsonRow: truncate of public.one>"
    assert repr(rows[4]) == "<JsonRow: message>"


def test_bytes_that_are_not_utf8_are_written_as_lines_have_them() -> None:
    """In a key, too: as Python reads them with surrogateescape."""
    table = Table("t", {"a": "text"})
    batch = batch_of(insert(table, {"a": "ab"}))
    whole = batch.to_bytes().replace(b"ab", b"\xff\xfe")
    # The checksum of what is stored is not of this form, so that the bytes can be changed.
    [row] = Batch.from_bytes(whole).json_rows()
    assert row.key == ("\udcff\udcfe",)
    assert row.new == b'{"a":"\\udcff\\udcfe"}'


def test_the_first_bad_change_is_raised() -> None:
    """And nothing is given."""
    table = Table("t", {"a": "integer"})
    batch = Batch.from_bytes(batch_of(insert(table, {"a": 12345})).to_bytes().replace(b"12345", b"12x45"))
    with pytest.raises(DecodeError, match="column a"):
        batch.json_rows()


def test_versions_of_positions_do_not_fall() -> None:
    """A copied row's is below that of a transaction which commits exactly at the consistent point."""
    positions = [Position(7, 3), Position(8, -1), Position(8, 0), Position(8, 1), Position(2**63 - 1, 0)]
    assert [position.version for position in positions] == [7, 7, 8, 8, 2**63 - 1]


# Half of a pair is in what `json` columns hold; those that stand for a byte are looked at below.
texts = st.text(st.characters(exclude_categories=()).filter(lambda one: not "\udc80" <= one <= "\udcff"), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.tuples(texts, values), max_size=5), st.booleans(), st.sampled_from([None, 1]))
def test_fields_are_what_another_parser_reads(members: list[tuple[str, Any]], ascii: bool, indent: int | None) -> None:
    """Strings by their characters, other values by what stands there; what is null is no field."""

    def dumped(value: Any) -> str:
        return json.dumps(value, ensure_ascii=ascii, indent=indent)

    row = ",".join(f"{dumped(name)}: {dumped(value)}" for name, value in members)
    expected = [
        word.encode("utf-8", "surrogatepass")
        for name, value in members
        if value is not None
        for word in (json.loads(dumped(name)), json.loads(dumped(value)) if isinstance(value, str) else dumped(value))
    ]
    assert json_fields(f"{{{row}}}".encode("utf-8", "surrogatepass")) == expected


def test_fields_of_bytes_that_are_no_utf8() -> None:
    """They are in JSON as lone surrogates, and in a field as they were."""
    row = rows_of(insert(Table("t", {"id": "bigint", "note": "text"}), {"id": 1, "note": "a\udce9\n\udc80"}))[0]
    assert row.new is not None
    assert json_fields(row.new) == [b"id", b"1", b"note", b"a\xe9\n\x80"]


@pytest.mark.parametrize(
    "row", ["", "null", "[]", "{", '{"a"}', '{"a":}', '{"a":1', '{"a":1}}', '{"a":"\\u12"}', '{"a" 1}']
)
def test_what_is_no_row_has_no_fields(row: str) -> None:
    """Nothing is made of half a row."""
    with pytest.raises(ValueError, match="no JSON object"):
        json_fields(row.encode())


def test_positions_as_text() -> None:
    """As `str` has them: of streamed rows, and of copied ones, which are before all of them."""
    batch = batch_of(insert(Table("t", {"id": "bigint"}), {"id": 1}))
    rows = [*batch.json_rows(), *Batch.truncation(batch.relations, 7).json_rows()]
    assert [row.position_text for row in rows] == [str(row.position) for row in rows]
    assert rows[-1].position_text == "0000000000000007.00000000"
