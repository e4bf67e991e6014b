"""Writes pgoutput messages and COPY data by hand, for tests of what no server sends on demand.

Source: PostgreSQL manual, "Logical Replication Message Formats", "Streaming Replication Protocol", "COPY".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from msgspec import UnsetType

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
COMMITTED = datetime(2024, 5, 17, 12, 30, 0, 123456, tzinfo=UTC)

Field = str | bytes | None | UnsetType
"""A column as sent: str in text form, bytes in binary form, None for NULL, UNSET for unchanged TOAST."""


def microseconds(moment: datetime) -> int:
    """A time as it is on the wire."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def string(text: str) -> bytes:
    """A NUL-terminated string."""
    return text.encode() + b"\x00"


def begin(final_lsn: int = 1000, xid: int = 7, commit_time: datetime = COMMITTED) -> bytes:
    """Begin."""
    return b"B" + struct.pack(">QqI", final_lsn, microseconds(commit_time), xid)


def commit(commit_lsn: int = 1000, end_lsn: int = 1048, flags: int = 0, commit_time: datetime = COMMITTED) -> bytes:
    """Commit."""
    return b"C" + struct.pack(">BQQq", flags, commit_lsn, end_lsn, microseconds(commit_time))


def origin(commit_lsn: int, name: str) -> bytes:
    """Origin."""
    return b"O" + struct.pack(">Q", commit_lsn) + string(name)


def type_(oid: int, schema: str, name: str) -> bytes:
    """Type."""
    return b"Y" + struct.pack(">I", oid) + string(schema) + string(name)


def relation(
    oid: int,
    name: str,
    columns: Sequence[tuple[str, int] | tuple[str, int, bool]],
    *,
    schema: str = "public",
    identity: str = "d",
) -> bytes:
    """Relation; columns are (name, type OID) or (name, type OID, part of the key), the first is the key without."""
    parts = [b"R", struct.pack(">I", oid), string(schema), string(name), identity.encode()]
    parts.append(struct.pack(">H", len(columns)))
    for number, column in enumerate(columns):
        is_key = column[2] if len(column) == 3 else number == 0
        parts.append(struct.pack(">B", is_key) + string(column[0]) + struct.pack(">Ii", column[1], -1))
    return b"".join(parts)


def row(fields: list[Field]) -> bytes:
    """A tuple."""
    parts = [struct.pack(">H", len(fields))]
    for field in fields:
        if field is None:
            parts.append(b"n")
        elif isinstance(field, UnsetType):
            parts.append(b"u")
        else:
            data = field.encode("utf-8", "surrogateescape") if isinstance(field, str) else field
            parts.append((b"t" if isinstance(field, str) else b"b") + struct.pack(">I", len(data)) + data)
    return b"".join(parts)


def insert(oid: int, fields: list[Field]) -> bytes:
    """Insert."""
    return b"I" + struct.pack(">I", oid) + b"N" + row(fields)


def update(oid: int, new: list[Field], old: list[Field] | None = None, *, kind: str = "O") -> bytes:
    """Update; kind is O for a whole old row, K for an old key."""
    before = b"" if old is None else kind.encode() + row(old)
    return b"U" + struct.pack(">I", oid) + before + b"N" + row(new)


def delete(oid: int, old: list[Field], *, kind: str = "K") -> bytes:
    """Delete."""
    return b"D" + struct.pack(">I", oid) + kind.encode() + row(old)


def truncate(oids: list[int], options: int = 0) -> bytes:
    """Truncate; options are 1 for CASCADE, 2 for RESTART IDENTITY."""
    return b"T" + struct.pack(f">IB{len(oids)}I", len(oids), options, *oids)


def message(prefix: str, content: bytes, *, lsn: int = 900, transactional: bool = True) -> bytes:
    """Message."""
    return b"M" + struct.pack(">BQ", transactional, lsn) + string(prefix) + struct.pack(">I", len(content)) + content


def in_stream(message: bytes, xid: int) -> bytes:
    """A Relation, Type, row, Truncate or Message as it is between Stream Start and Stream Stop."""
    assert message[:1] in b"RYIUDTM"
    return message[:1] + struct.pack(">I", xid) + message[1:]


def stream_start(xid: int = 7, *, first: bool = True) -> bytes:
    """Stream Start."""
    return b"S" + struct.pack(">IB", xid, first)


def stream_stop() -> bytes:
    """Stream Stop."""
    return b"E"


def stream_commit(xid: int = 7, commit_lsn: int = 1000, end_lsn: int = 1048) -> bytes:
    """Stream Commit."""
    return b"c" + struct.pack(">IBQQq", xid, 0, commit_lsn, end_lsn, microseconds(COMMITTED))


def stream_abort(xid: int = 7, subxid: int = 7, abort_lsn: int | None = None) -> bytes:
    """Stream Abort; with where and when, as `streaming = parallel` has it, if abort_lsn is given."""
    where = b"" if abort_lsn is None else struct.pack(">Qq", abort_lsn, microseconds(COMMITTED))
    return b"A" + struct.pack(">II", xid, subxid) + where


def begin_prepare(prepare_lsn: int = 1000, end_lsn: int = 1048, xid: int = 7, gid: str = "gid") -> bytes:
    """Begin Prepare."""
    return b"b" + struct.pack(">QQqI", prepare_lsn, end_lsn, microseconds(COMMITTED), xid) + string(gid)


def prepare(
    prepare_lsn: int = 1000, end_lsn: int = 1048, xid: int = 7, gid: str = "gid", *, streamed: bool = False
) -> bytes:
    """Prepare, or Stream Prepare."""
    fields = struct.pack(">BQQqI", 0, prepare_lsn, end_lsn, microseconds(COMMITTED), xid)
    return (b"p" if streamed else b"P") + fields + string(gid)


def commit_prepared(commit_lsn: int = 2000, end_lsn: int = 2048, xid: int = 7, gid: str = "gid") -> bytes:
    """Commit Prepared."""
    return b"K" + struct.pack(">BQQqI", 0, commit_lsn, end_lsn, microseconds(COMMITTED), xid) + string(gid)


def rollback_prepared(
    prepare_end_lsn: int = 1048, rollback_end_lsn: int = 2048, xid: int = 7, gid: str = "gid"
) -> bytes:
    """Rollback Prepared."""
    times = microseconds(COMMITTED), microseconds(COMMITTED) + 1
    return b"r" + struct.pack(">BQQqqI", 0, prepare_end_lsn, rollback_end_lsn, *times, xid) + string(gid)


def xlogdata(payload: bytes, wal_start: int = 0, wal_end: int | None = None, sent: datetime = COMMITTED) -> bytes:
    """The CopyData frame around a message."""
    end = wal_start if wal_end is None else wal_end
    return b"w" + struct.pack(">QQq", wal_start, end, microseconds(sent)) + payload


def keepalive(wal_end: int, *, reply: bool = False, sent: datetime = COMMITTED) -> bytes:
    """The CopyData frame of a primary keepalive."""
    return b"k" + struct.pack(">QqB", wal_end, microseconds(sent), reply)


COPY_SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
COPY_TRAILER = b"\xff\xff"


def copy_header(flags: int = 0, extension: bytes = b"") -> bytes:
    """What COPY BINARY begins with."""
    return COPY_SIGNATURE + struct.pack(">II", flags, len(extension)) + extension


def copy_row(fields: list[bytes | None]) -> bytes:
    """One row of COPY BINARY."""
    parts = [struct.pack(">h", len(fields))]
    parts += [struct.pack(">i", -1) if field is None else struct.pack(">i", len(field)) + field for field in fields]
    return b"".join(parts)
