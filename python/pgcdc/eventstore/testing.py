"""Tests of decisions: given these events, when this is wanted, then that follows. No server and no store is needed.

    given(Order, OrderCreated("1", "anna", items)).when(pay, Decimal(5)).then(OrderPaid(items, Decimal(5)))
    given(Order).when(pay, Decimal(5)).then_raises(WrongOrder)

What is given goes through the same encoding as in a store, so that an event that could not be read again is found here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

from pgcdc.eventstore.event import Event
from pgcdc.eventstore.memory import MemoryEventStore

__all__ = ["Decision", "Given", "MemoryEventStore", "given"]

State = TypeVar("State")
_STREAM: Final = "given"


class Given(Generic[State]):
    """What has happened; made by `given`.

    Attributes:
        state: What follows from it.
    """

    def __init__(self, state: type[State], events: tuple[Event, ...], at: datetime) -> None:
        self._store = MemoryEventStore(events={type(event) for event in events}, now=lambda: at)
        if events:
            self._store.append(_STREAM, events)
        self.state: State = self._store.load(_STREAM, state)[0]
        self._class = state
        self._events = events
        self._at = at

    def when(self, decide: Callable[..., Iterable[Event]], *arguments: Any, **named: Any) -> Decision[State]:
        """Ask for something.

        Args:
            decide: What is called with the state and the arguments; it returns the events that follow.
            arguments: More arguments of it.
            named: More arguments of it, by name.

        Returns:
            What is looked at with `then` and `then_raises`.
        """
        try:
            decided = tuple(decide(self.state, *arguments, **named))
        except Exception as error:
            return Decision(self._class, self._events, None, error, self._at)
        return Decision(self._class, self._events, decided, None, self._at)

    def then_state(self, **fields: Any) -> State:
        """Look at the state that follows from what was given.

        Args:
            fields: What its fields have to be.

        Returns:
            The state.

        Raises:
            AssertionError: When one is something else.
        """
        return _fields(self.state, fields)


class Decision(Generic[State]):
    """What was decided; made by `Given.when`."""

    def __init__(
        self,
        state: type[State],
        given_: tuple[Event, ...],
        events: tuple[Event, ...] | None,
        error: Exception | None,
        at: datetime,
    ) -> None:
        self._class = state
        self._given = given_
        self._events = events
        self._error = error
        self._at = at

    def then(self, *events: Event) -> Decision[State]:
        """Say which events follow; none: nothing happens.

        Args:
            events: The events, in order.

        Returns:
            The same, to look at the state, too.

        Raises:
            AssertionError: When others follow.
            Exception: What was raised instead.
        """
        if self._error is not None:
            raise self._error
        assert self._events == events, f"{_named(self._events or ())} follows, not {_named(events)}"
        return self

    def then_raises(self, kind: type[Exception]) -> Exception:
        """Say that it is refused.

        Args:
            kind: By what exception.

        Returns:
            The exception.

        Raises:
            AssertionError: When it is not refused.
            Exception: What was raised, when it is another one.
        """
        if self._error is None:
            raise AssertionError(f"{_named(self._events or ())} follows, and {kind.__name__} is not raised")
        if not isinstance(self._error, kind):
            raise self._error
        return self._error

    def then_state(self, **fields: Any) -> State:
        """Look at the state after the events that follow; they are stored and read again for it.

        Args:
            fields: What its fields have to be.

        Returns:
            The state.

        Raises:
            AssertionError: When one is something else.
            Exception: What was raised instead, by the decision or the fold.
        """
        if self._error is not None:
            raise self._error
        return _fields(Given(self._class, (*self._given, *(self._events or ())), self._at).state, fields)


def given(state: type[State], *events: Event, at: datetime | None = None) -> Given[State]:
    """Say what has happened.

    Args:
        state: The class of the state.
        events: The events of one stream, in order; none: it does not exist.
        at: When, for folds that take the time. Now without it.

    Returns:
        What `when` is asked of.
    """
    return Given(state, events, at or datetime.now(UTC))


def _fields(state: State, fields: dict[str, Any]) -> State:
    for name, value in fields.items():
        found = getattr(state, name)
        assert found == value, f"{name} is {found!r}, not {value!r}"
    return state


def _named(events: tuple[Event, ...]) -> str:
    return ", ".join(map(repr, events)) or "nothing"
