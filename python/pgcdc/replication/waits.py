"""How one waits when threads do: what the synchronous twins use where the asynchronous ones use waits_async.py.

Written by hand, as that is: these two files are all in which the colours differ.
"""

from __future__ import annotations

import selectors
import threading
import time
import weakref
from math import ceil
from typing import TYPE_CHECKING, Final, TypeVar

from pgcdc.replication.libpq import conninfo, waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping

    from pgcdc.replication.generators import Connecting, Waiting

__all__ = [
    "CANCELLED",
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
# The default one of Linux is a file that is made and closed for each wait.
_Selector = getattr(selectors, "PollSelector", selectors.DefaultSelector)
CANCELLED: Final[tuple[type[BaseException], ...]] = ()
"""What is raised only where something is awaited: here nothing is, and KeyboardInterrupt comes anywhere."""


def wait(generator: Waiting[T], socket: int, seconds: float) -> T:
    """Drive a generator.

    Args:
        generator: One of generators.py.
        socket: What it waits for.
        seconds: How long one wait may last.

    Returns:
        What the generator returned.
    """
    # psycopg cuts off what is less than a millisecond: the end of each wait would be a loop that never sleeps.
    return waiting.wait(generator, socket, (ceil(seconds * 1000) + 0.5) / 1000)


def connecting(generator: Connecting[T], seconds: float) -> T:
    """Drive a generator that makes a connection.

    Args:
        generator: It names the socket each time.
        seconds: How long one wait may last.

    Returns:
        What the generator returned.
    """
    return waiting.wait_conn(generator, seconds)


def attempts(parameters: Mapping[str, str | int | None]) -> list[dict[str, str | int | None]]:
    """Split the hosts of a DSN and look up their addresses.

    Args:
        parameters: What the DSN says.

    Returns:
        The same for each host.

    Raises:
        psycopg.Error: When no address was found.
    """
    return [dict(attempt) for attempt in conninfo.conninfo_attempts(dict(parameters))]


def blocking(call: Callable[[], None]) -> None:
    """Make a call that blocks.

    Args:
        call: The call.
    """
    call()


def readable(sockets: Collection[int], seconds: float) -> None:
    """Wait until one of several sockets can be read.

    Args:
        sockets: The sockets.
        seconds: How long to wait at most.
    """
    with _Selector() as selector:
        for socket in sockets:
            selector.register(socket, selectors.EVENT_READ)
        selector.select(seconds)


def lasting(begin: Callable[[], Generator[T, None]]) -> Generator[T, None]:
    """A generator that goes on after a cancellation, of which there are none here.

    Args:
        begin: Makes the generator.

    Returns:
        The generator.
    """
    return begin()


def turn() -> None:
    """Let others run, who here run by themselves."""


def sleep(seconds: float) -> None:
    """Wait.

    Args:
        seconds: How long.
    """
    time.sleep(seconds)


class Periodic:
    """Calls a method again and again in a thread of its own, until it says no more, is stopped, or its object is gone.

    Args:
        call: A bound method that returns after how many seconds it wants to be called again, or None. Must not raise.
        name: The thread's name.
    """

    def __init__(self, call: Callable[[], float | None], name: str) -> None:
        self._stopped = threading.Event()
        # Not the method itself: a stream that nobody holds any more is not to live on because of its thread.
        method = weakref.WeakMethod(call)
        self._thread = threading.Thread(target=_repeat, args=(method, self._stopped), name=name, daemon=True)
        self._thread.start()

    def stop(self, *, wait: bool = True) -> None:
        """End it.

        Args:
            wait: Return only when it is not called any more.
        """
        self._stopped.set()
        if wait and self._thread is not threading.current_thread():
            self._thread.join()


def _repeat(method: weakref.WeakMethod[Callable[[], float | None]], stopped: threading.Event) -> None:
    seconds: float | None = 0.0
    while seconds is not None and not stopped.wait(seconds):
        call = method()
        seconds = None if call is None else call()
        del call  # nothing of it is held while it waits
