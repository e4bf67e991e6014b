"""What servers put into tuples and before them: users' types, keys, values stored out of line, both forms in a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec import UNSET

from pgcdc.events import Delete, Insert, Relation, Type, Update
from pgcdc.protocol import Decoder
from tests.golden.make import connect, peek
from tests.protocol.captures import ALL, IDS, messages
from tests.reference import ReferenceDecoder, plain

if TYPE_CHECKING:
    from tests.conftest import Database

FIRST_OF_USERS = 16384


def decoded(version: int, form: str) -> list[Any]:
    """All events of a golden capture."""
    return Decoder(rows="dict").decode_many(messages(version, form))


@pytest.mark.parametrize(("version", "form"), ALL, ids=IDS)
def test_types_of_users_are_named_before_the_relation_that_uses_them(version: int, form: str) -> None:
    """Of a domain it is the domain's OID with the base type's name (protocol fact 6)."""
    named: dict[int, Type] = {}
    relations = 0
    for event in decoded(version, form):
        if isinstance(event, Type):
            named[event.oid] = event
        elif isinstance(event, Relation):
            used = [column for column in event.columns if column.type_oid >= FIRST_OF_USERS]
            relations += bool(used)
            for column in used:
                assert column.type_oid in named
                if column.name == "address":
                    assert (named[column.type_oid].schema, named[column.type_oid].name) == ("pg_catalog", "text")
    assert relations


@pytest.mark.parametrize(("version", "form"), ALL, ids=IDS)
def test_keys_and_values_that_are_stored_out_of_line(version: int, form: str) -> None:
    """A key has nothing but its columns; an unchanged value comes from it or from the old row, or not (fact 7)."""
    changes: dict[str, list[Any]] = {}
    for event in decoded(version, form):
        if isinstance(event, Update | Delete):
            changes.setdefault(event.table, []).append(event)
    small, moved, filled, gone = changes["toasted"]
    assert (small.new["big"], small.old) == (UNSET, UNSET)
    assert (moved.new["big"], moved.old) == (UNSET, {"id": 1, "small": UNSET, "big": UNSET})
    assert len(filled.new["big"]) > 2000
    assert gone.old == {"id": 3, "small": UNSET, "big": UNSET}
    full = changes["toasted_full"][0]
    assert full.new["big"] == full.old["big"] and len(full.new["big"]) > 2000
    assert (full.old["small"], full.new["small"]) == (None, "changed")
    key, deleted = changes["toasted_key"]
    assert key.new["big"] == key.old["big"] == deleted.old["big"] and len(key.new["big"]) > 2000
    assert key.old["small"] is UNSET


def test_a_type_without_binary_form_comes_as_text_in_a_binary_row(database: Database) -> None:
    """Binary is asked for each column by itself, so one tuple has both forms (protocol fact 10)."""
    database.execute("CREATE TABLE rights (id int PRIMARY KEY, who aclitem)", "CREATE PUBLICATION p FOR TABLE rights")
    slot = database.name
    with connect(database.dsn) as connection:
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
        [(user,)] = connection.execute("SELECT current_user::text").fetchall()
        connection.execute(f"INSERT INTO rights VALUES (7, '{user}=r/{user}')")
        captured = peek(connection, slot, "p", binary=True)
        connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
    (sent,) = [message for _, message in captured if message[:1] == b"I"]
    assert (sent[8:9], sent[17:18]) == (b"b", b"t")
    decoder, reference = Decoder("dict"), ReferenceDecoder()
    for _, message in captured:
        event = decoder.decode(message)
        assert plain(event) == plain(reference.decode(message))
        if isinstance(event, Insert):
            row = event.new
    assert row == {"id": 7, "who": f"{user}=r/{user}"}
