"""Events back to messages: what was encoded decodes to the same, and what servers sent is encoded as they sent it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from pgcdc.errors import ConfigError
from pgcdc.events import (
    Begin,
    BeginPrepare,
    Column,
    Commit,
    CommitPrepared,
    Delete,
    Insert,
    Message,
    Origin,
    Prepare,
    Relation,
    RollbackPrepared,
    StreamAbort,
    StreamCommit,
    StreamPrepare,
    StreamStart,
    StreamStop,
    Truncate,
    Type,
    Update,
)
from pgcdc.protocol import Decoder, encode_message
from tests.protocol import wire
from tests.protocol.captures import STREAM_IDS, STREAMS, capture
from tests.reference import plain

UNKNOWN = 99999
"""The OID of a type that no decoder knows: text arrives as it was sent, binary as bytes."""

lsns = st.integers(0, 2**64 - 1)
xids = st.integers(0, 2**32 - 1)
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
times = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)).map(
    lambda moment: moment.replace(fold=0)
)
flags = st.integers(0, 255)

relations = st.builds(
    Relation,
    xids,
    names,
    names,
    st.sampled_from("dnfi"),
    st.lists(st.builds(Column, names, st.just(UNKNOWN), st.integers(-1, 2**31 - 1), st.booleans()), max_size=5),
)
cells = st.one_of(st.none(), st.just(UNSET), names, st.binary(max_size=8), st.just(""))

controls = st.one_of(
    st.builds(Begin, lsns, times, xids),
    st.builds(Commit, flags, lsns, lsns, times),
    st.builds(StreamStart, xids, st.booleans()),
    st.builds(StreamStop),
    st.builds(StreamCommit, xids, flags, lsns, lsns, times),
    st.builds(StreamAbort, xids, xids),
    st.builds(StreamAbort, xids, xids, lsns, times),
    st.builds(BeginPrepare, lsns, lsns, times, xids, names),
    st.builds(Prepare, flags, lsns, lsns, times, xids, names),
    st.builds(StreamPrepare, flags, lsns, lsns, times, xids, names),
    st.builds(CommitPrepared, flags, lsns, lsns, times, xids, names),
    st.builds(RollbackPrepared, flags, lsns, lsns, times, times, xids, names),
    st.builds(Origin, lsns, names),
)


@st.composite
def changes(draw: st.DrawFn) -> tuple[Relation, Any]:
    """A relation and a change of it, as a decoder would give it."""
    relation = draw(relations)
    xid = draw(st.one_of(st.just(UNSET), xids))
    new = tuple(draw(cells) for _ in relation.columns)
    old = tuple(draw(cells) for _ in relation.columns)
    if relation.replica_identity != "f":  # a key: others are not sent
        old = tuple(cell if column.is_key else UNSET for cell, column in zip(old, relation.columns, strict=True))
    filled = tuple(before if cell is UNSET else cell for cell, before in zip(new, old, strict=True))
    return relation, draw(
        st.sampled_from(
            [
                Insert(relation, new, xid=xid),
                Update(relation, new, xid=xid),
                Update(relation, filled, old, xid=xid),
                Delete(relation, UNSET, old, xid=xid),
                Truncate([relation], draw(st.booleans()), draw(st.booleans()), xid=xid),
                Message(draw(st.booleans()), draw(lsns), draw(names), draw(st.binary(max_size=8)), xid=xid),
            ]
        )
    )


@given(controls)
def test_what_begins_and_ends_transactions(event: Any) -> None:
    assert plain(Decoder().decode(encode_message(event))) == plain(event)


@given(changes())
def test_changes_and_their_relations_inside_and_outside_streams(change: tuple[Relation, Any]) -> None:
    relation, event = change
    decoder = Decoder("tuple")
    inside = event.xid is not UNSET
    if inside:
        decoder.decode(encode_message(StreamStart(1, True)))
    xid = event.xid if inside else None
    assert plain(decoder.decode(encode_message(relation, xid=xid))) == plain(relation)
    assert plain(decoder.decode(encode_message(event))) == plain(event)
    kind = Type(relation.oid, relation.schema, relation.name)
    assert plain(decoder.decode(encode_message(kind, xid=xid))) == plain(kind)


@pytest.mark.parametrize(("version", "manner"), STREAMS, ids=STREAM_IDS)
def test_what_servers_sent_is_encoded_as_they_sent_it(version: int, manner: str) -> None:
    """Every message without values, byte for byte; the xid of a Relation and a Type is not in their events."""
    decoder = Decoder()
    streamed = False
    compared = set()
    for _, message in capture(version, manner):
        event = decoder.decode(message)
        if isinstance(event, Insert | Update | Delete):
            continue
        xid = int.from_bytes(message[1:5]) if streamed and isinstance(event, Relation | Type) else None
        assert encode_message(event, xid=xid) == message
        compared.add(type(event))
        streamed = isinstance(event, StreamStart) or (streamed and not isinstance(event, StreamStop))
    assert len(compared) > 6


def test_a_row_is_a_tuple_of_what_is_sent() -> None:
    """As the hand-written bytes have it; what the server says of keys and of unchanged values included."""
    relation = Relation(1, "public", "t", "d", [Column("id", 23, -1, True), Column("v", 25, -1, False)])
    assert encode_message(Insert(relation, ("1", b"\x00"))) == wire.insert(1, ["1", b"\x00"])
    assert encode_message(Insert(relation, ("1", None)), xid=9) == wire.in_stream(wire.insert(1, ["1", None]), 9)
    assert encode_message(Update(relation, ("1", UNSET))) == wire.update(1, ["1", UNSET])
    key = wire.update(1, ["2", "x"], ["1", None], kind="K")
    assert encode_message(Update(relation, ("2", "x"), ("1", UNSET))) == key
    assert encode_message(Delete(relation, UNSET, ("1", UNSET))) == wire.delete(1, ["1", None])
    full = Relation(1, "public", "t", "f", relation.columns)
    assert encode_message(Delete(full, UNSET, ("1", None))) == wire.delete(1, ["1", None], kind="O")


def test_what_cannot_be_encoded_is_refused() -> None:
    """With the reason, without a value."""
    relation = Relation(1, "public", "t", "d", [Column("id", 23, -1, True)])
    row: Any
    for row in (["1"], {"id": 1}, (1,), (bytearray(b"1"),)):
        with pytest.raises(TypeError, match="tuple of None, UNSET, str and bytes"):
            encode_message(Insert(relation, row))
    for event, why in (
        (Insert(relation, ("1", "2")), "another number of columns"),
        (Insert(relation, UNSET), "an Insert has new"),
        (Delete(relation, UNSET, UNSET), "a Delete old"),
        (Origin(1, "secret\0"), "origin name"),
        (Prepare(0, 1, 2, wire.COMMITTED, 3, "secret\0"), "gid"),
        (Relation(1, "secret\0", "t", "d", []), "zero byte"),
    ):
        with pytest.raises(ConfigError, match=why) as caught:
            encode_message(event)
        assert "secret" not in str(caught.value)
    for wrong in (1, None, "B", Column("id", 23, -1, True)):
        with pytest.raises(TypeError, match="is no event"):
            encode_message(wrong)  # type: ignore[arg-type]
