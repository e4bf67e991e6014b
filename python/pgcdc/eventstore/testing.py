"""Tests of decisions: given these events, when this is wanted, then that follows. No server and no store is needed.

    given(Order, OrderCreated("1", "anna", items)).when(pay, Decimal(5)).then(OrderPaid(items, Decimal(5)))
    given(Order).when(pay, Decimal(5)).then_raises(WrongOrder)

What is given goes through the same encoding as in a store, so that an event that could not be read again is found here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

import msgspec

from pgcdc.errors import ConfigError
from pgcdc.eventstore.codec import Codec
from pgcdc.eventstore.commits import EventRow
from pgcdc.eventstore.event import Event, default_registry
from pgcdc.eventstore.memory import MemoryEventStore
from pgcdc.eventstore.projection import Projection
from pgcdc.eventstore.request import Append
from pgcdc.eventstore.table import MemoryTable
from pgcdc.lsn import Position

__all__ = ["Decision", "Given", "MemoryEventStore", "assert_idempotent", "given"]

State = TypeVar("State")
_STREAM: Final = "given"


class Given(Generic[State]):
    """What has happened; made by `given`.

    Attributes:
        state: What follows from it.
    """

    def __init__(self, state: type[State], events: tuple[Event, ...], at: datetime) -> None:
        if events:
            classes = {type(event) for event in events}
            store = MemoryEventStore(events=classes, registry=type(events[0]).__registry__, now=lambda: at)
            store.append(_STREAM, events)
            self.state: State = store.load(_STREAM, state)[0]
        else:
            self.state = state()  # whose events those of the class are is not known before there is one
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


Rows = list[tuple[Position, EventRow]]


def assert_idempotent(
    projection: type, events: Iterable[Event | Sequence[Event] | Append], *, runs: int = 20, seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """See that a projection says the same of the same events, however they are cut, killed in between, and repeated.

    They are applied once in one go; then each event alone, as when another one is skipped; then several times in
    batches that end anywhere. Before a batch the program may be killed when it has applied a part of it, so that it
    applies that again; and what was written already may come again, which never gets to the class: its place tells. The
    tables are in memory.

    What fails is a projection whose rows depend on something else than the events and its tables: it remembers from one
    event to the next, reads the clock, or draws lots. Give it several events of each kind: there is nothing to remember
    from a single one. What is the same in all runs is not seen: the day of today, the version of a file. Nor is what a
    handler does elsewhere, a mail or a list that grows, although it does that again for what is applied again: effects
    are for a reactor.

    Args:
        projection: The class.
        events: What each transaction appends: an event, several of them, or an `Append` to say to which stream.
        runs: How many times; at least once.
        seed: Of the random numbers.

    Returns:
        The rows of its tables, by the tables' names.

    Raises:
        AssertionError: When two runs differ.
        ConfigError: When there is no run to compare with.
    """
    if runs < 1:
        raise ConfigError("nothing is seen without a run to compare with", hint="runs=20")
    transactions, codec = _transactions(events)
    declared = Projection("projection", 1, projection, codec, "public", "stop")
    right = _run(declared, [transactions])
    chance = random.Random(seed)  # noqa: S311 (the same each time)
    for number in range(1, runs + 1):
        batches = _alone(transactions) if number == 1 else _cut(transactions, chance)
        found = _run(declared, batches, chance)
        for table, rows in right.items():
            if found[table] != rows:
                differing = next((pair for pair in zip(rows, found[table], strict=False) if pair[0] != pair[1]), None)
                raise AssertionError(
                    f"the table {table} of {projection.__qualname__} is another one in run {number}, in"
                    f" {len(batches)} batches: {len(rows)} rows became {len(found[table])}"
                    + ("" if differing is None else f", {differing[0]} became {differing[1]}")
                )
    return right


def _alone(transactions: list[Rows]) -> list[list[Rows]]:
    """Each event by itself."""
    return [[[row]] for rows in transactions for row in rows]


def _cut(transactions: list[Rows], chance: random.Random) -> list[list[Rows]]:
    """Batches that end anywhere."""
    batches: list[list[Rows]] = []
    left = transactions
    while left:
        size = chance.randint(1, len(left))
        batches.append(left[:size])
        left = left[size:]
    return batches


def _transactions(events: Iterable[Event | Sequence[Event] | Append]) -> tuple[list[Rows], Codec]:
    appends = [
        one if isinstance(one, Append) else Append(stream=_STREAM, events=[one] if isinstance(one, Event) else one)
        for one in events
    ]
    classes = {type(event) for append in appends for event in append.events}
    registry = next(iter(classes)).__registry__ if classes else default_registry
    store = MemoryEventStore(events=classes, registry=registry, now=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    transactions = []
    for number, append in enumerate(appends, 1):
        before = len(store.read(append.stream))
        store.append_many([append])
        rows = [
            EventRow(
                id=one.id,
                stream_id=one.stream_id,
                stream_type=one.stream_type,
                event_type=one.event_type,
                event_version=one.event_version,
                payload=msgspec.json.encode(one.event).decode(),
                metadata=msgspec.json.encode(one.metadata).decode(),
                occurred_at=one.occurred_at,
                sequence=one.sequence,
                event_id=one.event_id,
            )
            for one in store.read(append.stream, after=before)
        ]
        transactions.append([(Position(number * 8, index), row) for index, row in enumerate(rows)])
    return transactions, Codec(registry, classes)


def _run(
    projection: Projection, batches: Iterable[list[Rows]], chance: random.Random | None = None
) -> dict[str, list[dict[str, Any]]]:
    tables = {table.name: MemoryTable(table) for table in projection.tables}

    def instance() -> object:
        made = projection.owner()
        for table in projection.tables:
            table.bind(made, tables[table.name])
        return made

    before: list[Rows] = []
    place = Position(0, 0)
    for batch in batches:
        if chance is not None and chance.random() < 0.5:  # killed within it: nothing of that was written
            kept = {name: {key: dict(row) for key, row in table.rows.items()} for name, table in tables.items()}
            for rows in batch[: chance.randint(0, len(batch))]:
                projection.apply(instance(), rows)
            for name, table in tables.items():
                table.forget()
                table.rows = kept[name]
        again = before if chance is not None and chance.random() < 0.5 else []
        working = instance()
        for rows in [*again, *batch]:
            if rows and rows[0][0] > place:
                projection.apply(working, rows)
                place = rows[-1][0]
        for table in tables.values():
            table.write()
        before = batch
    return {
        name: sorted(table.rows.values(), key=lambda row: [str(value) for value in row.values()])
        for name, table in tables.items()
    }
