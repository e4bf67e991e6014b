"""One thread that runs blocking calls for the event loop, one after another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

__all__ = ["Worker"]

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """A thread of its own for one consumer's blocking calls: they never run at once and never change threads.

    Not an executor of the standard library: the interpreter waits for those at its exit, for ever when a call hangs.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._ended: Future[None] = Future()
        # So that who gives up waiting for it does not cancel it, and nothing is left that its event loop must hear.
        self._ended.set_running_or_notify_cancel()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._started = False

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function = call
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = function()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            # Neither the result nor the arguments (a batch) may live on until the next call.
            del call, future, function
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
        future: Future[T] = Future()
        self._calls.put((future, lambda: function(*args, **kwargs)))
        return await asyncio.wrap_future(future)

    async def idle(self, timeout: float) -> bool:
        """Wait until the calls already made have ended.

        Args:
            timeout: How long to wait, in seconds.

        Returns:
            Whether they have.
        """
        if not self._started:
            return True
        reached: Future[None] = Future()
        self._calls.put((reached, lambda: None))
        try:
            await asyncio.wait_for(asyncio.wrap_future(reached), timeout)
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
