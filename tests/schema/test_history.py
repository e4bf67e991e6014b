"""Versions against an oracle: every row has one, replays have the same, and only another shape makes a new one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcdc import Batch, Position
from pgcdc.events import Column, Relation
from pgcdc.schema import History, change_of, fingerprint_of
from tests.protocol import wire

OID = 16385


def shape(*columns: str | tuple[Any, ...], name: str = "orders", identity: Any = "d") -> Relation:
    """A relation: names, or name, type's OID, modifier, key."""
    made = [
        (column, 25, -1, False) if isinstance(column, str) else (*column, *(25, -1, False)[len(column) - 1 :])
        for column in columns
    ]
    return Relation(OID, "public", name, identity, [Column(*column) for column in made])


def seen(history: History, relation: Relation, position: Position) -> int:
    """The version that a row has, as a pipeline finds it."""
    version = history.next(relation, position)
    if version is not None:
        history.add(version)
    found = history.at(relation.oid, position)
    assert found is not None
    return found.version


def test_a_repeated_relation_is_no_version_and_an_old_shape_is_a_new_one() -> None:
    history = History()
    plain, more = shape("id"), shape("id", "note")
    numbers = [
        seen(history, relation, Position(lsn, 0))
        for lsn, relation in enumerate([plain, shape("id"), more, shape("id", "note"), plain, more])
    ]
    assert numbers == [1, 1, 2, 2, 3, 4]


def test_a_replayed_row_makes_none() -> None:
    history = History()
    shapes = [shape("id"), shape("id", "note"), shape("id")]
    first = [seen(history, relation, Position(10 * number, 0)) for number, relation in enumerate(shapes)]
    again = [seen(history, relation, Position(10 * number, 0)) for number, relation in enumerate(shapes)]
    between = [seen(history, relation, Position(10 * number + 5, 2)) for number, relation in enumerate(shapes)]
    assert (first, again, between) == ([1, 2, 3],) * 3


def test_it_is_the_same_when_it_was_stored_in_between() -> None:
    history = History()
    shapes = [shape("id"), shape("id", "note"), shape("id")]
    numbers = []
    for lsn, relation in enumerate(shapes):
        numbers.append(seen(history, relation, Position(lsn, 0)))
        history = History(history.of())
    assert numbers == [1, 2, 3]
    assert seen(history, shapes[1], Position(1, 5)) == 2


def test_the_first_row_of_a_transaction_that_begins_where_a_copy_ends() -> None:
    """Rows of a copy come before the first change at the same LSN."""
    history = History()
    assert seen(history, shape("id"), Position(100, -1)) == 1
    assert seen(history, shape("id", "note"), Position(100, 0)) == 2
    assert seen(history, shape("id"), Position(100, -1)) == 1


def test_a_snapshot_that_is_taken_down_late() -> None:
    """Rows behind it were seen already: their version begins with it, when it is theirs."""
    history = History()
    one, two, three = shape("id"), shape("id", "x"), shape("id", "x", "y")
    assert [seen(history, one, Position(10, 0)), seen(history, two, Position(30, 0))] == [1, 2]
    assert history.fit(one, Position(20, -1)) is None
    assert history.fit(two, Position(40, -1)) is None
    with pytest.raises(LookupError):
        history.fit(three, Position(20, -1))
    for position in (Position(20, -1), Position(25, -1)):
        fitted = history.fit(two, position)
        if fitted is not None:
            history.add(fitted)
    assert [(version.version, version.position) for version in history.of()] == [
        (1, Position(10, 0)),
        (2, Position(20, -1)),
    ]
    assert history.fit(one, Position(5, -1)) is None
    assert seen(history, three, Position(50, -1)) == 3


SHAPES = [[("id", 23)], [("id", 23), ("note", 25)], [("id", 20)], [("id", 23), ("remark", 25)]]


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=12),
    st.lists(st.integers(0, 11), max_size=4),
    st.booleans(),
)
def test_versions_of_a_stream_with_replays(
    blocks: list[tuple[int, int, int]], restarts: list[int], stored: bool
) -> None:
    """Transactions of one table each: a shape and some rows. The oracle knows the whole stream.

    The reader goes back to an earlier transaction at each restart and reads on from there; what it finds is what the
    oracle found in one go.
    """
    wanted: dict[Position, int] = {}
    last: dict[int, tuple[int, int]] = {}
    transactions = []
    for number, (table, form, rows) in enumerate(blocks):
        lsn = 100 * (number + 1)
        known, version = last.get(table, (-1, 0))
        last[table] = form, version + (form != known)
        messages = [wire.begin(lsn), wire.relation(table + 1, f"t{table}", SHAPES[form])]
        for index in range(rows):
            messages.append(wire.insert(table + 1, [*["1", "x"][: len(SHAPES[form])]]))
            wanted[Position(lsn, index)] = last[table][1]
        transactions.append([*messages, wire.commit(lsn, lsn + 8)])
    history, found = History(), dict[Position, int]()
    at, left = 0, list(restarts)
    while at < len(transactions):
        # From a new connection on: everything is told again.
        upto = len(transactions) if not left else min(len(transactions), at + 1 + left[0])
        batch = Batch.of([message for transaction in transactions[at:upto] for message in transaction])
        nothing_new = all(map(history.has_newest, batch.relations))
        for _, relation, position, _ in batch.shape_runs():
            assert position is not None
            begun = history.next(relation, position)
            if begun is not None:
                assert not nothing_new
                history.add(begun)
        changes: list[Any] = batch.with_versions(history.frozen()).changes()
        for change in changes:
            assert found.setdefault(change.position, change.schema_version) == change.schema_version
        at = upto if not left else max(0, upto - left.pop(0))
        if stored:
            history = History(history.of())
    assert found == wanted


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (shape("id"), shape("id", "note"), {"added": ("note",)}),
        (shape("id", "note"), shape("id"), {"dropped": ("note",)}),
        (shape("id", "note", "x"), shape("id", "remark", "x"), {"renamed": (("note", "remark"),)}),
        (shape("id", "note"), shape("id", ("remark", 23)), {"added": ("remark",), "dropped": ("note",)}),
        (shape(("id", 23)), shape(("id", 20)), {"retyped": ("id",)}),
        (shape(("id", 1700, 655366)), shape(("id", 1700, 655368)), {"retyped": ("id",)}),
        (shape(("id", 25, -1, True), "b"), shape("id", ("b", 25, -1, True)), {"rekeyed": ("id", "b")}),
        (shape("id"), shape("id", name="purchases"), {}),
        (shape("a", "b", "c"), shape("a", "c", "b"), {"added": ("b",), "dropped": ("b",)}),
        (shape("a", "b", "c"), shape("a", "x", "c", "d"), {"renamed": (("b", "x"),), "added": ("d",)}),
        (shape("a", ("b", 23), "c"), shape("a", ("b", 20), "c", "d"), {"retyped": ("b",), "added": ("d",)}),
        (shape("a", "c"), shape("a", "b", "c"), {"added": ("b",)}),
        (shape("a", "b", "c"), shape("c"), {"dropped": ("a", "b")}),
        (shape("a", "b"), shape("a", ("x", 23), "y"), {"dropped": ("b",), "added": ("x", "y")}),
        (shape(), shape("a"), {"added": ("a",)}),
    ],
)
def test_what_differs(old: Relation, new: Relation, what: dict[str, Any]) -> None:
    change = change_of(old, new, old_version=1, version=2)
    fields = ("added", "dropped", "renamed", "retyped", "rekeyed")
    found = {field: getattr(change, field) for field in fields if getattr(change, field)}
    assert {name: tuple(sorted(value)) for name, value in found.items()} == {
        name: tuple(sorted(value)) for name, value in what.items()
    }
    assert change.table_renamed == (old.name != new.name)
    assert change.kinds, "something happened"
    assert fingerprint_of(old) != fingerprint_of(new)


def test_how_the_key_is_called_is_no_shape() -> None:
    assert fingerprint_of(shape("id", identity="d")) == fingerprint_of(shape("id", identity="i"))
