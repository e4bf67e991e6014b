"""The bounded hand-over from the source's thread to one consumer's task: a lane.

All lanes of a run share one condition, so that the source can wait for room in any of them. What a consumer is working
on counts as in flight until it is durable.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pgcdc.events import Relation
from pgcdc.lsn import Position
from pgcdc.pipeline.positions import StoredPosition
from pgcdc.protocol import Batch

__all__ = ["Begin", "CopyBegin", "CopyEnd", "Item", "Lane", "Nudge", "Rows", "TableEnd"]


@dataclass
class Begin:
    """The first item: where the consumer stands.

    Attributes:
        stored: What is stored for it.
        server_lsn: Where the server's WAL ended when the run began.
        exact: Whether the server sends the same changes as it did when the position was stored, so that an index inside
            a transaction still counts.
    """

    stored: StoredPosition
    server_lsn: int
    exact: bool


@dataclass
class CopyBegin:
    """A copy of existing rows begins.

    Attributes:
        relations: The tables that will be copied.
        lsn: The snapshot's LSN.
        again: Whether something of an earlier copy of them may be in the target.
    """

    relations: Sequence[Relation]
    lsn: int
    again: bool


@dataclass
class TableEnd:
    """All rows of one table were handed over.

    Attributes:
        oid: The table.
        lsn: The LSN of the snapshot that they were in.
    """

    oid: int
    lsn: int


@dataclass
class CopyEnd:
    """Everything of the copy was handed over."""


@dataclass
class Rows:
    """Changes, already filtered for the consumer.

    Attributes:
        batch: The changes.
        through_lsn: How far the WAL is done for the consumer once they are durable.
        nbytes: How many bytes they keep in memory: all that was read together with them, for a filtered batch shares
            the bytes of the whole one.
    """

    batch: Batch
    through_lsn: int
    nbytes: int


@dataclass
class Nudge:
    """There is something for the consumer to do that does not come by the lane: its dead letters."""


MERGED_ROWS = 1000
"""Batches that wait are handed over together up to so many rows: enough for a write's fixed cost to be spread thin."""

Item: TypeAlias = Begin | CopyBegin | TableEnd | CopyEnd | Nudge | Rows


class Lane:
    """What lies between the source and one consumer.

    Args:
        consumer: The consumer's name.
        condition: Shared by all lanes of a run; notified when one has room again.
        max_rows: So many changes may be in flight (one batch may be larger when nothing else is).
        max_bytes: So many bytes of raw messages may be kept in memory by it, likewise.
        loop: The event loop that the consumer's task runs on.
        progressed: Called, from any thread and without the lock, after the lane moved on.

    Attributes:
        tables: The tables, by OID, whose rows are durable in the consumer, and the LSN of the snapshot that they came
            with.
        incomplete: Whether the consumer lacks rows of some table, so that it is not as far as `through_lsn` says.
    """

    def __init__(
        self,
        consumer: str,
        condition: threading.Condition,
        max_rows: int,
        max_bytes: int,
        loop: asyncio.AbstractEventLoop,
        progressed: Callable[[], None],
    ) -> None:
        self.consumer = consumer
        self.position: Position | None = None
        self.through_lsn = 0
        self.delivered = 0
        self.rows = 0
        self.bytes = 0
        self.copied = False
        self.incomplete = False
        self.tables: dict[int, int] = {}
        self._items: deque[Item] = deque()
        self._working: Item | None = None
        self._behind: list[Rows] = []  # what was taken to it by `more`
        self._wants_more = False
        self._condition = condition
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._loop = loop
        self._progressed = progressed
        self._closed = False
        self._held = False
        self._nudged = False
        self._waiting = False
        self._arrived = asyncio.Event()

    # The source's side, in its thread.

    def offer(self, item: Item) -> bool:
        """Hand an item over, when there is room.

        Args:
            item: What comes next. Only `Rows` take room.

        Returns:
            Whether it was taken; when not, wait for the condition and offer it again.
        """
        with self._condition:
            if isinstance(item, Rows):
                rows, size = item.batch.changes_count, item.nbytes
                # A batch that is larger than the limit passes when it is alone: it could never pass otherwise. So does
                # what was in hand when the connection was lost: it waits here until the pipeline has its server again.
                if (
                    self.rows
                    and not self._held
                    and not self._wants_more
                    and (self.rows + rows > self._max_rows or self.bytes + size > self._max_bytes)
                ):
                    return False
                self.rows += rows
                self.bytes += size
            elif isinstance(item, CopyBegin):
                self.copied = False  # not when it is done: an earlier copy would be taken for this one until then
            self._items.append(item)
            self._wake()
            return True

    def advance(self, through_lsn: int) -> None:
        """Say that the WAL up to here holds nothing more for this consumer than what was handed over.

        Args:
            through_lsn: How far.
        """
        with self._condition:
            last = self._items[-1] if self._items else self._working
            if isinstance(last, Rows):
                last.through_lsn = max(last.through_lsn, through_lsn)
                self._wake()
                return
            if last is not None or through_lsn <= self.through_lsn:
                return
            self.through_lsn = through_lsn
        self._progressed()

    def complete(self) -> None:
        """Say that the consumer has the rows of all its tables."""
        self.incomplete = False
        self._progressed()

    def hold(self) -> None:
        """Give nothing more to the consumer, what is queued neither: it may be another process's business by now."""
        with self._condition:
            self._held = True
            self._wake()  # it may be closed

    @property
    def held(self) -> bool:
        """Whether nothing may be given to the consumer."""
        return self._held

    def release(self) -> None:
        """Go on after `hold`."""
        with self._condition:
            self._held = False
            self._wake()

    def nudge(self) -> None:
        """Let the consumer have a Nudge before the next item, when nothing is held."""
        with self._condition:
            self._nudged = True
            self._wake()

    def close(self) -> None:
        """Nothing more will come: the consumer ends when it has done what is queued; at once while it is held."""
        with self._condition:
            self._closed = True
            self._wake()

    def _wake(self) -> None:
        if self._waiting:
            self._waiting = False
            self._loop.call_soon_threadsafe(self._arrived.set)

    # The consumer's side, on the event loop.

    async def take(self) -> Item | None:
        """Wait for the next item.

        Returns:
            The item; it stays in flight until `done`, but for a Nudge, which is not said to be done. None after the
            last one of a closed lane, or when it is held.
        """
        while True:
            with self._condition:
                if self._nudged and not self._held and not self._closed:
                    self._nudged = False
                    return Nudge()
                if self._items and not self._held:
                    taken = self._pop()
                    break
                if self._closed:
                    return None
                self._arrived.clear()
                self._waiting = True
            await self._arrived.wait()
        if len(taken) > 1:
            # Copies bytes, so not under the lock that the source needs. Meanwhile the last one is what is worked on.
            batch = Batch.concat(rows.batch for rows in taken)
            with self._condition:
                nbytes = sum(rows.nbytes for rows in taken)
                self._working = Rows(batch, taken[-1].through_lsn, nbytes)
        return self._working

    async def more(self, seconds: float | None, through_lsn: int = 0) -> Batch | None:
        """Take what comes behind the rows that are worked on: it is in flight together with them.

        While it waits without a limit of time, the source may hand over more than has room: whoever waits so must
        have it, and sees to it that it has an end.

        Args:
            seconds: How long to wait; None: for as long as it takes.
            through_lsn: No longer either than until the WAL is done up to here for what is worked on; 0: until then.

        Returns:
            The rows; empty when the time is over, the WAL is done so far, or what comes next are no rows. None when
            nothing more will come.
        """
        deadline = None if seconds is None else self._loop.time() + seconds
        try:
            while True:
                with self._condition:
                    working = self._working
                    assert isinstance(working, Rows)
                    if self._items and not self._held:
                        rows = self._items[0]
                        if not isinstance(rows, Rows):
                            return Batch.of([])
                        self._items.popleft()
                        self._behind.append(rows)
                        working.through_lsn = max(working.through_lsn, rows.through_lsn)
                        return rows.batch
                    if self._closed:
                        return None
                    if through_lsn and working.through_lsn > through_lsn:
                        return Batch.of([])
                    self._wants_more = deadline is None
                    self._condition.notify_all()
                    self._arrived.clear()
                    self._waiting = True
                try:
                    async with asyncio.timeout_at(deadline):
                        await self._arrived.wait()
                except TimeoutError:
                    return Batch.of([])
        finally:
            self._wants_more = False

    def working_through(self) -> int:
        """How far the WAL is done for the consumer once the rows that are worked on are durable."""
        with self._condition:
            return self._working.through_lsn if isinstance(self._working, Rows) else 0

    async def allowed(self) -> bool:
        """Wait until it is not held.

        Returns:
            Whether it is not; else nothing more will come.
        """
        while True:
            with self._condition:
                if not self._held or self._closed:
                    return not self._held
                self._arrived.clear()
                self._waiting = True
            await self._arrived.wait()

    def _pop(self) -> list[Rows]:
        """Take the first item to work on; when it is rows, together with those that have queued up behind it.

        A target that is slower than the source for each write, and not for each row, catches up by larger writes.
        """
        self._working = self._items.popleft()
        taken: list[Rows] = []
        if isinstance(self._working, Rows):
            taken.append(self._working)
            count = self._working.batch.changes_count
            while self._items and isinstance(rows := self._items[0], Rows):
                count += rows.batch.changes_count
                if count > MERGED_ROWS:
                    break
                self._items.popleft()
                self._working = rows
                taken.append(rows)
        return taken

    def reach(self, position: Position, delivered: int) -> None:
        """Record that the item being worked on is durable up to a position.

        Args:
            position: The last change that is durable.
            delivered: How many changes became durable since the last call.
        """
        with self._condition:
            self.position = position
            self.delivered += delivered

    def lack(self, tables: Collection[int]) -> None:
        """Record that the consumer does not have all rows of some tables.

        Args:
            tables: By OID.
        """
        with self._condition:
            self.tables = {oid: lsn for oid, lsn in self.tables.items() if oid not in tables}

    def done(self) -> None:
        """Record that the whole item being worked on is durable."""
        with self._condition:
            item, self._working = self._working, None
            behind, self._behind = self._behind, []
            for rows in behind:
                self.rows -= rows.batch.changes_count
                self.bytes -= rows.nbytes
            if isinstance(item, Rows):
                self.rows -= item.batch.changes_count
                self.bytes -= item.nbytes
                self.through_lsn = max(self.through_lsn, item.through_lsn)
            elif isinstance(item, Begin):
                self.position = item.stored.position
                self.through_lsn = item.stored.through_lsn
                self.tables = dict(item.stored.tables or {})
            elif isinstance(item, TableEnd):
                # Whoever is given a table's rows has everything that committed before them.
                self.through_lsn = max(self.through_lsn, item.lsn)
                self.tables = self.tables | {item.oid: item.lsn}
            elif isinstance(item, CopyEnd):
                self.copied = True
            self._condition.notify_all()
        self._progressed()
