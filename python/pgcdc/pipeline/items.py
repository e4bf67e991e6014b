"""What goes through a lane, from the source to one consumer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from pgcdc.events import Relation
from pgcdc.pipeline.positions import StoredPosition
from pgcdc.protocol import Batch

__all__ = [
    "Appointment",
    "Begin",
    "CopyBegin",
    "CopyEnd",
    "Expected",
    "Failed",
    "Item",
    "Nudge",
    "Rows",
    "Sending",
    "TableEnd",
]


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
        sequence: The last block of the spool that they are from; None when they never were there.
    """

    batch: Batch
    through_lsn: int
    nbytes: int
    sequence: int | None = None


@dataclass
class Nudge:
    """There is something for the consumer to do that does not come by the lane: its dead letters."""


@dataclass
class Appointment:
    """Something to be done when everything before it is durable, and nothing behind it was begun.

    Attributes:
        keep: Does it.
    """

    keep: Callable[[], Awaitable[None]]


class Sending(Protocol):
    """A batch that is on its way to a target; one thread at a time has it."""

    def answered(self, seconds: float) -> bool:
        """Wait for the target's answer; never raises.

        Args:
            seconds: How long.

        Returns:
            Whether all of it is durable. If not, `finish` has to be called, in the target's own thread.
        """

    def finish(self) -> None:
        """Wait for the answer, however long that takes, and raise what a write of the batch would."""


class Failed:
    """A batch that could not be put on its way: the target's own thread raises why, as from a write of the batch.

    Args:
        error: Why.
    """

    def __init__(self, error: Exception) -> None:
        self._error = error

    def answered(self, seconds: float) -> bool:  # noqa: ARG002 (for Sending)
        """Never."""
        return False

    def finish(self) -> None:
        """Raise it."""
        raise self._error


class Expected(NamedTuple):
    """What the thread of a target gets to write.

    Attributes:
        batch: The changes.
        sending: Set when they are on their way already, and only their answer is to be waited for.
    """

    batch: Batch
    sending: Sending | None


Item: TypeAlias = Begin | CopyBegin | TableEnd | CopyEnd | Nudge | Appointment | Rows
