"""A server and the pipelines that keep their positions in it, seen from the database alone at one moment.

What is under way in a pipeline's process only that process knows.

Source: PostgreSQL manual, "pg_replication_slots"; "System Administration Functions".
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec
import psycopg

from pgcdc.lsn import parse_lsn
from pgcdc.observe.slots import slots_of
from pgcdc.pipeline.settings import BESIDE
from pgcdc.replication import SlotState

__all__ = ["Overview", "StoredConsumer", "overview_of"]

_SERVER: Final = """
    SELECT current_setting('server_version'), current_database(), clock_timestamp(),
        CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
            ELSE pg_catalog.pg_current_wal_insert_lsn() END::text,
        COALESCE((SELECT array_agg(c.relname::text) FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'pgcdc'
            AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')), '{}')"""
_POSITIONS: Final = """
    SELECT pipeline, consumer, slot, snapshot, through_lsn::text, updated_at FROM pgcdc.positions ORDER BY 1, 2"""
_LETTERS: Final = """
    SELECT pipeline, consumer, count(*) FILTER (WHERE state = 'failed'), count(*) FILTER (WHERE state <> 'failed'),
        min(first_at) FROM pgcdc.dead_letters GROUP BY 1, 2"""


class StoredConsumer(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer, as the database knows it.

    Attributes:
        pipeline: The pipeline's name.
        consumer: Its name.
        slot: The pipeline's slot; None where no position is stored.
        snapshot: `"begun"`, `"done"` or `"none"`: how far its copy of existing rows is; None likewise.
        through_lsn: How far the WAL is done for it; None likewise.
        behind_bytes: WAL since then, whether there is anything in it for this consumer or not; None likewise.
        stored_at: When its position was stored last; None likewise.
        failed_letters: Its dead letters that have failed.
        waiting_letters: Those that wait behind one that has.
        oldest_letter_at: When the oldest of these failed first.
    """

    pipeline: str
    consumer: str
    slot: str | None = None
    snapshot: str | None = None
    through_lsn: int | None = None
    behind_bytes: int | None = None
    stored_at: datetime | None = None
    failed_letters: int = 0
    waiting_letters: int = 0
    oldest_letter_at: datetime | None = None


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """A server at one moment.

    Attributes:
        at: By its clock.
        server_version: As it prints it.
        database: The one that was asked.
        wal_lsn: Where its WAL ends.
        slots: All of its slots.
        consumers: The consumers whose positions or dead letters are in the database; None where the role may not read
            them.
    """

    at: datetime
    server_version: str
    database: str
    wal_lsn: int
    slots: list[SlotState]
    consumers: list[StoredConsumer] | None


def overview_of(connection: psycopg.Connection[tuple[Any, ...]]) -> Overview:
    """Look at a server.

    Args:
        connection: A connection to the database that pipelines keep their positions in.

    Returns:
        What is there.
    """
    row = connection.execute(_SERVER).fetchone()
    assert row is not None
    version, database, at, end, readable = row
    positions, letters = "positions" in readable, "dead_letters" in readable
    wal_lsn = parse_lsn(end or "0/0")
    found: dict[tuple[str, str], StoredConsumer] = {}
    if positions:
        for stored, consumer, slot, snapshot, through, stored_at in connection.execute(_POSITIONS):
            pipeline = stored.partition(BESIDE)[0]  # behind that stands a consumer with a slot of its own
            through_lsn = parse_lsn(through)
            found[pipeline, consumer] = StoredConsumer(
                pipeline=pipeline,
                consumer=consumer,
                slot=slot,
                snapshot=snapshot,
                through_lsn=through_lsn,
                behind_bytes=max(0, wal_lsn - through_lsn),
                stored_at=stored_at,
            )
    if letters:
        for stored, consumer, failed, waiting, oldest in connection.execute(_LETTERS):
            pipeline = stored.partition(BESIDE)[0]
            known = found.get((pipeline, consumer), StoredConsumer(pipeline=pipeline, consumer=consumer))
            found[pipeline, consumer] = msgspec.structs.replace(
                known,
                failed_letters=known.failed_letters + failed,
                waiting_letters=known.waiting_letters + waiting,
                oldest_letter_at=min(
                    (one for one in (known.oldest_letter_at, oldest) if one is not None), default=None
                ),
            )
    return Overview(
        at=at,
        server_version=version,
        database=database,
        wal_lsn=wal_lsn,
        slots=slots_of(connection),
        consumers=list(found.values()) if positions or letters else None,
    )
