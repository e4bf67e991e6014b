"""How one waits when an event loop does: what the asynchronous twins use where the synchronous ones use waits.py.

Written by hand, as that is: these two files are all in which the colours differ.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

from pgcdc.replication.libpq import conninfo, waiting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator, Mapping
    from types import AsyncGeneratorType, TracebackType
    from typing import Self

    from pgcdc.replication.generators import Connecting, Waiting

__all__ = [
    "CANCELLED",
    "Opening",
    "Periodic",
    "attempts",
    "blocking",
    "connecting",
    "lasting",
    "readable",
    "sleep",
    "turn",
    "wait",
]

T = TypeVar("T")
CANCELLED: Final[tuple[type[BaseException], ...]] = (asyncio.CancelledError, GeneratorExit)
"""What is raised only where something is awaited: the task was cancelled, or nobody holds the coroutine any more."""


class _Closed(Protocol):
    """What can be entered and is closed on leaving."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


C = TypeVar("C", bound=_Closed)


class Opening(Generic[C]):
    """Something that is being opened: `async with` opens it and closes it again, `await` only opens it.

    Args:
        coroutine: What opens it.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, C]) -> None:
        self._coroutine = coroutine
        self._opened: C | None = None

    def __await__(self) -> Generator[Any, None, C]:
        return self._coroutine.__await__()

    async def __aenter__(self) -> C:
        self._opened = await self._coroutine
        return await self._opened.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.__aexit__(kind, error, traceback)


async def wait(generator: Waiting[T], socket: int, seconds: float) -> T:
    """Drive a generator.

    Args:
        generator: One of generators.py.
        socket: What it waits for.
        seconds: How long one wait may last.

    Returns:
        What the generator returned.
    """
    return await waiting.wait_async(generator, socket, seconds)


async def connecting(generator: Connecting[T], seconds: float) -> T:
    """Drive a generator that makes a connection.

    Args:
        generator: It names the socket each time.
        seconds: How long one wait may last.

    Returns:
        What the generator returned.
    """
    return await waiting.wait_conn_async(generator, seconds)


async def attempts(parameters: Mapping[str, str | int | None]) -> list[dict[str, str | int | None]]:
    """Split the hosts of a DSN and look up their addresses.

    Args:
        parameters: What the DSN says.

    Returns:
        The same for each host.

    Raises:
        psycopg.Error: When no address was found.
    """
    return [dict(attempt) for attempt in await conninfo.conninfo_attempts_async(dict(parameters))]


async def blocking(call: Callable[[], None]) -> None:
    """Make a call that blocks, beside the event loop.

    Args:
        call: The call.
    """
    await asyncio.to_thread(call)


async def readable(sockets: Collection[int], seconds: float) -> None:
    """Wait until one of several sockets can be read.

    Args:
        sockets: The sockets.
        seconds: How long to wait at most.
    """
    loop = asyncio.get_running_loop()
    one = asyncio.Event()
    try:
        for socket in sockets:
            loop.add_reader(socket, one.set)
        with suppress(TimeoutError):
            await asyncio.wait_for(one.wait(), seconds)
    finally:
        for socket in sockets:
            loop.remove_reader(socket)


class _Lasting(AsyncGenerator[T, None]):
    """A generator that was ended by an exception, and is begun again when it is asked for more."""

    def __init__(self, begin: Callable[[], AsyncGenerator[T, None]]) -> None:
        self._begin = begin
        self._running = cast("AsyncGeneratorType[T, None]", begin())
        self._closed = False

    def __anext__(self) -> Coroutine[Any, Any, T]:
        if self._running.ag_frame is None and not self._closed:
            self._running = cast("AsyncGeneratorType[T, None]", self._begin())
        return self._running.__anext__()

    def asend(self, value: None) -> Coroutine[Any, Any, T]:
        return self._running.asend(value)

    def athrow(self, *exception: Any) -> Coroutine[Any, Any, T]:
        return self._running.athrow(*exception)

    def aclose(self) -> Coroutine[Any, Any, None]:
        self._closed = True
        return self._running.aclose()


def lasting(begin: Callable[[], AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """A generator that goes on after a cancellation: one that Python makes is at its end then, and says that all came.

    Args:
        begin: Makes a generator that goes on where the one before was left.

    Returns:
        The generator.
    """
    return _Lasting(begin)


async def turn() -> None:
    """Let others run: a loop that always finds something to read would keep them from it."""
    await asyncio.sleep(0)


async def sleep(seconds: float) -> None:
    """Wait.

    Args:
        seconds: How long.
    """
    await asyncio.sleep(seconds)


class Periodic:
    """Calls a method again and again in a task of its own, until it says no more, is stopped, or its object is gone.

    Args:
        call: A bound method that returns after how many seconds it wants to be called again, or None. Must not raise.
        name: The task's name.
    """

    def __init__(self, call: Callable[[], Awaitable[float | None]], name: str) -> None:
        # Not the method itself: a stream that nobody holds any more is not to live on because of its task.
        self._task = asyncio.create_task(_repeat(weakref.WeakMethod(call)), name=name)

    def stop(self, *, wait: bool = True) -> None:  # noqa: ARG002 (a task that is cancelled runs no further)
        """End it.

        Args:
            wait: As for a thread.
        """
        self._task.cancel()


async def _repeat(method: weakref.WeakMethod[Callable[[], Awaitable[float | None]]]) -> None:
    seconds: float | None = 0.0
    while seconds is not None:
        await asyncio.sleep(seconds)
        call = method()
        seconds = None if call is None else await call()
        del call  # nothing of it is held while it waits
