"""What `./dev memcheck` runs under valgrind: every golden capture, whole and damaged, in every way that the door has.

valgrind sees each read and write of the compiled half, and of the interpreter on its behalf; silence is good.
"""

from __future__ import annotations

import gc
import random
import sys
from typing import Any

from pgcdc.errors import DecodeError
from pgcdc.protocol import Batch, BatchReader, CopyReader, Decoder, RowFormat
from tests.golden.make import HERE, read_capture


def attempt(work: Any, *arguments: Any, **options: Any) -> Any:
    """A call that may find out that bytes are bad."""
    try:
        return work(*arguments, **options)
    except DecodeError as error:
        return error


def decode(messages: list[bytes], lsns: list[int]) -> int:
    """One run of messages in every way; how many events that made."""
    made = 0
    for rows in ("struct", "dict", "tuple"):
        made += len(Decoder(rows).decode_many(messages, lsns))
    made += len(Decoder("dict", json="raw").decode_many(map_views(messages)))
    batch = Batch.of(messages, lsns)
    made += len(batch.events(RowFormat("tuple", json="text")))
    part = batch.select(actions=["update", "truncate"]).after((1, 0))
    made += len(Batch.concat([part, batch]).changes())
    attempt(batch.to_json)
    attempt(batch.to_json, "debezium")
    tables = attempt(batch.to_arrow)
    for table in tables.values() if isinstance(tables, dict) else ():
        for one in table.parts:
            one.__arrow_c_array__()
            one.__arrow_c_stream__()
    reader = BatchReader()
    made += len(reader.read([b"w" + bytes(24) + message for message in messages]))
    for event in batch.events():
        repr(event)
    return made


def map_views(messages: list[bytes]) -> list[memoryview]:
    """The same bytes as objects of another kind."""
    return [memoryview(bytearray(message)) for message in messages]


def main() -> None:
    """All captures of the oldest and the newest version; more differ in nothing that the door sees."""
    luck = random.Random(7)
    made = 0
    for capture in sorted(path for version in ("pg14", "pg18") for path in (HERE / version).glob("*.capture")):
        captured = read_capture(capture)
        messages = [message for _, message in captured]
        made += decode(messages, [lsn for lsn, _ in captured])
        damaged = []
        for message in luck.sample(messages, min(len(messages), 60)):
            mutant = bytearray(message)
            mutant[luck.randrange(len(mutant))] ^= 1 << luck.randrange(8)
            damaged.append(bytes(mutant))
        made += decode([*messages[:30], *damaged], [0] * (min(30, len(messages)) + len(damaged)))
    relation: Any = Decoder().decode(b"R" + bytes(4) + b"s\0t\0d\0\1\0id\0" + (23).to_bytes(4, "big") + b"\xff" * 4)
    copied = b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\0\1\0\0\0\4\0\0\0\7" * 3 + b"\xff\xff"
    for size in (1, 7, 100):
        pieces = [copied[at : at + size] for at in range(0, len(copied), size)]
        made += len(CopyReader(relation, 1).read(pieces).events())
    gc.collect()
    print(f"{made} events", file=sys.stderr)


if __name__ == "__main__":
    main()
