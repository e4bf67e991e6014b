"""Every kind of event, told apart with `match`; a type checker says when one is forgotten.

    python examples/match_events.py "dbname=shop" my_slot my_publication

Protocol 2 and later also send transactions that are still in progress, piece by piece, and prepared ones (PostgreSQL 14
to 18; two-phase from 15 on, and of a slot that was made for it).
"""

from __future__ import annotations

import sys
from typing import assert_never

import msgspec
import psycopg

import pgcdc

CHANGES = """
SELECT (lsn - '0/0')::int8, data
FROM pg_logical_slot_peek_binary_changes(
    %s, NULL, NULL, 'proto_version', '2', 'publication_names', %s, 'messages', 'true', 'streaming', 'true')
"""


def describe(event: pgcdc.Event) -> str:
    """Say what an event means.

    Args:
        event: Any event.

    Returns:
        A few words.
    """
    match event:
        # A shape comes before the first row that has it, a user-defined type before the first shape that uses it.
        case pgcdc.Relation(schema=schema, name=name, columns=columns):
            return f"table {schema}.{name} has {len(columns)} columns"
        case pgcdc.Type(oid, schema, name):
            return f"type {oid} is {schema}.{name}"

        # What happens to rows, in a transaction.
        case pgcdc.Insert(new=row):
            return f"new row in {event.table}: {row}"
        case pgcdc.Update(new=row, old=msgspec.UNSET):
            return f"row in {event.table} is now {row}"
        case pgcdc.Update(new=row, old=old):
            return f"row in {event.table} was {old}, is now {row}"
        case pgcdc.Delete(old=row):
            return f"row of {event.table} is gone: {row}"
        case pgcdc.Truncate(relations, cascade=cascade):
            return f"emptied: {', '.join(relation.name for relation in relations)}{' and what refers to it' * cascade}"
        case pgcdc.Message(transactional=True, prefix=prefix, content=content):
            return f"message {prefix}: {content!r}"
        case pgcdc.Message(prefix=prefix, content=content):
            return f"message {prefix}, whether or not the transaction around it commits: {content!r}"

        # A transaction that has committed, whole.
        case pgcdc.Begin(xid=xid, commit_time=time):
            return f"transaction {xid}, committed at {time}"
        case pgcdc.Commit(end_lsn=end):
            return f"that was it; {pgcdc.format_lsn(end)} may be confirmed"
        case pgcdc.Origin(name=name):
            return f"it came from {name}"

        # A transaction in progress: pieces of it, then how it ends.
        case pgcdc.StreamStart(xid, first_segment):
            return f"{'a first' if first_segment else 'another'} piece of transaction {xid}, still in progress"
        case pgcdc.StreamStop():
            return "the piece ends"
        case pgcdc.StreamCommit(xid, end_lsn=end):
            return f"transaction {xid} has committed; {pgcdc.format_lsn(end)} may be confirmed"
        case pgcdc.StreamAbort(xid, subxid) if xid == subxid:
            return f"transaction {xid} was rolled back"
        case pgcdc.StreamAbort(xid, subxid):
            return f"the part {subxid} of transaction {xid} was rolled back"

        # Two-phase commit.
        case pgcdc.BeginPrepare(gid=gid):
            return f"transaction {gid}, prepared"
        case pgcdc.Prepare(gid=gid) | pgcdc.StreamPrepare(gid=gid):
            return f"{gid} is prepared: nobody knows yet whether it commits"
        case pgcdc.CommitPrepared(gid=gid):
            return f"{gid} has committed"
        case pgcdc.RollbackPrepared(gid=gid):
            return f"{gid} was rolled back"

        case never:
            assert_never(never)


def main(dsn: str, slot: str, publication: str) -> list[pgcdc.Event]:
    """Describe what waits in a slot; the slot stays where it is.

    Args:
        dsn: Where to connect; the user needs REPLICATION.
        slot: The replication slot.
        publication: What is read.

    Returns:
        The events.
    """
    decoder = pgcdc.Decoder()
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(CHANGES, (slot, publication), binary=True)
        events = [decoder.decode(data, lsn) for lsn, data in rows]
    for event in events:
        print(describe(event))
    return events


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
