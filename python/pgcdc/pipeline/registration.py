"""How handlers and sinks become consumers: `Pipeline.on` and `Pipeline.add`, and the types that they ask for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal, Protocol, TypeVar, Unpack, overload

from pgcdc.errors import ConfigError
from pgcdc.events import Change, Insert, Truncate, Update
from pgcdc.pipeline.migrations import Migrations, Registered
from pgcdc.pipeline.options import ConsumerOptions, Options, check_options
from pgcdc.pipeline.settings import Settings, settings_beside, spool_place
from pgcdc.pipeline.subscription import (
    ROW_ACTIONS,
    Action,
    AnyAction,
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
from pgcdc.schema import SchemaChange
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
        self._migrations = Migrations()
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
        /,
        *actions: AnyAction,
        row: type[Row],
        **options: Unpack[ConsumerOptions],
    ) -> Register[Change[Row] | Truncate | SchemaChange]: ...
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
    @overload
    def on(
        self,
        table: str | Table,
        /,
        *actions: AnyAction,
        row: None = None,
        **options: Unpack[ConsumerOptions],
    ) -> Register[Change[Any] | Truncate | SchemaChange]: ...
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
            *actions: Of `"insert"`, `"update"`, `"delete"`, `"truncate"`; the first three when none is given. With
                `"schema"` it is also called with a `SchemaChange` where the table has another shape, before the first
                change of that shape.
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
            if chosen_options.transactions:
                raise ConfigError(f"handler {consumer!r} gets one change after another: transactions= is for sinks")
            chosen_actions = choose_actions(consumer, actions)
            gets_rows = chosen_actions != {"schema"}  # it is found with rows of any kind
            self._register(
                HandlerSubscription(
                    name=consumer,
                    tables=chosen,
                    actions=(chosen_actions - {"schema"} or ROW_ACTIONS) if gets_rows else ROW_ACTIONS | {"truncate"},
                    copies=gets_rows and self._copies(chosen_options),
                    options=chosen_options,
                    told="schema" in chosen_actions,
                    gets_rows=gets_rows,
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
            actions: Of `"insert"`, `"update"`, `"delete"`, `"truncate"`; None for all. A sink that has a method
                `schema_changed(change)` is called with a `SchemaChange` in any case.
            **options: See `ConsumerOptions`. The name is the class's in small letters, when none is given; of others
                a sink may say in an attribute `defaults` what they are when they are not given.

        Raises:
            ConfigError: When an argument is not as it must be.
        """
        consumer = options.get("name") or type(sink).__name__.lower()
        check_sink(consumer, sink)
        chosen_tables = choose_tables(
            consumer, tables, self._settings.tables, messages=bool(options.get("messages") or options.get("topics"))
        )
        chosen = check_options(consumer, {**getattr(sink, "defaults", {}), **options}, chosen_tables)
        if chosen.concurrency > 1 and isinstance(sink, TransactionalSink):
            raise ConfigError(
                f"sink {consumer!r} keeps one position together with its data, so its batches come one after another",
                hint="leave concurrency out; several pipelines, each with some of the tables, write at once",
            )
        chosen_actions = None if actions is None else choose_actions(consumer, actions)
        if chosen_actions is not None and "schema" in chosen_actions:
            raise ConfigError(
                f"sink {consumer!r} asks for the action 'schema'",
                hint="a sink with a method schema_changed(change) is told in any case",
            )
        self._register(
            SinkSubscription(
                name=consumer,
                tables=chosen_tables,
                actions=chosen_actions,
                told=callable(getattr(sink, "schema_changed", None)),
                copies=self._copies(chosen) and bool(chosen_tables),
                options=chosen,
                sink=sink,
            )
        )

    def migrate(self, table: str | Table, *, consumer: str | None = None) -> Callable[[Registered], Registered]:
        """Register a function that runs once when a table has another shape, before the first change of that shape.

        It is called with the old and the new shape, and what comes for the consumer meanwhile waits. A coroutine
        function runs on the event loop, any other in a thread. That it was begun, and that it has ended, is written
        down durably: it never runs again for the same version once it has returned; when the process dies meanwhile it
        runs again at the next start, so it must be able to find half of its work done. When it raises SinkUnavailable
        it is called again later; when it raises anything else the pipeline stops with MigrationFailed, and the next
        start tries again.

        Args:
            table: One of the pipeline's tables.
            consumer: The name of the consumer before whose first change it runs, once for that consumer. None: once for
                the whole pipeline, before any consumer's.

        Returns:
            A decorator that returns the function unchanged.

        Raises:
            ConfigError: When it is not one of the pipeline's tables, or has such a function already. That there is no
                such consumer is told when the pipeline is run.
        """
        [chosen] = choose_tables(consumer or "", [table], self._settings.tables)

        def register(migration: Registered) -> Registered:
            if self._closed:
                raise ConfigError(f"a migration for table {'.'.join(chosen)} cannot be added while the pipeline runs")
            self._migrations.add(chosen, consumer, migration)
            return migration

        return register

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
        settings = self._settings
        if subscription.options.own_slot:
            settings = settings_beside(settings, subscription.name, subscription.tables)
        spool_place(settings, subscription)  # both say what cannot be meant
        self._subscriptions[subscription.name] = subscription
