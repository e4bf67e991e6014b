"""Makes what the fuzz targets begin with, out of the golden captures: `python -m tests.golden.seeds`.

Far more than is kept: `-merge=1` of libFuzzer then picks those that differ in what they reach.

Formats of the inputs: `rust/fuzz/src/exercise.rs`.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.golden.make import HERE, VERSIONS, manners, read_capture

SEEDS = HERE.parent.parent / "rust" / "fuzz" / "seeds"
LONGEST = 600
"""Bytes: libFuzzer does better with small inputs."""


def messages(version: int, form: str) -> list[bytes]:
    """One capture's messages that are short enough."""
    captured = read_capture(HERE / f"pg{version}" / f"{form}.capture")
    return [message for _, message in captured if len(message) <= LONGEST]


def relation_types(relation: bytes) -> list[int]:
    """The types of a Relation message's columns."""
    at = relation.index(0, relation.index(0, 5) + 1) + 2
    (count,) = struct.unpack_from(">h", relation, at)
    types, at = [], at + 2
    for _ in range(count):
        at = relation.index(0, at + 1) + 1
        types.append(struct.unpack_from(">I", relation, at)[0])
        at += 8
    return types


def values(insert: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Number, letter and bytes of an Insert's columns that are not null."""
    (count,) = struct.unpack_from(">h", insert, 6)
    at = 8
    for number in range(count):
        letter = insert[at]
        at += 1
        if letter in b"tb":
            (size,) = struct.unpack_from(">i", insert, at)
            yield number, letter, insert[at + 4 : at + 4 + size]
            at += 4 + size


def seeds(version: int, form: str) -> Iterator[tuple[str, bytes]]:
    """(target, input) pairs from one capture."""
    captured = messages(version, form)
    relations = {message[1:5]: message for message in captured if message[:1] == b"R"}
    by_table: dict[bytes, list[bytes]] = {}
    for message in captured:
        yield "message", message
        if message[:1] in b"IUD":
            by_table.setdefault(message[1:5], []).append(message)
        if message[:1] == b"I" and message[1:5] in relations:
            types = relation_types(relations[message[1:5]])
            for number, letter, data in values(message):
                if len(data) <= 80:
                    yield "value", struct.pack(">IB", types[number], letter == ord("b")) + data
    begin = next(message for message in captured if message[:1] == b"B")
    commit = next(message for message in captured if message[:1] == b"C")
    for table, rows in by_table.items():
        if table in relations:
            stream = [begin, relations[table], *rows[:3], commit]
            yield "stream", b"".join(struct.pack(">H", len(message)) + message for message in stream)
    # The columns of the exercise: int4, text, float8, text[], timestamptz, bytea, jsonb, bool.
    fields = [
        struct.pack(">i", 7),
        b"text",
        struct.pack(">d", 12.34),
        struct.pack(">IIIIiiii", 1, 1, 25, 2, 1, -1, 1, 0x61 << 24)[:29],
        struct.pack(">q", 770_000_000_000_000),
        b"\x00\xff",
        b'\x01{"a": [1, null]}',
        b"\x01",
    ]
    header = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
    for count, text in ((8, 0), (2, 2), (0, 0)):
        row = [None, *fields[1:]] if count == 2 else fields
        cells = b"".join(struct.pack(">i", -1) if cell is None else struct.pack(">i", len(cell)) + cell for cell in row[:count])
        yield "copy", bytes([count, text, 16]) + header + (struct.pack(">h", count) + cells) * 2 + b"\xff\xff"


def streamed(version: int) -> Iterator[tuple[str, bytes]]:
    """Pieces of the captures of streamed and prepared transactions."""
    for manner in manners(version):
        captured = messages(version, manner)
        for start, message in enumerate(captured):
            yield "message", message
            if message[:1] in b"Sb":
                piece = captured[start : start + 8]
                stream = b"".join(struct.pack(">H", len(one)) + one for one in piece)
                yield from (("stream", stream), ("assembler", stream))


def main() -> None:
    """Write them, without those that differ from another one by nothing that could matter."""
    seen: set[tuple[object, ...]] = set()
    for version in (VERSIONS[0], VERSIONS[-1]):
        for pairs in (seeds(version, "text"), seeds(version, "binary"), streamed(version)):
            for target, data in pairs:
                likeness = (target, data) if target != "value" else (target, data[:5], len(data), data[5:7])
                if likeness in seen:
                    continue
                seen.add(likeness)
                folder = SEEDS / target
                folder.mkdir(parents=True, exist_ok=True)
                (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    for folder in sorted(SEEDS.iterdir()):
        files = list(Path(folder).iterdir())
        print(f"{folder.name}: {len(files)} inputs, {sum(file.stat().st_size for file in files)} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
