"""How handlers and sinks become consumers: `Pipeline.on` and `Pipeline.add`, and the types that they ask for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal, Protocol, TypeVar, Unpack, overload

from pgcdc.errors import ConfigError
from pgcdc.events import Change, Insert, Truncate, Update
from pgcdc.pipeline.options import ConsumerOptions, Options, check_options
from pgcdc.pipeline.settings import Settings
from pgcdc.pipeline.subscription import (
    ROW_ACTIONS,
    Action,
    Handler,
    HandlerSubscription,
    SinkSubscription,
    Subscription,
    Table,
    check_row,
    check_sink,
    choose_actions,
    choose_tables,
)
from pgcdc.sink import Sink, TransactionalSink

__all__ = ["Register", "Registration"]

Row = TypeVar("Row")
Given = TypeVar("Given")
Returned = TypeVar("Returned")


class Register(Protocol[Given]):
    """The decorator that `Pipeline.on` gives; it returns the function unchanged."""

    def __call__(self, handler: Callable[[Given], Returned], /) -> Callable[[Given], Returned]:
        """Register a handler."""


class Registration:
    """The consumers of one pipeline, by name.

    Args:
        settings: The pipeline's.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._subscriptions: dict[str, Subscription] = {}
        self._closed = False

    @property
    def consumers(self) -> tuple[str, ...]:
        """The names of the consumers that are registered, in the order in which they were."""
        return tuple(self._subscriptions)

    @overload
    def on(
        self,
        table: str | Table,
        action: Literal["insert", "update"],
        /,
        *actions: Literal["insert", "update"],
        row: type[Row],
        **options: Unpack[ConsumerOptions],
    ) -> Register[Insert[Row] | Update[Row]]: ...
    @overload
    def on(
        self,
        table: str | Table,
        /,
        *actions: Literal["insert", "update", "delete"],
        row: type[Row],
        **options: Unpack[ConsumerOptions],
    ) -> Register[Change[Row]]: ...
    @overload
    def on(
        self,
        table: str | Table,
        /,
        *actions: Action,
        row: type[Row],
        **options: Unpack[ConsumerOptions],
    ) -> Register[Change[Row] | Truncate]: ...
    @overload
    def on(
        self,
        table: str | Table,
        action: Literal["insert", "update"],
        /,
        *actions: Literal["insert", "update"],
        row: None = None,
        **options: Unpack[ConsumerOptions],
    ) -> Register[Insert[Any] | Update[Any]]: ...
    @overload
    def on(
        self,
        table: str | Table,
        /,
        *actions: Literal["insert", "update", "delete"],
        row: None = None,
        **options: Unpack[ConsumerOptions],
    ) -> Register[Change[Any]]: ...
    @overload
    def on(
        self,
        table: str | Table,
        /,
        *actions: Action,
        row: None = None,
        **options: Unpack[ConsumerOptions],
    ) -> Register[Change[Any] | Truncate]: ...
    def on(
        self,
        table: str | Table,
        /,
        *actions: str,
        row: type[Any] | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> Any:
        """Register a function that is called with each change of a table, one after another: a consumer of its own.

        A blocking function runs in a thread of its own, a coroutine function on the event loop. A change that it has
        returned from is done; when it raises SinkUnavailable the same change comes again later, when it raises anything
        else the pipeline stops there.

        Args:
            table: One of the pipeline's tables.
            *actions: Of `"insert"`, `"update"`, `"delete"`, `"truncate"`; the first three when none is given.
            row: The msgspec struct class of `new` and `old`; columns that it has no field for are left out.
            **options: See `ConsumerOptions`. The name is the function's, when none is given.

        Returns:
            A decorator that returns the function unchanged.

        Raises:
            ConfigError: When table, action, row or an option is not as it must be.
        """

        def register(handler: Handler) -> Handler:
            name = options.get("name")
            consumer = str(getattr(handler, "__name__", "")) if name is None else name
            if not callable(handler):
                raise ConfigError(f"the handler of consumer {consumer!r} cannot be called")
            check_row(consumer, row)
            chosen = choose_tables(consumer, [table], self._settings.tables)
            chosen_options = check_options(consumer, options, chosen)
            self._register(
                HandlerSubscription(
                    name=consumer,
                    tables=chosen,
                    actions=choose_actions(consumer, actions) or ROW_ACTIONS,
                    copies=self._copies(chosen_options),
                    options=chosen_options,
                    handler=handler,
                    row=row,
                )
            )
            return handler

        return register

    def on_message(
        self, topic: str, /, *, row: type[Any] | None = None, **options: Unpack[ConsumerOptions]
    ) -> Register[Insert[Any]]:
        """Register a function that is called with each event of a topic that `pgcdc.emit` said: a consumer of its own.

        An event comes as an insert into the table `outbox.TOPIC`, whose row has `key`, `payload` (decoded JSON, or
        bytes) and `headers`. For the rest it is as with `on`.

        Args:
            topic: The topic.
            row: The msgspec struct class of `new`, with some of these three as fields.
            **options: See `ConsumerOptions`. The name is the function's, when none is given.

        Returns:
            A decorator that returns the function unchanged.

        Raises:
            ConfigError: When row or an option is not as it must be.
        """

        def register(handler: Any) -> Any:
            name = options.get("name")
            consumer = str(getattr(handler, "__name__", "")) if name is None else name
            if not callable(handler):
                raise ConfigError(f"the handler of consumer {consumer!r} cannot be called")
            check_row(consumer, row)
            self._register(
                HandlerSubscription(
                    name=consumer,
                    tables=frozenset(),
                    actions=ROW_ACTIONS,
                    copies=False,
                    options=check_options(consumer, {**options, "topics": [topic, *options.get("topics", ())]}),
                    handler=handler,
                    row=row,
                )
            )
            return handler

        return register

    def add(
        self,
        sink: Sink,
        *,
        tables: Collection[str | Table] | None = None,
        actions: Collection[str] | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> None:
        """Register a sink: a consumer of its own.

        Args:
            sink: The sink; blocking ones run in a thread of their own.
            tables: Of the pipeline's tables; None for all of them.
            actions: Of `"insert"`, `"update"`, `"delete"`, `"truncate"`; None for all.
            **options: See `ConsumerOptions`. The name is the class's in small letters, when none is given.

        Raises:
            ConfigError: When an argument is not as it must be.
        """
        consumer = options.get("name") or type(sink).__name__.lower()
        check_sink(consumer, sink)
        chosen_tables = choose_tables(consumer, tables, self._settings.tables, messages=bool(options.get("messages")))
        chosen = check_options(consumer, options, chosen_tables)
        if chosen.concurrency > 1 and isinstance(sink, TransactionalSink):
            raise ConfigError(
                f"sink {consumer!r} keeps one position together with its data, so its batches come one after another",
                hint="leave concurrency out; several pipelines, each with some of the tables, write at once",
            )
        self._register(
            SinkSubscription(
                name=consumer,
                tables=chosen_tables,
                actions=None if actions is None else choose_actions(consumer, actions),
                copies=self._copies(chosen) and bool(chosen_tables),
                options=chosen,
                sink=sink,
            )
        )

    def _copies(self, options: Options) -> bool:
        return options.snapshot is None and self._settings.snapshot != "never"

    def _register(self, subscription: Subscription) -> None:
        if not subscription.name:
            raise ConfigError("a consumer needs a name", hint='pipeline.on(…, name="search")')
        if self._closed:
            raise ConfigError(f"consumer {subscription.name!r} cannot be added while the pipeline runs")
        if subscription.name in self._subscriptions:
            raise ConfigError(
                f"pipeline {self._settings.name!r} has two consumers named {subscription.name!r}",
                hint="each has a position of its own, stored under its name: pipeline.on(…, name=…)",
            )
        self._subscriptions[subscription.name] = subscription
