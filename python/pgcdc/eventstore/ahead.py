"""Reading ahead: a thread reads the next item while the caller is at work with the one before."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, Generic, TypeAlias, TypeVar

import psycopg

from pgcdc.eventstore.projecting import connect

__all__ = ["Ahead"]

Item = TypeVar("Item")
Reads: TypeAlias = Callable[[psycopg.Connection[Any], Callable[[], bool]], Iterator[Item]]
_END: Final = object()
_ENDED_WITHIN: Final = 5.0
"""Seconds that a reader may take to end, when nobody wants what it reads any more."""
_CANCEL_EVERY: Final = 0.1
"""Seconds: a cancellation between two statements hits neither."""


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class Ahead(Generic[Item]):
    """Items that a thread reads on a connection of its own, one ahead of the caller; as a context.

    There is never more than one that the caller has not taken: the thread begins the next when it takes that. What
    reading raises is raised where the item would have come, behind all that came before it.

    Args:
        dsn: Where the thread connects to.
        read: Makes the items, on that connection. Where it waits for something else than the server it asks its second
            argument whether nobody wants them any more, and ends then.
        name: The thread's name.

    Example:
        ::

            def read(connection, ended):
                return commits.after(connection, place, through_lsn, ended)

            with Ahead(dsn, read, "reader") as stretches:
                for stretch in stretches:
                    apply(stretch)
    """

    def __init__(self, dsn: str, read: Reads[Item], name: str) -> None:
        self._dsn = dsn
        self._read = read
        self._room = threading.Semaphore(1)
        self._found: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._is_wanted = True
        self._connection: psycopg.Connection[Any] | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def _work(self) -> None:
        try:
            # The thread alone closes it: nobody takes a connection away from under it.
            with connect(self._dsn) as connection:
                self._connection = connection
                items = self._read(connection, lambda: not self._is_wanted)
                while self._room.acquire() and self._is_wanted:
                    item = next(items, _END)
                    self._found.put(item)
                    if item is _END:
                        return
        except BaseException as error:
            self._found.put(_Failure(error))

    def __enter__(self) -> Iterator[Item]:
        self._thread.start()
        return self._items()

    def _items(self) -> Iterator[Item]:
        while (item := self._found.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            self._room.release()
            yield item

    def __exit__(self, *_raised: object) -> None:
        self._is_wanted = False
        self._room.release()
        deadline = time.monotonic() + _ENDED_WITHIN
        while self._thread.is_alive() and time.monotonic() < deadline:
            if self._connection is not None:
                with suppress(psycopg.Error):
                    self._connection.cancel_safe(timeout=_ENDED_WITHIN)
            self._thread.join(_CANCEL_EVERY)
