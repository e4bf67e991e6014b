"""One sink or handler for all partitions that a process has: opened once, never called more often than it asked for.

A consumer on a slot gets one call after another, or `concurrency` at once; so it is here, however many partitions there
are. More at once is what other processes are for.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from inspect import isawaitable
from typing import Any, Protocol, TypeVar, runtime_checkable

from pgcdc.errors import ConfigError
from pgcdc.pipeline.subscription import Handler, HandlerSubscription, SinkSubscription, Subscription, is_async
from pgcdc.pipeline.worker import Worker
from pgcdc.protocol import Batch
from pgcdc.schema import SchemaChange
from pgcdc.sink import PartitionedSink, Sink, TransactionalSink

__all__ = ["RelayingSink", "SharedHandler", "SharedSink", "shared"]

T = TypeVar("T")


@runtime_checkable
class RelayingSink(Protocol):
    """A sink that writes to topics itself, and must not write to those that it is given changes of."""

    def reads_from(self, settings: Mapping[str, str], prefix: str, topics: Collection[str]) -> None:
        """Be told, before it is opened, where the changes come from.

        Args:
            settings: Of librdkafka, for those who read there.
            prefix: What the names of these topics begin with.
            topics: What is read.
        """


def shared(subscription: Subscription) -> SharedSink | SharedHandler:
    """What all partitions of a consumer share.

    Args:
        subscription: The consumer.

    Raises:
        ConfigError: When it is a sink that can keep one position only.
    """
    if isinstance(subscription, HandlerSubscription):
        return SharedHandler(subscription)
    assert isinstance(subscription, SinkSubscription)
    if isinstance(subscription.sink, TransactionalSink) and not isinstance(subscription.sink, PartitionedSink):
        raise ConfigError(
            f"sink {subscription.name!r} keeps one position together with its data, and on Kafka each partition has"
            " its own",
            hint="let that consumer run on the slot; or give the sink a method part(name): pgcdc.PartitionedSink",
        )
    return SharedSink(subscription)


class SharedSink:
    """A sink for several partitions. Its methods are coroutines; those of a blocking sink keep to its own threads.

    Args:
        subscription: The sink, and how many calls it takes at once.

    Attributes:
        sink: The sink.
        subscription: What a partition takes for it.
    """

    def __init__(self, subscription: SinkSubscription) -> None:
        self.sink: Sink = subscription.sink
        self._name = subscription.name
        count = subscription.options.concurrency
        blocking = not is_async(self.sink.write)
        self._workers = [Worker(f"pgcdc-{self._name}-{number}") for number in range(count if blocking else 0)]
        self._idle: list[Worker | None] = list(self._workers) or [None] * count
        self._free = asyncio.Semaphore(count)
        self._opening = asyncio.Lock()
        self._opened = False
        self._told: set[tuple[int, int]] = set()
        self.subscription: Subscription = replace(subscription, sink=_Part(self))
        if subscription.told:
            self.subscription = replace(self.subscription, sink=_ToldPart(self))

    async def call(self, method: Callable[..., Awaitable[T] | T], *arguments: object) -> T:
        """Call a method of the sink, or of a part of it, in its turn.

        Args:
            method: The method.
            *arguments: What it is given.

        Returns:
            What it gives.
        """
        async with self._free:
            worker = self._idle.pop()
            try:
                result = method(*arguments) if worker is None else await worker.call(method, *arguments)
                return await result if isawaitable(result) else result
            finally:
                self._idle.append(worker)

    async def open(self) -> None:
        """Open the sink, once."""
        async with self._opening:
            if not self._opened:
                await self.call(self.sink.open)
                self._opened = True

    async def write(self, batch: Batch) -> None:
        """Write a batch.

        Args:
            batch: The batch.
        """
        await self.call(self.sink.write, batch)

    async def schema_changed(self, change: SchemaChange) -> None:
        """Tell the sink of another shape, once in this process.

        Args:
            change: The change.
        """
        async with self._opening:
            if (change.new.oid, change.version) not in self._told:
                await self.call(self.sink.schema_changed, change)  # type: ignore[attr-defined]
                self._told.add((change.new.oid, change.version))

    async def close(self, timeout: float) -> bool:
        """Close the sink.

        Args:
            timeout: How long calls that still run are waited for, in seconds.

        Returns:
            Whether none is left.
        """
        for worker in self._workers:
            if not await worker.idle(timeout):
                return False
        if self._opened:
            await self.call(self.sink.close)
        return all([await worker.stop(timeout) for worker in self._workers])


class _Part:
    """What one partition takes for the sink."""

    def __init__(self, whole: SharedSink) -> None:
        self._whole = whole

    async def open(self) -> None:
        await self._whole.open()

    async def write(self, batch: Batch) -> None:
        await self._whole.write(batch)

    async def close(self) -> None:
        """It goes on for the others."""


class _ToldPart(_Part):
    async def schema_changed(self, change: SchemaChange) -> None:
        await self._whole.schema_changed(change)


class SharedHandler:
    """A handler for several partitions.

    Args:
        subscription: The handler, and how many calls it takes at once.
    """

    def __init__(self, subscription: HandlerSubscription) -> None:
        handler, count = subscription.handler, subscription.options.concurrency
        limited: Handler
        if is_async(handler):
            free = asyncio.Semaphore(count)

            async def call(change: Any) -> None:
                async with free:
                    result = handler(change)
                    if isawaitable(result):
                        await result

            limited = call
        else:
            slots = threading.BoundedSemaphore(count)

            def block(change: Any) -> Awaitable[None] | None:
                with slots:
                    return handler(change)

            limited = block
        functools.update_wrapper(limited, handler, updated=())
        self.subscription: Subscription = replace(subscription, handler=limited)

    async def close(self, timeout: float) -> bool:
        """Nothing to close.

        Args:
            timeout: How long calls that still run are waited for, in seconds.
        """
        del timeout
        return True
