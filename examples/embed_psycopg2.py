"""The decoder in a psycopg2 replication consumer: psycopg2 reads the stream, pgcdc says what is in it.

    python examples/embed_psycopg2.py "dbname=shop" my_slot my_publication

The slot is made when it is missing. Ctrl-C ends; what was confirmed does not come again.
"""

from __future__ import annotations

import contextlib
import select
import sys
from collections.abc import Callable
from typing import Any

import psycopg2
from psycopg2.extras import LogicalReplicationConnection

import pgcdc

# What has no binary form is printed as the session asks; pgcdc reads what these settings give.
SETTINGS = (
    "-c DateStyle=ISO -c IntervalStyle=postgres -c TimeZone=UTC"
    " -c extra_float_digits=1 -c bytea_output=hex -c lc_monetary=C"
)


def main(dsn: str, slot: str, publication: str, handle: Callable[[pgcdc.Event], bool | None] = print) -> None:
    """Hand every event to a function until it returns True; confirm each transaction once it was handled.

    Args:
        dsn: Where to connect; the user needs REPLICATION.
        slot: The replication slot.
        publication: What is read.
        handle: Called with each event; True ends.
    """
    connection = psycopg2.connect(dsn, options=SETTINGS, connection_factory=LogicalReplicationConnection)
    cursor = connection.cursor()
    decoder = pgcdc.Decoder()
    try:
        with contextlib.suppress(psycopg2.errors.DuplicateObject):
            cursor.create_replication_slot(slot, output_plugin="pgoutput")
        options = {"proto_version": "1", "publication_names": publication, "binary": "true", "messages": "true"}
        cursor.start_replication(slot_name=slot, decode=False, options=options)
        done = False
        while not done:
            message: Any = cursor.read_message()
            if message is None:
                select.select([cursor], [], [], 10)
                cursor.send_feedback()  # so that the server does not take us for dead
                continue
            event = decoder.decode(message.payload, message.data_start)
            done = bool(handle(event))
            if isinstance(event, pgcdc.Commit):
                cursor.send_feedback(flush_lsn=event.end_lsn, reply=True)  # only what is done may be confirmed
    except KeyboardInterrupt:
        pass
    finally:
        connection.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
