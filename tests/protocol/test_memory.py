"""Decoding does not grow: not with rows, in whatever form, not with errors, not with relations that are sent again.

A hundred thousand rows for each form; `--soak` makes it ten million.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import psutil
import pytest
from msgspec import UNSET

from pgcdc.errors import DecodeError
from pgcdc.events import Delete, Insert, Relation, Update
from pgcdc.protocol import Batch, BatchReader, Decoder, RowFormat
from tests.protocol import wire
from tests.protocol.captures import messages

FORMS = ("text", "binary")
MOST = 8
"""MB that the process may grow by: what allocators keep back differs from run to run."""


class Order(msgspec.Struct, weakref=True):
    """The user's own class for the rows below."""

    id: int
    customer: str
    price: Decimal
    placed: datetime
    reference: UUID
    tags: list[str]
    data: Any


COLUMNS = [
    ("id", 20),
    ("customer", 25),
    ("price", 1700),
    ("placed", 1184),
    ("reference", 2950),
    ("tags", 1009),
    ("data", 3802),
]
TABLE = wire.relation(1, "orders", COLUMNS)
TEXT: list[wire.Field] = [
    "1",
    "somebody",
    "12.50",
    "2024-05-17 12:30:00.5+00",
    "00000000-0000-0000-0000-000000000001",
    "{a,b}",
    '{"a": [1.5, null]}',
]
BINARY: list[wire.Field] = [
    (1).to_bytes(8, "big"),
    b"somebody",
    bytes.fromhex("0002 0000 0000 0002 000c 1388"),
    wire.microseconds(datetime(2024, 5, 17, 12, 30, 0, 500_000, tzinfo=UTC)).to_bytes(8, "big"),
    bytes(15) + b"\x01",
    bytes.fromhex("00000001 00000000 00000019 00000002 00000001 00000001 61 00000001 62"),
    b'\x01{"a": [1.5, null]}',
]
GOOD = {
    form: [
        TABLE,
        wire.begin(),
        *[wire.insert(1, fields), wire.update(1, fields, fields), wire.delete(1, [fields[0], *[None] * 6])] * 300,
        wire.commit(),
    ]
    for form, fields in (("text", TEXT), ("binary", BINARY))
}
BAD = [wire.insert(1, ["no number", *TEXT[1:]]), wire.insert(1, [b"short", *BINARY[1:]]), wire.insert(1, []), b"?"]
STREAM = {form: [*good[:-1], *BAD, good[-1]] for form, good in GOOD.items()}
ROWS = 900


@pytest.fixture
def rows(request: pytest.FixtureRequest) -> int:
    """How many rows go through."""
    return 10_000_000 if request.config.getoption("--soak") else 100_000


def grown(work: Callable[[], Any], rounds: int) -> tuple[float, int]:
    """How many MB the process grew by, and how many blocks of memory Python has more, from a tenth of the rounds on."""
    process = psutil.Process()
    for _ in range(rounds // 10 + 1):
        work()
    gc.collect()
    before, blocks = process.memory_info().rss, sys.getallocatedblocks()
    for _ in range(rounds):
        work()
    gc.collect()
    return (process.memory_info().rss - before) / 2**20, sys.getallocatedblocks() - blocks


def ways(form: str) -> dict[str, Callable[[], Any]]:
    """Everything that can be made of rows, with what it is made with kept from round to round."""
    structs, dicts, tuples, own = Decoder(), Decoder("dict"), Decoder("tuple"), Decoder(types={"orders": Order})
    lines, arrow, raw = Decoder(), Decoder(), Decoder("tuple", json="raw")
    return {
        "struct": lambda: structs.decode_many(STREAM[form]),
        "dict": lambda: dicts.decode_many(STREAM[form]),
        "tuple": lambda: tuples.decode_many(STREAM[form]),
        "own": lambda: own.decode_many(STREAM[form]),
        "raw": lambda: raw.decode_many(STREAM[form]),
        "json": lambda: lines.to_json(GOOD[form]),
        "arrow": lambda: arrow.to_arrow(GOOD[form]),
        "batch": lambda: Batch.of(STREAM[form]).select(tables=[("public", "orders")]).changes(),
    }


def test_the_rows_are_what_they_are_taken_for() -> None:
    """Good ones and bad ones, in both forms, and the good ones mean the same in both."""
    made = {form: Decoder(types={"orders": Order}).decode_many(STREAM[form]) for form in FORMS}
    for form, events in made.items():
        assert sum(isinstance(event, Insert | Update | Delete) for event in events) == ROWS
        assert sum(isinstance(event, DecodeError) for event in events) == len(BAD)
        assert Decoder().to_json(GOOD[form]).count(b"\n") == ROWS
    first: Any = made["binary"][2]
    others: Any = made["text"][2:4]
    assert (first.new.price, first.new.tags, first.new.data) == (Decimal("12.50"), ["a", "b"], {"a": [1.5, None]})
    assert [other.new for other in others] == [first.new] * 2


@pytest.mark.slow
@pytest.mark.parametrize("way", list(ways("text")))
@pytest.mark.parametrize("form", FORMS)
def test_rows_leave_nothing_behind(form: str, way: str, rows: int) -> None:
    """Neither memory of the process nor a single object, whatever they are made into."""
    megabytes, blocks = grown(ways(form)[way], rows // ROWS)
    assert megabytes < MOST
    assert blocks < 200


@pytest.mark.parametrize("way", ["struct", "dict", "tuple", "own"])
@pytest.mark.parametrize("form", FORMS)
def test_every_type_leaves_nothing_behind(form: str, way: str) -> None:
    """The golden capture: all types, NULLs, arrays, every kind of message, and noise in between."""
    captured = [*messages(18, form), b"?", b"", wire.insert(1, [])]
    decoder = Decoder(types={"orders": Order}) if way == "own" else Decoder(way)  # type: ignore[call-overload]
    megabytes, blocks = grown(lambda: decoder.decode_many(captured), 200)
    assert megabytes < MOST
    assert blocks < 200


def test_frames_leave_nothing_behind(rows: int) -> None:
    """Frames in, events out, batch dropped."""
    frames = [wire.xlogdata(message, 1) for message in STREAM["binary"]]
    reader = BatchReader()

    def work() -> None:
        assert len(reader.read(frames).changes()) == ROWS + len(BAD)

    megabytes, blocks = grown(work, rows // ROWS)
    assert megabytes < MOST
    assert blocks < 200


def test_relations_that_are_sent_again_leave_nothing_behind() -> None:
    """The same again and again (ANALYZE makes the server do that), and two shapes in turns."""
    other = wire.relation(1, "orders", [*COLUMNS, ("more", 25)])
    decoder = Decoder()
    megabytes, blocks = grown(lambda: decoder.decode_many([TABLE, TABLE, other] * 100), 100)
    assert megabytes < MOST
    assert blocks < 200


def test_what_is_shared_by_all_rows_is_counted_right() -> None:
    """A reference too few to None or to a class is a crash much later; one too many is a leak."""
    decoder = Decoder(types={"orders": Order})
    relation = decoder.decode(TABLE)
    assert isinstance(relation, Relation)
    shared: list[object] = [None, True, UNSET, Decimal, UUID, Order, Insert, relation, DecodeError, Decimal(0), 10**30]

    def counts() -> list[int]:
        gc.collect()
        return [sys.getrefcount(one) for one in shared]

    decoder.decode_many(STREAM["binary"])
    before = counts()
    for form in FORMS * 20:
        decoder.decode_many(STREAM[form])
        decoder.to_json(GOOD[form])
    # Others (caches, the test runner) hold and let go of None and the classes, too, but not by the thousand.
    assert all(abs(now - was) < 100 for now, was in zip(counts(), before, strict=True))


def test_rows_are_gone_when_nobody_has_them() -> None:
    """At once, by their reference counts alone: those of a list of events, and those that a batch has kept."""
    gc.disable()
    try:
        decoder = Decoder(types={"orders": Order})
        events: Any = decoder.decode_many(GOOD["binary"])
        row = weakref.ref(events[2].new)
        assert row() is not None
        del events
        assert row() is None, "nothing else has it"
        batch = Batch.of(GOOD["binary"])
        part = batch.select(actions=["insert"])
        format = RowFormat(types={"orders": Order})
        events = batch.events(format)
        row = weakref.ref(events[2].new)
        shared: Any = part.events(format)[0]
        assert row() is shared.new, "the batch keeps it, and its parts share it"
        del events, shared
        del batch
        assert row() is not None
        del part
        assert row() is None
    finally:
        gc.enable()
