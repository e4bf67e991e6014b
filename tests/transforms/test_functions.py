"""Functions as transforms: what they return is in every form of the batch, at the position of what it came from."""

from __future__ import annotations

import datetime
import json
import math
import uuid
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

import pgcdc
from pgcdc import Batch, ConfigError, DecodeError, Insert, RowFormat, Truncate, Update, transforms
from pgcdc.transforms.functions import fuse
from tests.protocol import wire
from tests.transforms.test_columns import BINARY, FULL, TEXT, agree, applied, batch, hidden, rows, users


def test_filters_keep_what_was_made_and_cost_no_row() -> None:
    source = batch(*TEXT)
    made = applied(source, *fuse([transforms.where(lambda change: change.action != "update")]))
    assert [action for action, _, _ in rows(made)] == ["insert", "delete", "truncate"]
    assert made.changes()[0] is source.changes()[0]
    assert applied(source, *fuse([lambda change: change])) is source


@pytest.mark.parametrize("messages", [TEXT, BINARY], ids=["text", "binary"])
def test_a_function_changes_adds_and_leaves_out(messages: list[bytes]) -> None:
    """What it does not touch stays as it was sent; of one change several may be made."""

    def change(given: Any) -> Any:
        if isinstance(given, Truncate):
            return given
        if isinstance(given, Insert):
            loud = msgspec.structs.replace(given.new, email=given.new.email.upper())
            return [msgspec.structs.replace(given, new=loud), given]
        if isinstance(given, Update) and given.old is UNSET:
            row = {"id": given.new.id, "email": given.new.email, "length": len(given.new.email)}
            return msgspec.structs.replace(given, new=row)
        return None

    source = batch(*messages)
    made = applied(source, *fuse([change]))
    first, second, third, fourth = rows(made)
    assert first[1] == {"id": 1, "email": "A@EXAMPLE.ORG", "total": Decimal("7.50"), "note": "secret"}
    assert second == rows(source)[0]
    assert third[1] == {"id": 1, "email": "b@example.org", "length": 13}
    assert fourth[0] == "truncate"
    positions = [change.position for change in made.changes() if not isinstance(change, DecodeError)]
    assert positions == [(1000, 0), (1000, 0), (1000, 1), (1000, 4)]
    agree(made.take([1, 2, 3]))
    assert [
        column.type_oid for relation in made.relations for column in relation.columns if column.name == "length"
    ] == [20]


def test_what_a_function_takes_out_does_not_come_back_from_the_old_row() -> None:
    """Under REPLICA IDENTITY FULL an unchanged value of the new row is that of the old one."""

    def take_out(change: Any) -> Any:
        if isinstance(change, Update):
            return msgspec.structs.replace(change, new=msgspec.structs.replace(change.new, note=UNSET))
        return change

    made = applied(batch(FULL[0], relation=users("f")), *fuse([take_out]))
    assert rows(made)[0][1]["note"] is UNSET
    hidden(made, "secret")

    def without_old(change: Any) -> Any:
        return msgspec.structs.replace(change, old=UNSET) if isinstance(change, Update) else change

    made = applied(batch(FULL[0], relation=users("f")), *fuse([without_old]))
    assert rows(made) == [
        ("update", {"id": 1, "email": "b@example.org", "total": Decimal("7.50"), "note": "secret"}, None)
    ]


VALUES: list[Any] = [
    True,
    -(2**40),
    2**70,
    1.5,
    math.inf,
    Decimal("1.10"),
    'text with \\ and "',
    b"\x00\xff",
    datetime.date(2024, 2, 29),
    datetime.time(12, 30, 0, 500000),
    datetime.datetime(2024, 2, 29, 12, 30),
    datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC),
    uuid.UUID(int=5),
    {"a": [1, None, {"b": Decimal("0.1000000000000000055")}]},
    [1, "two"],
    None,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("column", ["id", "email", "total", "extra"])
def test_any_value_comes_back_equal_whatever_the_column_was(column: str, value: Any) -> None:
    """The column has another type then."""

    def put(change: Insert[Any]) -> Any:
        row = {name: getattr(change.new, name) for name in change.new.__struct_fields__} | {column: value}
        return msgspec.structs.replace(change, new=row)

    made = applied(batch(BINARY[0]), *fuse([put]))
    [change] = made.changes()
    assert isinstance(change, Insert)
    got = getattr(change.new, column)
    assert got == value
    is_numeric = value == 2**70 or (column == "total" and type(value) is int)  # a numeric stays one
    assert value is None or isinstance(got, Decimal if is_numeric else type(value))
    assert json.loads(made.to_json())["action"] == "insert"
    assert made.to_arrow()


def test_columns_that_are_added_have_one_type_whatever_the_values_are() -> None:
    vat = transforms.enrich(
        "users", lambda change: {"vat": None if change.action == "insert" else Decimal("1.5")}, {"vat": Decimal}
    )
    made = applied(batch(*TEXT), vat)
    assert [new and new["vat"] for _, new, _ in rows(made)[:3]] == [None, Decimal("1.5"), Decimal("1.5")]
    assert rows(made)[3][2]["vat"] is UNSET
    assert len({tuple((c.name, c.type_oid) for c in relation.columns) for relation in made.relations[:1]}) == 1
    agree(made)
    following = applied(batch(TEXT[1]), *fuse([vat, lambda change: change if change.new.vat else None]))
    assert following.changes_count == 1
    with pytest.raises(TypeError, match="was not told of column 'other'"):
        applied(batch(TEXT[0]), transforms.enrich("users", lambda change: {"other": 1}, {"vat": int}))
    with pytest.raises(ConfigError, match="no column holds"):
        transforms.enrich("users", lambda change: {}, {"vat": object})


def test_changes_are_sent_to_where_a_function_says() -> None:
    made = applied(batch(*TEXT), transforms.route(lambda change: f"users-{change.action}"))
    assert [change.table for change in made.changes() if not isinstance(change, Truncate)] == [  # type: ignore[union-attr]
        "users-insert",
        "users-update",
        "users-update",
        "users-delete",
    ]
    agree(made)


def test_what_is_no_change_is_refused() -> None:
    with pytest.raises(TypeError, match="a transform returned a str"):
        applied(batch(TEXT[0]), *fuse([lambda change: "nonsense"]))
    with pytest.raises(TypeError, match="cannot be that of a column"):
        applied(batch(TEXT[0]), *fuse([lambda change: msgspec.structs.replace(change, new={"id": object()})]))
    with pytest.raises(ConfigError, match="is no transform"):
        fuse([5])


def test_what_cannot_be_decoded_is_not_passed_over() -> None:
    with pytest.raises(DecodeError):
        applied(batch(wire.insert(1, ["1", "a", "no number", "b"])), *fuse([lambda change: None]))


def test_rows_of_unknown_types_stay_as_they_were_sent() -> None:
    """Values that only the database knows, in binary, beside one that is replaced."""
    columns = [("id", 23), ("mood", 70000), ("email", 25)]
    stream = [
        wire.relation(1, "users", columns),
        wire.begin(),
        wire.insert(1, [b"\x00\x00\x00\x01", b"\x01\x02", b"a"]),
    ]
    made = applied(
        Batch.of(stream), *fuse([lambda c: msgspec.structs.replace(c, new=msgspec.structs.replace(c.new, email="b"))])
    )
    [change] = made.changes(RowFormat("tuple"))
    assert isinstance(change, Insert)
    assert change.new == (1, b"\x01\x02", "b")
    assert pgcdc.transforms.Shaped(made).batch is made
