"""What a store reads from its archive: the beginning of a stream, and all events in the order of writing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import psycopg

from pgcdc.eventstore import calling_async as calling
from pgcdc.eventstore.archives import LAST, Archive, Key, Window, not_given
from pgcdc.eventstore.codec import Codec
from pgcdc.eventstore.commits import recorded_of
from pgcdc.eventstore.lines import Lines
from pgcdc.eventstore.recorded import EventRow, Recorded
from pgcdc.eventstore.segments import Segment
from pgcdc.eventstore.statements import Statements

__all__ = ["beginning", "replayed", "until_time"]


async def beginning(
    connection: psycopg.AsyncConnection[Any],
    statements: Statements,
    archive: Archive | None,
    stream: str,
    after: int,
    until: int,
) -> AsyncIterator[list[EventRow]]:
    """Read events of a stream that have left the table. The table is to be read before.

    Args:
        connection: On which.
        statements: Of the store.
        archive: Where they are.
        stream: The stream.
        after: The sequence behind which to begin.
        until: The last sequence.

    Yields:
        The events of a segment, in order; nothing when none has left.

    Raises:
        EventStoreError: When they cannot be found there.
    """
    cursor = calling.cursor(connection, binary=True)
    await cursor.execute(statements.archived, (stream, after, until))
    for *about, first, last, _ in await cursor.fetchall():
        segment = Segment(*about)
        if archive is None:
            raise not_given(segment.path)
        where = max(after, first - 1), min(until, last)
        yield await calling.elsewhere(archive.of_stream, segment, stream, *where)


async def until_time(
    connection: psycopg.AsyncConnection[Any],
    statements: Statements,
    archive: Archive | None,
    stream: str,
    at: datetime,
) -> int | None:
    """Look for the first event in the archive that is later than a time.

    Args:
        connection: On which.
        statements: Of the store.
        archive: Where they are.
        stream: The stream.
        at: The time.

    Returns:
        The sequence before it; None when none is later.

    Raises:
        EventStoreError: As for `beginning`.
    """
    cursor = calling.cursor(connection, binary=True)
    await cursor.execute(statements.archived, (stream, 0, LAST))
    for *about, first, last, max_occurred in await cursor.fetchall():
        if max_occurred <= at:
            continue
        segment = Segment(*about)
        if archive is None:
            raise not_given(segment.path)
        rows = await calling.elsewhere(archive.of_stream, segment, stream, first - 1, last)
        for row in rows:
            if row.occurred_at > at:
                return row.sequence - 1
    return None


async def replayed(
    connection: psycopg.AsyncConnection[Any],
    statements: Statements,
    archive: Archive | None,
    codec: Codec,
    segments: Sequence[Segment],
    after_id: int,
    batch: int,
) -> AsyncIterator[list[Recorded]]:
    """Read all events of archive and table in the order of writing.

    Args:
        connection: On which; the segments are those of the moment that its transaction sees.
        statements: Of the store.
        archive: Where segments are.
        codec: What makes events of payloads.
        segments: The segments.
        after_id: The id behind which to begin.
        batch: How many at a time.

    Yields:
        Events.

    Raises:
        EventStoreError: As for `beginning`.
    """
    lines = Lines(codec, Recorded)
    window = Window(archive, "ids")
    last_id = max(segment.max_id for segment in segments)
    ready: list[Recorded] = []
    place = after_id
    async for rows in calling.copied(connection, statements.replay, after_id, batch):
        fresh = lines.decode(rows)
        while fresh:
            through = fresh[-1].id
            found: list[tuple[Key, EventRow]] = []
            if place < last_id:
                found = await calling.elsewhere(window.read, segments, (0, place), (0, through), batch)
            if len(found) == batch:
                through = found[-1][0][1]  # there may be more, before what the table has
            here = [one for one in fresh if one.id <= through]
            fresh = fresh[len(here) :]
            ready += sorted([*_recorded(found, codec), *here], key=lambda one: one.id)
            place = through
            while len(ready) >= batch:
                yield ready[:batch]
                del ready[:batch]
    while place < last_id:
        found = await calling.elsewhere(window.read, segments, (0, place), (0, LAST), batch)
        if not found:
            break
        place = found[-1][0][1]
        ready += _recorded(found, codec)
        while len(ready) >= batch:
            yield ready[:batch]
            del ready[:batch]
    if ready:
        yield ready


def _recorded(found: Sequence[tuple[Key, EventRow]], codec: Codec) -> list[Recorded]:
    return [recorded_of(row, None, codec) for _, row in found]
