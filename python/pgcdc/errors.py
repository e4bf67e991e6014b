"""Every exception of pgcdc, sorted by what the caller does next.

Error:
    ├── DecodeError(ValueError)      the bytes are not what the protocol says: keep them, look at them
    │   ├── UnknownRelation          a row came before its Relation message
    │   └── InvalidValue             one column's bytes do not fit its type
    ├── ReplicationError             the stream cannot go on as it is
    │   ├── ConnectionLost           reconnect and resume
    │   ├── SlotNotFound             create it (and take a snapshot), or correct the name
    │   ├── SlotInUse                another process has it: wait, or stop that one
    │   ├── SlotLost                 the server gave up the WAL: a new slot and a new snapshot
    │   └── PublicationNotFound      create it, or correct the name
    ├── SinkError                    a target refused
    │   ├── SinkUnavailable          try again later
    │   └── SinkRejected             this event will never be accepted
    ├── SpillError                   no room for transactions that are still open: make some, and stream again
    ├── SpoolError                   a consumer's spool cannot be written or read: see to its disk, open it again
    │   ├── SpoolFull                there is no room for the batch: wait until something was released
    │   └── SpoolInUse               another process has it
    ├── SchemaError                  a table's shape and the consumer's do not fit
    │   ├── MigrationFailed
    │   └── RegistryError
    ├── PositionError                a stored position and the server contradict each other: a person decides
    ├── EventStoreError
    │   ├── ConcurrencyConflict      read the stream again, decide again, append again
    │   ├── InvalidEvent             the event and its class do not fit: correct one of them, or add an upcaster
    │   └── PayloadTooLarge          store a reference in the event instead
    └── ConfigError(ValueError)      change the settings, here or on the server

A message is one sentence that names what it is about and never holds a cell value or a secret. What a program wants to
know is in attributes; what a person does next is in `hint`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from msgspec import UnsetType

__all__ = [
    "ConcurrencyConflict",
    "ConfigError",
    "ConnectionLost",
    "DecodeError",
    "Error",
    "EventStoreError",
    "InvalidEvent",
    "InvalidValue",
    "MigrationFailed",
    "PayloadTooLarge",
    "PositionError",
    "PublicationNotFound",
    "RegistryError",
    "ReplicationError",
    "SchemaError",
    "SinkError",
    "SinkRejected",
    "SinkUnavailable",
    "SlotInUse",
    "SlotLost",
    "SlotNotFound",
    "SpillError",
    "SpoolError",
    "SpoolFull",
    "SpoolInUse",
    "UnknownRelation",
]


class Error(Exception):
    """Base of all exceptions of pgcdc.

    Args:
        message: One sentence that names what failed.
        hint: What to do about it, with the SQL or command where there is one.
        slot: The replication slot concerned.
        publication: The publication concerned.
        table: The table concerned, as `schema.name`.
        lsn: The WAL position concerned, as an integer.
        sqlstate: The server's five-character error code, when the server said no.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        slot: str | None = None,
        publication: str | None = None,
        table: str | None = None,
        lsn: int | None = None,
        sqlstate: str | None = None,
    ) -> None:
        super().__init__(message)
        self.hint = hint
        self.slot = slot
        self.publication = publication
        self.table = table
        self.lsn = lsn
        self.sqlstate = sqlstate


class DecodeError(Error, ValueError):
    """Bytes that are not a valid pgoutput message, tuple or value.

    In a list of events it stands in the place of the message that could not be decoded; the others are not lost.

    Attributes:
        reason: What is wrong, without the place: `"unexpected end of message"`.
        field: The field that was being read, in the manual's words, or the column's name; empty where it is none alone.
        offset: Where in the message the field begins, in bytes; 0 where there is none.
        raw: The message as it came, for a dead letter; never part of the text.
        position: The position of the change that was lost with it, where it is known.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        field: str = "",
        offset: int = 0,
        raw: bytes = b"",
        position: tuple[int, int] | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.reason = reason
        self.field = field
        self.offset = offset
        self.raw = raw
        self.position = position


class UnknownRelation(DecodeError):
    """A row names a relation whose Relation message was not seen by this decoder."""


class InvalidValue(DecodeError):
    """The bytes of one column do not fit the column's type, or the row's class refused the row."""


class ReplicationError(Error):
    """The replication stream or its slot cannot go on as it is."""


class ConnectionLost(ReplicationError):
    """The server went away; what was confirmed stays confirmed, and a new connection resumes after it."""


class SlotNotFound(ReplicationError):
    """The replication slot does not exist."""


class SlotInUse(ReplicationError):
    """Another process streams from the slot."""


class SlotLost(ReplicationError):
    """The server has removed WAL that the slot still needed; it can never be resumed."""


class PublicationNotFound(ReplicationError):
    """A publication that the stream needs does not exist."""


class SinkError(Error):
    """A target did not take what was written to it."""


class SinkUnavailable(SinkError):
    """The target cannot take anything now; the same write is tried again later.

    Attributes:
        partly: Whether it has taken some of what it was given meanwhile: such a failure begins a new row of them, so
            that a target that takes a little at a time is asked again soon, and not left alone.
    """

    def __init__(self, message: str, *, partly: bool = False, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.partly = partly


class SinkRejected(SinkError):
    """The target will never take this event; trying again is of no use.

    Attributes:
        positions: Which changes of a batch it was about, where the target says so: the others are not suspected then.
    """

    def __init__(self, message: str, *, positions: Collection[tuple[int, int] | UnsetType] = (), **facts: Any) -> None:
        super().__init__(message, **facts)
        self.positions = frozenset(one for one in positions if not isinstance(one, UnsetType))


class SpillError(Error):
    """A transaction that is still open cannot be kept: its file is too large, cannot be written, or is damaged.

    Or the shapes of tables, which are in no file, take too much memory.

    Nothing of it was delivered or confirmed, so the server sends it again to whoever streams from the slot next.

    Attributes:
        xid: The transaction's id.
        spilled_bytes: What of it was in its file.
    """

    def __init__(self, message: str, *, xid: int = 0, spilled_bytes: int = 0, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.xid = xid
        self.spilled_bytes = spilled_bytes


class SpoolError(Error):
    """A consumer's spool cannot be used: somebody else has it, its disk refuses to read or write, or it is damaged."""


class SpoolFull(SpoolError):
    """There is no room for a batch, which is not in the spool: it takes what it may, or its disk is full.

    It may fit when something was released, or the disk has room again. One that is larger than the spool never does.
    """


class SpoolInUse(SpoolError):
    """Another process, or another object of this one, has the spool's directory."""


class SchemaError(Error):
    """The shape of a table and what a consumer expects do not fit."""


class MigrationFailed(SchemaError):
    """A consumer's migration function raised; the consumer stopped before the first event of the new shape."""


class RegistryError(SchemaError):
    """The schema registry refused a schema or could not be reached."""


class PositionError(Error):
    """A stored position contradicts the server or the slot; going on could lose or repeat rows."""


class EventStoreError(Error):
    """An operation on the event store failed."""


class ConcurrencyConflict(EventStoreError):
    """Another writer appended to the stream first.

    Attributes:
        stream: The stream.
        expected: The version that was expected, or `"none"`, `"exists"`.
        version: The version that the stream has, where it is known; 0 when there is no such stream.
    """

    def __init__(
        self,
        message: str,
        *,
        stream: str = "",
        expected: int | str | None = None,
        version: int | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.stream = stream
        self.expected = expected
        self.version = version


class InvalidEvent(EventStoreError):
    """An event is not what its class says, or its class is not known well enough to read it.

    Attributes:
        event_type: The event's name.
        stream: Its stream, when it is one that is stored.
        sequence: Its number there.
    """

    def __init__(
        self, message: str, *, event_type: str = "", stream: str = "", sequence: int = 0, **facts: Any
    ) -> None:
        super().__init__(message, **facts)
        self.event_type = event_type
        self.stream = stream
        self.sequence = sequence


class PayloadTooLarge(EventStoreError):
    """The payload of an event is larger than the store takes.

    Attributes:
        event_type: The event's name.
        payload_bytes: Its size as JSON; 0 when the server refused it.
    """

    def __init__(self, message: str, *, event_type: str = "", payload_bytes: int = 0, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.event_type = event_type
        self.payload_bytes = payload_bytes


class ConfigError(Error, ValueError):
    """A setting, here or on the server, makes the request impossible."""
