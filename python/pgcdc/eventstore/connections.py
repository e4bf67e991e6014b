"""The connections of a store: few, made when they are needed, and looked at before they are used again.

Written by hand beside connections_async.py: the two wait by different means.
"""

from __future__ import annotations

import itertools
import math
import os
import queue
import select
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from pgcdc.eventstore.connecting import PREPARE, forget_in_children, leave_to_parent, name_apart, options_of
from pgcdc.eventstore.waiters import Waiters

__all__ = ["Connections", "OwnConnection"]

_IDLE: Final = psycopg.pq.TransactionStatus.IDLE
LOOK_AFTER = 5.0
"""Seconds after which whoever waits for a connection looks whether somebody has one."""


class OwnConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection of a store's own, in autocommit mode.

    Attributes:
        prepared: The names of statements that were prepared on it around psycopg.
        names: Those of statements to come, which no other connection has.
        readable: Waits until the server has said something.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.prepared: dict[str, bytes] = {}
        self.names = map(f"pgcdc_{os.urandom(8).hex()}_%d".__mod__, itertools.count())
        name_apart(self)
        self.readable = select.poll()
        self.readable.register(self.pgconn.socket, select.POLLIN)


class Connections:
    """At most so many connections, the one that was used last first; for any number of threads.

    Args:
        dsn: Where to, as libpq understands it.
        limit: How many at most; whoever wants one more waits.

    Attributes:
        waiters: Those that wait and can go together.
    """

    def __init__(self, dsn: str, limit: int) -> None:
        self._dsn = dsn
        self._limit = limit
        self._begin()
        forget_in_children(self)

    def _begin(self) -> None:
        self._made: weakref.WeakSet[OwnConnection] = weakref.WeakSet()
        self._making = 0
        self._noting = threading.Lock()  # of those made: another thread may not look at a set that changes
        self._looking = threading.Lock()
        self._looked_at = -math.inf
        self.waiters = Waiters()
        self._idle: list[OwnConnection] = []
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()  # as a semaphore, without Python around its lock
        for _ in range(self._limit):
            self._free.put(None)

    def forget(self) -> None:
        """Begin anew in a process that was forked."""
        leave_to_parent(list(self._made))
        self._begin()

    @contextmanager
    def use(self, given: psycopg.Connection[Any] | None) -> Iterator[psycopg.Connection[Any]]:
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
        connection = self.take()
        try:
            yield connection
        finally:
            self.give(connection)

    def take(self) -> OwnConnection:
        """A connection of the store's own; whoever takes it gives it back.

        Returns:
            One that is idle, or a new one.

        Raises:
            psycopg.OperationalError: When the server cannot be reached.
        """
        while True:
            try:
                self._free.get(timeout=LOOK_AFTER)
                break
            except queue.Empty:
                self.find_lost()
        try:
            return self._take()
        except BaseException:
            self._give_back()
            raise

    def take_if_free(self) -> OwnConnection | None:
        """A connection of the store's own, unless all are in use.

        Returns:
            One that is idle, or a new one.

        Raises:
            psycopg.OperationalError: When the server cannot be reached.
        """
        try:
            self._free.get_nowait()
        except queue.Empty:
            return None
        try:
            return self._take()
        except BaseException:
            self._give_back()
            raise

    def wake_one(self) -> None:
        """Have one that waits look, if there is a connection to be had."""
        if not self._free.empty():
            self.waiters.wake()

    def give(self, connection: OwnConnection) -> None:
        """Take one back; one that is not idle is closed.

        Args:
            connection: What `take` has given.
        """
        try:
            if connection.pgconn.transaction_status == _IDLE:
                self._idle.append(connection)
            else:
                connection.close()
        finally:
            self._give_back()

    def _give_back(self) -> None:
        """One more can be taken; whoever waits first looks for it."""
        self._free.put(None)
        if self.waiters:
            self.waiters.wake()

    def _take(self) -> OwnConnection:
        while True:
            try:
                connection = self._idle.pop()  # another thread may have taken the last one
            except IndexError:
                break
            if not connection.closed and not connection.readable.poll(0):
                return connection
            connection.close()  # the server has said something meanwhile: that it ends
        self._making += 1
        try:
            connection = OwnConnection.connect(autocommit=True, **options_of(self._dsn))
        finally:
            self._making -= 1
        with self._noting:
            self._made.add(connection)
        try:
            connection.execute(PREPARE)
        except BaseException:
            connection.close()
            raise
        return connection

    def find_lost(self) -> None:
        """Put back what a Ctrl-C has taken away: it can come between any two steps of those who take and give."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_AFTER / 2:
            return  # another one does, or has just done it
        self._looked_at = now
        with self._looking:
            lost = self._lost()
            time.sleep(0.05)  # whoever was between two steps has taken the next one by now
            for _ in range(min(lost, self._lost())):
                self._give_back()

    def _lost(self) -> int:
        """How many may be taken, less those that are there to be taken."""
        with self._noting:
            made = list(self._made)
        used = sum(not one.closed for one in made) - len(self._idle) + self._making
        return self._limit - used - self._free.qsize()

    def close(self) -> None:
        """Close those that are not in use."""
        while self._idle:
            self._idle.pop().close()
