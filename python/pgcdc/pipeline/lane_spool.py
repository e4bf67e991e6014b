"""The spool of one lane as the threads that meet it use it: who hands over, who reads, and who stores positions.

Nothing here knows what waits in memory; queue.py says what goes to the spool and when it is read.
"""

from __future__ import annotations

from collections.abc import Callable

from pgcdc.lsn import Position
from pgcdc.pipeline.items import Rows
from pgcdc.pipeline.positions import StoredPosition
from pgcdc.pipeline.spooling import Backlog, SpoolState
from pgcdc.pipeline.worker import Worker
from pgcdc.protocol import Batch, RowFormat

__all__ = ["LaneSpool"]


class LaneSpool:
    """A lane's spool, where it has one.

    Args:
        consumer: The consumer's name.
        backlog: The spool; None: there is none.

    Attributes:
        backlog: The spool.
        appended_lsn: The WAL up to here is done when the consumer has all that is in it.
        synced_lsn: The WAL up to here is done when the consumer has what is durable in it; 0 without one.
    """

    def __init__(self, consumer: str, backlog: Backlog | None) -> None:
        self.backlog = backlog
        self.appended_lsn = 0
        self.synced_lsn = 0
        self._reader = Worker(f"pgcdc-{consumer}-spool")

    # At the start.

    def open(self, format: RowFormat, source: str = "") -> None:
        """Open it, if it is not open; nothing in it changes.

        Args:
            format: How rows of what is read are given.
            source: See `Backlog.open`.

        Raises:
            SpoolInUse: When another process has it.
            SpoolError: When it cannot be opened.
        """
        if self.backlog is not None and not self.backlog.is_open:
            self.backlog.open(format, source)

    def look_into(self, stored: StoredPosition | None) -> SpoolState | None:
        """Say what of it counts: it does when the slot was confirmed on the strength of it.

        Args:
            stored: What is stored for the consumer.

        Returns:
            Its state, with 0 for its LSN when nothing in it counts; None when there is no spool.
        """
        if self.backlog is None:
            return None
        state = self.backlog.state
        counts = stored is not None and stored.spool == state.id and stored.through_lsn < state.through_lsn
        return state if counts else SpoolState(state.id, 0)

    def clear(self) -> None:
        """Empty it: what is in it comes again, or is of no use.

        Raises:
            SpoolError: When that cannot be done.
        """
        if self.backlog is not None:
            self.backlog.clear()

    def begin(self, narrow: Callable[[Batch], Batch]) -> int:
        """Begin with what an earlier run has left.

        Args:
            narrow: See `Backlog.begin`.

        Returns:
            How many batches there are to be read.
        """
        if self.backlog is None:
            return 0
        unread = self.backlog.begin(narrow)
        self.appended_lsn = self.synced_lsn = self.backlog.state.through_lsn
        return unread

    # What is known of it.

    @property
    def is_open(self) -> bool:
        """Whether it can be appended to."""
        return self.backlog is not None and self.backlog.is_open

    @property
    def confirms(self) -> bool:
        """Whether the slot may be confirmed on the strength of it."""
        return self.backlog is not None and self.backlog.confirms and self.backlog.is_open

    @property
    def state(self) -> SpoolState | None:
        """What is durable in it; None when there is none that is open."""
        return None if self.backlog is None or not self.synced_lsn else SpoolState(self.backlog.id, self.synced_lsn)

    @property
    def id(self) -> str | None:
        """What is to be stored beside the position: the id of the spool that it takes to go on from there."""
        backlog = self.backlog
        return backlog.id if backlog is not None and (backlog.confirms or backlog.state.through_lsn) else None

    # While it runs.

    def append(self, item: Rows) -> None:
        """Append rows; in the source's thread.

        Args:
            item: The rows.

        Raises:
            SpoolFull: When there is no room.
            SpoolError: When it cannot be done otherwise.
        """
        assert self.backlog is not None
        self.backlog.append(item.batch, item.through_lsn)
        # Only now: what is synced after this was seen has it.
        self.appended_lsn = max(self.appended_lsn, item.through_lsn)

    async def read(self, unread: int, most: int, handed: Position | None) -> tuple[Rows, int]:
        """Read what comes next, in a thread of its own; on the event loop.

        Args:
            unread: How many batches there are.
            most: With so many rows it is enough.
            handed: What comes up to here was in memory, too; None: nothing was.

        Returns:
            The rows, and of how many batches they are.

        Raises:
            SpoolError: When it cannot be read.
        """
        assert self.backlog is not None
        read = await self._reader.call(self.backlog.read, unread, most)
        batch = read.batch if handed is None else read.batch.after(handed)
        return Rows(batch, read.through_lsn, batch.nbytes, read.sequence), read.blocks

    def sync(self) -> None:
        """Make durable what is in it, if the slot is to be confirmed past it; in the thread that stores positions.

        Raises:
            SpoolError: When that failed.
        """
        if self.backlog is None or not self.confirms:
            return
        through_lsn = self.appended_lsn
        if through_lsn > self.synced_lsn:
            self.backlog.sync()
            self.synced_lsn = through_lsn

    def release(self, sequence: int) -> None:
        """Give up what is in it up to a block; in the thread that stores positions.

        Args:
            sequence: The block's.

        Raises:
            SpoolError: When a file cannot be removed.
        """
        if self.backlog is not None:
            self.backlog.release(sequence)

    async def close(self, timeout: float) -> bool:
        """Let go of it, at the end.

        Args:
            timeout: How long a read that hangs is waited for, in seconds.

        Returns:
            Whether nothing is left of it.
        """
        if not await self._reader.stop(timeout):
            return False
        if self.backlog is not None:
            self.backlog.close()
        return True
