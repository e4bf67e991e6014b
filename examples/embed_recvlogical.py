r"""The decoder over a file that PostgreSQL's own `pg_recvlogical` has written.

    pg_recvlogical -d shop -S my_slot --start -f changes.pgoutput \
        -o proto_version=1 -o publication_names=my_publication -o binary=true
    python examples/embed_recvlogical.py changes.pgoutput

The program writes each message and a line feed after it, with nothing that tells how long a message is, and line feeds
occur inside messages, too. But a message of protocol 1 says itself where it ends, so the file can be cut up by reading
one after the other. With `streaming=parallel` it could not: a Stream Abort is then of one of two lengths. Where the
writer is one's own, a length before each message is simpler (`embed_file.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pgcdc


class Walk:
    """Goes through the fields of messages, only to find where they end.

    Args:
        data: The whole file.

    Source:
        PostgreSQL manual, "Logical Replication Message Formats".
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def number(self, size: int) -> int:
        """An integer of some bytes."""
        return int.from_bytes(self.skip(size))

    def skip(self, size: int) -> bytes:
        """So many bytes."""
        taken = self.data[self.at : self.at + size]
        if len(taken) < size:
            raise ValueError("the file ends in the middle of a message")
        self.at += size
        return taken

    def string(self) -> None:
        """Characters up to a zero byte."""
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise ValueError("the file ends in the middle of a message")
        self.at = end + 1

    def row(self) -> None:
        """A tuple: each column's kind, and its length and bytes where it has any."""
        for _ in range(self.number(2)):
            if self.skip(1) in b"tb":
                self.skip(self.number(4))

    def message(self) -> bytes:
        """One message of protocol 1."""
        begin = self.at
        match self.skip(1):
            case b"B":  # Begin
                self.skip(20)
            case b"C":  # Commit
                self.skip(25)
            case b"O":  # Origin
                self.skip(8)
                self.string()
            case b"R":  # Relation
                self.skip(4)
                self.string()
                self.string()
                self.skip(1)
                for _ in range(self.number(2)):
                    self.skip(1)
                    self.string()
                    self.skip(8)
            case b"Y":  # Type
                self.skip(4)
                self.string()
                self.string()
            case b"I" | b"U" | b"D":  # Insert, Update, Delete: one tuple or two, N is the last of the first two
                first = self.skip(5)[4:]
                self.row()
                if self.data[begin : begin + 1] == b"U" and first != b"N":
                    self.skip(1)
                    self.row()
            case b"T":  # Truncate
                relations = self.number(4)
                self.skip(1 + 4 * relations)
            case b"M":  # Message
                self.skip(9)
                self.string()
                self.skip(self.number(4))
            case kind:
                raise ValueError(f"byte {begin} of the file begins no message of protocol 1: {kind!r}")
        return self.data[begin : self.at]


def messages(path: str) -> Iterator[bytes]:
    """The messages of a file.

    Args:
        path: What `pg_recvlogical -f` has written.

    Raises:
        ValueError: When the file holds anything but messages of protocol 1 with a line feed after each.
    """
    walk = Walk(Path(path).read_bytes())
    while walk.at < len(walk.data):
        yield walk.message()
        if walk.skip(1) != b"\n":
            raise ValueError(f"byte {walk.at - 1} of the file is not the line feed after a message")


def main(path: str) -> list[pgcdc.Event]:
    """Print the events of a file.

    Args:
        path: The file.

    Returns:
        The events.
    """
    decoder = pgcdc.Decoder()
    events = [decoder.decode(message) for message in messages(path)]
    for event in events:
        print(event)
    return events


if __name__ == "__main__":
    main(sys.argv[1])
