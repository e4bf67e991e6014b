"""What one consumer gets of its batches: cut to its size, filtered, its columns, transformed; and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pgcdc.errors import DecodeError
from pgcdc.events import Message, Truncate
from pgcdc.lsn import Position
from pgcdc.pipeline.foreign import as_exception
from pgcdc.pipeline.options import Options
from pgcdc.protocol import Batch, RowFormat
from pgcdc.tables import Table
from pgcdc.transforms.applying import AnyChange, Context, Shaped
from pgcdc.transforms.columns import Columns, keep

__all__ = ["Keys", "Shaping", "Unshapable"]

_THEIRS: Final = (Exception, asyncio.CancelledError)
"""Nothing is awaited here, so a cancellation is one that a function of theirs has raised."""


class Unshapable(Exception):
    """A change could not be filtered or transformed.

    Args:
        before: What became of the changes before it.
        reached: The position of the last of these; None when there is none.
        change: The change, or the error in its place.
        cause: What was raised.
        number: Which change it is: the first has 0.
    """

    def __init__(
        self, before: Shaped, reached: Position | None, change: AnyChange | DecodeError, cause: Exception, number: int
    ) -> None:
        super().__init__()
        self.before = before
        self.reached = reached
        self.change = change
        self.cause = cause
        self.number = number


@dataclass(frozen=True)
class Keys:
    """What changes of a consumer are kept in order by.

    Attributes:
        columns: The columns of each table's key, by its OID.
        by_table: Whether keys of two tables are never the same.
    """

    columns: Mapping[int, Sequence[str]]
    by_table: bool


class Shaping:
    """What becomes of one consumer's batches.

    Args:
        options: What was said of it.
    """

    def __init__(self, options: Options) -> None:
        self._where = options.where
        self._columns: dict[Table, Columns] = {table: keep(table, *names) for table, names in options.columns.items()}
        self._transforms = (*self._columns.values(), *options.transforms)
        self._max_rows = options.max_rows
        self._max_bytes = options.max_bytes
        self._transactions = bool(options.transactions)

    @property
    def transforms(self) -> bool:
        """Whether rows become others."""
        return bool(self._transforms)

    @property
    def is_plain(self) -> bool:
        """Whether batches stay as they are, whatever is in them."""
        cut = self._max_rows is not None or self._max_bytes is not None
        return not (cut or self._transforms or self._where is not None)

    def pieces(self, batch: Batch) -> list[Batch]:
        """Cut a batch to the size that the consumer takes.

        Args:
            batch: The batch.

        Returns:
            The same changes, in order.
        """
        rows, size = self._max_rows, self._max_bytes
        if (rows is None or batch.changes_count <= rows) and (size is None or batch.nbytes <= size):
            return [batch]
        return batch.pieces(rows or batch.changes_count, size, transactions=self._transactions)

    def shape(self, batch: Batch, own: RowFormat, context: Callable[[], Context]) -> Shaped:
        """Filter and transform a batch.

        Args:
            batch: What came.
            own: How the consumer's rows are made.
            context: Gives what transforms need to know.

        Returns:
            What the consumer gets.

        Raises:
            Unshapable: For the first change that cannot be.
        """
        if self._where is None and not self._transforms:
            return Shaped(batch)
        known = context()
        try:
            return self._shaped(batch, own, known)
        except _THEIRS as error:
            raise self._failed(batch, own, known, as_exception(error)) from error

    def _shaped(self, batch: Batch, own: RowFormat, context: Context) -> Shaped:
        shaped = self._filtered(batch, context.format if self._transforms else own)
        for transform in self._transforms:
            if not shaped.batch.changes_count:
                break
            shaped = shaped.then(transform, context)
        return shaped

    def _filtered(self, batch: Batch, format: RowFormat) -> Shaped:
        where = self._where
        if where is None:
            return Shaped(batch)
        numbers = [
            number
            for number, change in enumerate(batch.changes(format))
            # What cannot be decoded is not left out: whoever comes next fails at it.
            if isinstance(change, Truncate | Message | DecodeError) or where(change)
        ]
        return Shaped(batch) if len(numbers) == batch.changes_count else Shaped(batch.take(numbers), numbers)

    def _failed(self, batch: Batch, own: RowFormat, context: Context, error: Exception) -> Unshapable:
        """Find the change that it is about: with each alone, as transforms have no more to say of it."""
        for number, piece in enumerate(batch.pieces(1)):
            try:
                self._shaped(piece, own, context)
            except _THEIRS as raised:
                before = batch.take(range(number))
                shaped = self._shaped(before, own, context)
                [change] = piece.changes(context.format)
                cause = (
                    change
                    if isinstance(change, DecodeError) and isinstance(raised, DecodeError)
                    else as_exception(raised)
                )
                return Unshapable(shaped, before.last_position, change, cause, number)
        # It was in the batch as a whole only: what is done by functions that remember is not found so.
        [change, *_] = batch.changes(context.format)
        return Unshapable(Shaped(batch.take([])), None, change, error, 0)
