"""A running stream: read batches, answer keepalives, confirm, and end so that what was confirmed is kept.

Source: PostgreSQL manual, "Streaming Replication Protocol"; server file `replication/walsender.c`.
"""

from __future__ import annotations

import logging
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Final

from pgcdc.errors import ConfigError, ConnectionLost, DecodeError, Error, PositionError, PublicationNotFound
from pgcdc.events import (
    Begin,
    BeginPrepare,
    Commit,
    CommitPrepared,
    Delete,
    Insert,
    Message,
    Prepare,
    RollbackPrepared,
    StreamCommit,
    StreamPrepare,
    Truncate,
    Update,
)
from pgcdc.lsn import format_lsn
from pgcdc.protocol import BatchReader, encode_status_update
from pgcdc.replication import generators
from pgcdc.replication.generators import Drained
from pgcdc.replication.libpq import psycopg
from pgcdc.replication.sqlstate import Doing, connection_lost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType
    from typing import Self

    from pgcdc.events import Event
    from pgcdc.protocol import Batch, RowFormat
    from pgcdc.replication.new_types_async import TypeWatch
    from pgcdc.replication.session_async import AsyncSession

__all__ = ["AsyncStream"]

logger = logging.getLogger("pgcdc.replication")

MAX_BYTES: Final = 1 << 20
"""About how many bytes one batch may have."""
MAX_MESSAGES: Final = 10_000
"""How many messages one batch may have."""
_STATUS_SECONDS: Final = 10.0
"""At most so long between two status updates, as PostgreSQL's own walreceiver (`wal_receiver_status_interval`)."""
_CLOSE_SECONDS: Final = 2.0
"""How long the server may take to end a stream; it may be in the middle of a large transaction."""
_SILENCE_SECONDS: Final = 60.0
"""How long the server may leave a request for a reply unanswered, as `wal_receiver_timeout`."""


class AsyncStream:
    """Changes as they are committed, in batches or as events, until it is closed.

    Made by `Connection.stream`. Another thread may call `confirm` and `send_status` while one reads.

    Attributes:
        slot: The slot's name.
        binary: Whether values come in binary.
        format: How rows are given when events are iterated; its catalog knows the database's types.
        flushed_lsn: What was confirmed; 0 until something was.
        questions: How many keepalives have asked for an answer. A server that is being stopped asks, and does not end
            before everything that it has sent is confirmed.
    """

    def __init__(
        self,
        session: AsyncSession,
        doing: Doing,
        binary: bool,
        format: RowFormat,
        sender_timeout: float,
        *,
        floor: int,
        watch: TypeWatch | None = None,
    ) -> None:
        self.slot = doing.slot or ""
        self.binary = binary
        self.format = format
        self.flushed_lsn = 0
        self.questions = 0
        self._session = session
        self._doing = Doing(doing.what, kind="stream", slot=doing.slot, publications=doing.publications)
        self._reader = BatchReader(format)  # touched by the reading thread only; others see what it left in these three
        self._received_lsn = 0
        self._idle_lsn = 0
        self._in_transaction = False
        self._floor = floor
        self._watch = watch
        self._lock = Lock()
        self._closed = False
        self._ended = False
        self._broken = False
        # A third of the server's patience: one update may be lost in a slow moment and the next still comes in time.
        self._interval = min(_STATUS_SECONDS, sender_timeout / 3) if sender_timeout > 0 else _STATUS_SECONDS
        self._patience = sender_timeout
        self._status_due = monotonic()
        self._asked_at: float | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"confirmed {format_lsn(self.flushed_lsn)}"
        return f"<pgcdc.replication.AsyncStream from slot {self.slot!r}, {state}>"

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Every message as an event, for ever.

        Raises:
            DecodeError: In the place of a message that could not be decoded.
            Error: As `read`.
        """
        async for batch in self.batches():
            for event in batch.events(self.format):
                if isinstance(event, DecodeError):
                    raise event
                yield event

    @property
    def closed(self) -> bool:
        """Whether the stream is at its end and the connection takes commands again (or is gone)."""
        return self._closed

    @property
    def received_lsn(self) -> int:
        """The highest WAL position that was received; reported as written, never as flushed."""
        return self._received_lsn

    @property
    def idle_lsn(self) -> int:
        """Everything up to here was received whole: it may be confirmed once all that was read is durable."""
        return self._idle_lsn

    @property
    def in_transaction(self) -> bool:
        """Whether the last message read left a transaction open."""
        return self._in_transaction

    async def batches(
        self, *, idle: float | None = None, max_bytes: int = MAX_BYTES, max_messages: int = MAX_MESSAGES
    ) -> AsyncIterator[Batch]:
        """Batches as they come, for ever.

        Args:
            idle: Give an empty batch when nothing has come for so many seconds; None: only batches with something in.
            max_bytes: About how many bytes a batch may have.
            max_messages: How many messages a batch may have.

        Yields:
            Batches.

        Raises:
            Error: As `read`.
        """
        while True:
            batch = await self.read(
                self._interval if idle is None else idle, max_bytes=max_bytes, max_messages=max_messages
            )
            if len(batch) or idle is not None:
                yield batch

    async def read(self, timeout: float, *, max_bytes: int = MAX_BYTES, max_messages: int = MAX_MESSAGES) -> Batch:
        """Take what has come; wait only when there is nothing. Sends the status updates that are due.

        Call it at least every third of the server's `wal_sender_timeout`, or the server ends the connection.

        Args:
            timeout: Seconds to wait for the first message.
            max_bytes: About how many bytes the batch may have.
            max_messages: How many messages the batch may have.

        Returns:
            What came; an empty batch when nothing did.

        Raises:
            ConfigError: When the stream is closed, or publications contradict each other.
            ConnectionLost: When the server went away.
            PublicationNotFound: When the server says that a publication was missing at this place in the WAL.
            DecodeError: When a frame is not one of the replication protocol.
            ReplicationError: When the server ended the stream otherwise.

        Source:
            PostgreSQL manual, "Streaming Replication Protocol", XLogData, Primary keepalive message.
        """
        await self._check_open()
        try:
            return await self._read(timeout, max_bytes, max_messages)
        except BaseException:
            # Messages may have been taken from libpq and not be handed over (KeyboardInterrupt comes anywhere): reading
            # on would leave a gap that nobody sees.
            self._broken = True
            raise

    async def _read(self, timeout: float, max_bytes: int, max_messages: int) -> Batch:
        deadline = monotonic() + timeout
        while True:
            frames: list[memoryview] = []
            receiving = generators.receive(self._session.pgconn, frames, max_bytes, max_messages, self._lock)
            try:
                state = await self._session.wait(receiving, min(deadline, self._status_due) - monotonic(), self._doing)
            except ConnectionLost as error:
                raise self._explained(error) from None
            if self._session.notices.skipped_publication is not None:
                raise self._publication_skipped()
            batch = self._reader.read(frames)
            if self._watch is not None and len(batch):
                await self._watch.look(batch)
            if frames:
                self._received_lsn = self._reader.received_lsn
                self._idle_lsn = self._reader.idle_lsn
                self._in_transaction = self._reader.in_transaction
                self._asked_at = None
            self._ended = state is Drained.ENDED
            if self._ended:
                if len(batch):
                    return batch
                raise await self._end()
            if self._reader.take_reply_request():
                self.questions += 1
                self.send_status()
            self._send_due()
            if len(batch) or monotonic() >= deadline:
                return batch

    def confirm(self, event_or_lsn: Event | int) -> None:
        """Say that everything up to here is durable; it goes out with the next status update.

        Args:
            event_or_lsn: A Commit: its transaction and all before. Any other event of a transaction: all transactions
                before it, not itself. A Message outside transactions: it and all before. Relation, Type and Origin are
                at no place in the WAL and confirm nothing. An int: that LSN. From a slot with `two_phase`, a Prepare
                and whatever comes after it say that the changes of the prepared transaction are durable, too: the
                server sends CommitPrepared without them after a restart.

        Raises:
            PositionError: When an LSN was not received yet: confirming it would lose what comes before it.

        Source:
            PostgreSQL manual, "Streaming Replication Protocol", Standby status update.
        """
        if isinstance(event_or_lsn, int):
            lsn = event_or_lsn
            received = max(self._received_lsn, self._floor)
            if lsn > received:
                raise PositionError(
                    f'{format_lsn(lsn)} cannot be confirmed to slot "{self.slot}": only the WAL up to'
                    f" {format_lsn(received)} was received",
                    hint="confirm a Commit's end_lsn or the stream's idle_lsn",
                    slot=self.slot,
                    lsn=lsn,
                )
        else:
            lsn = min(_durable_lsn(event_or_lsn), self._received_lsn)
        self.flushed_lsn = max(self.flushed_lsn, lsn)

    def send_status(self, *, reply_requested: bool = False) -> None:
        """Send a status update now: received, confirmed, applied.

        Args:
            reply_requested: Ask the server for a keepalive at once.

        Raises:
            ConfigError: When the stream is closed.
            ConnectionLost: When the connection broke.

        Source:
            PostgreSQL manual, "Streaming Replication Protocol", Standby status update.
        """
        if self._closed:
            raise ConfigError(f'the stream from slot "{self.slot}" is closed', hint="start another", slot=self.slot)
        flushed = self.flushed_lsn
        update = encode_status_update(max(self._received_lsn, flushed), flushed, flushed, reply_requested)
        try:
            with self._lock:
                self._session.pgconn.put_copy_data(update)
                # What does not go out at once (the server reads nothing because we read nothing) goes with the next.
                self._session.pgconn.flush()
        except psycopg.Error as error:
            raise self._explained(self._session.lost(self._doing, error)) from None
        self._status_due = monotonic() + self._interval

    async def close(self) -> None:
        """End the stream: send the last status update, say CopyDone and read until the server has said so too.

        What was confirmed is then kept by the server, and the connection takes commands again. When the server does
        not answer in two seconds the connection is closed. Closing twice is no error; nothing is raised.
        """
        if self._closed:
            return
        try:
            if not self._session.closed and not self._ended:
                self.send_status()
                await self._say_done()
            elif self._ended:
                await self._session.finish_copy(self._doing)
        except Error as error:
            logger.debug("the stream from slot %s ended with: %s", self.slot, error)
            if not self._session.idle:
                self._session.close()
        except BaseException:
            self._session.close()
            raise
        finally:
            self._closed = True

    async def _say_done(self) -> None:
        """The CopyDone handshake; closes the connection when it takes too long."""
        deadline = monotonic() + _CLOSE_SECONDS
        pgconn = self._session.pgconn
        with self._lock:
            pgconn.put_copy_end()
        await self._session.drive(deadline, lambda: generators.flush(pgconn, self._lock), self._doing)
        ended = False
        while not ended and (left := deadline - monotonic()) > 0:
            # What still comes was not confirmed and comes again.
            receiving = generators.receive(pgconn, [], MAX_BYTES, MAX_MESSAGES, self._lock)
            ended = await self._session.wait(receiving, left, self._doing) is Drained.ENDED
        if ended:
            await self._session.finish_copy(self._doing)
        else:
            self._session.close()

    def _send_due(self) -> None:
        """Send the status update whose time has come, with the request to answer, so that a dead network is noticed."""
        now = monotonic()
        if now < self._status_due:
            return
        if self._asked_at is None:
            self._asked_at = now
        elif now - self._asked_at > _SILENCE_SECONDS:
            self._session.close()
            raise connection_lost(self._doing, f"the server has been silent for {_SILENCE_SECONDS:g} s")
        self.send_status(reply_requested=True)

    async def _check_open(self) -> None:
        if self._ended and not self._closed:
            raise await self._end()
        if self._closed or self._broken:
            how = "is closed" if self._closed else "was interrupted and may have lost messages"
            raise ConfigError(
                f'the stream from slot "{self.slot}" {how}',
                hint="close it and start another: it goes on after what was confirmed",
                slot=self.slot,
            )

    def _publication_skipped(self) -> PublicationNotFound:
        """PostgreSQL 18 went on without a publication; the changes that it left out cannot be had again."""
        said = self._session.notices.skipped_publication
        return PublicationNotFound(
            f"{self._doing.what} was stopped because the server leaves changes out: {said}",
            hint="nothing further was confirmed; changes from before a publication was created cannot be read with it:"
            " create it, then a new slot with a new snapshot",
            slot=self.slot,
            publication=self._doing.publication,
            sqlstate="55000",
        )

    async def _end(self) -> Error:
        """Why the server ended the COPY."""
        try:
            await self._session.finish_copy(self._doing)
        except ConnectionLost as error:
            return self._explained(error)
        except Error as error:
            return error
        finally:
            self._closed = True
        return connection_lost(self._doing, "the server is shutting down")

    def _explained(self, error: ConnectionLost) -> ConnectionLost:
        """Add the likely reason where the server gave none: it says nothing when it gives up on a silent client."""
        if error.sqlstate is None and self._patience:
            error.hint = (
                "if nothing was read for a while, the server gave up waiting for a status update"
                f" (wal_sender_timeout is {self._patience:g} s): read more often, or raise it;"
                " else it crashed or the network was cut; a new connection goes on after what was confirmed"
            )
        return error


def _durable_lsn(event: Event) -> int:
    """How far the WAL is done when an event is done; 0 when that is not known.

    A commit record's own start is as safe as its end: a slot confirmed up to there gives the transaction again.
    """
    if isinstance(event, (Commit, StreamCommit, CommitPrepared, Prepare, StreamPrepare)):
        return event.end_lsn
    if isinstance(event, RollbackPrepared):
        return event.rollback_end_lsn
    if isinstance(event, Begin):
        return event.final_lsn
    if isinstance(event, BeginPrepare):
        return event.prepare_lsn
    if isinstance(event, Message) and not event.transactional:
        return event.lsn
    if isinstance(event, (Insert, Update, Delete, Truncate, Message)) and isinstance(event.commit_lsn, int):
        return event.commit_lsn
    return 0
