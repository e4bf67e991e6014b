"""What the source hands over at once: while much comes, several reads, put together.

A read has what came within half a millisecond, some hundred rows at best. To hand something over costs each consumer
the same, however much it is: it goes from thread to thread and back. So while reads are large the next ones are waited
for, for as long as nobody notices; and for longer while every consumer has something to do, because then nobody waits
for it. It is also done once for all consumers: those that are behind get the same batches then, whose rows are made
once for all of them, where each lane would have joined others. What was measured is in
docs/decisions/0042-reads-are-joined-once.md.

The walsender sends each message as soon as it has decoded it, so a read finds a part of a small transaction as often as
not. The rest is waited for: it is there within some microseconds, and two deliveries take longer than one.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TypeAlias

from pgcdc.pipeline.queue import MERGED_ROWS
from pgcdc.protocol import Batch

__all__ = ["Early", "Reading"]

Early: TypeAlias = Callable[[Batch], bool]
"""Told what has come before it is handed over; see `Stream.read`."""

MUCH_ROWS = 32
"""A read with fewer is handed over as it is, but for the next."""
SOME_ROWS = 4
"""A read with as many is not, when the one before it was just now and every consumer has something to do."""
JUST_NOW_SECONDS = 0.002
"""So much later at most."""
ENOUGH_ROWS = MERGED_ROWS // 2
"""With more than so many it is handed over: two of them are more than a lane joins."""
ENOUGH_BYTES = 256 * 1024
"""Likewise; larger ones do not stay in a processor's cache until their rows are made."""
NEXT_SECONDS = 0.001
"""So long the next read is waited for: twice the time from one to the next while much comes."""
IDLE_SECONDS = 0.003
"""After so long it is handed over when a consumer has nothing to do."""
LONGEST_SECONDS = 0.02
"""After so long it is in any case: who reads has other things to see to."""


class Reading:
    """Joins reads.

    Args:
        idle: Whether a consumer has nothing to do.
        clock: Gives seconds.
    """

    def __init__(self, idle: Callable[[], bool], clock: Callable[[], float] = monotonic) -> None:
        self._idle = idle
        self._clock = clock
        self._read_at = -JUST_NOW_SECONDS

    def read(
        self,
        read: Callable[[float, Early | None], Batch],
        timeout: float,
        unfinished: Callable[[], bool] = lambda: False,
        early: Early | None = None,
        begun: Callable[[], bool] = lambda: False,
    ) -> Batch:
        """Read.

        Args:
            read: Takes what has come, and waits for so many seconds when that is nothing. When it raises, what was read
                before it in the same call is not handed over: who goes on does so behind what was. Given what is told
                of what came.
            timeout: How long to wait for something, in seconds.
            unfinished: Whether the last message that was read has left a transaction open.
            early: What the first read is given.
            begun: Whether that has begun with what it saw: then there is nothing to be joined with it.

        Returns:
            What came; an empty batch when nothing did.
        """
        first = read(timeout, early)
        read_at = now = self._clock()
        just_now, self._read_at = read_at - self._read_at < JUST_NOW_SECONDS, read_at
        if begun():
            return first
        rows, size = first.changes_count, first.nbytes
        parts = [first]
        while rows <= ENOUGH_ROWS and size < ENOUGH_BYTES:
            much = rows >= MUCH_ROWS or (just_now and rows >= SOME_ROWS and not self._idle())
            if not (much or unfinished()) or now >= read_at + (IDLE_SECONDS if self._idle() else LONGEST_SECONDS):
                break
            batch = read(NEXT_SECONDS, None)
            if not len(batch):
                break
            parts.append(batch)
            rows += batch.changes_count
            size += batch.nbytes
            now = self._read_at = self._clock()
        return first if len(parts) == 1 else Batch.concat(parts)
