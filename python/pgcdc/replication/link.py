# Made from link_async.py by ./dev lint --fix: change that file, not this one.
"""One START_REPLICATION: frames become batches, status updates go back, until either side ends it.

Over 400 lines, because all of it is one state.

Status updates go out by themselves (`_beat`): while the user's code sleeps or computes, nobody reads, and the server
would give up. What beats sends only: it never waits, and touches nothing of what reading is made of. libpq is not made
for two threads, so each burst of its calls is made under one lock.

A read may be cancelled wherever it awaits something, and the next goes on: what was taken from libpq is kept in
attributes, never across an `await` in a local variable, and is noted as handed over when it is.

Source: PostgreSQL manual, "Streaming Replication Protocol"; server file `replication/walsender.c`.
"""

from __future__ import annotations

import logging
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Final

from pgcdc.errors import ConnectionLost, Error, PublicationNotFound
from pgcdc.protocol import Assembler, Batch, BatchReader, Frames, encode_status_update
from pgcdc.replication import generators, waits
from pgcdc.replication.generators import Drained
from pgcdc.replication.libpq import psycopg
from pgcdc.replication.pace import Pace
from pgcdc.replication.sqlstate import Doing, connection_lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg.pq.abc import PGresult

    from pgcdc.protocol import RowFormat
    from pgcdc.replication.generators import Waiting
    from pgcdc.replication.new_types import TypeWatch
    from pgcdc.replication.progress import Progress
    from pgcdc.replication.session import Session
    from pgcdc.replication.stream_options import StreamOptions

__all__ = ["MAX_BYTES", "MAX_MESSAGES", "Link"]

logger = logging.getLogger("pgcdc.replication")

MAX_BYTES: Final = 1 << 16
"""About how many bytes one batch may have: what is made of them fits into a processor's cache (decision 0028)."""
MAX_MESSAGES: Final = 10_000
"""How many messages one batch may have."""
STATUS_SECONDS: Final = 10.0
"""At most so long between two status updates, as PostgreSQL's own walreceiver (`wal_receiver_status_interval`)."""
_CONFIRM_SECONDS: Final = 1.0
"""How soon a confirmation goes out while nobody reads."""
_CLOSE_SECONDS: Final = 2.0
"""How long the server may take to end a stream; it may be in the middle of a large transaction."""
_BRISK_READS: Final = 8
"""What is worked on as soon as it is there sets the pace itself. It may come in two parts, or a keepalive between."""
_PRESSED_SECONDS: Final = 5.0
"""How long a server that is being stopped may ask for confirmations that do not come, until it is let go."""
_PRESSED_QUESTIONS: Final = 20
"""So many questions in that time, with nothing between them, mean that it is being stopped."""
_NOTHING: Final = Batch.of([])
_ANSWER_SECONDS: Final = 0.05
"""The least time between two answers that say the same: such a server asks again at once."""


class Link:
    """One connection's part of a stream.

    Args:
        session: A walsender that has begun to stream.
        doing: What is being done, for errors.
        binary: Whether values come in binary.
        format: How rows are given.
        options: What was asked for.
        progress: How far the stream is.
        sender_timeout: The server's `wal_sender_timeout` in seconds, 0 for none.
        watch: Looks for new types.

    Attributes:
        questions: How many keepalives have asked for an answer.
    """

    def __init__(
        self,
        session: Session,
        doing: Doing,
        binary: bool,
        format: RowFormat,
        options: StreamOptions,
        progress: Progress,
        sender_timeout: float,
        watch: TypeWatch | None,
    ) -> None:
        self.binary = binary
        self.questions = 0
        self.closed = False
        self.ended = False
        # A third of the server's patience: one update may be lost in a slow moment and the next still comes in time.
        self.interval = min(STATUS_SECONDS, sender_timeout / 3) if sender_timeout > 0 else STATUS_SECONDS
        self.interval = min(self.interval, options.receive_timeout / 3)
        self._session = session
        self._doing = Doing(doing.what, kind="stream", slot=doing.slot, publications=doing.publications)
        self._options = options
        self._progress = progress
        self._reader = BatchReader(format)
        self._assembler: Assembler | None = None
        if options.assembled:
            self._assembler = Assembler(
                max_memory=options.max_memory, spill_directory=options.spill_directory, format=format
            )
        self._whole: Iterator[Batch] = iter(())
        self._frames = Frames()  # taken from libpq, not read yet
        self._drained: Drained | None = None  # why these are all so far
        self._at_hand: Batch | None = None  # read, not handed over yet
        self._results: list[PGresult] = []  # why the server ended the COPY
        # What the link before this one has kept is kept here only when it has come again.
        self._behind_lsn = progress.received_lsn
        self._level = not self._behind_lsn
        self._watch = watch
        self._patience = sender_timeout
        self._lock = Lock()
        self._pace = Pace()
        self._brisk = 0  # so many reads more are not put off
        now = monotonic()
        self._status_due = now
        self._status_at = 0.0
        self._told_lsn = 0
        self._ask_due = now + self.interval
        self._asked_at: float | None = None
        self._pressed_at = 0.0
        self._pressed = 0
        self._failed: ConnectionLost | None = None
        self._beating = waits.Periodic(self._beat, f"pgcdc-{doing.slot}-status") if options.feedback else None

    @property
    def in_transaction(self) -> bool:
        """Whether the last message read left a transaction open."""
        return self._reader.in_transaction

    def read(
        self, timeout: float, max_bytes: int, max_messages: int, early: Callable[[Batch], bool] | None = None
    ) -> Batch:
        """Take what has come; the contract is `Stream.read`'s.

        Args:
            timeout: Seconds to wait for the first message.
            max_bytes: About how many bytes the batch may have.
            max_messages: How many messages the batch may have.
            early: As for `Stream.read`; not with an assembler.

        Returns:
            What came; an empty batch when nothing did.
        """
        if self._failed is not None:
            raise self._failed
        deadline = monotonic() + timeout
        waits.turn()
        # Of a large transaction that came whole there may be more than one batch.
        if self._at_hand is None and (batch := next(self._whole, _NOTHING)) is not _NOTHING:
            self._at_hand = batch
        if self._at_hand is None and self._assembler is not None:
            self._note(_NOTHING)  # now nothing of what was received is still to come out
        while True:
            if self._at_hand is None and not self.ended:
                self._take(deadline, max_bytes, max_messages, early)
            batch = _NOTHING
            if self._at_hand is not None:
                self._look(self._at_hand)
                batch, self._at_hand = self._at_hand, None
                self._note(batch)
            if self.ended:
                if len(batch):
                    return batch
                raise self.end()
            self._answer_with(batch)
            if len(batch) or monotonic() >= deadline:
                return batch

    def send_status(self, *, reply_requested: bool = False) -> None:
        """Send a status update now; never waits.

        Args:
            reply_requested: Ask the server for a keepalive at once.

        Raises:
            ConnectionLost: When the connection broke.
        """
        try:
            self._send(reply_requested)
        except psycopg.Error as error:
            raise self._explained(self._session.lost(self._doing, error)) from None

    def close(self) -> None:
        """End it; the contract is `Stream.close`'s."""
        if self.closed:
            return
        self._stop_beating()
        try:
            if not self._session.closed and not self.ended:
                self.send_status()
                self._say_done()
            elif self.ended:
                self._session.finish_copy(self._doing)
        except (Error, psycopg.Error) as error:
            logger.debug("the stream from slot %s ended with: %s", self._doing.slot, error)
            if not self._session.idle:
                self._session.close()
        except BaseException:
            self._session.close()
            raise
        finally:
            self.closed = True

    def drop(self) -> None:
        """Give up the connection, without a word to the server."""
        self._stop_beating()
        self._session.close()
        self.closed = True

    def end(self) -> Error:
        """Why the server ended the COPY.

        Returns:
            The error, to be raised.
        """
        self._stop_beating()
        why: Error
        try:
            self._session.finish_copy(self._doing, self._results)
            why = connection_lost(self._doing, "the server is shutting down")
        except ConnectionLost as error:
            why = self._explained(error)
        except Error as error:
            why = error
        self.closed = True
        return why

    def _take(self, deadline: float, max_bytes: int, max_messages: int, early: Callable[[Batch], bool] | None) -> None:
        """Wait for messages and read them; what came is at hand then."""
        if self._drained is None:
            now = monotonic()
            if (pause := min(self._pace.pause(now), deadline - now)) > 0:
                waits.sleep(pause)
            try:
                until = min(deadline, self._status_due, self._ask_due)
                self._session.wait(self._receive(max_bytes, max_messages), until - monotonic(), self._doing)
            except ConnectionLost as error:
                raise self._explained(error) from None
        if self._session.notices.skipped_publication is not None:
            raise self._publication_skipped()
        # Nothing is awaited until it is at hand.
        drained, self._drained = self._drained, None
        frames, self._frames = self._frames, Frames()
        read_at, count, is_begun = monotonic(), len(frames), False
        self.ended = drained is Drained.ENDED
        if frames:
            batch = self._reader.read(frames)
            if self._assembler is not None:
                self._whole = self._assembler.read(*frames.messages())
                batch = next(self._whole, _NOTHING)
            self._at_hand = batch
            if early is not None and self._assembler is None and not self._reader.in_transaction and len(batch):
                is_begun = early(batch)
            self._asked_at = None
            self._ask_due = read_at + self.interval
        self._brisk = _BRISK_READS if is_begun else max(0, self._brisk - 1)
        self._pace.read(read_at, count, more=drained is Drained.FULL or self._brisk > 0)

    def _receive(self, max_bytes: int, max_messages: int) -> Waiting[None]:
        """Take what has come; noted here, because whoever drives this may be cancelled when it has returned."""
        self._drained = yield from generators.receive(
            self._session.pgconn, self._frames, max_bytes, max_messages, self._lock
        )

    def _look(self, batch: Batch) -> None:
        """Learn types, before anybody decodes rows of them."""
        if self._watch is not None and len(batch):
            self._watch.look(batch)

    def _note(self, batch: Batch) -> None:
        """Take down how far it is with this."""
        progress, reader, assembler = self._progress, self._reader, self._assembler
        if assembler is None:
            progress.handed_over(batch, received=reader.received_lsn, idle=reader.idle_lsn)
            whole = not reader.in_transaction
        else:
            hold = assembler.hold_lsn
            # Whatever was received: what the assembler has not given out yet is not there for the user.
            whole = assembler.idle and not reader.in_transaction
            received = idle = 0
            if whole or not len(batch):
                received, idle = reader.received_lsn, reader.idle_lsn
                self._level = self._level or received >= self._behind_lsn
            if not self._level and progress.hold_lsn is not None:
                hold = progress.hold_lsn if hold is None else min(hold, progress.hold_lsn)
            spans = assembler.take_spans()
            progress.handed_over(batch, received=received, idle=idle, hold=hold, spans=spans, assembled=True)
        if whole and self._options.confirm_idle:
            progress.rest()

    def _answer_with(self, batch: Batch) -> None:
        """Answer what was asked; when that fails, what was taken down as handed over is handed over first."""
        try:
            self._answer(something=len(batch) > 0)
        except ConnectionLost as error:
            if not len(batch):
                raise
            self._failed = error

    def _answer(self, something: bool) -> None:
        """Answer what was asked, and send what is due."""
        now = monotonic()
        if something or now - self._pressed_at > _PRESSED_SECONDS + 1.0:
            self._pressed = 0
        if self._reader.take_reply_request():
            self.questions += 1
            if not self._pressed:
                self._pressed_at = now
            self._pressed += 1
            news = self._progress.told_lsn > self._told_lsn
            self._status_due = now if news else max(now, self._status_at + _ANSWER_SECONDS)
        if self._pressed > _PRESSED_QUESTIONS and now - self._pressed_at > _PRESSED_SECONDS:
            self.drop()
            raise connection_lost(
                self._doing,
                "the server is being stopped and does not end before everything that it has sent is confirmed",
                hint="what was not confirmed comes again; connect again when the server is back",
            )
        if now >= self._ask_due:
            # With the request to answer, so that a dead network is noticed.
            if self._asked_at is None:
                self._asked_at = now
            elif now - self._asked_at > self._options.receive_timeout:
                self.drop()
                silent = f"the server has been silent for {self._options.receive_timeout:g} s"
                raise connection_lost(self._doing, silent)
            self._ask_due = now + self.interval
            self.send_status(reply_requested=True)
        elif now >= self._status_due:
            self.send_status()

    def _send(self, reply_requested: bool) -> None:
        """Put a status update on its way; also called by what beats."""
        with self._lock:
            # In here, so that two threads do not tell it in the wrong order: a server may go back to what is told last.
            told = self._progress.told_lsn
            update = encode_status_update(max(self._progress.received_lsn, told), told, told, reply_requested)
            self._session.pgconn.put_copy_data(update)
            # What does not go out at once (the server reads nothing because we read nothing) goes out with the next.
            self._session.pgconn.flush()
            self._told_lsn = told
            self._status_at = monotonic()
            self._status_due = self._status_at + self.interval

    def _beat(self) -> float | None:
        """Send what is due while nobody reads.

        Returns:
            When to be called again, in seconds; None for never.
        """
        if self.closed or self.ended:
            return None
        if self._progress.told_lsn > self._told_lsn or monotonic() >= self._status_due:
            try:
                self._send(reply_requested=False)
            except psycopg.Error:
                return None  # whoever reads meets the same and can say it
        return min(_CONFIRM_SECONDS, self.interval)

    def _stop_beating(self) -> None:
        if self._beating is not None:
            self._beating.stop()

    def _say_done(self) -> None:
        """The CopyDone handshake; closes the connection when it takes too long."""
        deadline = monotonic() + _CLOSE_SECONDS
        pgconn = self._session.pgconn
        with self._lock:
            pgconn.put_copy_end()
        self._session.drive(deadline, lambda: generators.flush(pgconn, self._lock), self._doing)
        ended = False
        while not ended and (left := deadline - monotonic()) > 0:
            # What still comes was not confirmed and comes again.
            receiving = generators.receive(pgconn, Frames(), MAX_BYTES, MAX_MESSAGES, self._lock)
            ended = self._session.wait(receiving, left, self._doing) is Drained.ENDED
        if ended:
            self._session.finish_copy(self._doing)
        else:
            self._session.close()

    def _publication_skipped(self) -> PublicationNotFound:
        """PostgreSQL 18 went on without a publication; the changes that it left out cannot be had again."""
        said = self._session.notices.skipped_publication
        return PublicationNotFound(
            f"{self._doing.what} was stopped because the server leaves changes out: {said}",
            hint="nothing further was confirmed; changes from before a publication was created cannot be read with it:"
            " create it, then a new slot with a new snapshot",
            slot=self._doing.slot,
            publication=self._doing.publication,
            sqlstate="55000",
        )

    def _explained(self, error: ConnectionLost) -> ConnectionLost:
        """Add the likely reason where the server gave none: it says nothing when it gives up on a silent client."""
        if error.sqlstate is None and self._patience:
            error.hint = (
                "if the process stood still for a while, the server gave up waiting for a status update"
                f" (wal_sender_timeout is {self._patience:g} s): do not block the interpreter or the event loop for so"
                " long, or raise it; else the server crashed or the network was cut; a new connection goes on after"
                " what was confirmed"
            )
        return error
