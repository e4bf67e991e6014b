"""Envelopes of rows as the server sends them in binary, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from pgcdc.eventstore.codec import Codec
from pgcdc.eventstore.event import Event, UnknownEvent
from pgcdc.eventstore.recorded import Placed, Recorded

__all__ = ["placed_of", "recorded_of_all"]

_metadata: Final = msgspec.json.Decoder(dict[str, Any]).decode


def placed_of(rows: Sequence[tuple[Any, ...]], codec: Codec) -> list[Placed]:
    """Events with their places.

    Args:
        rows: Of `Statements.scan_rows`.
        codec: The classes of events.

    Returns:
        An envelope for each row.

    Raises:
        InvalidEvent: When a payload is not one of its class.
    """
    events = _events(rows, codec)
    return [Placed(event=event, stream_id=row[3], sequence=row[4]) for event, row in zip(events, rows, strict=True)]


def recorded_of_all(rows: Sequence[tuple[Any, ...]], codec: Codec) -> list[Recorded]:
    """Events with all that is stored beside them.

    Args:
        rows: Of `Statements.replay_rows`.
        codec: The classes of events.

    Returns:
        An envelope for each row.

    Raises:
        InvalidEvent: When a payload is not one of its class.
    """
    events = _events(rows, codec)
    return [
        Recorded(
            event=event,
            stream_id=stream,
            sequence=sequence,
            stream_type=stream_type,
            event_id=event_id,
            occurred_at=occurred_at,
            metadata=_metadata(metadata),
            id=place,
            event_type=name,
            event_version=version,
        )
        for event, (name, version, _, stream, sequence, stream_type, event_id, occurred_at, metadata, place) in zip(
            events, rows, strict=True
        )
    ]


def _events(rows: Sequence[tuple[Any, ...]], codec: Codec) -> list[Event | UnknownEvent]:
    """The events of rows that begin with name, version and payload, and go on with stream and sequence."""
    try:
        readers = {named: codec.reader(*named) for named in {(row[0], row[1]) for row in rows}}
        return [readers[row[0], row[1]](row[2]) for row in rows]
    except Exception:
        return [codec.decode(*row[:5]) for row in rows]  # raises what says more
