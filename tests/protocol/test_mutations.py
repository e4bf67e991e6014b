"""Damaged captures: whatever the bytes are, an event or a DecodeError comes out, and what is whole stays readable.

Damage is dealt out by a random generator with a fixed seed: the same ten thousand damaged captures every time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import msgspec
import pytest

from pgcdc.errors import DecodeError, InvalidValue, UnknownRelation
from pgcdc.events import Relation, Truncate
from pgcdc.protocol import Batch, Decoder, RowFormat
from tests.protocol.captures import ALL, IDS, STREAM_IDS, STREAMS, messages
from tests.reference import ReferenceDecoder, plain

DAMAGED = 10_000 // len([*ALL, *STREAMS]) + 1
LONGEST = 4000
"""Bytes: the few longer messages are the same again with more digits."""

DECISIVE = b"RSEcAp"
"""Messages that say how others are read: a relation's columns, and whether the following stand in a stream."""
ENDING = b"BCbPKr"
"""Messages that can end a stream where one is under way."""
CAPTURES = [*ALL, *STREAMS]
CAPTURE_IDS = [*IDS, *STREAM_IDS]

Window = list[bytes]


@cache
def windows(version: int, form: str) -> list[Window]:
    """Short pieces of a capture, each with the Relation messages that it needs in front."""
    captured = messages(version, form)
    relations: dict[bytes, bytes] = {}
    found, streamed = [], False
    for start, message in enumerate(captured):
        if message[:1] in b"SE":
            streamed = message[:1] == b"S"
        if message[:1] == b"R" and not streamed:  # in a stream it is the stream's own
            relations[message[1:5]] = message
        if message[:1] in b"BSb":
            piece = [one for one in captured[start : start + 10] if len(one) <= LONGEST]
            needed = {one[1:5]: relations[one[1:5]] for one in piece if one[:1] in b"IUD" and one[1:5] in relations}
            found.append([*needed.values(), *piece])
    return found


def damage(message: bytes, other: bytes, luck: random.Random) -> bytes:
    """One message, damaged in one to three places."""
    mutant = bytearray(message)
    for _ in range(luck.choice((1, 1, 2, 3))):
        at = luck.randrange(len(mutant) + 1)
        match luck.randrange(8):
            case 0 if at < len(mutant):
                mutant[at] ^= 1 << luck.randrange(8)
            case 1 if at < len(mutant):
                mutant[at] = luck.choice((0, 1, 0x7F, 0x80, 0xFF, luck.randrange(256)))
            case 2:  # cut short
                del mutant[at:]
            case 3:  # cut out
                del mutant[at : at + luck.choice((1, 2, 4, 30))]
            case 4:  # doubled
                mutant[at:at] = mutant[at : at + luck.choice((1, 2, 4, 30))]
            case 5:  # the end of another message
                mutant[at:] = other[luck.randrange(len(other) + 1) :]
            case 6:  # a length or OID
                number = luck.choice((0, 1, len(mutant), 2**15, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1))
                mutant[at : at + 4] = number.to_bytes(4, "big")
            case _:  # a count
                mutant[at : at + 2] = luck.choice((0, 1, 0x7FFF, 0x8000, 0xFFFF)).to_bytes(2, "big")
    return bytes(mutant)


def damaged(version: int, form: str) -> Iterator[tuple[Window, list[bytes], set[int]]]:
    """Pieces of a capture as they were, damaged, and the numbers of those messages that are not what they were."""
    luck = random.Random(f"{version} {form}")
    pieces = windows(version, form)
    for number in range(DAMAGED):
        whole = pieces[number % len(pieces)]
        piece, touched = list(whole), set()
        for _ in range(luck.choice((1, 1, 1, 2))):
            at = luck.randrange(len(piece))
            piece[at] = damage(piece[at], luck.choice(luck.choice(pieces)), luck)
            touched.add(at)
        yield whole, piece, touched


def same_row(one: Any, two: Any) -> bool:
    """Whether two events say the same of their rows, whatever their places are."""
    if type(one) is not type(two):
        return False
    if not hasattr(one, "new"):
        return True
    mine, others = (one.relation, one.new, one.old), (two.relation, two.new, two.old)
    return mine == others or plain(mine) == plain(others)


def made_or_refused(make: Callable[[], Any], piece: list[bytes]) -> Any:
    """What a batch is made into, or None where a DecodeError names one of its messages."""
    try:
        return make()
    except DecodeError as error:
        if error.raw not in piece:
            raise
        return None


@pytest.mark.parametrize(("version", "form"), CAPTURES, ids=CAPTURE_IDS)
def test_what_is_damaged_is_an_event_or_an_error_and_the_rest_is_what_it_was(version: int, form: str) -> None:
    """Through the decoder, a batch, JSON lines and Arrow; afterwards the same decoder reads the whole piece."""
    dicts = RowFormat("dict")
    for number, (whole, piece, touched) in enumerate(damaged(version, form)):
        decoder = Decoder("struct" if number % 8 == 0 else "dict")
        events = decoder.decode_many(piece)
        assert len(events) == len(piece)
        assert all(isinstance(event, msgspec.Struct | DecodeError) for event in events)
        decisive = DECISIVE + ENDING if any(one[:1] == b"S" for one in (*whole, *piece)) else DECISIVE
        shapes_lost = any(one[:1] in decisive for at in touched for one in (whole[at], piece[at]))
        expected = Decoder("dict").decode_many(whole)
        if number % 8:
            for at, (got, was) in enumerate(zip(events, expected, strict=True)):
                if at not in touched and not shapes_lost:
                    assert same_row(got, was), (at, piece)
        batch = Batch.of(piece)
        in_batch = batch.events(dicts)
        assert [type(event) for event in in_batch] == [type(event) for event in events]
        changes = batch.changes(dicts)
        lines = made_or_refused(batch.to_json, piece)
        if lines is not None:
            assert lines.count(b"\n") == len(changes)
            assert not any(isinstance(change, DecodeError) for change in changes), piece
        tables = made_or_refused(batch.to_arrow, piece)
        if tables is not None:
            rows = sum(len(change.relations) if isinstance(change, Truncate) else 1 for change in changes)
            assert sum(table.num_rows for table in tables.values()) == rows
        decoder.decode_many([b"E"])  # where a stream was left open, the next messages would be taken for its own
        again = decoder.decode_many(whole)
        if number % 8:
            assert all(map(same_row, again, expected)), piece


@pytest.mark.parametrize(("version", "form"), CAPTURES, ids=CAPTURE_IDS)
def test_the_reference_takes_and_refuses_the_same(version: int, form: str) -> None:
    """Message by message: the same event, or both refuse.

    Up to a control message that both refuse: what is remembered after one is each decoder's own affair (the Rust one
    forgets what it cannot be sure of). The type's OID in the head of an array is one that only the reference looks at.
    """
    for _, piece, _ in damaged(version, form):
        got = Decoder("dict").decode_many(piece)
        expected = ReferenceDecoder().decode_many(piece)
        for sent, one, other in zip(piece, got, expected, strict=True):
            if isinstance(other, InvalidValue) and other.reason == "wrong header" and not isinstance(one, DecodeError):
                continue
            assert isinstance(one, DecodeError) == isinstance(other, DecodeError), (sent, one, other)
            if not isinstance(one, DecodeError):
                assert plain(one) == plain(other), sent
            elif sent[:1] not in b"IUDT":
                break


@pytest.mark.parametrize(("version", "form"), CAPTURES, ids=CAPTURE_IDS)
def test_no_message_is_the_beginning_of_another(version: int, form: str) -> None:
    """Every proper prefix of every message is refused, and every message with a byte more."""
    relations: dict[bool, dict[bytes, bytes]] = {False: {}, True: {}}
    seen = set()
    start: list[bytes] = []  # the StreamStart, in a stream
    for message in messages(version, form):
        if message[:1] in b"SE":
            start = [message] if message[:1] == b"S" else []
        if message[:1] == b"R":
            relations[bool(start)][message[5:9] if start else message[1:5]] = message
        if message in seen or len(message) > LONGEST:
            continue
        seen.add(message)
        before = [*start, *relations[bool(start)].values()]
        decoder = Decoder("tuple")
        decoder.decode_many(before)
        longer = [message + bytes([last]) for last in (0, 1, message[0], 0xFF)]
        # A StreamAbort has two forms: with LSN and time (streaming = parallel) and without.
        whole = {9} if message[:1] == b"A" else set()
        broken = [message[:end] for end in range(len(message)) if end not in whole] + longer
        for made, bad in zip(decoder.decode_many(broken), broken, strict=True):
            assert isinstance(made, DecodeError), bad
            assert made.raw == bad and 0 <= made.offset <= len(bad)
        decoder.decode_many(before)
        (event,) = decoder.decode_many([message])
        assert not isinstance(event, DecodeError) or isinstance(event, UnknownRelation), message


def test_a_decoder_in_which_everything_was_lost_goes_on() -> None:
    """Ten thousand messages that are none; then a stream from its beginning is read as ever."""
    luck = random.Random(1)
    decoder = Decoder("dict")
    noise = [luck.randbytes(luck.randrange(40)) for _ in range(10_000)]
    assert all(isinstance(event, DecodeError | msgspec.Struct) for event in decoder.decode_many(noise))
    for whole in windows(18, "binary")[:20]:
        got, expected = decoder.decode_many(whole), Decoder("dict").decode_many(whole)
        assert plain(got) == plain(expected)
        assert any(isinstance(event, Relation) for event in got)
