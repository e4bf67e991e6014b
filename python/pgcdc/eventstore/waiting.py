# Made from waiting_async.py by ./dev lint --fix: change that file, not this one.
"""Waiting until a projection is so far."""
# ruff: noqa: S608  (what is put in is a name that was looked at)

from __future__ import annotations

import time
import time as clock
from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg.rows import tuple_row

from pgcdc.errors import EventStoreError
from pgcdc.eventstore.statements import WAITING, Statements
from pgcdc.lsn import format_lsn

__all__ = ["until", "until_version", "written"]

_FIRST: Final = 0.001
_LONGEST: Final = 0.02
"""Seconds between two looks."""


def written(connection: psycopg.Connection[Any]) -> int:
    """Ask how far WAL is written.

    Args:
        connection: On which.

    Returns:
        The LSN.

    Source:
        PostgreSQL manual, "System Administration Functions", `pg_current_wal_insert_lsn`.
    """
    cursor = connection.cursor(row_factory=tuple_row)
    cursor.execute("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint")
    row = cursor.fetchone()
    return 0 if row is None else row[0]


def until(
    connection: psycopg.Connection[Any], statements: Statements, projection: str, lsn: int, timeout: float
) -> None:
    """Wait until a projection has everything that was committed before an LSN.

    Args:
        connection: On which, in autocommit mode.
        statements: Of the store.
        projection: Its name.
        lsn: The LSN.
        timeout: How long, in seconds.

    Raises:
        TimeoutError: When it is not so far in time.
        EventStoreError: When it is parked, or not there.
    """
    query = (
        f"SELECT p.error, p.commit_lsn >= %(lsn)s::pg_lsn FROM {statements.quoted}.projections AS p"
        " WHERE p.name = %(name)s AND p.status = 'live'"
    )
    values = {"lsn": format_lsn(lsn), "name": projection}
    # On a quiet server nothing would come that is behind the LSN: a message in the WAL does.
    nudge = f"SELECT pg_logical_emit_message(true, '{WAITING}', '')"
    _look(connection, query, values, projection, f"LSN {format_lsn(lsn)}", timeout, nudge)


def until_version(
    connection: psycopg.Connection[Any],
    statements: Statements,
    projection: str,
    stream: str,
    version: int,
    timeout: float,
) -> None:
    """Wait until a projection has a stream up to a version.

    Args:
        connection: On which, in autocommit mode.
        statements: Of the store.
        projection: Its name.
        stream: The stream.
        version: The version.
        timeout: How long, in seconds.

    Raises:
        TimeoutError: When it is not so far in time.
        EventStoreError: When it is parked, or not there.
    """
    es = statements.quoted
    query = (
        "SELECT p.error, EXISTS ("
        f"SELECT FROM {es}.events AS e JOIN {es}.commits AS c ON c.xid = e.xid"
        " WHERE e.stream_id = %(stream)s AND e.sequence = %(version)s AND c.commit_lsn <= p.commit_lsn"
        f" UNION ALL SELECT FROM {es}.events AS e JOIN {es}.epochs AS x ON pg_visible_in_snapshot(e.xid, x.snapshot)"
        " WHERE e.stream_id = %(stream)s AND e.sequence = %(version)s AND x.commit_lsn - 1 <= p.commit_lsn"
        # By the last of the stream in that segment: what has left the table was noted long ago.
        f" UNION ALL SELECT FROM {es}.archived_streams AS a JOIN {es}.archive_segments AS g USING (segment)"
        " WHERE a.stream_id = %(stream)s AND %(version)s BETWEEN a.first_sequence AND a.last_sequence"
        " AND greatest(CASE WHEN g.is_ordered THEN a.last_lsn ELSE '0/0' END,"
        f" (SELECT min(x.commit_lsn) - 1 FROM {es}.epochs AS x)) <= p.commit_lsn)"
        f" FROM {es}.projections AS p WHERE p.name = %(name)s AND p.status = 'live'"
    )
    values = {"stream": stream, "version": version, "name": projection}
    _look(connection, query, values, projection, f"version {version} of the stream {stream}", timeout)


def _look(
    connection: psycopg.Connection[Any],
    query: str,
    values: dict[str, Any],
    projection: str,
    what: str,
    timeout: float,
    nudge: str = "",
) -> None:
    deadline = clock.monotonic() + timeout
    pause = _FIRST
    cursor = connection.cursor(row_factory=tuple_row)
    while True:
        cursor.execute(query.encode(), values, prepare=True)
        row: Sequence[Any] | None = cursor.fetchone()
        if row is not None and row[1]:
            return
        if row is not None and row[0] is not None:
            raise EventStoreError(
                f"the projection {projection} is parked: {row[0]}",
                hint="put the cause right and start its pipeline again; it goes on from there",
            )
        if clock.monotonic() >= deadline:
            if row is None:
                raise EventStoreError(
                    f"there is no projection {projection}", hint="it is made when its pipeline is first run"
                )
            raise TimeoutError(f"the projection {projection} did not come to {what} within {timeout} s")
        if nudge:
            cursor.execute(nudge.encode())
            nudge = ""
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST)
