"""What the tests of this folder share: names, reading until something is there, and comparing."""

from __future__ import annotations

import re
import time
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
import pytest

import pgcdc
from pgcdc.events import Begin, Commit, Delete, Insert, Truncate, Update

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgcdc.replication import Stream
    from tests.conftest import Database

T = TypeVar("T")
SECONDS = 30.0


def new_name(prefix: str = "s") -> str:
    """A name for a slot that no other test has: slots belong to the server, not to the database."""
    return f"{prefix}_{uuid.uuid4().hex[:12]}"


def until(condition: Callable[[], T], seconds: float = SECONDS) -> T:
    """Ask again and again, with a deadline; returns the first answer that is true."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)
    return answer


def read_commits(stream: Stream, count: int, seconds: float = SECONDS) -> list[Any]:
    """All events up to the count-th Commit, without the empty transactions that PostgreSQL 14 sends for DDL."""
    events: list[Any] = []
    deadline = time.monotonic() + seconds
    while sum(isinstance(event, Commit) for event in events) < count:
        assert time.monotonic() < deadline, f"{count} commits did not come in time: {events}"
        for event in stream.read(1.0).events(stream.format):
            if isinstance(event, Commit) and events and isinstance(events[-1], Begin):
                events.pop()
            else:
                events.append(event)
    return events


def read_past(stream: Stream, lsn: int, seconds: float = SECONDS) -> list[Any]:
    """All events until the stream knows that everything up to an LSN has come."""
    events: list[Any] = []
    deadline = time.monotonic() + seconds
    while stream.idle_lsn < lsn:
        assert time.monotonic() < deadline, f"the stream did not get to {lsn:X}: {events}"
        stream.send_status(reply_requested=True)
        events += stream.read(0.1).events(stream.format)
    return events


def changes(events: list[Any]) -> list[Any]:
    """The row changes and truncates among events."""
    return [event for event in events if isinstance(event, (Insert, Update, Delete, Truncate))]


def ids(events: list[Any]) -> list[int]:
    """The column `id` of all inserts."""
    return [event.new.id for event in events if isinstance(event, Insert)]


def commit_ends(events: list[Any]) -> list[int]:
    """What could be confirmed."""
    return [event.end_lsn for event in events if isinstance(event, Commit)]


def wal_end(connection: Any) -> int:
    """Where the server's WAL ends, by any kind of connection."""
    result = connection.execute("SELECT pg_current_wal_insert_lsn()::text")
    rows = result if isinstance(result, list) else result.fetchall()
    return pgcdc.parse_lsn(rows[0][0])


def confirmed(database: Database, slot: str) -> int:
    """Up to where the server takes a slot as confirmed."""
    rows = database.execute(f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot}'")
    return pgcdc.parse_lsn(rows[0][0])


def statements(error: pgcdc.Error) -> list[str]:
    """The SQL in an error's hint that changes something, to be run as it stands."""
    return re.findall(r"(?:ALTER|CREATE|GRANT) [^;]*;", error.hint or "")


def refuses_column_lists(database: Database) -> None:
    """What there is to show on PostgreSQL 14, where lists of columns and row filters do not exist."""
    database.execute("CREATE TABLE no_list (id int, a int)")
    with pytest.raises(psycopg.errors.SyntaxError):
        database.execute("CREATE PUBLICATION listed FOR TABLE no_list (id)")
