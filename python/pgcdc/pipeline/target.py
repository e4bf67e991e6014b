"""What a consumer writes to: a sink, or a handler called change by change; blocking code has a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, Protocol

from pgcdc.errors import DecodeError, SinkUnavailable
from pgcdc.events import Delete, Insert, Message, Truncate, Update
from pgcdc.lsn import Position
from pgcdc.pipeline.subscription import HandlerSubscription, SinkSubscription, Table, is_async
from pgcdc.pipeline.worker import Worker
from pgcdc.protocol import Batch, RowFormat, TypeCatalog
from pgcdc.sink import TransactionalSink

__all__ = ["AnyChange", "GaveUp", "HandlerFailed", "HandlerTarget", "RowFormats", "SinkTarget", "Target"]

SAY_EVERY = 0.5
"""Seconds after which a handler's position is said within a batch: what a crash repeats is no more for a slow one."""

AnyChange = Insert[Any] | Update[Any] | Delete[Any] | Truncate | Message


class GaveUp(Exception):
    """The time to drain is over; what was reached until then was reported."""


class HandlerFailed(Exception):
    """A handler raised, or a change could not be decoded for it.

    Args:
        change: The change, or the error in its place.
        cause: What was raised.
    """

    def __init__(self, change: AnyChange | DecodeError, cause: Exception) -> None:
        super().__init__()
        self.change = change
        self.cause = cause


class Target(Protocol):
    """The two kinds of targets, for a consumer."""

    async def open(self) -> Position | None:
        """Get ready; returns the target's own position when it keeps one."""

    async def write(self, batch: Batch, reach: Callable[[Position, int], None]) -> None:
        """Write a batch; called again with the same batch after a SinkUnavailable.

        Args:
            batch: The batch.
            reach: Told each time that something became durable: the last position, and how many changes.
        """

    def give_up(self) -> None:
        """End at the next opportunity."""

    async def close(self, timeout: float) -> bool:
        """Let go of everything.

        Args:
            timeout: How long a call that still runs is waited for, in seconds.

        Returns:
            Whether nothing of it still runs.
        """

    @property
    def keeps_position(self) -> bool:
        """Whether it stores its position together with the data."""


class RowFormats:
    """How the rows of each consumer are made, once the types of the source are known."""

    def __init__(self) -> None:
        self._catalog: TypeCatalog | None = None
        self._former: frozenset[tuple[Table, Table]] = frozenset()
        self._formats: dict[tuple[object, ...], RowFormat] = {}

    def use(self, catalog: TypeCatalog) -> None:
        """Set what is known of user-defined types; before the first batch is handed over."""
        self._catalog = catalog
        self._formats.clear()

    def renamed(self, then: Table, now: Table) -> None:
        """Rows come with a former name of a table: they are of the same class.

        Args:
            then: The name that they come with.
            now: The name that the consumers know.
        """
        self._former |= {(then, now)}

    def of(self, subscription: HandlerSubscription) -> RowFormat:
        """The format of a consumer; consumers that want the same rows share one, and so the rows.

        Args:
            subscription: What it asked for.
        """
        row = subscription.row
        former = self._former
        key = () if row is None else (row, subscription.tables, former)
        if key not in self._formats:
            names = subscription.tables | {then for then, now in former if now in subscription.tables}
            types = {} if row is None else {".".join(table): row for table in names}
            self._formats[key] = RowFormat("struct", types=types, catalog=self._catalog)
        return self._formats[key]


class SinkTarget:
    """A sink: asynchronous when its `write` is a coroutine function, else called in a thread of its own.

    Args:
        subscription: The sink and its name.
    """

    def __init__(self, subscription: SinkSubscription) -> None:
        self._sink = subscription.sink
        self._worker = None if is_async(self._sink.write) else Worker(f"pgcdc-{subscription.name}")
        self.keeps_position = isinstance(self._sink, TransactionalSink)

    async def _call(self, method: Callable[..., Awaitable[None] | None], *arguments: object) -> None:
        result = method(*arguments) if self._worker is None else await self._worker.call(method, *arguments)
        if isawaitable(result):
            await result

    async def open(self) -> Position | None:
        """Open the sink, and ask for its position."""
        await self._call(self._sink.open)
        if not isinstance(self._sink, TransactionalSink):
            return None
        ask = self._sink.position
        position = ask() if self._worker is None else await self._worker.call(ask)
        return None if position is None else Position(*position)

    async def write(self, batch: Batch, reach: Callable[[Position, int], None]) -> None:
        """Write a batch: durable when the sink returns."""
        await self._call(self._sink.write, batch)
        if batch.last_position is not None:
            reach(batch.last_position, batch.changes_count)

    def give_up(self) -> None:
        """A batch is written whole or not: there is nothing to end early."""

    async def close(self, timeout: float) -> bool:
        """Close the sink, after a call that may still run."""
        if self._worker is None:
            await self._call(self._sink.close)
            return True
        if not await self._worker.idle(timeout):
            return False
        await self._call(self._sink.close)
        return await self._worker.stop(timeout)


class HandlerTarget:
    """A handler, called with one change after another.

    Args:
        subscription: The handler, its name and its row class.
        formats: How rows are made.
        held: Whether no further change may be handled for the time being.
    """

    keeps_position = False

    def __init__(self, subscription: HandlerSubscription, formats: RowFormats, held: Callable[[], bool]) -> None:
        self._subscription = subscription
        self._handler = subscription.handler
        self._worker = None if is_async(self._handler) else Worker(f"pgcdc-{subscription.name}")
        self._formats = formats
        self._held = held
        self._ended = threading.Event()
        # The batch being handled and how many of its changes are: it comes again after a SinkUnavailable.
        self._batch: Batch | None = None
        self._handled = 0
        # How many of them were said to be, to whom, and when that is due again.
        self._said = 0
        self._reach: Callable[[Position, int], None] = lambda _position, _count: None
        self._say_at = 0.0

    async def open(self) -> Position | None:
        """Nothing to open."""
        return None

    async def write(self, batch: Batch, reach: Callable[[Position, int], None]) -> None:
        """Call the handler with the changes of a batch that it has not had yet."""
        if batch is not self._batch:
            self._batch, self._handled, self._said = batch, 0, 0
        self._reach = reach
        try:
            if self._worker is None:
                await self._handle_async(batch)
            else:
                await self._worker.call(self._handle, batch)
        finally:
            # Also after a failure: what was handled before it does not come again.
            self._say(batch)
        self._batch = None

    def _say(self, batch: Batch) -> None:
        """Say how far it is."""
        if self._handled > self._said:
            last = self._changes(batch)[self._handled - 1].position
            self._reach(Position(*last), self._handled - self._said)  # type: ignore[misc]
            self._said = self._handled
        self._say_at = time.monotonic() + SAY_EVERY

    def _handled_one(self, batch: Batch) -> None:
        """One more is done. A slow handler's batch takes long: what is done of it must not come again for that."""
        self._handled += 1
        if time.monotonic() >= self._say_at:
            self._say(batch)

    def _changes(self, batch: Batch) -> list[AnyChange | DecodeError]:
        return batch.changes(self._formats.of(self._subscription))

    def _check(self) -> None:
        """Before each change: raises when it may not be handled."""
        if self._ended.is_set():
            raise GaveUp
        if self._held():
            raise SinkUnavailable("it waits until the pipeline has its server again")

    def _handle(self, batch: Batch) -> None:
        for change in self._changes(batch)[self._handled :]:
            self._check()
            try:
                if isinstance(change, DecodeError):
                    raise change
                self._handler(change)
            except SinkUnavailable:
                raise
            except Exception as error:
                raise HandlerFailed(change, error) from error
            self._handled_one(batch)

    async def _handle_async(self, batch: Batch) -> None:
        for change in self._changes(batch)[self._handled :]:
            self._check()
            try:
                if isinstance(change, DecodeError):
                    raise change
                result = self._handler(change)
                if isawaitable(result):
                    await result
            except SinkUnavailable:
                raise
            except Exception as error:
                raise HandlerFailed(change, error) from error
            self._handled_one(batch)

    def give_up(self) -> None:
        """Handle the change in hand and no further one."""
        self._ended.set()

    async def close(self, timeout: float) -> bool:
        """End the thread."""
        return self._worker is None or await self._worker.stop(timeout)
