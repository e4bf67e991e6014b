# Made from stream_async.py by ./dev lint --fix: change that file, not this one.
"""A running stream: events, batches or whole transactions as they are committed, confirmed by whoever reads them.

The stream outlives its connection where that is wanted: what is known of it is in progress.py, a connection's part of
it in link.py.

Source: PostgreSQL manual, "Streaming Replication Protocol".
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

from pgcdc.errors import ConfigError, ConnectionLost, DecodeError, Error, SlotInUse
from pgcdc.events import Begin, Origin
from pgcdc.lsn import format_lsn
from pgcdc.protocol import Batch
from pgcdc.replication import waits
from pgcdc.replication.link import MAX_BYTES, MAX_MESSAGES, Link
from pgcdc.replication.transaction import Transaction, whole_transactions

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from types import TracebackType
    from typing import Self

    from pgcdc.events import Event
    from pgcdc.protocol import RowFormat
    from pgcdc.replication.heartbeat import Heartbeat
    from pgcdc.replication.progress import Progress
    from pgcdc.replication.stream_options import StreamOptions

__all__ = ["Stream"]

logger = logging.getLogger("pgcdc.replication")

_NOTHING = Batch.of([])


class Stream:
    """Changes as they are committed, in batches, as events or by transactions, until it is closed.

    Made by `Connection.stream`. Another thread may call `confirm` and `send_status` while one reads.

    Args:
        link: The connection's part of it.
        format: How rows are given.
        options: What was asked for.
        progress: How far it is.
        again: Makes another link, after the first was lost.
        heart: Makes WAL; ends with the stream.

    Attributes:
        slot: The slot's name.
        format: How rows are given when events are iterated; its catalog knows the database's types.
        reconnects: How often the connection was made again.
    """

    def __init__(
        self,
        link: Link,
        format: RowFormat,
        options: StreamOptions,
        progress: Progress,
        again: Callable[[], Link],
        heart: Heartbeat | None,
    ) -> None:
        self.slot = options.slot
        self.format = format
        self.reconnects = 0
        self._link = link
        self._options = options
        self._progress = progress
        self._again = again
        self._heart = heart
        self._questions = 0
        self._lost: ConnectionLost | SlotInUse | None = None
        self._lost_at = 0.0
        self._attempts = 0
        self._attempt_due = 0.0
        self._begun_lsn = 0
        self._repeated = False
        self._unread: Iterator[Event | DecodeError] = iter(())
        self._closed = False
        self._broken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"confirmed {format_lsn(self.flushed_lsn)}"
        return f"<pgcdc.replication.Stream from slot {self.slot!r}, {state}>"

    def __iter__(self) -> Generator[Event, None]:
        """Every message as an event, for ever.

        Raises:
            DecodeError: In the place of a message that could not be decoded.
            Error: As `read`.
        """
        return waits.lasting(self._events)

    def _events(self) -> Generator[Event, None]:
        while True:
            for event in self._unread:  # an iterator: whoever leaves the loop and comes back goes on with the rest
                if isinstance(event, DecodeError):
                    raise event
                if isinstance(event, Begin):
                    # Of a transaction in which the connection was lost, the server sends the beginning again.
                    self._repeated = event.final_lsn == self._begun_lsn
                    self._begun_lsn = event.final_lsn
                if not (self._repeated and isinstance(event, (Begin, Origin))):
                    yield event
            self._unread = iter(self.read(self._link.interval).events(self.format))

    @property
    def binary(self) -> bool:
        """Whether values come in binary."""
        return self._link.binary

    @property
    def questions(self) -> int:
        """How many keepalives have asked for an answer.

        A server that is being stopped asks, and does not end before everything that it has sent is confirmed.
        """
        return self._questions + self._link.questions

    @property
    def closed(self) -> bool:
        """Whether the stream is at its end and the connection takes commands again (or is gone)."""
        return self._closed or (self._link.closed and self._lost is None)

    @property
    def connected(self) -> bool:
        """Whether there is a connection at present, as far as is known."""
        return self._lost is None and not self._link.closed

    @property
    def flushed_lsn(self) -> int:
        """What the server is told to be durable; 0 until something was confirmed."""
        return self._progress.told_lsn

    @property
    def received_lsn(self) -> int:
        """The highest WAL position that was received; reported as written, never as flushed."""
        return self._progress.received_lsn

    @property
    def idle_lsn(self) -> int:
        """Everything up to here was read whole: it may be confirmed once all that `read` and `batches` gave is durable.

        While events or transactions are iterated, some of what was read is still to come.
        """
        return self._progress.idle_lsn

    @property
    def in_transaction(self) -> bool:
        """Whether the last message read left a transaction open."""
        return self._link.in_transaction

    def batches(
        self, *, idle: float | None = None, max_bytes: int = MAX_BYTES, max_messages: int = MAX_MESSAGES
    ) -> Generator[Batch, None]:
        """Batches as they come, for ever.

        Args:
            idle: Give an empty batch when nothing has come for so many seconds; None: only batches with something in.
            max_bytes: About how many bytes a batch may have.
            max_messages: How many messages a batch may have.

        Yields:
            Batches. After a reconnect within a transaction, its Begin comes a second time, but none of its changes.

        Raises:
            Error: As `read`.
        """

        def batches() -> Generator[Batch, None]:
            seconds = self._link.interval if idle is None else idle
            while True:
                batch = self.read(seconds, max_bytes=max_bytes, max_messages=max_messages)
                if len(batch) or idle is not None:
                    yield batch

        return waits.lasting(batches)

    def transactions(self) -> Generator[Transaction, None]:
        """Transactions as they were committed, for ever, one after the other.

        A transaction is read while it is iterated, so one of any size takes little memory; what of it is not iterated
        is passed over when the next is asked for, of this call or of another. A logical message outside of transactions
        is given as a transaction of its own, with `xid` 0.

        Yields:
            The transactions; `confirm` takes one that was iterated to its end.

        Raises:
            ConfigError: When the slot gives prepared transactions at their PREPARE: use `two_phase=True`.
            DecodeError: In the place of a message that could not be decoded.
            Error: As `read`.
        """
        return waits.lasting(lambda: whole_transactions(self._events))

    def read(
        self,
        timeout: float,
        *,
        max_bytes: int = MAX_BYTES,
        max_messages: int = MAX_MESSAGES,
        early: Callable[[Batch], bool] | None = None,
    ) -> Batch:
        """Take what has come; wait only when there is nothing.

        Args:
            timeout: Seconds to wait for the first message.
            max_bytes: About how many bytes the batch may have.
            max_messages: How many messages the batch may have.
            early: Called with what has come before it is taken down as handed over, by who has work that is to begin
                at once; this returns the same then. Only where no transaction is left open in it, not with what comes
                again after a reconnect, and not with `streaming` or `two_phase`, where transactions are put together
                first. Returns whether it has begun: then the next read is not put off to find more. It must not raise:
                the stream is broken then.

        Returns:
            What came; an empty batch when nothing did.

        Raises:
            ConfigError: When the stream is closed, or publications contradict each other.
            ConnectionLost: When the server went away, and is not to be reconnected to or did not come back.
            SlotInUse: When after a reconnect another process has the slot, and does not leave it.
            PositionError: When what was reconnected to is not the server that it was, or has less WAL.
            PublicationNotFound: When the server says that a publication was missing at this place in the WAL.
            DecodeError: When a frame is not one of the replication protocol.
            ReplicationError: When the server ended the stream otherwise.

        Source:
            PostgreSQL manual, "Streaming Replication Protocol", XLogData, Primary keepalive message.
        """
        self._check_open()
        deadline = monotonic() + timeout
        try:
            while True:
                if self._lost is not None and not self._connect_again(deadline):
                    return _NOTHING
                try:
                    seen = None if self._progress.repeats else early
                    batch = self._link.read(max(0.0, deadline - monotonic()), max_bytes, max_messages, seen)
                except ConnectionLost as error:
                    self._losing(error)
                    continue
                batch = self._progress.unseen(batch)
                if len(batch) or monotonic() >= deadline:
                    return batch
        except waits.CANCELLED:
            raise  # it comes only where something is awaited, and there the next read can go on
        except BaseException:
            # Messages may have been taken from libpq and not be handed over (KeyboardInterrupt comes anywhere): reading
            # on would leave a gap that nobody sees.
            self._broken = True
            raise

    def confirm(self, durable: Event | DecodeError | Batch | Transaction | int) -> None:
        """Say that everything up to here is durable; the server is told within a second.

        Args:
            durable: A Commit: its transaction and all before. Any other event of a transaction: all transactions before
                it, not itself. A Message outside transactions: it and all before. Relation, Type and Origin are at no
                place in the WAL and confirm nothing. A transaction: it and all before. A batch: all that ends in it. An
                int: that LSN. From a slot with `two_phase`, a Prepare and whatever comes after it say that the changes
                of the prepared transaction are durable, too: the server sends CommitPrepared without them after a
                restart.
                (With `two_phase=True` the stream keeps them, and tells the server no more than it may.)

        Raises:
            PositionError: When an LSN was not received yet: confirming it would lose what comes before it.
            ConfigError: When a transaction was not read to its end; when it is none of these.

        Source:
            PostgreSQL manual, "Streaming Replication Protocol", Standby status update.
        """
        if isinstance(durable, Transaction):
            if durable.end_lsn is None:
                raise ConfigError(
                    f"the transaction that commits at {format_lsn(durable.commit_lsn)} was not read to its end",
                    hint="iterate all of it, then confirm it",
                    slot=self.slot,
                    lsn=durable.commit_lsn,
                )
            durable = durable.end_lsn
        self._progress.confirm(durable)

    def send_status(self, *, reply_requested: bool = False) -> None:
        """Send a status update now: received, confirmed, applied. Without a connection it does nothing.

        Args:
            reply_requested: Ask the server for a keepalive at once.

        Raises:
            ConfigError: When the stream is closed.
            ConnectionLost: When the connection broke, and is not made again by itself.

        Source:
            PostgreSQL manual, "Streaming Replication Protocol", Standby status update.
        """
        if self.closed:
            raise ConfigError(f'the stream from slot "{self.slot}" is closed', hint="start another", slot=self.slot)
        if self._lost is None:
            try:
                self._link.send_status(reply_requested=reply_requested)
            except ConnectionLost:
                if self._options.reconnect is None:
                    raise  # else the next read meets the same

    def close(self) -> None:
        """End the stream: send the last status update, say CopyDone and read until the server has said so too.

        What was confirmed is then kept by the server, and the connection takes commands again. When the server does
        not answer in two seconds the connection is closed. Closing twice is no error; nothing is raised.
        """
        self._closed = True
        if self._heart is not None:
            self._heart.stop()
        self._link.close()

    def _losing(self, error: ConnectionLost) -> None:
        """The connection is gone; raises when there is to be no other."""
        self._link.drop()
        if self._options.reconnect is None:
            raise error
        logger.warning("%s; connecting again", error)
        self._questions += self._link.questions
        self._link.questions = 0
        self._lost = error
        self._lost_at = monotonic()
        self._attempts = 0
        self._attempt_due = self._lost_at + self._options.reconnect.pause(0)
        self._progress.lost()

    def _connect_again(self, deadline: float) -> bool:
        """Try to get another connection, until the deadline; False when there is none yet."""
        policy = self._options.reconnect
        while self._lost is not None and policy is not None:
            now = monotonic()
            if now < self._attempt_due:
                waits.sleep(max(0.0, min(self._attempt_due, deadline) - now))
                if monotonic() < self._attempt_due:
                    return False
            try:
                self._link = self._again()
            except waits.CANCELLED:
                # The next read makes another attempt, not at once: it may be cancelled as soon.
                self._attempts += 1
                self._attempt_due = monotonic() + policy.pause(self._attempts)
                raise
            except (ConnectionLost, SlotInUse) as error:
                # A slot is in use until the server has noticed that its client is gone, which may take its patience.
                since = monotonic() - self._lost_at
                if policy.give_up is not None and since > policy.give_up:
                    self._lost = None
                    raise
                self._attempts += 1
                self._lost = error
                self._attempt_due = monotonic() + policy.pause(self._attempts)
                logger.warning("%s (attempt %d)", error, self._attempts)
            except Error:
                self._lost = None  # it is at its end: another attempt would meet the same
                raise
            else:
                self._lost = None
                self.reconnects += 1
                logger.warning(
                    "streaming from slot %s goes on after %s", self.slot, format_lsn(self._progress.resume_lsn)
                )
        return True

    def _check_open(self) -> None:
        if self.closed or self._broken:
            how = "is closed" if self.closed else "was interrupted and may have lost messages"
            raise ConfigError(
                f'the stream from slot "{self.slot}" {how}',
                hint="close it and start another: it goes on after what was confirmed",
                slot=self.slot,
            )
