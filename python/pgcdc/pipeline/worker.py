"""Threads that run blocking calls for the event loop, each one after another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from pgcdc.pipeline.foreign import as_exception

__all__ = ["Worker", "stopped", "workers"]

P = ParamSpec("P")
T = TypeVar("T")


class _Call:
    """A call that is waited for on an event loop: cheaper than a future that any thread could wait for.

    Args:
        loop: The event loop; it may be closed before the call ends, and then nobody hears of it.
    """

    __slots__ = ("future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()

    def end(self, result: object, error: BaseException | None) -> None:
        """Hand over what has come of it; in the thread."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._ended, result, error)

    def _ended(self, result: object, error: BaseException | None) -> None:
        if self.future.cancelled():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class Worker:
    """A thread of its own for one consumer's blocking calls: they never run at once and never change threads.

    Not an executor of the standard library: the interpreter waits for those at its exit, for ever when a call hangs.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[_Call, Callable[[], Any]] | None] = SimpleQueue()
        self._ended: Future[None] = Future()
        # So that who gives up waiting for it does not cancel it, and nothing is left that its event loop must hear.
        self._ended.set_running_or_notify_cancel()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._started = False

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            call, function = item
            if call.future.cancelled():
                continue
            try:
                result = function()
            except (Exception, asyncio.CancelledError) as error:  # in this thread nothing is cancelled by us
                call.end(None, as_exception(error))
            except BaseException as error:
                call.end(None, error)
            else:
                call.end(result, None)
                del result
            # Neither the result nor the arguments (a batch) may live on until the next call.
            del item, call, function
        self._ended.set_result(None)

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in the thread and wait for it.

        Args:
            function: What to call.
            *args: Its arguments.
            **kwargs: Its arguments.

        Returns:
            What it returned.
        """
        if not self._started:
            self._started = True
            self._thread.start()
        call = _Call(asyncio.get_running_loop())
        self._calls.put((call, lambda: function(*args, **kwargs)))
        result: T = await call.future
        return result

    async def idle(self, timeout: float) -> bool:
        """Wait until the calls already made have ended.

        Args:
            timeout: How long to wait, in seconds.

        Returns:
            Whether they have.
        """
        if not self._started:
            return True
        reached = _Call(asyncio.get_running_loop())
        self._calls.put((reached, lambda: None))
        try:
            await asyncio.wait_for(reached.future, timeout)
        except TimeoutError:
            return False
        return True

    async def stop(self, timeout: float) -> bool:
        """End the thread after the calls already made.

        Args:
            timeout: How long to wait for it, in seconds.

        Returns:
            Whether it ended. A thread cannot be killed: one that hangs is left to die with the process.
        """
        if not self._started:
            return True
        self._calls.put(None)
        try:
            await asyncio.wait_for(asyncio.wrap_future(self._ended), timeout)
        except TimeoutError:
            return False
        self._thread.join()
        return True


def workers(name: str, count: int) -> list[Worker]:
    """Make threads for a consumer.

    Args:
        name: The consumer's.
        count: How many.

    Returns:
        The threads, which start with their first call.
    """
    return [Worker(f"pgcdc-{name}" if not number else f"pgcdc-{name}-{number + 1}") for number in range(count)]


async def stopped(those: Sequence[Worker], timeout: float) -> bool:
    """End threads.

    Args:
        those: Which.
        timeout: How long to wait for them, in seconds.

    Returns:
        Whether all have ended.
    """
    return all(await asyncio.gather(*(worker.stop(timeout) for worker in those)))
