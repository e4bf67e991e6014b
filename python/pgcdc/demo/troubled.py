"""Two targets of the demo that are in trouble: one is away every few writes, one takes its time with each.

Neither changes what the others get, and at the end both have what the source has.
"""

from __future__ import annotations

import threading
from typing import Any, Final

import msgspec
from msgspec import UNSET

from pgcdc.errors import DecodeError, SinkUnavailable
from pgcdc.events import Delete, Message, Truncate
from pgcdc.protocol import Batch, RowFormat

__all__ = ["SlowReports", "Webhook"]

AWAY_EVERY: Final = 5
"""So many batches apart the webhook's receiver is away, for two attempts."""
SLOW_SECONDS: Final = 0.15
"""What each write of the reports takes, however few rows it has."""


class StatusChange(msgspec.Struct, frozen=True):
    """A row of `order_status_history`, as far as the receiver is told of it."""

    id: int
    order_id: int = 0
    status: str = ""


class OrderStatus(msgspec.Struct, frozen=True):
    """A row of `orders`, as far as the reports need it."""

    id: int
    status: str = ""


class Webhook:
    """Calls a receiver for each change of an order's status; the receiver knows a call that it has had by its id.

    Attributes:
        away: How many times the receiver was away.
    """

    def __init__(self) -> None:
        self.away = 0
        self._rows = RowFormat("struct", types={"order_status_history": StatusChange})
        self._received: dict[int, tuple[int, str]] = {}
        self._batches = 0
        self._tried = 0

    def open(self) -> None:
        """Nothing to open."""

    def write(self, batch: Batch) -> None:
        """Tell the receiver.

        Raises:
            SinkUnavailable: When it is away.
        """
        if self._batches % AWAY_EVERY == AWAY_EVERY - 1 and self._tried < 2:
            self._tried += 1
            self.away += 1
            raise SinkUnavailable("the receiver of the webhook is away")
        self._batches, self._tried = self._batches + 1, 0
        _apply(batch, self._rows, self._received, lambda row: (row.order_id, row.status))

    def received(self) -> dict[int, tuple[int, str]]:
        """What the receiver has: order and status by the id of the change."""
        return dict(self._received)

    def close(self) -> None:
        """Nothing to close."""


class SlowReports:
    """Keeps the status of each order, and is slow."""

    def __init__(self) -> None:
        self._rows = RowFormat("struct", types={"orders": OrderStatus})
        self._statuses: dict[int, str] = {}
        self._pause = threading.Event()

    def open(self) -> None:
        """Nothing to open."""

    def write(self, batch: Batch) -> None:
        """Apply a batch, slowly."""
        self._pause.wait(SLOW_SECONDS)
        _apply(batch, self._rows, self._statuses, lambda row: row.status)

    def statuses(self) -> dict[int, str]:
        """The status of each order."""
        return dict(self._statuses)

    def close(self) -> None:
        """Nothing to close."""


def _apply(batch: Batch, rows: RowFormat, kept: dict[int, Any], value: Any) -> None:
    for change in batch.changes(rows):
        if isinstance(change, DecodeError):
            raise change
        if isinstance(change, Message):  # belongs to no table
            continue
        if isinstance(change, Truncate):
            kept.clear()
        elif isinstance(change, Delete):
            kept.pop(change.old.id, None)
        else:
            if change.old is not UNSET:
                kept.pop(change.old.id, None)
            kept[change.new.id] = value(change.new)
