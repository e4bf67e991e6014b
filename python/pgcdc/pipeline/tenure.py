"""One connection's part of a run: it streams what was not handed over yet, and confirms what is stored.

A run has one after the other: when a connection is lost, the next begins where consumers were handed over to, so that
nothing is asked for twice, and a transaction that was cut goes on behind the change that was the last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pgcdc.errors import ConfigError
from pgcdc.lsn import Position
from pgcdc.pipeline.settings import Settings
from pgcdc.protocol import Batch, RowFormat
from pgcdc.replication import Connection

__all__ = ["Reached", "Tenure"]


@dataclass
class Reached:
    """How far everything was handed over to the consumers' lanes.

    Attributes:
        lsn: What committed before was handed over whole.
        position: The last change that was; None before the first.
    """

    lsn: int
    position: Position | None = None

    @property
    def furthest_lsn(self) -> int:
        """Up to here there must be the same WAL wherever the run goes on."""
        return max(self.lsn, 0 if self.position is None else self.position.commit_lsn)

    def note(self, batch: Batch, idle_lsn: int) -> None:
        """Take down that a batch was handed over.

        Args:
            batch: The batch.
            idle_lsn: Everything up to here was in it, or before it.
        """
        self.lsn = max(self.lsn, idle_lsn)
        self.position = batch.last_position or self.position


class Tenure:
    """The stream of one connection that owns the pipeline.

    Args:
        connection: The connection.
        settings: The pipeline's.
        format: How rows are given; it learns the types of the database.
        reached: How far the run is.
        published: Whether it is known that everything has been published that is to be; raises when it was not.
    """

    def __init__(
        self,
        connection: Connection,
        settings: Settings,
        format: RowFormat,
        reached: Reached,
        published: Callable[[], bool],
    ) -> None:
        self._published = published
        self._slot = settings.slot
        self._reached = reached
        self._known = reached.position  # what comes again up to here was handed over before
        # What is idle is confirmed only after it is stored for every consumer; status updates are sent by this thread.
        self._stream = connection.stream(
            settings.slot,
            [settings.publication],
            start_lsn=reached.lsn,
            format=format,
            confirm_idle=False,
            feedback=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.close()

    @property
    def binary(self) -> bool:
        """Whether values come in binary."""
        return self._stream.binary

    @property
    def received_lsn(self) -> int:
        """How far the WAL was received by this connection."""
        return self._stream.received_lsn

    @property
    def idle_lsn(self) -> int:
        """Everything up to here was read whole."""
        return self._stream.idle_lsn

    @property
    def in_transaction(self) -> bool:
        """Whether the last message that was read has left a transaction open."""
        return self._stream.in_transaction

    @property
    def questions(self) -> int:
        """How many keepalives have asked for an answer."""
        return self._stream.questions

    def read(self, timeout: float, early: Callable[[Batch], bool] | None = None) -> Batch:
        """Take what has come and was not handed over yet.

        Args:
            timeout: Seconds to wait for the first message.
            early: As for `Stream.read`.

        Returns:
            What came; an empty batch when nothing did.

        Raises:
            ConfigError: When the server sends what is not committed.
            Error: As `Stream.read`.
        """
        batch = self._stream.read(timeout, early=early if self._known is None else None)
        if batch.in_progress:
            raise self._not_committed()
        if self._known is None or not len(batch):
            return batch
        known, last = self._known, batch.last_position
        if last is not None and last > known:
            self._known = None  # positions go up: nothing that comes later is known
        return batch.after(known)

    def confirm(self, lsn: int) -> bool:
        """Tell the server that everything up to here is stored, unless it has not come by this connection yet.

        It is asked first whether what has come by now is all that should have: what was not published while it was
        written is in no stream.

        Args:
            lsn: The LSN.

        Returns:
            Whether it was told.

        Raises:
            ConnectionLost: When the connection broke.
            Error: When something is missing.
        """
        # After a restart what is stored can be ahead of what this connection has received so far.
        if lsn > self._stream.received_lsn or not self._published():
            return False
        self._stream.confirm(lsn)
        self._stream.send_status()
        return True

    def send_status(self, *, reply_requested: bool = False) -> None:
        """Let the server know that somebody is there.

        Args:
            reply_requested: Ask for a keepalive.

        Raises:
            ConnectionLost: When the connection broke.
        """
        self._stream.send_status(reply_requested=reply_requested)

    def _not_committed(self) -> ConfigError:
        """Two_phase of a slot may be switched on while nobody streams from it, also by another consumer of it."""
        return ConfigError(
            f"slot {self._slot!r} sent a transaction that is prepared or in progress: a pipeline takes only what was"
            " committed",
            hint="give the pipeline a slot without two_phase that nothing else uses; nothing of the transaction was"
            " handed over or confirmed",
            slot=self._slot,
        )
