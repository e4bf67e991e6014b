"""Appends whose ids have to be looked for in the archive, too, so that what was appended before is not appended again.

The function of the database looks for ids in the table, and says where that is not all: the stream has events in the
archive. These do not change, so they are looked at from here, and then it is appended behind the version that was seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
import psycopg
from psycopg.rows import tuple_row

from pgcdc.eventstore import archived_async as archived
from pgcdc.eventstore import calling_async as calling
from pgcdc.eventstore.archives import Archive
from pgcdc.eventstore.codec import Codec
from pgcdc.eventstore.context import current_metadata
from pgcdc.eventstore.refusals import answered
from pgcdc.eventstore.request import Append, encode_many, uuids
from pgcdc.eventstore.statements import Statements, expected_number

__all__ = ["append", "append_many"]

_ATTEMPTS: Final = 10
"""So often it is begun again because of other writers."""


async def append(
    connection: psycopg.AsyncConnection[Any],
    statements: Statements,
    archive: Archive | None,
    values: tuple[str, str | None, int, str, str],
    event_ids: Sequence[UUID | str] | None,
) -> tuple[str, int]:
    """Append to a stream that has events in the archive, unless events of these ids are in it.

    Args:
        connection: On which.
        statements: Of the store.
        archive: Where events are that have left the table.
        values: What the function was called with.
        event_ids: The ids.

    Returns:
        The status and the version, as the function says them.

    Raises:
        EventStoreError: When the archive cannot be read.
    """
    stream, stream_type, number, encoded, about = values
    status, version = "conflict", 0
    for _ in range(_ATTEMPTS):
        status, version = await _known(connection, statements, archive, stream, number, uuids(event_ids))
        if status != "new":
            return status, version
        behind = (stream, stream_type, version, encoded, about)
        status, version = await calling.ask(connection, statements.append, behind)
        if status not in ("conflict", "archived"):
            return status, version
    return "conflict", version


async def append_many(
    connection: psycopg.AsyncConnection[Any],
    statements: Statements,
    archive: Archive | None,
    codec: Codec,
    appends: Iterable[Append],
) -> dict[str, int]:
    """Append to several streams: to all of them or to none.

    Args:
        connection: On which.
        statements: Of the store.
        archive: Where events are that have left the table.
        codec: Of the store.
        appends: What is appended where.

    Returns:
        The version of each stream after it.

    Raises:
        ConcurrencyConflict: When a stream is not as expected.
        EventStoreError: When it cannot be.
    """
    given = list(appends)
    encoded, expected = encode_many(codec, given, current_metadata)
    asked = {one.stream: one for one in given}
    now = dict(asked)
    versions: dict[str, int] = {}
    rows: list[tuple[str, str, int]] = []
    for _ in range(_ATTEMPTS):
        cursor = connection.cursor(row_factory=tuple_row)
        await cursor.execute(statements.append_many, (encoded,))
        rows = await cursor.fetchall()
        stream, status, version = rows[0] if rows else ("", "ok", 0)
        if status == "conflict" and now[stream] is not asked[stream]:
            now[stream] = asked[stream]  # another writer was behind the version that was seen
        elif status == "archived":
            number, ids = expected_number(now[stream].expected), uuids(now[stream].event_ids)
            status, version = await _known(connection, statements, archive, stream, number, ids)
            if status == "new":
                now[stream] = msgspec.structs.replace(now[stream], expected=version)
            else:
                versions[stream] = answered(status, version, stream, expected[stream])
                del now[stream]
        else:
            break
        encoded, _ = encode_many(codec, now.values(), current_metadata)
    return versions | {stream: answered(status, version, stream, expected[stream]) for stream, status, version in rows}


async def _known(
    connection: psycopg.AsyncConnection[Any],
    statements: Statements,
    archive: Archive | None,
    stream: str,
    number: int,
    ids: Sequence[UUID],
) -> tuple[str, int]:
    """What the function would say if all events were in the table; "new" when none of these ids is there."""
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute(statements.type_of, (stream,))
    row = await cursor.fetchone()
    version: int = 0 if row is None else row[1]
    after, until = (number, number + len(ids)) if number >= 0 else (0, version)
    await cursor.execute(statements.ids, (stream, after, until))
    found: dict[int, UUID] = dict(await cursor.fetchall())
    async for part in archived.beginning(connection, statements, archive, stream, after, until):
        found |= {one.sequence: one.event_id for one in part}
    if number >= 0:
        is_same = [found.get(sequence) for sequence in range(after + 1, until + 1)] == list(ids)
        return ("duplicate", until) if is_same else ("conflict", version)
    wanted = set(ids)
    seen = [sequence for sequence, event_id in found.items() if event_id in wanted]
    if not seen:
        return "new", version
    return ("duplicate", max(seen)) if len(seen) == len(ids) else ("partial", version)
