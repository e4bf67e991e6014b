"""Projections as they are declared: a class with tables and a method for each kind of event.

@store.projection("daily_revenue", version=1)
class DailyRevenue:
revenue = Table("day date, category text, total numeric NOT NULL DEFAULT 0", key=["day", "category"])

def on_order_paid(self, event: OrderPaid, recorded: Recorded) -> None:
for item in event.items:
self.revenue.add(day=recorded.occurred_at.date(), category=item.category, total=item.price * item.qty)
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, get_args

from pgcdc.errors import ConfigError
from pgcdc.eventstore.codec import Codec, Decode
from pgcdc.eventstore.commits import EventRow, recorded_of
from pgcdc.eventstore.folding import method_of
from pgcdc.eventstore.table import Table
from pgcdc.lsn import Position

__all__ = ["Handlers", "OnFailure", "Projection"]

OnFailure = Literal["park", "dead_letter", "stop"]
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,39}")


class Handlers:
    """The methods of a class that take events, by the events' names.

    Args:
        owner: The class.
        codec: What knows the classes of events.

    Raises:
        ConfigError: When it has none, or one that takes no event that there is.
    """

    def __init__(self, owner: type, codec: Codec) -> None:
        methods = {name: getattr(owner, name) for name in dir(owner) if name.startswith("on_")}
        self.owner = owner
        self._codec = codec
        self._by_method: dict[str, tuple[Callable[..., Any], bool]] = {}
        for name, method in methods.items():
            self._by_method[name] = method, _takes_envelope(owner, name, method)
        if not methods:
            raise ConfigError(
                f"{owner.__qualname__} takes no event", hint="a method for each: def on_order_paid(self, event)"
            )
        known = {method_of(name) for name in codec.registry.names()}
        if lost := sorted(set(methods) - known):
            raise ConfigError(
                f"{owner.__qualname__}.{lost[0]} handles no event that there is",
                hint="the event OrderPaid is handled by on_order_paid; was the module of the events imported?",
            )
        self._by_event: dict[str, tuple[Callable[..., Any], bool] | None] = {}

    def of(self, event_type: str) -> tuple[Callable[..., Any], bool] | None:
        """The method for an event.

        Args:
            event_type: Its name.

        Returns:
            The method, and whether it takes the envelope; None when there is none.
        """
        try:
            return self._by_event[event_type]
        except KeyError:
            found = self._by_event[event_type] = self._by_method.get(method_of(event_type))
            return found

    @property
    def is_async(self) -> bool:
        """Whether one of the methods is a coroutine function."""
        return any(inspect.iscoroutinefunction(method) for method, _ in self._by_method.values())


def _takes_envelope(owner: type, name: str, method: Callable[..., Any]) -> bool:
    parameters = [
        one
        for one in inspect.signature(method).parameters.values()
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    if len(parameters) not in (2, 3):
        raise ConfigError(
            f"{owner.__qualname__}.{name} does not take an event",
            hint=f"def {name}(self, event), or def {name}(self, event, recorded)",
        )
    return len(parameters) == 3


class Projection:
    """A projection as it was declared; made by `EventStore.projection`.

    Args:
        name: Its name.
        version: Its version: another one is built beside what is live.
        owner: The class.
        codec: What knows the classes of events.
        schema: Where its tables are while they are live.
        on_failure: What happens when a handler raises, or the database refuses what it said.

    Raises:
        ConfigError: When it cannot be.
    """

    def __init__(self, name: str, version: int, owner: type, codec: Codec, schema: str, on_failure: OnFailure) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} is no name for a projection", hint="at most 40 small letters, digits and underscores"
            )
        if isinstance(version, bool) or version < 1:
            raise ConfigError(f"the version of the projection {name} is a whole number from 1 on", hint="version=1")
        if on_failure not in get_args(OnFailure):
            raise ConfigError(
                f"on_failure of the projection {name} is park, dead_letter or stop", hint='on_failure="park"'
            )
        if '"' in schema or not schema:
            raise ConfigError(f"the schema of the projection {name} cannot be", hint='schema="public"')
        codec.adopt(owner.__module__)
        self._codec = codec
        self.name = name
        self.version = version
        self.owner = owner
        self.schema = schema
        self.on_failure: OnFailure = on_failure
        said = {key: value for one in reversed(owner.__mro__) for key, value in vars(one).items()}  # the last one holds
        self.tables: Sequence[Table] = [value for value in said.values() if isinstance(value, Table)]
        self.handlers = Handlers(owner, codec)
        if not self.tables:
            raise ConfigError(
                f"the projection {name} has no table",
                hint='revenue = Table("day date, total numeric", key=["day"]); what has effects elsewhere is a reactor',
            )
        if self.handlers.is_async:
            raise ConfigError(
                f"the projection {name} has a handler that is a coroutine function",
                hint="a handler says what becomes of rows, and waits for nothing; what calls others is a reactor",
            )

    def __repr__(self) -> str:
        return f"Projection({self.name!r}, version={self.version})"

    def apply(self, instance: object, rows: Iterable[tuple[tuple[int, int], EventRow]]) -> None:
        """Give events to the handlers; one that no handler takes is not decoded.

        Args:
            instance: Of the class, with its tables bound.
            rows: The events' rows, with their positions.

        Raises:
            Exception: What a handler raises; a note says at which event.
        """
        codec = self._codec
        name, version = None, 0
        handler: tuple[Callable[..., Any], bool] | None = None
        decode: Decode | None = None
        for position, row in rows:
            if row.event_type != name or row.event_version != version:  # as a rule they are as before
                name, version, decode = row.event_type, row.event_version, None
                handler = self.handlers.of(name)
            if handler is None:
                continue
            method, takes_envelope = handler
            try:
                if takes_envelope:
                    recorded = recorded_of(row, Position(*position), codec)
                    method(instance, recorded.event, recorded)
                elif decode is None:
                    event = codec.decode(row.event_type, row.event_version, row.payload, row.stream_id, row.sequence)
                    decode = codec.reader(row.event_type, row.event_version)
                    method(instance, event)
                else:
                    try:
                        event = decode(row.payload)
                    except Exception as error:
                        raise codec.invalid(row.event_type, version, error, row.stream_id, row.sequence) from error
                    method(instance, event)
            except Exception as error:
                error.add_note(f"at event {row.sequence} of the stream {row.stream_id}, {row.event_type}")
                raise
