"""How many seconds a consumer is behind: from the times at which transactions committed, not from bytes.

While changes are read, the commit times of some transactions are taken down. A consumer is as late as the oldest of
those is old that is not durable in it. Nothing is late when all that was received is durable and the server had nothing
more to send: then it was asked in vain.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from pgcdc.errors import DecodeError
from pgcdc.events import Relation
from pgcdc.protocol import Batch

__all__ = ["Lateness"]

MARK_EVERY: Final = 0.05
"""Seconds between two marks: reading one takes some microseconds, and nobody looks closer."""
MOST_MARKS: Final = 4096
"""With more of them every two become one."""


class Lateness:
    """What is known of the times of commits; may be asked from any thread.

    Args:
        slowest: How far the WAL is done for all consumers: what is older is forgotten.
        clock: Gives seconds since 1970.
    """

    def __init__(self, slowest: Callable[[], int], clock: Callable[[], float] = time.time) -> None:
        self._slowest = slowest
        self._clock = clock
        self._lock = threading.Lock()
        self._marks: deque[tuple[int, float]] = deque()  # where a transaction committed, and when
        self._marked_at = -MARK_EVERY
        self._received: tuple[int, float] | None = None  # the last transaction of which changes came, and when it did
        self._heard: float | None = None
        self._quiet = False

    def note(self, batch: Batch) -> None:
        """Take down what was read, before it is handed over.

        Args:
            batch: What was read; an empty one says that the server had nothing to send.
        """
        now = self._clock()
        if not batch.changes_count:
            if not len(batch):
                self._heard, self._quiet = now, True
            return
        first, last = batch.first_position, batch.last_position
        if first is None or last is None:  # a logical message outside of transactions has no place among the commits
            with self._lock:
                self._heard, self._quiet = now, False
            return
        mark = None
        marked = self._marks[-1][0] if self._marks else 0
        if last.commit_lsn > marked and abs(now - self._marked_at) >= MARK_EVERY:
            early = first.commit_lsn > marked
            when = _commit_time(batch, 0 if early else batch.changes_count - 1)
            if when is not None:
                mark = (first.commit_lsn if early else last.commit_lsn, when)
        with self._lock:
            self._heard, self._quiet = now, False
            if mark is not None:
                self._marked_at = now
                self._append(mark)
            self._received = (last.commit_lsn, self._marks[-1][1] if self._marks else now)

    def _append(self, mark: tuple[int, float]) -> None:
        done = self._slowest()
        # The last one stays: what came behind it and was not marked is as old at most.
        while len(self._marks) > 1 and self._marks[1][0] < done:
            self._marks.popleft()
        self._marks.append(mark)
        if len(self._marks) > MOST_MARKS:
            marks = list(self._marks)
            pairs = zip(marks[:-1:2], marks[1:-1:2], strict=False)
            # Of two the later place and the earlier time: nothing is younger than it is said to be.
            self._marks = deque([*((later[0], earlier[1]) for earlier, later in pairs), marks[-1]])

    def seconds(self, through_lsn: int, *, connected: bool = True) -> float | None:
        """How late a consumer is.

        Args:
            through_lsn: How far the WAL is done for it.
            connected: Whether there is a connection to the server. Without one nobody knows what has committed since
                it was heard of last.

        Returns:
            Seconds: how old the oldest transaction is that came and is not durable in it, by the clock of the server
            when that committed and by ours now. None before anything was heard of the server.
        """
        now = self._clock()
        with self._lock:
            received, heard, quiet = self._received, self._heard, self._quiet
            oldest = None
            if received is not None and through_lsn <= received[0]:
                oldest = next((when for lsn, when in self._marks if lsn >= through_lsn), received[1])
        if heard is None:
            return None
        if oldest is None:
            if not connected:
                oldest = heard
            elif quiet or received is None:
                return 0.0
            else:
                oldest = received[1]  # there may be more that has not been read
        return max(0.0, now - oldest)


def _commit_time(batch: Batch, number: int) -> float | None:
    """When the transaction of a change committed; its row is not decoded, which may be large."""
    try:
        changes = batch.take([number]).reshaped(_without_columns).changes()
    except DecodeError:
        return None  # whoever gets it will say so
    for change in changes:
        when = getattr(change, "commit_time", None)
        return None if when is None or when is msgspec.UNSET else when.timestamp()
    return None


def _without_columns(relation: Relation) -> tuple[Relation, list[int]]:
    return msgspec.structs.replace(relation, columns=[]), []
