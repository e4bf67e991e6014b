"""Events as they are stored: with their place, their time, and what was said about them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from pgcdc.eventstore.event import Event, UnknownEvent
from pgcdc.lsn import Position

__all__ = ["EventRow", "HistoryEntry", "Placed", "Recorded"]


class Recorded(msgspec.Struct, gc=False, kw_only=True, eq=False):
    """An event with its envelope.

    Attributes:
        event: The event, of its class's version; an `UnknownEvent` when there is no class.
        stream_id: Its stream.
        sequence: Its number in the stream, from 1, without holes.
        stream_type: The stream's type.
        event_id: Its own id.
        occurred_at: When the transaction that appended it began: neither the order of commits nor of the stream.
        metadata: Actor, correlation, causation, and whatever else was given.
        id: The order of writing, over all streams. It is taken before the commit, so it is no checkpoint.
        event_type: Its name as stored.
        event_version: Its version as stored; `event` may be of a later one.
        position: Its place in the order of commits, where it was read in that order; else None.
    """

    event: Event | UnknownEvent
    stream_id: str
    sequence: int
    stream_type: str
    event_id: UUID
    occurred_at: datetime
    metadata: dict[str, Any]
    id: int
    event_type: str
    event_version: int
    position: Position | None = None

    def __eq__(self, other: object) -> bool:
        """Whether all is equal; a replay makes its envelopes by subclasses."""
        if not isinstance(other, Recorded):
            return NotImplemented
        return msgspec.structs.astuple(self) == msgspec.structs.astuple(other)

    __hash__ = None  # type: ignore[assignment]


class Placed(msgspec.Struct, gc=False, kw_only=True, eq=False):
    """An event with no more than its place.

    Attributes:
        event: The event, of its class's version; an `UnknownEvent` when there is no class.
        stream_id: Its stream.
        sequence: Its number in the stream.
    """

    event: Event | UnknownEvent
    stream_id: str
    sequence: int

    def __eq__(self, other: object) -> bool:
        """Whether all is equal; they are made by subclasses."""
        if not isinstance(other, Placed):
            return NotImplemented
        return msgspec.structs.astuple(self) == msgspec.structs.astuple(other)

    __hash__ = None  # type: ignore[assignment]


class HistoryEntry(msgspec.Struct, kw_only=True):
    """One step of how a stream got where it is.

    Attributes:
        sequence: The event's number in the stream.
        event_type: Its name.
        occurred_at: When.
        actor: Who, if the metadata says it.
        changes: What was different after the event, by path (`"items"`, `"address.city"`): before and after. Without a
            class for the state it is the payload, with nothing before.
        recorded: The event itself.
    """

    sequence: int
    event_type: str
    occurred_at: datetime
    actor: str | None
    changes: dict[str, tuple[Any, Any]]
    recorded: Recorded


class EventRow(msgspec.Struct, gc=False):
    """A row of the table, as the stream and reading give it."""

    id: int
    stream_id: str
    stream_type: str
    event_type: str
    event_version: int
    payload: str
    metadata: str
    occurred_at: datetime
    sequence: int
    event_id: UUID
    xid: int = 0
