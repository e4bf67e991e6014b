"""State as a left fold of events: the class of the state says how, by `apply` or by one method for each event."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from pgcdc.errors import ConfigError
from pgcdc.eventstore.event import Event, Registry, UnknownEvent

if TYPE_CHECKING:
    from pgcdc.eventstore.codec import Codec, Decode

__all__ = ["Fold", "fold_of", "method_of"]

State = TypeVar("State")
_BORDER: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^0-9A-Za-z]+")


class Fold(Generic[State]):
    """How events become a state.

    Args:
        state: The class of the state; `state()` is the one before the first event.
        registry: The classes of events, to find a method that handles none.

    Attributes:
        is_timed: Whether it takes the time of an event: `apply(self, event, occurred_at)`.
    """

    def __init__(self, state: type[State], registry: Registry) -> None:
        self.begin: Callable[[], State] = state
        self.state = state
        self._methods = {name: getattr(state, name) for name in dir(state) if name.startswith("on_")}
        self._by_type: dict[type, Callable[..., State | None] | None] = {}
        apply = getattr(state, "apply", None)
        if apply is None and not self._methods:
            raise ConfigError(
                f"{state.__qualname__} does not say how it follows from events",
                hint="def apply(self, event): match event: … ; or a method for each: def on_order_paid(self, event)",
            )
        if apply is None:
            known = {method_of(name) for name in registry.names()}
            if lost := sorted(name for name in self._methods if name not in known):
                raise ConfigError(
                    f"{state.__qualname__}.{lost[0]} handles no event that there is",
                    hint="the event OrderPaid is handled by on_order_paid; was the module of the events imported?",
                )
        self._apply: Callable[..., State | None] | None = apply
        handlers = self._methods.values() if apply is None else (apply,)
        self._timed = {handler for handler in handlers if _takes_time(handler)}
        self.is_timed = bool(self._timed)

    def __call__(
        self, state: State, event: Event | UnknownEvent, sequence: int, stream: str, occurred_at: datetime | None = None
    ) -> State:
        """Take one step.

        Args:
            state: The state before.
            event: The event.
            sequence: Its number, for the note of an error.
            stream: Its stream, likewise.
            occurred_at: When, for a class that takes it.

        Returns:
            The state after.

        Raises:
            Exception: What the state's class raises; a note says at which event.
        """
        apply = self._step(event)
        if apply is None:
            return state
        try:
            after = apply(state, event, occurred_at) if apply in self._timed else apply(state, event)
        except Exception as error:
            error.add_note(f"at event {sequence} of the stream {stream}, {type(event).__name__}")
            raise
        return self._after(state, after, event)

    def over(
        self,
        rows: Iterable[tuple[int, str, int, str, datetime | None]],
        state: State,
        version: int,
        codec: Codec,
        stream: str,
    ) -> tuple[State, int]:
        """Take a step for each row of a stream.

        Args:
            rows: Of each: sequence, event_type, event_version, payload as JSON, occurred_at where `is_timed`.
            state: The state before them.
            version: The stream's version before them.
            codec: What makes events of them.
            stream: The stream, for errors.

        Returns:
            The state and the version after them.
        """
        named: tuple[str, int] | None = None
        steps: dict[tuple[str, int], tuple[Decode, Callable[..., State | None] | None, bool]] = {}
        event: Event | UnknownEvent | None = None
        sequence = version
        try:
            for sequence, name, number, payload, occurred_at in rows:
                event = None
                if named is None or name != named[0] or number != named[1]:  # as a rule they are as before
                    named = name, number
                    known = steps.get(named)
                    if known is None:
                        # All of a name and version are of one class, so what takes them is asked for once.
                        decode = codec.reader(name, number)
                        event = decode(payload)
                        apply = self._step(event)
                        is_timed = apply in self._timed
                        steps[named] = decode, apply, is_timed
                    else:
                        decode, apply, is_timed = known
                        event = decode(payload)
                else:
                    event = decode(payload)
                if apply is not None:
                    after = apply(state, event, occurred_at) if is_timed else apply(state, event)
                    state = after if after is not None else self._after(state, after, event)
                version = sequence
        except Exception as error:
            if sequence == version:
                raise  # from where the rows come: the last one that came is done
            if event is None:
                codec.decode(name, number, payload, stream, sequence)  # raises what says more
            else:
                error.add_note(f"at event {sequence} of the stream {stream}, {type(event).__name__}")
            raise
        return state, version

    def _step(self, event: Event | UnknownEvent) -> Callable[..., State | None] | None:
        """What takes the events of this one's class; None: they change nothing."""
        if type(event) is UnknownEvent:
            return None
        return self._apply or self._handler(type(event))

    def _after(self, state: State, after: State | None, event: Event | UnknownEvent) -> State:
        """The state after an event, by what the class has returned."""
        if after is not None:
            return after
        if self._apply is None:
            return state  # a method for one event may change the state in its place
        raise ConfigError(
            f"{self.state.__qualname__}.apply returned None for {type(event).__name__}",
            hint="return the state after the event; for an event that changes nothing: case _: return self",
        )

    def _handler(self, event_type: type) -> Callable[..., State | None] | None:
        if event_type not in self._by_type:
            self._by_type[event_type] = self._methods.get(method_of(event_type.__event_type__))  # type: ignore[attr-defined]
        return self._by_type[event_type]


def _takes_time(handler: Callable[..., Any]) -> bool:
    """Whether it has a third parameter, after the state and the event."""
    parameters = inspect.signature(handler).parameters.values()
    return sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in parameters) > 2


def method_of(name: str) -> str:
    """The method that handles an event: OrderPaid is handled by on_order_paid.

    Args:
        name: The event's name.

    Returns:
        The method's name.
    """
    return "on_" + "_".join(part.lower() for part in _BORDER.split(name) if part)


def fold_of(known: dict[type, Fold[Any]], state: type[State], registry: Registry) -> Fold[State]:
    """The fold of a class, made at its first use.

    Args:
        known: Where it is kept.
        state: The class.
        registry: The classes of events.

    Returns:
        The fold.

    Raises:
        ConfigError: When the class does not say how.
    """
    fold = known.get(state)
    if fold is None:
        fold = known[state] = Fold(state, registry)
    return fold
