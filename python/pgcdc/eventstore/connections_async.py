"""The connections of an asynchronous store: few, made when they are needed, and looked at before they are used again.

Written by hand beside connections.py: the two wait by different means.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import psycopg

from pgcdc.eventstore.connecting import (
    PREPARE,
    forget_in_children,
    is_quiet,
    leave_to_parent,
    name_apart,
    options_of,
)
from pgcdc.eventstore.waiters import Value

__all__ = ["AsyncConnections", "Waiting"]


class Waiting(NamedTuple):
    """One append that waits for a connection.

    Attributes:
        values: Those of its statement.
        is_done: Whether it has written its row; None when it has to be sent by itself.
    """

    values: Sequence[Value]
    is_done: asyncio.Future[bool | None]


class AsyncConnections:
    """At most so many connections, the one that was used last first.

    Args:
        dsn: Where to, as libpq understands it.
        limit: How many at most; whoever wants one more waits.

    Attributes:
        waiting: Those that wait and can go together, in the order in which they came.
        sender: The task that waits for a connection for them.
        tasks: That one and those that send.
    """

    def __init__(self, dsn: str, limit: int) -> None:
        self._dsn = dsn
        self._limit = limit
        self._begin()
        forget_in_children(self)

    def _begin(self) -> None:
        self._idle: list[psycopg.AsyncConnection[Any]] = []
        self._free = asyncio.Semaphore(self._limit)
        self.waiting: deque[Waiting] = deque()
        self.sender: asyncio.Task[None] | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    def forget(self) -> None:
        """Begin anew in a process that was forked."""
        leave_to_parent(self._idle)
        self._begin()

    @asynccontextmanager
    async def use(
        self, given: psycopg.AsyncConnection[Any] | None = None
    ) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """A connection for a block: the caller's own, as it is, or one in autocommit mode.

        Args:
            given: The caller's own.

        Yields:
            The connection.

        Raises:
            psycopg.OperationalError: When the server cannot be reached.
        """
        if given is not None:
            yield given
            return
        async with self._free:
            connection = await self._take()
            try:
                yield connection
            finally:
                if connection.closed or connection.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    await connection.close()
                else:
                    self._idle.append(connection)

    def are_in_use(self) -> bool:
        """Whether whoever wants a connection now has to wait.

        Returns:
            Whether.
        """
        return self._free.locked()

    async def _take(self) -> psycopg.AsyncConnection[Any]:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and is_quiet(connection.fileno()):
                return connection
            await connection.close()  # the server has said something meanwhile: that it ends
        connection = await psycopg.AsyncConnection.connect(autocommit=True, **options_of(self._dsn))
        name_apart(connection)
        try:
            await connection.execute(PREPARE)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def close(self) -> None:
        """Close those that are not in use."""
        while self._idle:
            await self._idle.pop().close()
