"""Sinks for tests: one that only remembers, and one that fails when it is told to."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from pgcdc.errors import DecodeError, SinkRejected, SinkUnavailable
from pgcdc.lsn import Position
from pgcdc.pipeline.subscription import is_async
from pgcdc.protocol import Batch
from pgcdc.sink import Sink, TransactionalSink

__all__ = ["FaultySink", "RecordingSink"]


class RecordingSink:
    """Remembers what it is given.

    Attributes:
        batches: As they came.
        changes: The changes in them, a `DecodeError` in the place of a bad one.
        opened: How often it was opened.
        closed: How often it was closed.
    """

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.changes: list[Any] = []
        self.opened = 0
        self.closed = 0
        self._came = threading.Condition()

    def open(self) -> None:
        """Count."""
        self.opened += 1

    def write(self, batch: Batch) -> None:
        """Remember a batch."""
        with self._came:
            self.batches.append(batch)
            self.changes.extend(batch.changes())
            self._came.notify_all()

    def close(self) -> None:
        """Count."""
        self.closed += 1

    @property
    def actions(self) -> list[str]:
        """What happened, as words."""
        return [change.action for change in self.changes]

    def wait(self, count: int, timeout: float = 30.0) -> None:
        """Wait until so many changes have come.

        Args:
            count: How many.
            timeout: How long to wait, in seconds.

        Raises:
            TimeoutError: When they have not come by then.
        """
        with self._came:
            if not self._came.wait_for(lambda: len(self.changes) >= count, timeout):
                raise TimeoutError(f"{len(self.changes)} changes came within {timeout} s, not {count}")


class FaultySink:
    """A sink around another one, which it keeps from working when it is told to. Writes are counted from 1.

    When the sink inside keeps its position, so does this one.

    Args:
        sink: The sink inside; None: a `RecordingSink`.
        fail_at: The number of the write that raises `error`; those before and after it are let through.
        error: What that write raises.
        written: Whether the write that fails has reached the sink inside before: it failed on the way back.
        unavailable: The numbers of the writes that raise `SinkUnavailable`: `range(2, 5)`.
        reject: Whether a change is never taken: a batch with one raises `SinkRejected`.
        gate: Each write waits until this is set: a slow or hanging target, without a clock.

    Attributes:
        sink: The sink inside.
        writes: How many writes were tried.
        failures: How many of them were kept from working.
        waiting: Set when a write has come to the gate.
        opening: When the sink inside was told to open, while it has not done so: what `time.monotonic()` said.
    """

    sink: Sink

    def __new__(cls, sink: Sink | None = None, **_: Any) -> FaultySink:
        """Make one that is asynchronous, and has a position, when the sink inside is and has."""
        coroutines, keeps = sink is not None and is_async(sink.write), isinstance(sink, TransactionalSink)
        return object.__new__(_KINDS[coroutines, keeps])

    def __init__(
        self,
        sink: Sink | None = None,
        *,
        fail_at: int | None = None,
        error: BaseException | None = None,
        written: bool = False,
        unavailable: Collection[int] = (),
        reject: Callable[[Any], bool] | None = None,
        gate: threading.Event | None = None,
    ) -> None:
        self.sink = RecordingSink() if sink is None else sink
        self.writes = 0
        self.failures = 0
        self.waiting = threading.Event()
        self.opening: float | None = None
        self._fail_at = fail_at
        self._error = RuntimeError("this write was told to fail") if error is None else error
        self._written = written
        self._unavailable = unavailable
        self._reject = reject
        self._gate = gate

    def open(self) -> Awaitable[None] | None:
        """Open the sink inside."""
        self.opening = time.monotonic()
        try:
            result = self.sink.open()
        finally:
            self.opening = None
        return None if result is None else self._opened(result)

    async def _opened(self, result: Awaitable[None]) -> None:
        self.opening = time.monotonic()
        try:
            await result
        finally:
            self.opening = None

    def write(self, batch: Batch) -> Awaitable[None] | None:
        """Write a batch, or fail.

        Raises:
            SinkUnavailable: When it is to be unavailable.
            SinkRejected: When a change of the batch is never taken.
        """
        self.writes += 1
        if self._gate is not None:
            self.waiting.set()
            self._gate.wait()
        error = self._failure(batch)
        if error is None or self._written:
            self.sink.write(batch)
        if error is not None:
            raise error
        return None

    def _failure(self, batch: Batch) -> BaseException | None:
        error: BaseException | None = None
        if self.writes in self._unavailable:
            error = SinkUnavailable("this target was told to be away")
        elif self._reject is not None and any(
            self._reject(change) for change in batch.changes() if not isinstance(change, DecodeError)
        ):
            error = SinkRejected("this target was told not to take a change")
        elif self.writes == self._fail_at:
            error = self._error
        if error is not None:
            self.failures += 1
        return error

    def close(self) -> Awaitable[None] | None:
        """Close the sink inside."""
        return self.sink.close()


class _Async(FaultySink):
    """Likewise, around a sink whose methods are coroutines."""

    async def write(self, batch: Batch) -> None:
        self.writes += 1
        if self._gate is not None:
            self.waiting.set()
            while not self._gate.is_set():  # noqa: ASYNC110 (it is set from any thread)
                await asyncio.sleep(0.01)
        error = self._failure(batch)
        if error is None or self._written:
            result = self.sink.write(batch)
            assert result is not None
            await result
        if error is not None:
            raise error


class _Transactional(FaultySink):
    """Likewise, around a sink that keeps its position."""

    def position(self) -> Position | None:
        """The position of the sink inside."""
        assert isinstance(self.sink, TransactionalSink)
        return self.sink.position()


class _AsyncTransactional(_Async, _Transactional):
    """Both."""


_KINDS: dict[tuple[bool, bool], type[FaultySink]] = {
    (False, False): FaultySink,
    (False, True): _Transactional,
    (True, False): _Async,
    (True, True): _AsyncTransactional,
}
