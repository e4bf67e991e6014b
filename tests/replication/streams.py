"""What the tests of this folder share: names, reading until something is there, and comparing."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import pgcdc
from pgcdc.events import Commit, Delete, Insert, Truncate, Update

if TYPE_CHECKING:
    from tests.conftest import Database


def new_name(prefix: str = "s") -> str:
    """A name for a slot that no other test has: slots belong to the server, not to the database."""
    return f"{prefix}_{uuid.uuid4().hex[:12]}"


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
