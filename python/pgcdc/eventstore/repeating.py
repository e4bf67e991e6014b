# Made from repeating_async.py by ./dev lint --fix: change that file, not this one.
"""Appends whose ids have to be looked for in the archive, too, so that what was appended before is not appended again.

The function of the database looks for ids in the table, and says where that is not all: the stream has events in the
archive. These do not change, so they are looked at from here, and the function is told up to which version that was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final
from uuid import UUID

import psycopg

from pgcdc.eventstore import archived, calling
from pgcdc.eventstore.archives import Archive
from pgcdc.eventstore.codec import Codec
from pgcdc.eventstore.context import current_metadata
from pgcdc.eventstore.refusals import answered, known_already
from pgcdc.eventstore.request import Append, encode_many, looked_through, uuids
from pgcdc.eventstore.statements import Statements

__all__ = ["append", "append_many", "refuse_known"]

_ATTEMPTS: Final = 10
"""So often they are looked for: again when more has left the table meanwhile."""


def append(
    connection: psycopg.Connection[Any],
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
        status, version = _known(connection, statements, archive, stream, uuids(event_ids))
        if status != "new":
            return status, version
        again = (stream, stream_type, number, looked_through(encoded, version), about)
        status, version = calling.ask(connection, statements.append, again)
        if status != "archived":
            return status, version
    return "conflict", version


def append_many(
    connection: psycopg.Connection[Any],
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
    looked: dict[str, int] = {}
    versions: dict[str, int] = {}
    rows: list[tuple[str, str, int]] = []
    for _ in range(_ATTEMPTS):
        cursor = calling.cursor(connection)
        cursor.execute(statements.append_many, (encoded,))
        rows = cursor.fetchall()
        stream, status, version = rows[0] if rows else ("", "ok", 0)
        if status != "archived":
            break
        status, version = _known(connection, statements, archive, stream, uuids(asked[stream].event_ids))
        if status == "new":
            looked[stream] = version
        else:
            versions[stream] = answered(status, version, stream, expected[stream])
            del asked[stream]
        encoded, _ = encode_many(codec, asked.values(), current_metadata, looked)
    return versions | {stream: answered(status, version, stream, expected[stream]) for stream, status, version in rows}


def refuse_known(
    connection: psycopg.Connection[Any],
    statements: Statements,
    archive: Archive | None,
    stream: str,
    after: int,
    event_ids: Sequence[UUID | str],
) -> None:
    """Refuse events that a plain INSERT has just appended, when the stream had events of these ids before.

    Args:
        connection: On which; the stream's row is locked by the INSERT.
        statements: Of the store.
        archive: Where events are that have left the table.
        stream: The stream.
        after: The version that it had.
        event_ids: The ids.

    Raises:
        EventStoreError: When it had.
    """
    status, _ = _known(connection, statements, archive, stream, uuids(event_ids), after)
    if status != "new":
        raise known_already(stream)


def _known(
    connection: psycopg.Connection[Any],
    statements: Statements,
    archive: Archive | None,
    stream: str,
    ids: Sequence[UUID],
    until: int | None = None,
) -> tuple[str, int]:
    """What the function would say if all events were in the table; "new" when none of these ids is there."""
    cursor = calling.cursor(connection)
    cursor.execute(statements.type_of, (stream,))
    row = cursor.fetchone()
    version: int = (0 if row is None else row[1]) if until is None else until
    # The table first: what leaves it meanwhile is in the archive then.
    cursor.execute(statements.ids, (stream, 0, version))
    found: dict[int, UUID] = dict(cursor.fetchall())
    for part in archived.beginning(connection, statements, archive, stream, 0, version):
        found |= {one.sequence: one.event_id for one in part}
    wanted = set(ids)
    seen = [sequence for sequence, event_id in found.items() if event_id in wanted]
    if not seen:
        return "new", version
    return ("duplicate", max(seen)) if len(seen) == len(ids) else ("partial", version)
