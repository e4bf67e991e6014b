"""What is asked of the append function, made of events; the same for every store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args
from uuid import UUID

import msgspec

from pgcdc.errors import ConfigError
from pgcdc.eventstore.arguments import looked_at
from pgcdc.eventstore.codec import Codec
from pgcdc.eventstore.event import Event
from pgcdc.eventstore.statements import expected_number

__all__ = ["Append", "Expected", "RetentionClass", "encode_events", "encode_many", "looked_through", "uuids"]

Expected = int | Literal["any", "none", "exists"]
RetentionClass = Literal["hot", "warm", "cold"]


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """One of several appends in a transaction.

    Attributes:
        stream: The stream.
        events: The events.
        expected: The version that it has to have, or `"any"`, `"none"`, `"exists"`.
        stream_type: The stream's type, for one that is new.
        metadata: Metadata of these events, over that of the context.
        event_ids: Ids of the events, with which the append can be repeated.
        retention_class: How soon they leave the table, as for `EventStore.append`.
    """

    stream: str
    events: Sequence[Event]
    expected: Expected = "any"
    stream_type: str | None = None
    metadata: Mapping[str, Any] | None = None
    event_ids: Sequence[UUID | str] | None = None
    retention_class: RetentionClass | None = None


def encode_events(
    codec: Codec,
    events: Iterable[Event],
    event_ids: Sequence[UUID | str] | None,
    retention_class: RetentionClass | None = None,
) -> str:
    """The events as the function takes them.

    Args:
        codec: Of the store.
        events: The events.
        event_ids: Their ids, or None for new ones.
        retention_class: Of all of them; None: hot.

    Returns:
        A JSON array.

    Raises:
        InvalidEvent: When one is none, or its values are not of its fields' types.
        PayloadTooLarge: When a payload is.
        ConfigError: When there are not as many ids as events, or there is no such class.
    """
    about = {}
    if retention_class is not None:
        if retention_class not in get_args(RetentionClass):
            raise ConfigError(f"there is no retention_class {retention_class!r}", hint="hot, warm or cold")
        about = {"r": f'"{retention_class}"'}
    if event_ids is None:
        return b"".join((b"[", b",".join([codec.encode(event, **about) for event in events]), b"]")).decode()
    given = list(events)
    if len(given) != len(event_ids) or len({str(event_id) for event_id in event_ids}) != len(given):
        raise ConfigError("event_ids has an id of its own for each event", hint="[uuid4() for _ in events]")
    try:
        ids = [f'"{event_id if isinstance(event_id, UUID) else UUID(event_id)}"' for event_id in event_ids]
    except ValueError:
        raise ConfigError("an event id is a UUID", hint="uuid.uuid4(), or uuid.uuid5 of what is repeated") from None
    return f"[{','.join(codec.encode(event, id=ids[place], **about).decode() for place, event in enumerate(given))}]"


def looked_through(events: str, version: int | None) -> str:
    """Events with the word that their ids were looked for in the archive.

    Args:
        events: As `encode_events` gives them; some.
        version: Up to which version of the stream; None: they were not.

    Returns:
        The same with it.
    """
    return events if version is None else f'[{{"looked":{version},{events[2:]}'


def uuids(event_ids: Sequence[UUID | str] | None) -> list[UUID]:
    """Ids of events as values.

    Args:
        event_ids: As they were given.

    Returns:
        The same.
    """
    return [one if isinstance(one, UUID) else UUID(one) for one in event_ids or ()]


def encode_many(
    codec: Codec, appends: Iterable[Append], metadata_of: Any, looked: Mapping[str, int] | None = None
) -> tuple[str, dict[str, Expected]]:
    """Several appends as the function takes them.

    Args:
        codec: Of the store.
        appends: What is appended.
        metadata_of: Puts an append's metadata over that of the context.
        looked: Up to which version a stream's ids were looked for in the archive.

    Returns:
        A JSON array, and what each stream is expected to be.

    Raises:
        ConfigError: When a stream is there twice, has no event, or is none.
    """
    items: list[str] = []
    expected: dict[str, Expected] = {}
    for append in appends:
        looked_at(append.stream, append.stream_type)
        if append.stream in expected:
            raise ConfigError(f"the stream {append.stream} is there twice", hint="put its events together")
        events = encode_events(codec, append.events, append.event_ids, append.retention_class)
        if events == "[]":
            raise ConfigError(f"no event is given for the stream {append.stream}", hint="leave it out")
        events = looked_through(events, (looked or {}).get(append.stream))
        expected[append.stream] = append.expected
        about = {"stream": append.stream, "type": append.stream_type, "expected": expected_number(append.expected)}
        head = msgspec.json.encode(about).decode()[:-1]
        items.append(f'{head},"events":{events},"metadata":{codec.metadata(metadata_of(append.metadata))}}}')
    return f"[{','.join(items)}]", expected
