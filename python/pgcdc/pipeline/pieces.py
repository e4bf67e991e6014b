"""A batch in the pieces that a consumer takes, each made into what it gets, and how far each is."""

from __future__ import annotations

from collections.abc import Sequence, Set

from pgcdc.pipeline.row_formats import RowFormats
from pgcdc.pipeline.shaping import Shaping, Unshapable
from pgcdc.pipeline.subscription import Subscription
from pgcdc.pipeline.target import HandlerFailed, Reach
from pgcdc.protocol import Batch
from pgcdc.transforms.applying import Shaped

__all__ = ["Pieces", "Progress"]


class Progress:
    """How far one piece of a batch is.

    Args:
        source: The piece, as it came, without what is settled.
        numbers: Those of its changes among those of the batch.
        shaped: What the consumer gets of it.
        failed: Where that ends, if it could not be had whole.
    """

    def __init__(self, source: Batch, numbers: Sequence[int], shaped: Shaped, failed: Unshapable | None) -> None:
        self.source = source
        self.numbers = numbers
        self.shaped = shaped
        self.failed = failed
        self.count = shaped.batch.changes_count
        self.done = bytearray(self.count)
        self.lowest = 0
        self.handled = 0
        self.said = 0
        self.told = 0  # how far it was said to be: a dead letter moves that, and is not delivered

    def origin(self, number: int) -> int:
        """The number, among those of the piece, of the change that one comes from."""
        origins = self.shaped.origins
        return number if origins is None else origins[number]

    def number(self, number: int) -> int:
        """The number, among those of the batch, of the change that one comes from."""
        return self.numbers[self.origin(number)]

    def settle(self, settled: Set[int]) -> None:
        """Those that come from these are not to be delivered."""
        for number in range(self.count) if settled else ():
            if not self.done[number] and self.number(number) in settled:
                self.finish(number)
                self.said += 1  # they are not said to be delivered

    def finish(self, number: int) -> None:
        """One of the changes is done."""
        self.done[number] = True
        self.handled += 1
        while self.lowest < self.count and self.done[self.lowest]:
            self.lowest += 1

    def reached(self) -> int:
        """How many changes from the first on are done, with all that come from the same one."""
        reached = self.lowest
        if reached < self.count:
            origin = self.origin(reached)
            while reached and self.origin(reached - 1) == origin:
                reached -= 1
        return reached


class Pieces:
    """What the two kinds have in common: a batch in pieces, each made into what the consumer gets.

    Args:
        subscription: The consumer.
        formats: How rows are made.
    """

    def __init__(self, subscription: Subscription, formats: RowFormats) -> None:
        self._subscription = subscription
        self._formats = formats
        self._shaping = Shaping(subscription.options)
        self._concurrency = subscription.options.concurrency
        # The batch in hand and what of it is left: it comes again after a failure. And how much is not left.
        self._batch: Batch | None = None
        self._left: list[Batch] = []
        self._base = 0
        self._piece: Progress | None = None

    def _next(self, batch: Batch, settled: Set[int]) -> Progress | None:
        """The piece to go on with; None when all are done."""
        if batch is not self._batch:
            self._batch, self._left, self._base, self._piece = batch, self._shaping.pieces(batch), 0, None
        if self._piece is None and self._left:
            self._piece = self._shape(self._left[0], settled)
        elif self._piece is not None:
            self._piece.settle(settled)
        return self._piece

    def _shape(self, source: Batch, settled: Set[int]) -> Progress:
        numbers: Sequence[int] = range(self._base, self._base + source.changes_count)
        if not settled.isdisjoint(numbers):
            numbers = [number for number in numbers if number not in settled]
            source = source.take([number - self._base for number in numbers])
        own = self._formats.of(self._subscription)
        try:
            return Progress(source, numbers, self._shaping.shape(source, own, self._formats.context), None)
        except Unshapable as failed:
            return Progress(source, numbers, failed.before, failed)

    def _behind(self, piece: Progress) -> int:
        """How many changes of the batch are done when all is that the consumer gets of a piece."""
        failed = piece.failed
        return self._base + self._left[0].changes_count if failed is None else piece.numbers[failed.number]

    def _piece_done(self, piece: Progress, reach: Reach, unsaid: int) -> None:
        """All that the consumer gets of a piece is durable; raises where that is not all of it."""
        failed = piece.failed
        last = piece.source.last_position if failed is None else failed.reached
        if last is not None:
            reach(last, unsaid, self._behind(piece))
        self._piece = None
        if failed is not None:
            # From that change on it is to be tried again, or without it.
            number = piece.numbers[failed.number]
            rest = self._left[0]
            self._left[0] = rest.take(range(number - self._base, rest.changes_count))
            self._base = number
            raise HandlerFailed(failed.change, failed.cause, number, shaping=True) from failed.cause
        self._base += self._left.pop(0).changes_count

    def _keys(self, piece: Progress) -> list[tuple[bytes, ...] | None]:
        """The keys of each change that the consumer gets: those of the change that it comes from."""
        keys = self._formats.keys(self._subscription, piece.source.relations)
        of = piece.source.keys(keys.columns, by_table=keys.by_table)
        return [of[piece.origin(number)] for number in range(piece.count)]
