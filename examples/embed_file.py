"""The decoder over a file of payloads: keep what came over the wire, look at it later, without a server.

    python examples/embed_file.py record "dbname=shop" my_slot my_publication changes.pgoutput
    python examples/embed_file.py read changes.pgoutput

In the file each payload follows its length in four bytes. A decoder needs the Relation messages that the server sends
before a table's first row, so a file must begin where a stream began.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg

import pgcdc


def record(dsn: str, slot: str, publication: str, path: str) -> int:
    """Write what waits in a slot to a file; the slot stays where it is.

    Args:
        dsn: Where to connect; the user needs REPLICATION.
        slot: The replication slot.
        publication: What is read.
        path: The file.

    Returns:
        How many payloads were written.
    """
    query = (
        "SELECT data FROM pg_logical_slot_peek_binary_changes(%s, NULL, NULL, 'proto_version', '1',"
        " 'publication_names', %s, 'binary', 'true')"
    )
    with psycopg.connect(dsn) as connection, Path(path).open("wb") as file:
        count = 0
        for (payload,) in connection.execute(query, (slot, publication), binary=True):
            file.write(struct.pack(">I", len(payload)) + payload)
            count += 1
        return count


def payloads(path: str) -> Iterator[bytes]:
    """The payloads of a file, one after the other.

    Args:
        path: The file.
    """
    with Path(path).open("rb") as file:
        while length := file.read(4):
            yield file.read(*struct.unpack(">I", length))


def main(path: str) -> list[pgcdc.Event]:
    """Print the events of a file.

    Args:
        path: The file.

    Returns:
        The events.
    """
    decoder = pgcdc.Decoder(rows="dict")
    events = []
    for payload in payloads(path):
        event = decoder.decode(payload)
        match event:
            case pgcdc.Insert() | pgcdc.Update() | pgcdc.Delete():
                print(f"{event.position}  {event.action} {event.schema}.{event.table}  {event.new or event.old}")
            case _:
                print(event)
        events.append(event)
    return events


if __name__ == "__main__":
    if sys.argv[1] == "record":
        print(record(*sys.argv[2:6]), "payloads")
    else:
        main(sys.argv[2])
