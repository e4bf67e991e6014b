"""What one consumer asked for: a name, the tables and actions that it gets, and the handler or sink that gets them."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from pgcdc.errors import ConfigError
from pgcdc.pipeline.options import Options
from pgcdc.protocol import Batch
from pgcdc.sink import Sink
from pgcdc.tables import Table, parse_table

__all__ = [
    "Action",
    "AnyAction",
    "Around",
    "Handler",
    "HandlerSubscription",
    "SinkSubscription",
    "Subscription",
    "Table",
    "parse_table",
]

Action: TypeAlias = Literal["insert", "update", "delete", "truncate"]
AnyAction: TypeAlias = Action | Literal["schema"]
Handler: TypeAlias = Callable[[Any], Awaitable[None] | None]
Around: TypeAlias = Callable[[str, Batch], AbstractContextManager[object]]
"""Called with a consumer's name and the batch that is about to be written to it."""

ROW_ACTIONS: Final = frozenset({"insert", "update", "delete"})
_ACTIONS: Final = frozenset({*get_args(Action), "schema"})


@dataclass(frozen=True)
class Subscription:
    """What every consumer has.

    Attributes:
        name: The consumer's name: its stored position belongs to it.
        tables: The tables that it gets changes of.
        actions: What it is told of; None for everything.
        copies: Whether it takes part in the initial copy.
        options: What else was said of it.
        told: Whether it is told that a table has another shape.
        gets_rows: Whether it gets changes at all, and not only that.
        around: What is entered around each write of a batch; None: nothing.
    """

    name: str
    tables: frozenset[Table]
    actions: frozenset[str] | None
    copies: bool
    options: Options
    told: bool = field(default=False, kw_only=True)
    gets_rows: bool = field(default=True, kw_only=True)
    around: Around | None = field(default=None, kw_only=True)

    @property
    def messages(self) -> frozenset[str]:
        """The prefixes of the logical messages that it gets."""
        return self.options.messages

    def takes(self, action: Action) -> bool:
        """Whether this consumer asked to be told of an action."""
        return self.actions is None or action in self.actions


@dataclass(frozen=True)
class HandlerSubscription(Subscription):
    """A function that is called with one change after another.

    Attributes:
        handler: The function, or coroutine function.
        row: The msgspec struct that `new` and `old` are made of; None: one made for the table.
    """

    handler: Handler
    row: type[Any] | None


@dataclass(frozen=True)
class SinkSubscription(Subscription):
    """A sink that is given whole batches.

    Attributes:
        sink: The sink.
    """

    sink: Sink


def choose_tables(
    consumer: str, tables: Collection[str | Table] | None, published: Collection[Table], *, messages: bool = False
) -> frozenset[Table]:
    """Check the tables that a consumer asks for.

    Args:
        consumer: Its name, for the error.
        tables: What it asks for; None for all.
        published: The tables of the pipeline.
        messages: Whether it gets logical messages, so that it may ask for no table.

    Returns:
        The tables.

    Raises:
        ConfigError: When one is not a table of the pipeline, or there is none.
    """
    if not published and not messages:
        raise ConfigError(
            f"the pipeline of consumer {consumer!r} has no tables",
            hint='Pipeline(…, tables=["orders"]); only for logical messages and events of pgcdc.emit it takes none',
        )
    if tables is None:
        return frozenset(published)
    if isinstance(tables, str):
        raise ConfigError(f"tables of consumer {consumer!r} must be a list", hint=f"write tables=[{tables!r}]")
    chosen = frozenset(parse_table(table) for table in tables)
    if not chosen and not messages:
        raise ConfigError(f"consumer {consumer!r} asks for no table", hint="leave tables out to get all of them")
    for table in sorted(chosen - set(published)):
        name = ".".join(table)
        similar = get_close_matches(name, [".".join(other) for other in published], n=1)
        meant = f"; did you mean {similar[0]!r}?" if similar else ""
        raise ConfigError(
            f"consumer {consumer!r} asks for table {name!r}, which the pipeline does not have",
            hint=f"add it to Pipeline(…, tables=[…]){meant}",
            table=name,
        )
    return chosen


def choose_actions(consumer: str, actions: Collection[str]) -> frozenset[str]:
    """Check the actions that a consumer asks for.

    Args:
        consumer: Its name, for the error.
        actions: What it asks for.

    Returns:
        The actions.

    Raises:
        ConfigError: When one of them does not exist.
    """
    if isinstance(actions, str):
        actions = [actions]
    for action in actions:
        if action not in _ACTIONS:
            raise ConfigError(
                f"consumer {consumer!r} asks for the action {action!r}, which does not exist",
                hint='the actions are "insert", "update", "delete", "truncate" and "schema"',
            )
    return frozenset(actions)


def check_row(consumer: str, row: type[Any] | None) -> None:
    """Make sure that rows can be made of a class.

    Args:
        consumer: The consumer's name, for the error.
        row: The class; None is right too.

    Raises:
        ConfigError: When it is not a msgspec struct class.
    """
    if row is not None and not issubclass(row, msgspec.Struct):
        raise ConfigError(
            f"row of consumer {consumer!r} is not a msgspec.Struct class",
            hint="class Order(msgspec.Struct): … with a field for each column wanted",
        )


def check_sink(name: str, sink: object) -> None:
    """Make sure that an object is a sink.

    Args:
        name: The consumer's name, for the error.
        sink: The object.

    Raises:
        ConfigError: When it lacks a method of sinks.
    """
    for method in ("open", "write", "close"):
        if not callable(getattr(sink, method, None)):
            raise ConfigError(f"the sink of consumer {name!r} has no method {method!r}", hint="see pgcdc.sink.Sink")


def is_async(function: object) -> bool:
    """Whether calling it gives a coroutine; also for objects whose `__call__` is a coroutine function."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
