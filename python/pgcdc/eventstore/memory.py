"""A store in memory, for tests: what the one in PostgreSQL does, by the same classes, without a server.

Over 400 lines because it has all that a store has.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, Self, TypeVar
from uuid import UUID, uuid4

import msgspec

from pgcdc.errors import ConcurrencyConflict, ConfigError, EventStoreError
from pgcdc.eventstore.arguments import behind, looked_at, moment_of, piece_of, version_of
from pgcdc.eventstore.codec import Codec
from pgcdc.eventstore.context import current_metadata
from pgcdc.eventstore.event import Event, Registry, default_registry
from pgcdc.eventstore.folding import Fold, fold_of
from pgcdc.eventstore.history import history_of
from pgcdc.eventstore.plan import Plan
from pgcdc.eventstore.recorded import HistoryEntry, Placed, Recorded
from pgcdc.eventstore.refusals import answered, conflict, known_already
from pgcdc.eventstore.request import Append, Expected, RetentionClass, encode_events, encode_many
from pgcdc.eventstore.statements import EXPECTED, expected_number

__all__ = ["MemoryEventStore"]

State = TypeVar("State")


class _Row(msgspec.Struct):
    """An event as it would be in the table."""

    id: int
    stream_type: str
    sequence: int
    event_type: str
    event_version: int
    payload: str
    metadata: dict[str, Any]
    event_id: UUID
    occurred_at: datetime


class _Item(msgspec.Struct):
    """What `encode_events` makes."""

    t: str
    v: int
    p: msgspec.Raw
    id: UUID | None = None


class _Request(msgspec.Struct):
    """What `encode_many` makes."""

    stream: str
    type: str | None
    expected: int
    events: list[_Item]
    metadata: dict[str, Any]


_items = msgspec.json.Decoder(list[_Item]).decode
_requests = msgspec.json.Decoder(list[_Request]).decode


class MemoryEventStore:
    """The methods of `EventStore`, for tests of one's own decisions and folds. Everything is gone with the object.

    What only a database has is not here: `connection`, snapshots, `stats` and `check`. A payload that PostgreSQL would
    refuse (text with U+0000) is taken.

    Args:
        events: As for `EventStore`.
        registry: As for `EventStore`.
        max_payload_bytes: As for `EventStore`.
        now: What tells the time; the clock without it.
    """

    def __init__(
        self,
        *,
        events: Iterable[type[Event] | ModuleType] = (),
        registry: Registry = default_registry,
        max_payload_bytes: int = 262_144,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._codec = Codec(registry, events, max_payload_bytes)
        self._folds: dict[type, Fold[Any]] = {}
        self._streams: dict[str, list[_Row]] = {}
        self._now = now or (lambda: datetime.now(UTC))
        self._last_id = 0
        self._lock = threading.RLock()

    def init(self, **_options: Any) -> Plan:
        """Do nothing: there are no tables."""
        return Plan("memory", [])

    def append(
        self,
        stream: str,
        events: Iterable[Event],
        *,
        stream_type: str | None = None,
        expected: Expected = "any",
        metadata: Mapping[str, Any] | None = None,
        event_ids: Sequence[UUID | str] | None = None,
        retention_class: RetentionClass | None = None,
    ) -> int:
        """Append events to a stream, as `EventStore.append`.

        Args:
            stream: The stream's id.
            events: The events.
            stream_type: Its type.
            expected: What it has to be.
            metadata: What is said about the events.
            event_ids: Ids of the events.
            retention_class: Of no effect here, where nothing leaves.

        Returns:
            The stream's version after it.

        Raises:
            ConcurrencyConflict: When the stream is not as expected.
            EventStoreError: As for `EventStore.append`.
        """
        number = expected_number(expected)
        looked_at(stream, stream_type)
        given = list(events)
        if not given:
            return self._look(stream, expected)
        items = _items(encode_events(self._codec, given, event_ids, retention_class))
        about = _plain(self._codec, metadata)
        with self._lock:
            status, version = self._append(stream, stream_type, number, items, about)
        return answered(status, version, stream, expected)

    def append_many(self, appends: Iterable[Append]) -> dict[str, int]:
        """Append to several streams, to all or to none, as `EventStore.append_many`.

        Args:
            appends: What is appended where.

        Returns:
            The version of each stream after it.

        Raises:
            ConcurrencyConflict: When a stream is not as expected.
            EventStoreError: As for `append`.
        """
        encoded, expected = encode_many(self._codec, appends, current_metadata)
        versions: dict[str, int] = {}
        with self._lock:
            before = {stream: list(rows) for stream, rows in self._streams.items()}
            for request in sorted(_requests(encoded), key=lambda request: request.stream):
                status, version = self._append(
                    request.stream, request.type, request.expected, request.events, request.metadata
                )
                try:
                    versions[request.stream] = answered(status, version, request.stream, expected[request.stream])
                except EventStoreError:
                    self._streams = before
                    raise
        return versions

    def insert(
        self,
        stream: str,
        events: Iterable[Event],
        *,
        after: int,
        stream_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        event_ids: Sequence[UUID | str] | None = None,
        retention_class: RetentionClass | None = None,
    ) -> int:
        """Append behind a version, as `EventStore.insert`.

        Args:
            stream: The stream's id.
            events: The events.
            after: The version that the stream has.
            stream_type: Its type.
            metadata: What is said about the events.
            event_ids: Ids of the events.
            retention_class: Of no effect here, where nothing leaves.

        Returns:
            The stream's version after it.

        Raises:
            ConcurrencyConflict: When one of the numbers is taken.
            EventStoreError: When there would be a hole.
        """
        version_of(after)
        looked_at(stream, stream_type)
        given = list(events)
        if not given:
            return self._look(stream, after)
        items = _items(encode_events(self._codec, given, event_ids, retention_class))
        about = _plain(self._codec, metadata)
        with self._lock:
            version = self._version(stream)
            if after < version:
                raise conflict(stream, after, None, "23505")
            if version and stream_type not in (None, self._streams[stream][0].stream_type):
                return answered("type", version, stream, after)
            if after > version:
                raise EventStoreError(
                    f"the stream {stream} did not take the event: sequence {after + 1} would leave a hole:"
                    f" the stream is at version {version}",
                    sqlstate="55000",
                )
            if {item.id for item in items} & {row.event_id for row in self._streams.get(stream, ())}:
                raise known_already(stream)
            return answered(*self._append(stream, stream_type, after, items, about), stream, after)

    def retry(
        self,
        stream: str,
        state: type[State],
        decide: Callable[[State], Iterable[Event]],
        *,
        stream_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        attempts: int = 10,
    ) -> int:
        """Load, decide, append, as `EventStore.retry`.

        Args:
            stream: The stream's id.
            state: The class of its state.
            decide: From the state to the events that follow.
            stream_type: Its type.
            metadata: What is said about the events.
            attempts: How often at most.

        Returns:
            The stream's version after it.

        Raises:
            ConcurrencyConflict: When the last attempt came too late, too.
        """
        if attempts < 1:
            raise ConfigError("there is at least one attempt", hint="attempts=10")
        for attempt in range(1, attempts + 1):
            current, version = self.load(stream, state)
            decided = list(decide(current))
            if not decided:
                return version
            try:
                return self.append(stream, decided, stream_type=stream_type, expected=version, metadata=metadata)
            except ConcurrencyConflict as error:
                if attempt == attempts:
                    error.add_note(f"after {attempts} attempts")
                    raise
        raise AssertionError("unreachable")

    def read(self, stream: str, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Read events of a stream, as `EventStore.read`.

        Args:
            stream: The stream's id.
            after: The sequence behind which to begin.
            limit: How many at most.

        Returns:
            The events.
        """
        looked_at(stream)
        piece_of("limit", limit, 0)
        after = behind("after", after)
        with self._lock:
            rows = self._streams.get(stream, [])[after : None if limit is None else after + limit]
        return [self._recorded(stream, row) for row in rows]

    def load(self, stream: str, state: type[State]) -> tuple[State, int]:
        """Fold a stream, as `EventStore.load`.

        Args:
            stream: The stream's id.
            state: The class of the state.

        Returns:
            The state and the version it is of.
        """
        looked_at(stream)
        return self.state(stream, state, at=self._version(stream))

    def state(self, stream: str, state: type[State], *, at: int | datetime) -> tuple[State, int]:
        """Fold a stream up to a moment in its past, as `EventStore.state`.

        Args:
            stream: The stream's id.
            state: The class of the state.
            at: A sequence or a time.

        Returns:
            The state then, and the version it is of.
        """
        looked_at(stream)
        at = moment_of(at)
        fold = self._fold(state)
        rows = self._until(stream, at)
        given = ((row.sequence, row.event_type, row.event_version, row.payload, row.occurred_at) for row in rows)
        return fold.over(given, fold.begin(), 0, self._codec, stream)

    def history(
        self, stream: str, state: type[Any] | None = None, *, at: int | datetime | None = None
    ) -> list[HistoryEntry]:
        """Tell how a stream got where it is, as `EventStore.history`.

        Args:
            stream: The stream's id.
            state: The class of its state.
            at: Up to which moment.

        Returns:
            An entry for each event.
        """
        looked_at(stream)
        rows = self._until(stream, self._version(stream) if at is None else moment_of(at))
        events = [self._recorded(stream, row) for row in rows]
        return history_of(events, None if state is None else self._fold(state))

    def replay(self, *, after_id: int = 0, batch: int = 1000) -> Iterator[list[Recorded]]:
        """Read all events of all streams, as `EventStore.replay`.

        Args:
            after_id: The `id` behind which to begin.
            batch: How many at a time.

        Yields:
            Lists of events.
        """
        after_id = behind("after_id", after_id)
        piece_of("batch", batch, 1)
        with self._lock:
            found = [(row.id, stream, row) for stream, rows in self._streams.items() for row in rows]
        found = sorted((entry for entry in found if entry[0] > after_id), key=lambda entry: entry[0])
        for begin in range(0, len(found), batch):
            yield [self._recorded(stream, row) for _, stream, row in found[begin : begin + batch]]

    def scan(self, *, after_id: int = 0, batch: int = 1000) -> Iterator[list[Placed]]:
        """Read all events of all streams with no more than their place, as `EventStore.scan`.

        Args:
            after_id: The `id` behind which to begin.
            batch: How many at a time.

        Yields:
            Lists of events.
        """
        for recorded in self.replay(after_id=after_id, batch=batch):
            yield [Placed(event=one.event, stream_id=one.stream_id, sequence=one.sequence) for one in recorded]

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _fold(self, state: type[State]) -> Fold[State]:
        if state not in self._folds:
            self._codec.adopt(state.__module__)
        return fold_of(self._folds, state, self._codec.registry)

    def _version(self, stream: str) -> int:
        return len(self._streams.get(stream, ()))

    def _look(self, stream: str, expected: Expected) -> int:
        """The version of a stream that is as expected."""
        version = self._version(stream)
        fits = {"any": True, "none": not version, "exists": bool(version)}
        if not (fits[expected] if isinstance(expected, str) else version == expected):
            raise conflict(stream, expected, version)
        return version

    def _until(self, stream: str, at: int | datetime) -> list[_Row]:
        with self._lock:
            rows = list(self._streams.get(stream, ()))
        if not isinstance(at, datetime):
            return rows[:at]
        return rows[: next((place for place, row in enumerate(rows) if row.occurred_at > at), len(rows))]

    def _append(
        self, stream: str, stream_type: str | None, expected: int, items: list[_Item], metadata: dict[str, Any]
    ) -> tuple[str, int]:
        """What the function of the database does, and says."""
        rows = self._streams.get(stream, [])
        version = len(rows)
        ids = [item.id for item in items]
        if rows and ids[0] is not None:
            seen = [row.sequence for row in rows if row.event_id in ids]
            if seen:
                return ("duplicate", seen[-1]) if len(seen) == len(ids) else ("partial", version)
        if rows and stream_type is not None and rows[0].stream_type != stream_type:
            return "type", version
        if (expected >= 0 and version != expected) or (expected == EXPECTED["exists"] and not rows):
            return "conflict", version
        kind = rows[0].stream_type if rows else stream.partition("-")[0] if stream_type is None else stream_type
        rows = self._streams.setdefault(stream, [])
        now = self._now()
        for item in items:
            self._last_id += 1
            row = _Row(
                id=self._last_id,
                stream_type=kind,
                sequence=len(rows) + 1,
                event_type=item.t,
                event_version=item.v,
                payload=bytes(item.p).decode(),
                metadata=metadata,
                event_id=item.id or uuid4(),
                occurred_at=now,
            )
            rows.append(row)
        return "ok", len(rows)

    def _recorded(self, stream: str, row: _Row) -> Recorded:
        return Recorded(
            event=self._codec.decode(row.event_type, row.event_version, row.payload, stream, row.sequence),
            stream_id=stream,
            stream_type=row.stream_type,
            sequence=row.sequence,
            event_id=row.event_id,
            occurred_at=row.occurred_at,
            metadata=dict(row.metadata),
            id=row.id,
            event_type=row.event_type,
            event_version=row.event_version,
        )


def _plain(codec: Codec, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Metadata as it comes back from JSON."""
    found: dict[str, Any] = msgspec.json.decode(codec.metadata(current_metadata(metadata)))
    return found
