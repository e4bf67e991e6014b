"""Each kind of message: its fields, its state, and that anything but one whole message is refused with a place."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from pgcdc.errors import DecodeError, Error, InvalidValue, UnknownRelation
from pgcdc.events import Begin, Column, Commit, Delete, Insert, Message, Origin, Relation, Truncate, Type, Update
from pgcdc.lsn import Position
from pgcdc.protocol import Decoder
from tests.protocol import wire
from tests.protocol.captures import ALL, IDS, messages
from tests.reference import ReferenceDecoder, plain

INT4, TEXT = 23, 25
TABLE = wire.relation(1, "t", [("id", INT4), ("v", TEXT)])


def test_begin_and_commit() -> None:
    """The fields, and LSNs in the upper half of 64 bits."""
    decoder = Decoder()
    assert decoder.decode(wire.begin(2**64 - 1, xid=2**32 - 1), 5) == Begin(2**64 - 1, wire.COMMITTED, 2**32 - 1, 5)
    assert decoder.decode(wire.commit(2**63, 2**64 - 1)) == Commit(0, 2**63, 2**64 - 1, wire.COMMITTED)
    begin = decoder.decode(wire.begin())
    assert isinstance(begin, Begin)
    assert begin.lsn is UNSET
    assert begin.commit_time.utcoffset() is not None


def test_origin_type_and_message() -> None:
    """The fields of the three, non-ASCII names included."""
    decoder = Decoder()
    assert decoder.decode(wire.origin(77, "nödé"), 3) == Origin(77, "nödé", 3)
    assert decoder.decode(wire.type_(16400, "s", "mööd")) == Type(16400, "s", "mööd")
    assert decoder.decode(wire.type_(20, "", "int8")) == Type(20, "pg_catalog", "int8")
    assert decoder.decode(wire.message("p", b"\x00\xff", lsn=9, transactional=False)) == Message(
        False, 9, "p", b"\x00\xff"
    )


def test_relation() -> None:
    """The fields; an empty schema means pg_catalog."""
    event = Decoder().decode(wire.relation(9, "täble", [("id", 20, True), ("a b", 25, False)], schema="", identity="f"))
    columns = [Column("id", 20, -1, True), Column("a b", 25, -1, False)]
    assert event == Relation(9, "pg_catalog", "täble", "f", columns)


def test_rows() -> None:
    """Insert, Update in its three forms, Delete in its two."""
    decoder = Decoder(rows="dict")
    relation = decoder.decode(TABLE)
    assert isinstance(relation, Relation)
    assert decoder.decode(wire.insert(1, ["1", None])) == Insert(relation, {"id": 1, "v": None})
    assert decoder.decode(wire.update(1, ["1", "x"])) == Update(relation, {"id": 1, "v": "x"})
    assert decoder.decode(wire.update(1, ["2", "x"], ["1", None], kind="K")) == Update(
        relation, {"id": 2, "v": "x"}, {"id": 1, "v": UNSET}
    )
    assert decoder.decode(wire.update(1, ["1", "y"], ["1", None], kind="O")) == Update(
        relation, {"id": 1, "v": "y"}, {"id": 1, "v": None}
    )
    assert decoder.decode(wire.delete(1, ["1", None])) == Delete(relation, UNSET, {"id": 1, "v": UNSET})
    assert decoder.decode(wire.delete(1, ["1", None], kind="O")) == Delete(relation, UNSET, {"id": 1, "v": None})


def test_unchanged_toast_is_taken_from_the_old_row_where_it_is_there() -> None:
    """From O, and from K for a key that is itself stored out of line; else UNSET (protocol fact 7)."""
    decoder = Decoder(rows="dict")
    decoder.decode(TABLE)

    def new(*arguments: Any, **options: Any) -> Any:
        event = decoder.decode(wire.update(1, *arguments, **options))
        assert isinstance(event, Update)
        return event.new

    assert new(["1", UNSET]) == {"id": 1, "v": UNSET}
    assert new(["1", UNSET], ["1", "old"], kind="O") == {"id": 1, "v": "old"}
    assert new([UNSET, "v"], ["7", None], kind="K") == {"id": 7, "v": "v"}
    assert new(["2", UNSET], ["1", None], kind="K") == {"id": 2, "v": UNSET}
    assert new(["1", UNSET], ["1", UNSET], kind="O") == {"id": 1, "v": UNSET}


@pytest.mark.parametrize("options", [0, 1, 2, 3])
def test_truncate(options: int) -> None:
    """Its tables in order and its two options."""
    decoder = Decoder()
    one = decoder.decode(TABLE)
    two = decoder.decode(wire.relation(2, "u", [("id", INT4)]))
    event = decoder.decode(wire.truncate([2, 1], options))
    assert event == Truncate([two, one], bool(options & 1), bool(options & 2))  # type: ignore[list-item]


def test_changes_carry_their_transaction_and_number() -> None:
    """The index counts rows, truncates and transactional messages, nothing else; after Commit nothing is known."""
    decoder = Decoder()
    decoder.decode(TABLE)
    stream = [
        wire.begin(5000),
        wire.origin(1, "o"),
        wire.insert(1, ["1", "a"]),
        TABLE,
        wire.message("m", b"", transactional=False),
        wire.message("m", b""),
        wire.type_(16400, "s", "n"),
        wire.truncate([1]),
        wire.delete(1, ["1", None]),
        wire.commit(5000),
        wire.insert(1, ["2", "b"]),
    ]
    events: list[Any] = decoder.decode_many(stream, list(range(100, 111)))
    placed = [(number, event.position) for number, event in enumerate(events) if hasattr(event, "position")]
    assert placed == [
        (2, Position(5000, 0)),
        (4, UNSET),
        (5, Position(5000, 1)),
        (7, Position(5000, 2)),
        (8, Position(5000, 3)),
        (10, UNSET),
    ]
    assert events[2].commit_time == wire.COMMITTED
    assert [events[number].lsn for number in (0, 1, 2, 7, 8, 9)] == [100, 101, 102, 107, 108, 109]
    assert events[4].lsn == 900, "a logical message says itself where it was written"
    assert events[2].schema_version is UNSET
    assert events[2].xid is UNSET


def test_a_repeated_relation_is_the_same_object_and_keeps_its_class() -> None:
    """ANALYZE and GRANT make the server send a Relation again; that is no new shape (protocol fact 5)."""
    decoder = Decoder()
    first = decoder.decode(TABLE)
    row = decoder.decode(wire.insert(1, ["1", "a"]))
    again = decoder.decode(TABLE)
    assert again is first
    assert isinstance(row, Insert)
    later = decoder.decode(wire.insert(1, ["1", "a"]))
    assert isinstance(later, Insert)
    assert later.relation is first
    assert type(later.new) is type(row.new)
    assert later.new == row.new
    widened = decoder.decode(wire.relation(1, "t", [("id", INT4), ("v", TEXT), ("w", INT4)]))
    assert widened != first
    wide = decoder.decode(wire.insert(1, ["1", "a", "3"]))
    assert isinstance(wide, Insert)
    assert type(wide.new) is not type(row.new)
    assert wide.new.w == 3


def test_a_row_without_its_relation() -> None:
    """UnknownRelation, with the place; the decoder goes on."""
    decoder = Decoder()
    for message in (wire.insert(8, []), wire.update(8, []), wire.delete(8, []), wire.truncate([8])):
        with pytest.raises(UnknownRelation) as caught:
            decoder.decode(message)
        assert caught.value.reason
        assert caught.value.raw == message
        assert "8" in str(caught.value)
    decoder.decode(TABLE)
    decoder.decode(wire.insert(1, ["1", "a"]))


def test_a_bad_message_stands_in_its_place_and_keeps_its_number() -> None:
    """decode_many loses no good message, and positions after a bad change are what they would have been."""
    decoder = Decoder(rows="dict")
    bad = wire.insert(1, ["no number", "secret cell"])
    events: list[Any] = decoder.decode_many(
        [TABLE, wire.begin(5000), wire.insert(1, ["1", "a"]), bad, b"?", b"", wire.insert(1, ["3", "c"])]
    )
    assert [type(event).__name__ for event in events] == [
        "Relation",
        "Begin",
        "Insert",
        "InvalidValue",
        "DecodeError",
        "DecodeError",
        "Insert",
    ]
    error = events[3]
    assert error.raw == bad
    assert error.field == "id"
    assert bad[error.offset :].startswith(b"no number") or bad[error.offset - 5 :].startswith(b"t")
    assert error.position == (5000, 1)
    assert events[6].position == (5000, 2)
    assert "secret" not in str(error) and "no number" not in str(error), "no cell values in errors"
    assert isinstance(error, Error) and isinstance(error, ValueError)


def test_rows_are_not_decoded_with_the_shape_before_a_relation_that_could_not_be_read() -> None:
    """A wrong shape would give wrong values; unknown is what it is. Where not even the OID could be read, all are."""
    other = wire.relation(2, "u", [("id", INT4)])
    for cut, lost in ((len(TABLE) - 1, {1}), (3, {1, 2})):
        decoder = Decoder()
        decoder.decode_many([TABLE, other])
        with pytest.raises(DecodeError):
            decoder.decode(TABLE[:cut])
        rows = decoder.decode_many([wire.insert(1, ["1", "a"]), wire.insert(2, ["1"])])
        assert {number for number, row in enumerate(rows, 1) if isinstance(row, UnknownRelation)} == lost


@pytest.mark.parametrize(("version", "form"), ALL, ids=IDS)
def test_every_proper_prefix_and_every_extra_byte_is_refused(version: int, form: str) -> None:
    """With reason, field and offset."""
    seen: set[tuple[bytes, bytes]] = set()
    relations: dict[bytes, bytes] = {}
    for message in messages(version, form):
        shape = (message[:5] if message[:1] in b"IUDT" else message[:1], b"" if message[:1] != b"R" else message)
        if message[:1] == b"R":
            relations[message[1:5]] = message
        if shape in seen:
            continue
        seen.add(shape)
        cuts = (
            range(len(message)) if len(message) < 1500 else random.Random(len(message)).sample(range(len(message)), 300)
        )
        decoder = Decoder()
        decoder.decode_many(list(relations.values()))
        bad = [message[:cut] for cut in cuts] + [message + b"\x00", message + message[:1]]
        for item, broken in zip(decoder.decode_many(bad), bad, strict=True):
            assert isinstance(item, DecodeError), broken
            assert item.reason and item.field, item
            assert 0 <= item.offset <= len(broken)
            assert item.raw == broken
        decoder.decode_many(list(relations.values()))
        decoder.decode(message)


@pytest.mark.parametrize(("version", "form"), ALL, ids=IDS)
def test_mutated_messages_are_an_event_or_a_decode_error(version: int, form: str) -> None:
    """Bits flipped, bytes cut out, doubled and exchanged; what both decoders take they read alike."""
    luck = random.Random(version)
    captured = messages(version, form)
    relations = [message for message in captured if message[:1] == b"R"]
    mutants = []
    for message in captured:
        for _ in range(4):
            mutant = bytearray(message)
            for _ in range(luck.choice((1, 1, 2, 5))):
                at = luck.randrange(len(mutant))
                match luck.randrange(4):
                    case 0:
                        mutant[at] ^= 1 << luck.randrange(8)
                    case 1:
                        mutant[at] = luck.choice((0, 1, 0x7F, 0x80, 0xFF, luck.randrange(256)))
                    case 2 if len(mutant) > 2:
                        del mutant[at]
                    case _:
                        mutant.insert(at, mutant[at])
            mutants.append(bytes(mutant))
    for sent in mutants:
        if sent[:1] == b"R":
            continue  # a changed shape would make every later row wrong; relations have a test of their own
        decoder, reference = Decoder(rows="dict"), ReferenceDecoder()
        for relation in relations:
            if sent[1:5] == relation[1:5] or sent[:1] == b"T":
                decoder.decode(relation)
                reference.decode(relation)
        (got,) = decoder.decode_many([sent])
        (expected,) = reference.decode_many([sent])
        if not isinstance(got, DecodeError) and not isinstance(expected, DecodeError):
            assert plain(got) == plain(expected), sent


@given(st.binary(max_size=200), st.sampled_from("BCORYIUDTMSEcAbPKrp"))
def test_any_bytes_are_an_event_or_a_decode_error(noise: bytes, kind: str) -> None:
    """Nothing else comes out, whatever goes in, and the decoder stays usable."""
    decoder = Decoder()
    decoder.decode(TABLE)
    for message in (noise, kind.encode() + noise, wire.insert(1, [])[:5] + noise):
        (event,) = decoder.decode_many([message])
        assert isinstance(event, DecodeError | msgspec.Struct)
    # A Stream Start says that what follows has a transaction's id in it, until a transaction begins that is none.
    decoder.decode_many([wire.begin(), TABLE])
    assert isinstance(decoder.decode(wire.insert(1, ["1", "a"])), Insert)


@pytest.mark.parametrize(
    "message",
    [
        b"R" + bytes(4) + b"\x00t\x00d\xff\xff",
        wire.relation(1, "t", [("id", INT4)], identity="x"),
        b"I" + bytes([0, 0, 0, 1]) + b"N\xff\xff",
        b"I" + bytes([0, 0, 0, 1]) + b"N\x00\x02t\x7f\xff\xff\xff1n",
        b"I" + bytes([0, 0, 0, 1]) + b"N\x00\x02t\xff\xff\xff\xfe1n",
        b"I" + bytes([0, 0, 0, 1]) + b"N\x00\x02xn",
        b"T\xff\xff\xff\xff\x00",
        b"M\x01" + bytes(8) + b"p\x00\xff\xff\xff\xff",
        wire.insert(1, ["1"]),
        wire.insert(1, ["1", None, None]),
        wire.delete(1, ["1", None], kind="N"),
    ],
)
def test_lengths_and_counts_are_not_believed(message: bytes) -> None:
    """A count or length beyond the message, a tuple of another width, an unknown letter."""
    decoder = Decoder()
    decoder.decode(TABLE)
    with pytest.raises(DecodeError) as caught:
        decoder.decode(message)
    assert not isinstance(caught.value, UnknownRelation | InvalidValue)
    assert caught.value.reason and caught.value.field


def test_messages_may_be_any_bytes_like_object() -> None:
    """bytes, bytearray, memoryview (psycopg2 and psycopg 3 hand out different ones); anything else is a TypeError."""
    for make in (bytes, bytearray, memoryview):
        assert isinstance(Decoder().decode(make(wire.begin())), Begin)
        assert isinstance(Decoder().decode_many([make(wire.begin())])[0], Begin)
    with pytest.raises(TypeError):
        Decoder().decode("B")  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError)):
        Decoder().decode_many([wire.begin()], [1, 2])
    assert Decoder().decode_many([]) == []
