"""How far a stream is: what came, what was handed over, what may be confirmed. It outlives connections.

One thread reads, others may confirm and send status updates: what belongs together changes under one lock.

Source: PostgreSQL manual, "Streaming Replication Protocol", Standby status update.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import itemgetter
from threading import Lock
from typing import TYPE_CHECKING

from pgcdc.errors import ConfigError, DecodeError, PositionError
from pgcdc.events import (
    Begin,
    BeginPrepare,
    Commit,
    CommitPrepared,
    Delete,
    Insert,
    Message,
    Origin,
    Prepare,
    Relation,
    RollbackPrepared,
    StreamAbort,
    StreamCommit,
    StreamPrepare,
    StreamStart,
    StreamStop,
    Truncate,
    Type,
    Update,
)
from pgcdc.lsn import format_lsn
from pgcdc.protocol import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgcdc.events import Event

__all__ = ["Progress", "durable_lsn"]

MOST_SPANS = 1024
"""So many prepared transactions that came out are known one by one; what is true of several as one holds back more."""
_prepared, _ended = itemgetter(0), itemgetter(1)


class Progress:
    """How far a stream is.

    Args:
        slot: The slot's name, for errors.
        floor: Where the stream began: what is below was durable before.

    Attributes:
        slot: The slot's name.
        received_lsn: The highest WAL position that was received, and of which nothing is still to come out.
        idle_lsn: Everything up to here was handed over whole, and would not be needed again after a restart from here.
        flushed_lsn: What was confirmed; 0 until something was.
        hold_lsn: Where the oldest transaction was prepared that is kept here; None when none is.
        done_lsn: The end of the last transaction, or message outside of one, that was handed over whole.
        position: The last change that was handed over.
    """

    def __init__(self, slot: str, floor: int) -> None:
        self.received_lsn = 0
        self.idle_lsn = 0
        self.flushed_lsn = 0
        self.hold_lsn: int | None = None
        self.done_lsn = 0
        self.position: tuple[int, int] | None = None
        self.slot = slot
        self._floor = floor
        self._lock = Lock()
        self._again: tuple[int, int] | None = None  # while it comes again
        self._owed_lsn = 0  # confirmed up to here, nothing that was handed over waits for it
        # Of prepared transactions that came out: where they were prepared, and where they ended. In order, and apart.
        self._came_out: list[tuple[int, int]] = []

    @property
    def told_lsn(self) -> int:
        """What the server is told: it forgets what is below."""
        with self._lock:
            told = self._outside_of_prepared(self.flushed_lsn)
            # What is told does not go back, and so neither does where a connection begins.
            del self._came_out[: bisect_right(self._came_out, told, key=_ended)]
            return told

    @property
    def resume_lsn(self) -> int:
        """Where another connection is to begin: what committed before was handed over whole, or is durable."""
        with self._lock:
            return self._outside_of_prepared(max(self.done_lsn, self.flushed_lsn, self._floor))

    def _outside_of_prepared(self, lsn: int) -> int:
        """The highest place up to an LSN that is not behind a PREPARE whose transaction ends later.

        Of such a transaction a server that is asked to begin there would send no more than that it was committed, also
        if it came out and is confirmed: a transaction that was prepared after it may hold back what is told.
        """
        if self.hold_lsn is not None:
            lsn = min(lsn, self.hold_lsn)
        place = bisect_right(self._came_out, lsn, key=_ended)
        return min(lsn, self._came_out[place][0]) if place < len(self._came_out) else lsn

    def _prepared_came_out(self, prepared: int, ended: int) -> None:
        """Note a prepared transaction that came out; with those that it overlaps it is one."""
        spans = self._came_out
        first = bisect_right(spans, prepared, key=_ended)
        behind = bisect_left(spans, ended, key=_prepared)
        if first < behind:
            prepared, ended = min(prepared, spans[first][0]), max(ended, spans[behind - 1][1])
        spans[first:behind] = [(prepared, ended)]
        if len(spans) > MOST_SPANS:
            spans[:2] = [(spans[0][0], spans[1][1])]

    @property
    def reached_lsn(self) -> int:
        """Up to here there must be the same WAL wherever the stream goes on."""
        return max(self.done_lsn, self.flushed_lsn, self._floor, self.position[0] if self.position else 0)

    @property
    def skip(self) -> tuple[int, int] | None:
        """What another connection sends again up to this position was handed over before."""
        if self.done_lsn > (self.position or (0, 0))[0]:
            return self.done_lsn, -1  # whatever it was, it was whole, and the next one commits behind it
        return self.position

    def handed_over(
        self,
        batch: Batch,
        *,
        received: int = 0,
        idle: int = 0,
        hold: int | None = None,
        spans: Sequence[tuple[int, int]] = (),
        assembled: bool = False,
    ) -> None:
        """Note what goes to the user.

        Args:
            batch: The messages; there may be none.
            received: The highest WAL position of which nothing is still to come out.
            idle: Everything up to here was handed over whole.
            hold: Where the oldest transaction was prepared that is kept; None when none is.
            spans: Of the prepared transactions that came out with this: where they were prepared, and where they ended.
            assembled: Whether the messages come from an assembler: what such a batch says of its end is what may be
                confirmed, nothing past a prepared transaction, and that is looked after here.
        """
        end_lsn = message_lsn = 0
        if len(batch):
            end_lsn = (batch.commit_end_lsn if assembled else batch.end_lsn) or 0
            message_lsn = batch.message_lsn or 0
        with self._lock:
            self._owed_lsn = max(self._owed_lsn, end_lsn, message_lsn)
            self.done_lsn = max(self.done_lsn, end_lsn, message_lsn)
            self.received_lsn = max(self.received_lsn, received, end_lsn, message_lsn)
            self.idle_lsn = max(self.idle_lsn, idle)
            if (position := batch.last_position) is not None:
                # What comes again after a reconnect is below, and the next connection may be lost while it does.
                self.position = max(self.position or (0, -1), (position[0], position[1]))
            for prepared, ended in spans:
                self._prepared_came_out(prepared, ended)
            self.hold_lsn = hold

    def lost(self) -> None:
        """The connection is gone: what it has sent of a transaction comes again, from its beginning."""
        self._again = self.skip

    @property
    def repeats(self) -> bool:
        """Whether what comes may have been handed over before."""
        return self._again is not None

    def unseen(self, batch: Batch) -> Batch:
        """Leave out what was handed over before the connection was lost.

        Args:
            batch: What came.

        Returns:
            What of it is new; of a transaction that was handed over in part its Begin is among that.
        """
        if self._again is None or not len(batch):
            return batch
        skip, last = self._again, batch.last_position
        if last is not None and (last[0], last[1]) > skip:
            self._again = None  # but this one may begin with the end of a transaction that was handed over
        return batch.after(skip)

    def rest(self) -> None:
        """Nothing is in flight: if everything that was handed over is confirmed, so is what keepalives told since."""
        with self._lock:
            if self.flushed_lsn >= self._owed_lsn:
                self.flushed_lsn = max(self.flushed_lsn, self.idle_lsn)

    def confirm(self, durable: Event | DecodeError | Batch | int) -> None:
        """Everything up to here is durable; the contract is `AsyncStream.confirm`'s.

        Args:
            durable: An event, a batch, or an LSN.

        Raises:
            PositionError: When an LSN was not received yet.
            ConfigError: When it is something else.
        """
        if isinstance(durable, int):
            lsn = durable
            received = max(self.received_lsn, self._floor)
            if lsn > received:
                raise PositionError(
                    f'{format_lsn(lsn)} cannot be confirmed to slot "{self.slot}": only the WAL up to'
                    f" {format_lsn(received)} was received",
                    hint="confirm a Commit's end_lsn or the stream's idle_lsn",
                    slot=self.slot,
                    lsn=lsn,
                )
        else:
            lsn = min(durable_lsn(durable), self.received_lsn)
        with self._lock:
            self.flushed_lsn = max(self.flushed_lsn, lsn)


def durable_lsn(done: Event | DecodeError | Batch) -> int:
    """How far the WAL is done when an event, or a batch, is done.

    A commit record's own start is as safe as its end: a slot confirmed up to there gives the transaction again.

    Args:
        done: The event, what stands in the place of one, or a batch.

    Returns:
        The LSN; 0 when that is not known.

    Raises:
        ConfigError: When it is something else.
    """
    if isinstance(done, Batch):
        return max(done.end_lsn or 0, done.commit_end_lsn or 0, done.message_lsn or 0) if len(done) else 0
    if isinstance(done, (Commit, StreamCommit, CommitPrepared, Prepare, StreamPrepare)):
        return done.end_lsn
    if isinstance(done, RollbackPrepared):
        return done.rollback_end_lsn
    if isinstance(done, Begin):
        return done.final_lsn
    if isinstance(done, BeginPrepare):
        return done.prepare_lsn
    if isinstance(done, Message) and not done.transactional:
        return done.lsn
    if isinstance(done, (Insert, Update, Delete, Truncate, Message)):
        return done.commit_lsn if isinstance(done.commit_lsn, int) else 0
    if isinstance(done, DecodeError):
        return done.position[0] if done.position is not None else 0
    if isinstance(done, (Relation, Type, Origin, StreamStart, StreamStop, StreamAbort)):
        return 0
    raise ConfigError(
        f"what is confirmed is an event, a transaction, a batch or an LSN, not {type(done).__name__}",
        hint="confirm a Commit, a batch, or an LSN as an int (pgcdc.parse_lsn reads one)",
    )
