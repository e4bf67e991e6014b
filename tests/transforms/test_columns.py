"""Columns left out, renamed, masked: in every form of a batch, from text and binary alike, at the same positions."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from decimal import Decimal
from typing import Any

import pyarrow  # type: ignore[import-untyped]
import pytest
from msgspec import UNSET

import pgcdc
from pgcdc import Batch, ConfigError, DecodeError, Delete, Insert, RowFormat, SchemaError, Truncate, Update, transforms
from pgcdc.transforms import Context
from tests.protocol import wire

KEY = b"sixteen bytes or more"
COLUMNS = [("id", 23), ("email", 25), ("total", 1700), ("note", 25)]
NUMERIC_7_50 = struct.pack(">hhhhhh", 2, 0, 0, 2, 7, 5000)


def users(identity: str = "d") -> bytes:
    keyed = [(name, oid, identity == "f" or name == "id") for name, oid in COLUMNS]
    return wire.relation(1, "users", keyed, identity=identity)


TEXT = [
    wire.insert(1, ["1", "a@example.org", "7.50", "secret"]),
    wire.update(1, ["1", "b@example.org", "7.50", UNSET]),
    wire.update(1, ["2", None, "7.50", UNSET], ["1", None, None, None], kind="K"),
    wire.delete(1, ["2", None, None, None]),
    wire.truncate([1]),
]
BINARY = [
    wire.insert(1, [struct.pack(">i", 1), b"a@example.org", NUMERIC_7_50, b"secret"]),
    wire.update(1, [struct.pack(">i", 1), b"b@example.org", NUMERIC_7_50, UNSET]),
    wire.update(
        1, [struct.pack(">i", 2), None, NUMERIC_7_50, UNSET], [struct.pack(">i", 1), None, None, None], kind="K"
    ),
    wire.delete(1, [struct.pack(">i", 2), None, None, None]),
    wire.truncate([1]),
]
FULL = [
    wire.update(1, ["1", "b@example.org", "7.50", UNSET], ["1", "a@example.org", "7.50", "secret"]),
    wire.delete(1, ["1", "b@example.org", "7.50", "secret"], kind="O"),
]


def batch(*messages: bytes, relation: bytes | None = None) -> Batch:
    stream = [relation or users(), wire.begin(1000), *messages, wire.commit(1000)]
    return Batch.of(stream, list(range(900, 900 + len(stream))))


def applied(source: Batch, *given: Any) -> Batch:
    shaped = pgcdc.transforms.Shaped(source)
    for one in given:
        shaped = shaped.then(one, Context(RowFormat()))
    return shaped.batch


def rows(given: Batch) -> list[tuple[str, Any, Any]]:
    """Action, new and old row by column, of each change."""

    def row(value: Any) -> Any:
        return None if value is UNSET else {name: getattr(value, name) for name in value.__struct_fields__}

    return [
        ("truncate", [one.name for one in change.relations], None)
        if isinstance(change, Truncate)
        else (change.action, row(change.new), row(change.old))
        for change in given.changes()
        if isinstance(change, Insert | Update | Delete | Truncate)
    ]


def agree(given: Batch) -> None:
    """What events, JSON and Arrow say of a batch is the same."""
    changes = given.changes()
    lines = [json.loads(line) for line in given.to_json().splitlines()]
    tables = {
        name: [row for part in table.parts for row in pyarrow.table(part).to_pylist()]
        for name, table in given.to_arrow().items()
    }
    assert len(lines) == len(changes)
    for change, line in zip(changes, lines, strict=True):
        assert not isinstance(change, DecodeError)
        assert line["position"] == str(change.position)
        assert line["action"] == change.action
        if isinstance(change, Truncate):
            continue
        assert isinstance(change, Insert | Update | Delete)
        assert (line["schema"], line["table"]) == (change.schema, change.table)
        for which in ("new", "old"):
            row = getattr(change, which)
            names = [] if row is UNSET else [n for n in row.__struct_fields__ if getattr(row, n) is not UNSET]
            assert list(line.get(which, {})) == names
        [arrow] = [
            row
            for row in tables[f"{change.schema}.{change.table}"]
            if row["_position"] == line["position"] and row["_action"] == change.action
        ]
        shown = change.old if isinstance(change, Delete) else change.new
        for name in shown.__struct_fields__:
            value = getattr(shown, name)
            assert str(arrow[name]) == str(None if value is UNSET else value)


@pytest.mark.parametrize("messages", [TEXT, BINARY], ids=["text", "binary"])
def test_columns_are_left_out_of_every_form(messages: list[bytes]) -> None:
    """And positions, times and LSNs stay."""
    source = batch(*messages)
    made = applied(source, transforms.drop("users", "email", "note"))
    assert rows(made)[0] == ("insert", {"id": 1, "total": Decimal("7.50")}, None)
    assert [set(new) for _, new, _ in rows(made)[:3]] == [{"id", "total"}] * 3
    assert rows(made)[2][2] == {"id": 1, "total": UNSET}
    assert rows(made)[4] == ("truncate", ["users"], None)
    for was, now in zip(source.changes(), made.changes(), strict=True):
        assert not isinstance(was, DecodeError)
        assert not isinstance(now, DecodeError)
        assert (now.position, now.commit_time, now.lsn) == (was.position, was.commit_time, was.lsn)
    agree(made)
    assert rows(applied(source, transforms.keep("users", "total", "id", "no such column"))) == rows(made)


@pytest.mark.parametrize("messages", [TEXT, BINARY], ids=["text", "binary"])
def test_a_hash_is_the_same_from_text_and_binary_and_can_be_made_elsewhere(messages: list[bytes]) -> None:
    made = applied(batch(*messages), transforms.hashed("users", "email", "total", key=KEY))
    insert, update, moved, delete, _ = rows(made)
    assert insert[1]["email"] == hmac.new(KEY, b"a@example.org", hashlib.sha256).hexdigest()
    assert insert[1]["total"] == hmac.new(KEY, b"7.50", hashlib.sha256).hexdigest()
    assert (update[1]["note"], moved[1]["email"], delete[2]["email"]) == (UNSET, None, UNSET)
    agree(made)


def hidden(made: Batch, *secrets: str) -> None:
    """No form of a batch has any of these in it."""
    forms = [made.to_json(), made.to_json("debezium"), repr(made.changes()).encode()]
    tables = [pyarrow.table(part).to_pylist() for one in made.to_arrow().values() for part in one.parts]
    forms.append(repr(tables).encode())
    for secret in secrets:
        assert not [form for form in forms if secret.encode() in form]


@pytest.mark.parametrize("text", ["***", None])
@pytest.mark.parametrize("identity", ["d", "f"])
def test_nothing_of_a_masked_value_is_left(identity: str, text: str | None) -> None:
    """Under REPLICA IDENTITY FULL an unchanged TOAST value is taken from the old row: which is masked, too."""
    messages = TEXT if identity == "d" else FULL
    made = applied(batch(*messages, relation=users(identity)), transforms.mask("users", "email", "note", text=text))
    hidden(made, "a@example.org", "b@example.org", "secret")
    agree(made)
    if identity == "f":
        assert rows(made)[0][1]["note"] == rows(made)[0][2]["note"] == text


def test_tables_and_columns_get_other_names() -> None:
    made = applied(
        batch(*TEXT),
        transforms.rename("users", to="crm.people", columns={"email": "mail"}),
        transforms.drop("crm.people", "mail"),
        transforms.route("topic"),
    )
    assert {(change.schema, change.table) for change in made.changes() if isinstance(change, Insert)} == {
        ("crm", "topic")
    }
    assert rows(made)[4] == ("truncate", ["topic"], None)
    agree(made)


def test_a_column_that_is_not_there_is_an_error_because_it_may_have_another_name() -> None:
    """What was renamed would pass."""
    for transform in (transforms.drop("users", "mail"), transforms.mask("users", "mail")):
        with pytest.raises(SchemaError, match="has no column 'mail'") as caught:
            applied(batch(*TEXT), transform)
        assert "'email'" in str(caught.value.hint)
    assert rows(applied(batch(*TEXT), transforms.mask("users", "mail", if_exists=True))) == rows(batch(*TEXT))
    assert rows(applied(batch(*TEXT), transforms.mask("others", "mail"))) == rows(batch(*TEXT))


def test_rows_under_a_former_name_of_a_table_are_masked_too() -> None:
    context = Context(RowFormat(), frozenset({(("public", "users"), ("public", "people"))}))
    made = transforms.mask("people", "email").apply(batch(*TEXT), context).batch
    hidden(made, "a@example.org", "b@example.org")


def test_what_cannot_be_read_is_refused() -> None:
    """Nobody could say what of it is to be left out."""
    for bad in (wire.insert(1, ["1"]), TEXT[0][:-3], wire.insert(9, ["1"])):
        with pytest.raises(DecodeError) as caught:
            applied(batch(TEXT[0], bad), transforms.drop("users", "email"))
        assert caught.value.position == (1000, 1)
    with pytest.raises(DecodeError):
        applied(batch(wire.insert(1, ["1", "a", "no number", "b"])), transforms.hashed("users", "total", key=KEY))


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ConfigError, match="fewer than 16 bytes"):
        transforms.hashed("users", "email", key="short")
    with pytest.raises(ConfigError, match="no column"):
        transforms.drop("users")
    with pytest.raises(ConfigError, match="no new name"):
        transforms.rename("users")
    with pytest.raises(SchemaError, match="the same name"):
        applied(batch(*TEXT), transforms.rename("users", columns={"note": "email"}))
