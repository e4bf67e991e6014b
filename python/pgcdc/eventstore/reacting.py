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

__all__ = ["Reactor", "ReactorRow"]

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

    def handler(self) -> Callable[[Any], Awaitable[None] | None]:
        """What a pipeline calls with each change.

        Returns:
            A function, or a coroutine function when one of the methods is.
        """
        instance = self.owner()

        def call(change: Insert[ReactorRow]) -> Any:
            row = change.new
            found = self.handlers.of(row.event_type)
            if found is None:
                return None
            method, takes_envelope = found
            position = Position(*change.position)  # type: ignore[misc]
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
            recorded = recorded_of(whole, position, self._codec)
            return method(instance, recorded.event, recorded) if takes_envelope else method(instance, recorded.event)

        async def acall(change: Insert[ReactorRow]) -> None:
            result = call(change)
            if result is not None:
                await result

        return acall if self.handlers.is_async else call
