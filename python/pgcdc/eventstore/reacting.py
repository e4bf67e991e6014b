"""Reactors: what has effects elsewhere when an event has happened. At least once, and never in a rebuild.

@store.reactor("mails")
class Mails:
def on_order_paid(self, event: OrderPaid, recorded: Recorded) -> None:
send(template="paid", key=str(recorded.event_id))
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from pgcdc.errors import ConfigError
from pgcdc.events import Insert
from pgcdc.eventstore.codec import Codec
from pgcdc.eventstore.commits import EventRow, recorded_of
from pgcdc.eventstore.projection import Handlers
from pgcdc.lsn import Position
from pgcdc.pipeline.options import ConsumerOptions

__all__ = ["BoundReactor", "Reactor", "ReactorRow"]

_encode: Final = msgspec.json.Encoder(decimal_format="number").encode


class ReactorRow(msgspec.Struct, gc=False):
    """A row of the table, as handlers of a pipeline are given it: documents are decoded."""

    id: int
    stream_id: str
    stream_type: str
    event_type: str
    event_version: int
    payload: Any
    metadata: Any
    occurred_at: Any
    sequence: int
    event_id: Any


class Reactor:
    """A reactor as it was declared; made by `EventStore.reactor`.

    Args:
        name: Its name.
        owner: The class.
        codec: What knows the classes of events.
        options: Of its consumer.

    Raises:
        ConfigError: When it cannot be.
    """

    def __init__(self, name: str, owner: type, codec: Codec, options: ConsumerOptions) -> None:
        if not name:
            raise ConfigError("a reactor needs a name", hint='@store.reactor("mails")')
        codec.adopt(owner.__module__)
        self.name = name
        self.owner = owner
        self.handlers = Handlers(owner, codec)
        self._codec = codec
        self.options: ConsumerOptions = {"snapshot": "never", **options, "name": name}
        if (options.get("concurrency", 1) > 1 or options.get("on_failure") == "hold") and "key" not in options:
            self.options["key"] = ["stream_id"]  # the order that there is: that of a stream

    def __repr__(self) -> str:
        return f"Reactor({self.name!r})"

    def bound(self) -> BoundReactor:
        """The same with an instance of its class, for one pipeline."""
        return BoundReactor(self, self._codec)


class BoundReactor:
    """A reactor that is called.

    Args:
        reactor: What was declared.
        codec: What makes events of payloads.

    Attributes:
        name: Its name.
        options: Of its consumer.
        is_async: Whether one of its methods is a coroutine function.
    """

    def __init__(self, reactor: Reactor, codec: Codec) -> None:
        self.name = reactor.name
        self.options = reactor.options
        self.is_async = reactor.handlers.is_async
        self._handlers = reactor.handlers
        self._codec = codec
        self._instance = reactor.owner()

    def react(self, row: EventRow, position: Position) -> Any:
        """Call the method for an event, if there is one.

        Args:
            row: The event's row.
            position: Its place.

        Returns:
            What the method returned.
        """
        found = self._handlers.of(row.event_type)
        if found is None:
            return None
        method, takes_envelope = found
        recorded = recorded_of(row, position, self._codec)
        if takes_envelope:
            return method(self._instance, recorded.event, recorded)
        return method(self._instance, recorded.event)

    def handler(self) -> Callable[[Any], Awaitable[None] | None]:
        """What a pipeline calls with each change.

        Returns:
            A function, or a coroutine function when one of the methods is.
        """

        def call(change: Insert[ReactorRow]) -> Any:
            row = change.new
            whole = EventRow(
                id=row.id,
                stream_id=row.stream_id,
                stream_type=row.stream_type,
                event_type=row.event_type,
                event_version=row.event_version,
                payload=_encode(row.payload).decode(),
                metadata=_encode(row.metadata).decode(),
                occurred_at=row.occurred_at,
                sequence=row.sequence,
                event_id=row.event_id,
            )
            return self.react(whole, Position(*change.position))  # type: ignore[misc]

        async def acall(change: Insert[ReactorRow]) -> None:
            result = call(change)
            if result is not None:
                await result

        return acall if self.is_async else call
