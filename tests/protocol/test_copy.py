"""COPY BINARY to batches of Inserts: cut anywhere, NULLs, text columns, a trailer that is missing."""

from __future__ import annotations

import contextlib
import random
import struct
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcdc.errors import DecodeError, InvalidValue
from pgcdc.events import Column, Insert, Relation
from pgcdc.lsn import Position
from pgcdc.protocol import CopyReader, PgPoint, RowFormat
from tests.protocol import wire

TABLE = Relation(1, "public", "t", "d", [Column("id", 23, -1, True), Column("v", 25, -1, False)])


def four(number: int) -> bytes:
    """An int4."""
    return struct.pack(">i", number)


ROWS: list[list[bytes | None]] = [[four(1), b"one"], [four(2), None], [four(3), b""], [None, "drei ✓".encode()]]
STREAM = wire.copy_header() + b"".join(map(wire.copy_row, ROWS)) + wire.COPY_TRAILER
EXPECTED = [(1, "one"), (2, None), (3, ""), (None, "drei ✓")]


def rows(reader: CopyReader, *frames: bytes) -> list[Any]:
    """All rows, as tuples."""
    events: list[Any] = []
    for frame in frames:
        events += reader.read([frame]).events(RowFormat("tuple"))
    return [event.new for event in events]


def test_rows_are_inserts_of_the_snapshot() -> None:
    """Position (consistent point, -1), which `snapshot` tells from streamed rows."""
    reader = CopyReader(TABLE, 5000)
    batch = reader.read([STREAM])
    assert reader.finished
    assert len(batch) == batch.changes_count == 4
    assert batch.first_position == batch.last_position == Position(5000, -1)
    assert batch.end_lsn is None
    assert batch.relations == [TABLE]
    for event in batch:
        assert isinstance(event, Insert)
        assert event.snapshot
        assert event.position == Position(5000, -1)
        assert event.relation == TABLE
    assert [(event.new.id, event.new.v) for event in batch] == EXPECTED  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 19, 20, 21, 1000])
def test_frames_cut_anywhere(size: int) -> None:
    """libpq hands out rows, a server may do otherwise."""
    reader = CopyReader(TABLE, 1)
    assert rows(reader, *(STREAM[start : start + size] for start in range(0, len(STREAM), size))) == EXPECTED
    assert reader.finished


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_frames_cut_by_chance(cuts: list[int]) -> None:
    """Empty frames included, many in one call included."""
    edges = [0, *sorted(cuts), len(STREAM)]
    parts = [STREAM[start:end] for start, end in pairwise(edges)]
    assert rows(CopyReader(TABLE, 1), *parts) == EXPECTED
    together: Any = CopyReader(TABLE, 1).read(parts).events(RowFormat("tuple"))
    assert [event.new for event in together] == EXPECTED


def test_a_copy_without_its_trailer_is_not_finished() -> None:
    """However much of it came: the table must be taken again."""
    for cut in range(len(STREAM)):
        reader = CopyReader(TABLE, 1)
        reader.read([STREAM[:cut]])
        assert not reader.finished


def test_an_empty_table() -> None:
    """Header and trailer; and a table without columns has rows all the same."""
    reader = CopyReader(TABLE, 1)
    assert rows(reader, wire.copy_header() + wire.COPY_TRAILER) == []
    assert reader.finished
    bare = CopyReader(Relation(2, "public", "bare", "d", []), 1)
    assert rows(bare, wire.copy_header() + wire.copy_row([]) * 3 + wire.COPY_TRAILER) == [(), (), ()]


def test_a_header_with_an_extension_is_read_over() -> None:
    """As the manual asks; a critical flag is refused."""
    header = wire.copy_header(extension=b"something new")
    assert rows(CopyReader(TABLE, 1), header + STREAM[19:]) == EXPECTED
    with pytest.raises(DecodeError):
        CopyReader(TABLE, 1).read([wire.copy_header(flags=1 << 16) + STREAM[19:]])


@pytest.mark.parametrize(
    "stream",
    [
        b"PGCOPX" + STREAM[6:],
        b"id,v\n1,one\n",
        wire.copy_header() + wire.copy_row([four(1)]),
        wire.copy_header() + wire.copy_row([four(1), b"a", b"b"]),
        wire.copy_header() + struct.pack(">h", -2),
        wire.copy_header() + struct.pack(">hi", 2, -2),
        STREAM + b"x",
    ],
)
def test_what_is_not_copy_binary_is_refused(stream: bytes) -> None:
    """With reason and field; also a row of another width than the relation, and bytes after the trailer."""
    reader = CopyReader(TABLE, 1)
    with pytest.raises(DecodeError) as caught:
        rows(reader, *(stream[start : start + 4] for start in range(0, len(stream), 4)))
    assert caught.value.reason and caught.value.field
    with pytest.raises(DecodeError):
        CopyReader(TABLE, 1).read([stream])


def test_a_value_that_cannot_be_decoded_stands_in_its_place() -> None:
    """The rows beside it are not lost."""
    stream = wire.copy_header() + wire.copy_row([b"xx", b"a"]) + wire.copy_row([four(2), b"b"]) + wire.COPY_TRAILER
    bad, good = CopyReader(TABLE, 1).read([stream]).events(RowFormat("tuple"))
    assert isinstance(bad, InvalidValue)
    assert bad.field == "id"
    assert isinstance(good, Insert)
    assert good.new == (2, "b")


def test_text_columns() -> None:
    """A column that the copy casts to text is read as the text form of its own type."""
    columns = [("id", 23), ("price", 1700), ("at", 1184), ("tags", 1009), ("where_", 600)]
    relation = Relation(1, "public", "t", "d", [Column(name, oid, -1, False) for name, oid in columns])
    reader = CopyReader(relation, 1, text_columns=[False, True, True, True, True])
    row = wire.copy_row([four(1), b"9.90", b"2000-01-01 00:00:00+00", b"{a,NULL}", b"(1,2)"])
    (got,) = rows(reader, wire.copy_header() + row + wire.COPY_TRAILER)
    assert got == (1, Decimal("9.90"), datetime(2000, 1, 1, tzinfo=UTC), ["a", None], PgPoint(1.0, 2.0))
    with pytest.raises((DecodeError, ValueError)):
        CopyReader(relation, 1, text_columns=[True])


def test_mutated_copies_are_rows_or_errors() -> None:
    """Nothing else comes out, however the bytes are broken."""
    luck = random.Random(9)
    for _ in range(2000):
        broken = bytearray(STREAM)
        for _ in range(luck.randrange(1, 4)):
            broken[luck.randrange(len(broken))] = luck.randrange(256)
        with contextlib.suppress(DecodeError):
            for event in CopyReader(TABLE, 1).read([bytes(broken)]).events():
                assert isinstance(event, Insert | DecodeError)


def test_selection_and_position_work_on_copied_rows() -> None:
    """A sink takes them like streamed rows; after its own position they are gone."""
    batch = CopyReader(TABLE, 5000).read([STREAM])
    assert len(batch.select(tables=[("public", "t")], actions=["insert"]).changes()) == 4
    assert len(batch.select(tables=[("public", "u")]).changes()) == 0
    assert len(batch.after((4999, 7)).changes()) == 4
    assert len(batch.after((5000, 0)).changes()) == 0
