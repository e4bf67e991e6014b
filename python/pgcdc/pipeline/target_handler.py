"""A handler as a target: called with one change after the other, or of several keys at once, in threads or in tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Set
from inspect import isawaitable

from pgcdc.errors import DecodeError
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.pipeline.foreign import as_exception, awaited, is_foreign
from pgcdc.pipeline.ordering import Schedule, run_in_tasks, run_in_threads
from pgcdc.pipeline.pieces import Pieces, Progress
from pgcdc.pipeline.row_formats import RowFormats
from pgcdc.pipeline.subscription import HandlerSubscription, is_async
from pgcdc.pipeline.target import GaveUp, HandlerFailed, Held, Reach
from pgcdc.pipeline.worker import stopped, workers
from pgcdc.protocol import Batch
from pgcdc.schema import SchemaChange
from pgcdc.transforms.applying import AnyChange

__all__ = ["HandlerTarget"]

SAY_EVERY = 0.5
"""Seconds after which a handler's position is said within a batch: what a crash repeats is no more for a slow one."""


class HandlerTarget(Pieces):
    """A handler, called with one change after another, or with changes of several keys at once.

    Args:
        subscription: The handler, its name and its row class.
        formats: How rows are made.
        held: Whether no further change may be handled for the time being.
    """

    keeps_position = False

    def __init__(self, subscription: HandlerSubscription, formats: RowFormats, held: Callable[[], bool]) -> None:
        super().__init__(subscription, formats)
        self._handler = subscription.handler
        self._workers = workers(subscription.name, 0 if is_async(self._handler) else self._concurrency)
        self._held = held
        self._ended = threading.Event()
        self._changes: list[AnyChange | DecodeError] = []
        self._reach: Reach = _not_said
        self._say_at = 0.0
        # What is done above one that is not, by position and the number among those of that: it may come again in
        # another batch, without what could not be done.
        self._ahead: set[tuple[Position, int]] = set()

    async def open(self) -> Position | None:
        """Nothing to open."""
        return None

    async def rewrite(self, batch: Batch) -> None:
        """Call the handler."""
        await self.write(batch, _not_said)

    async def write(self, batch: Batch, reach: Reach, settled: Set[int] = frozenset()) -> None:
        """Call the handler with the changes of a batch that it has not had yet."""
        self._reach = reach
        while True:
            if self._piece is None or batch is not self._batch:
                self._say_at = time.monotonic() + SAY_EVERY
            work = self._workers
            try:
                if not work:
                    piece = self._prepared(batch, settled)
                    if piece is not None:
                        await self._handle_tasks(piece)
                elif self._concurrency == 1:
                    piece = await work[0].call(self._handle_next, batch, settled)
                else:
                    piece = await work[0].call(self._prepared, batch, settled)
                    if piece is not None:
                        await self._handle_threads(piece)
            finally:
                # Also after a failure: what was handled before it does not come again.
                if self._piece is not None and self._batch is batch:
                    self._say(self._piece)
                    self._note_ahead(self._piece)
            if piece is None:
                self._batch = None
                return
            self._piece_done(piece, reach, 0)
            if not self._left:
                self._batch = None
                return

    def _prepared(self, batch: Batch, settled: Set[int]) -> Progress | None:
        before = self._piece
        piece = self._next(batch, settled)
        if piece is not None and piece is not before:
            self._changes = piece.shaped.batch.changes(self._formats.of(self._subscription, piece.shaped.batch))
            if self._ahead:
                self._skip_known(piece)
        return piece

    def _handle_next(self, batch: Batch, settled: Set[int]) -> Progress | None:
        """The piece to go on with, when all of it was handled: one way to the thread and back."""
        piece = self._prepared(batch, settled)
        if piece is not None:
            for number in range(piece.lowest, piece.count):
                if not piece.done[number]:
                    self._handle(number)
                    self._handled_one(piece, number)
        return piece

    async def _handle_threads(self, piece: Progress) -> None:
        schedule = Schedule(self._keys(piece), piece.done)
        await run_in_threads(schedule, self._workers, self._handle, lambda number: self._handled_one(piece, number))

    async def _handle_tasks(self, piece: Progress) -> None:
        if self._concurrency > 1:
            schedule = Schedule(self._keys(piece), piece.done)
            await run_in_tasks(
                schedule, self._concurrency, self._handle_async, lambda number: self._handled_one(piece, number)
            )
            return
        for number in range(piece.lowest, piece.count):
            if not piece.done[number]:
                await self._handle_async(number)
                self._handled_one(piece, number)

    def _say(self, piece: Progress) -> None:
        """Say how far it is."""
        reached = piece.reached()
        if reached and (piece.handled > piece.said or reached > piece.told):
            position = self._changes[reached - 1].position
            if isinstance(position, tuple):
                self._reach(Position(*position), piece.handled - piece.said, piece.number(reached - 1) + 1)
                piece.said, piece.told = piece.handled, reached
        self._say_at = time.monotonic() + SAY_EVERY

    def _handled_one(self, piece: Progress, number: int) -> None:
        """One more is done. A slow handler's batch takes long: what is done of it must not come again for that."""
        piece.finish(number)
        if time.monotonic() >= self._say_at:
            self._say(piece)

    def _places(self) -> list[tuple[Position, int] | None]:
        """Each change's position and its number among those of that; None where many have one, as in a copy."""
        places: list[tuple[Position, int] | None] = []
        last: Position | None = None
        same = 0
        for change in self._changes:
            position = change.position
            if not isinstance(position, tuple) or position[1] == SNAPSHOT_INDEX:
                places.append(None)
                continue
            same = same + 1 if position == last else 0
            last = Position(*position)
            places.append((last, same))
        return places

    def _note_ahead(self, piece: Progress) -> None:
        reached = piece.reached()
        if self._concurrency > 1 and reached < piece.count:
            places = self._places()
            done = (number for number in range(reached, piece.count) if piece.done[number])
            self._ahead |= {place for number in done if (place := places[number]) is not None}
        elif self._ahead and (last := piece.source.last_position) is not None:
            self._ahead = {place for place in self._ahead if place[0] > last}

    def _skip_known(self, piece: Progress) -> None:
        for number, place in enumerate(self._places()):
            if place in self._ahead:
                piece.finish(number)

    def _number(self, number: int) -> int:
        return number if self._piece is None else self._piece.number(number)

    def _check(self) -> None:
        """Before each change: raises when it may not be handled."""
        if self._ended.is_set():
            raise GaveUp
        if self._held():
            raise Held("it waits until the pipeline has its server again")

    def _handle(self, number: int) -> None:
        self._check()
        change = self._changes[number]
        try:
            if isinstance(change, DecodeError):
                raise change
            self._handler(change)
        except (Exception, asyncio.CancelledError) as error:
            raise HandlerFailed(change, as_exception(error), self._number(number)) from error

    async def _handle_async(self, number: int) -> None:
        self._check()
        change = self._changes[number]
        try:
            if isinstance(change, DecodeError):
                raise change
            result = self._handler(change)
            if isawaitable(result):
                await result
        except BaseException as error:
            if not is_foreign(error):
                raise
            raise HandlerFailed(change, as_exception(error), self._number(number)) from error

    async def schema_changed(self, change: SchemaChange) -> None:
        """Call the handler with it, if it asked for that."""
        if self._subscription.told:
            await awaited(
                await self._workers[0].call(self._handler, change) if self._workers else self._handler(change)
            )

    def give_up(self) -> None:
        """Handle the changes in hand and no further one."""
        self._ended.set()

    async def close(self, timeout: float) -> bool:
        """End the threads."""
        return await stopped(self._workers, timeout)


def _not_said(_position: Position, _count: int, _behind: int) -> None:
    """What is written again is nothing that a position says."""
