"""The bounded hand-over from the source's thread to one consumer's task: a lane.

All lanes of a run share one condition, so that the source can wait for room in any of them. What a consumer is working
on counts as in flight until it is durable.

A lane that has a spool is in one of two states. *Direct*: what comes waits in memory. When it does not fit there the
lane begins *spooling*: that and everything that comes later is appended to the spool, never both ways at once, and the
consumer reads it there when it has taken what waits in memory. When it has read all of the spool, the next thing waits
in memory again. Only the thread that hands over changes the state, so nothing can overtake; the spool's files are
touched without the lock that all share (lane_spool.py). More than 400 lines: both states are one machine, with one lock
and one count.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from queue import SimpleQueue
from typing import Literal, TypeAlias

from pgcdc.errors import SpoolFull
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.pipeline.items import Begin, CopyBegin, CopyEnd, Expected, Failed, Item, Nudge, Rows, Sending, TableEnd
from pgcdc.pipeline.lane_spool import LaneSpool
from pgcdc.pipeline.spooling import Backlog
from pgcdc.protocol import Batch

__all__ = ["Lane", "Waiting"]

logger = logging.getLogger("pgcdc.pipeline")


MERGED_ROWS = 1000
"""Batches that wait are handed over together up to so many rows: enough for a write's fixed cost to be spread thin."""
MARK_EVERY = 1024 * 1024
"""Bytes of WAL without rows for a consumer after which its spool says how far the WAL is done."""
ANSWER_WITHIN = 0.01
"""Seconds that who reads the stream waits for a target's answer at most, before the target's thread does."""
TRY_AGAIN = 0.5
"""Seconds after which a spool without room is tried again: a disk does not say when it has room."""

Waiting: TypeAlias = Literal["memory", "spool", "full"]


class Lane:
    """What lies between the source and one consumer.

    Args:
        consumer: The consumer's name.
        condition: Shared by all lanes of a run; notified when one has room again.
        max_rows: So many changes may be in flight (one batch may be larger when nothing else is).
        max_bytes: So many bytes of raw messages may be kept in memory by it, likewise.
        loop: The event loop that the consumer's task runs on.
        progressed: Called, from any thread and without the lock, after the lane moved on.
        backlog: The consumer's spool; None when it has none.

    Attributes:
        finished: The last block of the spool that is durable in the consumer.
        spool: The spool, also where there is none.
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
        backlog: Backlog | None = None,
    ) -> None:
        self.finished = 0
        self.spool = LaneSpool(consumer, backlog)
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
        self._taken: list[Rows] = []
        self._handed: Position | None = None
        self._spooling = False
        self._unread = 0
        self._unsaved: deque[Rows] = deque()
        self._late: deque[Rows] = deque()
        self._full = False
        self._try_again_at = 0.0
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
        self._looking = False
        self._expects = True
        self._arrivals: SimpleQueue[Expected | None] = SimpleQueue()
        self._expected: Rows | None = None
        self._sends: Callable[[Batch], Sending | None] | None = None
        self._written: Callable[[Batch], None] = lambda _: None
        self._begun: Sending | None = None

    # The source's side, in its thread.

    def offer(self, item: Item) -> bool:
        """Hand an item over, when there is room.

        Args:
            item: What comes next. Only `Rows` take room.

        Returns:
            Whether it was taken; when not, wait for the condition and offer it again.
        """
        if isinstance(item, Rows) and self.begin(item):
            self.conclude(item.through_lsn)
            return True
        with self._condition:
            if not isinstance(item, Rows):
                if isinstance(item, CopyBegin):
                    self.copied = False  # not when it is done: an earlier copy would be taken for this one until then
                self._items.append(item)
                self._wake()
                return True
            if not self._is_for_spool(item):
                # What was in hand when the connection was lost waits here until the pipeline has its server again.
                if not (self._held or self._wants_more or self._fits(item)):
                    return False
                self._queue(item)
                return True
        return self._spool(item)

    def send_by(self, sends: Callable[[Batch], Sending | None], written: Callable[[Batch], None]) -> None:
        """Let who hands over write what comes while the consumer's thread waits in `expect`, which sleeps on then.

        Args:
            sends: Puts a batch on its way without a wait; None when it is to be written as all others are.
            written: Told that it is durable.
        """
        self._sends, self._written = sends, written

    def begin(self, rows: Rows) -> bool:
        """Put rows on their way to the target, if its thread waits in `expect`; `conclude` has to be called then.

        Args:
            rows: What comes next; `through_lsn` need not be known yet.

        Returns:
            Whether it was done; when not, offer them.
        """
        sends = self._sends
        if sends is None or not self._claim(rows):
            return False
        try:
            self._begun = sends(rows.batch)
        except Exception as error:  # the consumer's, whatever it is, and not that of who reads the stream
            self._begun = Failed(error)
        except BaseException:
            self._arrivals.put(Expected(rows.batch, None))
            raise
        self._handed = rows.batch.last_position or self._handed
        return True

    def _claim(self, rows: Rows) -> bool:
        """Begin to work on rows in place of the thread that waits for them, if one does: it sleeps on."""
        with self._condition:
            if not self._looking or self._spooling:
                return False
            self._looking = False
            self._working, self._taken = rows, [rows]
            self.rows += rows.batch.changes_count
            self.bytes += rows.nbytes
            return True

    def conclude(self, through_lsn: int, within: float = ANSWER_WITHIN) -> None:
        """Wait for the answer to what was begun; if it does not come soon, or there is more to it, the thread does.

        Args:
            through_lsn: How far the WAL is done once that is durable.
            within: How long to wait for it, in seconds.
        """
        rows, sending = self._working, self._begun
        assert isinstance(rows, Rows)
        self._begun = None
        durable = False
        try:
            rows.through_lsn = through_lsn
            durable = sending is not None and sending.answered(within)
        finally:
            if not durable:
                self._arrivals.put(Expected(rows.batch, sending))
        if not durable:
            return
        if (last := rows.batch.last_position) is not None:
            self.reach(last, rows.batch.changes_count)
        self._written(rows.batch)
        with self._condition:
            # What came meanwhile did not wake it.
            self._looking = not (self._nudged or self._held or self._closed or self._items) and self._expects
            if not self._looking:
                self._arrivals.put(None)

    def has_room(self, item: Rows) -> bool:
        """Whether something that was not taken is worth being offered again.

        Args:
            item: What was offered.
        """
        with self._condition:
            if self._held or ((self._fits(item) or self._wants_more) and not self._unread):
                return True
            return self._spooling and time.monotonic() >= self._try_again_at

    def advance(self, through_lsn: int) -> None:
        """Say that the WAL up to here holds nothing more for this consumer than what was handed over.

        Args:
            through_lsn: How far.
        """
        with self._condition:
            self._settle()
            if self._spooling:
                mark = through_lsn >= self.spool.appended_lsn + MARK_EVERY
            else:
                last = self._items[-1] if self._items else self._working
                if isinstance(last, Rows):
                    last.through_lsn = max(last.through_lsn, through_lsn)
                    self._wake()
                    # What waits in memory would hold all of this WAL on the server.
                    held_up = self.spool.confirms and through_lsn - self.through_lsn > self._max_bytes
                    if not (held_up and self._begin_spooling()):
                        return
                    mark = False
                elif last is not None or through_lsn <= self.through_lsn:
                    return
                else:
                    self.through_lsn = through_lsn
        if self._spooling:
            if self.spool.confirms:
                self._spool(Rows(Batch.of([]), through_lsn, 0) if mark else None)
            return
        self._progressed()

    @property
    def idle(self) -> bool:
        """Whether the consumer has nothing to do, as far as the source knows."""
        return self._working is None and not self._items and not self._unread

    def _fits(self, item: Rows) -> bool:
        # A batch that is larger than the limit passes when it is alone: it could never pass otherwise.
        rows, size = item.batch.changes_count, item.nbytes
        return not self.rows or (self.rows + rows <= self._max_rows and self.bytes + size <= self._max_bytes)

    def _queue(self, item: Rows) -> None:
        self.rows += item.batch.changes_count
        self.bytes += item.nbytes
        self._items.append(item)
        self._wake()

    # Spooling, in the source's thread.

    @property
    def waiting(self) -> Waiting:
        """Where what comes waits."""
        return "full" if self._full else "spool" if self._spooling else "memory"

    @property
    def unread(self) -> int:
        """How many batches of the spool the consumer has not been given yet."""
        return self._unread

    def begin_spool(self, narrow: Callable[[Batch], Batch]) -> Position | None:
        """Begin with what an earlier run has left in the spool; after the lane's `Begin`, before any rows.

        Args:
            narrow: See `Backlog.begin`.

        Returns:
            What comes up to here is in the spool; None when nothing is.
        """
        unread = self.spool.begin(narrow)
        with self._condition:
            self._unread, self._spooling = unread, unread > 0
            self._wake()
        return Position(self.spool.appended_lsn, SNAPSHOT_INDEX) if unread else None

    def _is_for_spool(self, item: Rows) -> bool:
        if not self.spool.is_open:
            return False
        self._settle()
        if self._spooling:
            return True
        # The rest of a transaction that is wanted whole goes into memory anyway; the spool may be too small for it.
        return not (self.incomplete or self._wants_more or self._fits(item)) and self._begin_spooling()

    def _settle(self) -> None:
        """Go back to memory when the consumer has been given all that is in the spool."""
        idle = not self._items and self._working is None
        if self._spooling and not self._unread and (idle or not self._unsaved):
            self._items.extend(self._late)
            self._late.clear()
            self._unsaved.clear()
            self._spooling = False
            self._made_room()
            self._wake()

    def _made_room(self) -> None:
        if self._full:
            self._full = False
            logger.warning("consumer %r: there is room again", self.consumer)

    def _begin_spooling(self) -> bool:
        working: list[Item] = [] if self._working is None else [self._working]
        working = [*(self._taken or working), *self._behind]
        if self.incomplete or any(not isinstance(one, Rows | Begin) for one in [*working, *self._items]):
            return False  # rows of a copy all have one position, and are taken again when they did not arrive
        self._spooling = True
        if self.spool.confirms:
            # What the slot is confirmed past must be there after a crash, also what the consumer works on.
            waiting = [one for one in [*working, *self._items] if isinstance(one, Rows) and one.sequence is None]
            # What is worked on may say more of the WAL than is in it: only with the last one all of it is there.
            self._unsaved.extend(Rows(one.batch, self.spool.appended_lsn, 0) for one in waiting[:-1])
            if waiting:
                self._unsaved.append(Rows(waiting[-1].batch, max(one.through_lsn for one in waiting), 0))
        return True

    def _spool(self, item: Rows | None) -> bool:
        """Append what is to go to the spool, without the lock; tell whether all of it went."""
        try:
            while self._unsaved:
                self._append(self._unsaved[0])
                self._unsaved.popleft()
            while self._late:
                self._append(self._late[0])
                with self._condition:
                    late = self._late.popleft()
                    self.rows -= late.batch.changes_count
                    self.bytes -= late.nbytes
            if item is not None:
                self._append(item)
        except SpoolFull as error:
            return self._keep_late(item, error)
        if item is not None:
            self._made_room()
        return True

    def _append(self, item: Rows) -> None:
        self.spool.append(item)
        with self._condition:
            self._unread += 1
            self._wake()

    def _keep_late(self, item: Rows | None, error: SpoolFull) -> bool:
        if item is None or not item.batch.changes_count:
            return False  # nobody waits for it
        if not self._full:
            what = "consumer %r: its spool has no room, and the server is not read further before it has: %s"
            logger.warning(what, self.consumer, error)
        self._full = True
        with self._condition:
            self._try_again_at = time.monotonic() + TRY_AGAIN
            if not self._held:
                return False
            # In hand when the connection was lost: it waits in memory, behind what is in the spool.
            self._late.append(item)
            self.rows += item.batch.changes_count
            self.bytes += item.nbytes
            return True

    # In the thread that stores positions.

    def free(self, sequence: int) -> None:
        """Give up what is in the spool up to a block: it is durable in the consumer, and that is stored.

        Args:
            sequence: The block's.

        Raises:
            SpoolError: When a file cannot be removed.
        """
        if sequence:
            self.spool.release(sequence)
            with self._condition:
                self._try_again_at = 0.0
                self._condition.notify_all()

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

    @property
    def closed(self) -> bool:
        """Whether nothing more will come."""
        return self._closed

    def _wake(self) -> None:
        if self._waiting:
            self._waiting = False
            self._loop.call_soon_threadsafe(self._arrived.set)
        if self._looking:
            self._looking = False
            self._arrivals.put(None)

    # The consumer's side, in a thread of its own, while its task waits for that.

    def expect(self) -> Expected | None:
        """Wait for rows and begin to work on them: what `take` gives next is these. Blocks.

        To wake up the event loop takes three times as long as to wake up a thread that waits for nothing else.

        Returns:
            The rows; None when `take` has something else to give, or to wait for.
        """
        while True:
            with self._condition:
                if self._nudged or self._held or self._closed or not self._expects:
                    return None
                if self._items:
                    if not isinstance(self._items[0], Rows):
                        return None
                    taken = self._pop()
                    break
                if self._unread:
                    return None
                self._looking = True
            if (expected := self._arrivals.get()) is not None:
                assert isinstance(self._working, Rows)
                self._expected = self._working
                return expected
        self._begin(taken)
        assert isinstance(self._working, Rows)
        self._expected = self._working
        return Expected(self._working.batch, None)

    def expect_nothing(self) -> None:
        """End `expect`: its task has been cancelled."""
        with self._condition:
            self._expects = False
            self._wake()

    # The consumer's side, on the event loop.

    async def take(self) -> Item | None:
        """Wait for the next item.

        Returns:
            The item; it stays in flight until `done`, but for a Nudge, which is not said to be done. None after the
            last one of a closed lane, or when it is held.
        """
        if self._expected is not None:
            self._expected = None
            return self._working
        while True:
            with self._condition:
                if self._nudged and not self._held and not self._closed:
                    self._nudged = False
                    return Nudge()
                unread = 0 if self._held or self._items or self._closed else self._unread
                if self._items and not self._held:
                    taken = self._pop()
                    break
                if self._closed:
                    return None  # what is in the spool stays there, or comes again from the server
                if not unread:
                    self._arrived.clear()
                    self._waiting = True
            if not unread:
                await self._arrived.wait()
            elif await self._read(unread):
                return self._working
        self._begin(taken)
        return self._working

    async def more(self, seconds: float | None, through_lsn: int = 0) -> Batch | None:
        """Take what comes behind the rows that are worked on: it is in flight together with them.

        While it waits, the source may hand over more than has room: whoever waits so must have it, and sees to it that
        it has an end. Without that, a lane that is full would wait for the time to be over.

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
                        self._handed = rows.batch.last_position or self._handed
                        return rows.batch
                    if self._closed:
                        return None
                    if through_lsn and working.through_lsn > through_lsn:
                        return Batch.of([])
                    self._wants_more = True
                    self._condition.notify_all()
                    unread = 0 if self._held else self._unread
                    if not unread:
                        self._arrived.clear()
                        self._waiting = True
                if unread:
                    if (batch := await self._read_more(unread, working)).changes_count:
                        return batch
                    continue
                try:
                    async with asyncio.timeout_at(deadline):
                        await self._arrived.wait()
                except TimeoutError:
                    return Batch.of([])
        finally:
            self._wants_more = False

    async def _read_more(self, unread: int, working: Rows) -> Batch:
        rows, blocks = await self._read_rows(unread)
        with self._condition:
            self._unread -= blocks
            self._behind.append(rows)
            self.rows += rows.batch.changes_count
            self.bytes += rows.nbytes
            working.through_lsn = max(working.through_lsn, rows.through_lsn)
            working.sequence = rows.sequence
        return rows.batch

    def working_through(self) -> int:
        """How far the WAL is done for the consumer once the rows that are worked on are durable."""
        with self._condition:
            return self._working.through_lsn if isinstance(self._working, Rows) else 0

    async def _read(self, unread: int) -> bool:
        """Read of the spool what is to be worked on; tell whether there was something new."""
        rows, blocks = await self._read_rows(unread)
        with self._condition:
            self._unread -= blocks
            self._working, self._taken = rows, []
            self.rows += rows.batch.changes_count
            self.bytes += rows.nbytes
        if rows.batch.changes_count:
            return True
        self.done()
        return False

    async def _read_rows(self, unread: int) -> tuple[Rows, int]:
        rows, blocks = await self.spool.read(unread, MERGED_ROWS, self._handed)
        self._handed = rows.batch.last_position or self._handed
        return rows, blocks

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
        taken = self._taken = []
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

    def _begin(self, taken: list[Rows]) -> None:
        """Join what was taken together."""
        if len(taken) > 1:
            # Copies bytes, so not under the lock that the source needs. Meanwhile the last one is what is worked on.
            batch = Batch.concat(rows.batch for rows in taken)
            with self._condition:
                nbytes = sum(rows.nbytes for rows in taken)
                self._working = Rows(batch, taken[-1].through_lsn, nbytes)
                self._taken = []
        if isinstance(self._working, Rows):
            self._handed = self._working.batch.last_position or self._handed

    def reach(self, position: Position, delivered: int, behind: int = 0) -> None:  # noqa: ARG002 (for those that ask)
        """Record that the item being worked on is durable up to a position.

        Args:
            position: The last change that is durable.
            delivered: How many changes became durable since the last call.
            behind: How many of those that are being written are, from the first on; 0: no matter.
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
            self._expected = None
            behind, self._behind = self._behind, []
            for rows in behind:
                self.rows -= rows.batch.changes_count
                self.bytes -= rows.nbytes
            self._taken = []
            if isinstance(item, Rows):
                self.finished = item.sequence or self.finished
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
