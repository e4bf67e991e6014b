"""The decoder over `pg_logical_slot_get_binary_changes`, with psycopg 3: no replication connection, changes on demand.

    python examples/embed_slot_function.py "dbname=shop" my_slot my_publication

Good for a job that runs every few minutes. The slot must exist:
`SELECT pg_create_logical_replication_slot('my_slot', 'pgoutput')`.
"""

from __future__ import annotations

import sys

import psycopg

import pgcdc

CHANGES = """
SELECT (lsn - '0/0')::int8, data
FROM pg_logical_slot_{verb}_binary_changes(
    %s, NULL, NULL, 'proto_version', '1', 'publication_names', %s, 'binary', 'true', 'messages', 'true')
"""

# What has no binary form is printed as the session asks; pgcdc reads what these settings give.
SETTINGS = (
    "-c DateStyle=ISO -c IntervalStyle=postgres -c TimeZone=UTC"
    " -c extra_float_digits=1 -c bytea_output=hex -c lc_monetary=C"
)


def main(dsn: str, slot: str, publication: str) -> list[pgcdc.Event]:
    """Print what has happened since the last call, then move the slot past it.

    The changes are looked at first and taken only after they were handled: a crash in between repeats them and loses
    none.

    Args:
        dsn: Where to connect; the user needs REPLICATION.
        slot: The replication slot.
        publication: What is read.

    Returns:
        The events.
    """
    with psycopg.connect(dsn, autocommit=True, options=SETTINGS) as connection:
        # User-defined types, so that enums, domains and their arrays have values in binary, too.
        decoder = pgcdc.Decoder(catalog=pgcdc.Catalog.load(connection))
        rows = connection.execute(CHANGES.format(verb="peek"), (slot, publication), binary=True).fetchall()
        events = []
        for item in decoder.decode_many([data for _, data in rows], [lsn for lsn, _ in rows]):
            if isinstance(item, pgcdc.DecodeError):
                raise item
            events.append(item)
            print(item)
        ends = [event.end_lsn for event in events if isinstance(event, pgcdc.Commit)]
        if ends:
            connection.execute("SELECT pg_replication_slot_advance(%s, %s)", (slot, pgcdc.format_lsn(ends[-1])))
        return events


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
