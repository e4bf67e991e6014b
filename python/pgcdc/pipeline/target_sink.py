"""A sink as a target: batches, one after the other or parts of one at once; a blocking sink has threads of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence, Set
from inspect import isawaitable
from typing import NamedTuple, Protocol, TypeGuard, runtime_checkable

from pgcdc.errors import SinkRejected
from pgcdc.lsn import Position
from pgcdc.pipeline.foreign import as_exception, awaited
from pgcdc.pipeline.items import Expected, Sending
from pgcdc.pipeline.ordering import parts
from pgcdc.pipeline.pieces import Pieces, Progress
from pgcdc.pipeline.row_formats import RowFormats
from pgcdc.pipeline.shaping import Unshapable
from pgcdc.pipeline.subscription import SinkSubscription, is_async
from pgcdc.pipeline.target import HandlerFailed, Reach, SinkFailed
from pgcdc.pipeline.worker import stopped, workers
from pgcdc.protocol import Batch
from pgcdc.schema import SchemaChange
from pgcdc.sink import RewritingSink, TransactionalSink

__all__ = ["SinkTarget"]


@runtime_checkable
class SendingSink(Protocol):
    """A sink that can send a batch in one thread, and be told to wait for its answer in another."""

    def send_ahead(self, batch: Batch) -> Sending | None:
        """Send a batch without a wait; None, and nothing done, where `write` is to be called for it."""


class _Begun(NamedTuple):
    """What has come of beginning to write a batch."""

    batch: Batch
    piece: Progress | None
    result: Awaitable[None] | None
    error: Exception | None


class SinkTarget(Pieces):
    """A sink: asynchronous when its `write` is a coroutine function, else called in threads of its own.

    Args:
        subscription: The sink and its name.
        formats: How rows are made.
    """

    def __init__(self, subscription: SinkSubscription, formats: RowFormats | None = None) -> None:
        super().__init__(subscription, RowFormats() if formats is None else formats)
        self._sink = subscription.sink
        count = 0 if is_async(self._sink.write) else self._concurrency
        self._workers = workers(subscription.name, count)
        self.keeps_position = isinstance(self._sink, TransactionalSink)
        # Of the piece in hand, written in parts: those that are left, segment by segment.
        self._parts: list[list[list[int]]] | None = None
        # What was begun before `write` was asked for it.
        self._begun: _Begun | None = None
        self._sends = self._sink.send_ahead if isinstance(self._sink, SendingSink) else None

    async def _call(self, method: Callable[..., Awaitable[None] | None], *arguments: object, by: int = 0) -> None:
        await awaited(await self._workers[by].call(method, *arguments) if self._workers else method(*arguments))

    async def open(self) -> Position | None:
        """Open the sink, and ask for its position."""
        await self._call(self._sink.open)
        if not isinstance(self._sink, TransactionalSink):
            return None
        ask = self._sink.position
        position = await self._workers[0].call(ask) if self._workers else ask()
        return None if position is None else Position(*position)

    async def write(self, batch: Batch, reach: Reach, settled: Set[int] = frozenset()) -> None:
        """Write a batch: durable when the sink returns."""
        while True:
            known = self._piece is not None and batch is self._batch
            begun, self._begun = self._begun, None
            if begun is not None and begun.batch is batch:
                known = False
                if begun.error is not None:
                    raise begun.error
                piece, result = begun.piece, begun.result
            else:
                begin, work = self._begin, self._workers
                piece, result = await work[0].call(begin, batch, settled) if work else begin(batch, settled)
            if piece is None:
                self._batch = None
                return
            if not known:
                self._parts = None
            if piece.count and not piece.handled:
                if self._concurrency > 1:
                    await self._write_parts(piece, reach)
                elif result is not None and isawaitable(result):
                    try:
                        await awaited(result)
                    except Exception as error:
                        raise self._refused(piece, error) from error
                piece.handled = piece.count
            self._piece_done(piece, reach, piece.count - piece.said)
            if not self._left:
                self._batch = None
                return

    @property
    def goes_ahead(self) -> bool:
        """Whether it has one thread, which writes one batch after the other."""
        return len(self._workers) == 1

    async def ahead(
        self,
        expect: Callable[[], Expected | None],
        is_plain: Callable[[Batch], bool],
        reach: Reach,
        done: Callable[[Batch], None],
    ) -> None:
        """Wait for batches in the thread and write them there, until there is one with more to it."""

        def work() -> _Begun | None:
            while (expected := expect()) is not None:
                batch, sending = expected
                if sending is None and not is_plain(batch):
                    return None
                begun = self._begin_ahead(batch) if sending is None else self._finish_ahead(batch, sending)
                if begun.error is not None or begun.result is not None or not self._is_last(begun.piece):
                    return begun
                self._piece_done(begun.piece, reach, begun.piece.count - begun.piece.said)
                self._batch = None
                done(batch)
                del expected, batch, sending, begun  # they may not live on until the next one
            return None

        self._begun = await self._workers[0].call(work)

    def _begin_ahead(self, batch: Batch) -> _Begun:
        try:
            return _Begun(batch, *self._begin(batch, frozenset()), None)
        except Exception as error:
            return _Begun(batch, None, None, error)

    @property
    def sends(self) -> bool:
        """Whether the sink can, and nothing has to be made of its batches before."""
        # Who overrides `write` has something to do for each batch.
        owner = next((one for one in type(self._sink).__mro__ if "write" in vars(one)), None)
        can = self._sends is not None and owner is not None and "send_ahead" in vars(owner)
        return can and "write" not in getattr(self._sink, "__dict__", {}) and self._shaping.is_plain

    def send(self, batch: Batch) -> Sending | None:
        """Send a batch, where the sink can do that without a wait."""
        assert self._sends is not None
        return self._sends(self._formats.for_sink(batch))

    def _finish_ahead(self, batch: Batch, sending: Sending) -> _Begun:
        piece = self._next(batch, frozenset())
        assert piece is not None
        try:
            try:
                sending.finish()
            except (Exception, asyncio.CancelledError) as error:
                raise self._refused(piece, as_exception(error)) from error
        except SinkFailed as error:
            return _Begun(batch, None, None, error)
        return _Begun(batch, piece, None, None)

    def _is_last(self, piece: Progress | None) -> TypeGuard[Progress]:
        """Whether a batch ends with a piece, and all of that could be made."""
        return piece is not None and piece.failed is None and len(self._left) == 1

    def _begin(self, batch: Batch, settled: Set[int]) -> tuple[Progress | None, Awaitable[None] | None]:
        """The piece to go on with, and what writing it gave: a blocking sink has written it then, in the same thread.

        To go there and back once for each piece is most of what a small one costs.
        """
        piece = self._next(batch, settled)
        if piece is None or self._concurrency > 1 or not piece.count or piece.handled:
            return piece, None
        try:
            return piece, self._give(piece)
        except (Exception, asyncio.CancelledError) as error:  # from a call, which nobody of ours can cancel
            raise self._refused(piece, as_exception(error)) from error

    def _give(self, piece: Progress) -> Awaitable[None] | None:
        """Write a piece."""
        return self._sink.write(self._formats.for_sink(piece.shaped.batch))

    def _refused(self, piece: Progress, error: Exception) -> SinkFailed:
        return self._failed(piece, error, sorted({piece.number(number) for number in range(piece.count)}))

    def _failed(
        self, piece: Progress, error: Exception, refused: Sequence[int], behind: Set[int] = frozenset()
    ) -> SinkFailed:
        """What is to be known of a failure.

        Args:
            piece: What was being written.
            error: What the sink raised.
            refused: The numbers of the changes that it was about.
            behind: Those of the piece that were not written yet.
        """
        end = self._base + self._left[0].changes_count
        # Where the piece ends at a change that cannot be shaped, that comes again with the rest.
        begin = piece.numbers[piece.failed.number] if piece.failed is not None else end
        left = sorted({*behind, *range(begin, end + sum(one.changes_count for one in self._left[1:]))})
        return SinkFailed(_as_refusal(error), refused, left)

    async def rewrite(self, batch: Batch) -> None:
        """Write it as any other batch, unless the sink keeps a position: that has to know that this is an old one."""
        try:
            shaped = self._shaping.shape(batch, self._formats.of(self._subscription), self._formats.context)
        except Unshapable as failed:
            raise HandlerFailed(failed.change, failed.cause, 0, shaping=True) from failed.cause
        if not shaped.batch.changes_count:
            return
        write: Callable[[Batch], Awaitable[None] | None] = self._sink.write
        if isinstance(self._sink, RewritingSink):
            write = self._sink.rewrite
        elif self.keeps_position:
            refusal = SinkRejected(
                f"{type(self._sink).__name__} keeps its position, and cannot be given a change from before it",
                hint="give the sink a method rewrite(batch), or apply the change by hand and drop its dead letter",
            )
            raise SinkFailed(refusal, [0], [])
        try:
            await self._call(write, self._formats.for_sink(shaped.batch))
        except Exception as error:
            raise SinkFailed(_as_refusal(error), [0], []) from error

    async def _write_parts(self, piece: Progress, reach: Reach) -> None:
        """Write parts of a piece at once: those of a segment, then those of the next."""
        if self._parts is None:
            self._parts = parts(self._keys(piece), piece.shaped.origins, self._concurrency)
        while self._parts:
            segment = self._parts[0]
            whole = self._formats.for_sink(piece.shaped.batch)
            batches = [whole.take(numbers) for numbers in segment]
            last = max((one.last_position for one in batches if one.last_position is not None), default=None)
            calls = (self._call(self._sink.write, one, by=by % self._concurrency) for by, one in enumerate(batches))
            results = await asyncio.gather(*calls, return_exceptions=True)
            # What was written is not written again when the rest is tried again.
            left = [numbers for numbers, result in zip(segment, results, strict=True) if result is not None]
            written = sum(map(len, segment)) - sum(map(len, left))
            errors = [result for result in results if isinstance(result, BaseException)]
            if errors:
                self._parts[0] = left
                fatal = next((error for error in errors if not isinstance(error, Exception)), errors[0])
                if not isinstance(fatal, Exception):
                    raise fatal
                refused = sorted({piece.number(number) for part in left for number in part})
                behind = {piece.number(one) for later in self._parts[1:] for part in later for one in part}
                raise self._failed(piece, fatal, refused, behind) from fatal
            self._parts.pop(0)
            if last is not None and self._parts:
                reach(last, written, piece.number(max(part[-1] for part in segment)) + 1)
                piece.said += written

    async def schema_changed(self, change: SchemaChange) -> None:
        """Tell the sink, if it has a method for that."""
        method: Callable[..., Awaitable[None] | None] | None = getattr(self._sink, "schema_changed", None)
        if method is not None:
            await self._call(method, change)

    def give_up(self) -> None:
        """A batch is written whole or not: there is nothing to end early."""

    async def close(self, timeout: float) -> bool:
        """Close the sink, after a call that may still run."""
        for worker in self._workers:
            if not await worker.idle(timeout):
                return False
        await self._call(self._sink.close)
        return await stopped(self._workers, timeout)


def _as_refusal(error: Exception) -> Exception:
    """A text that no UTF-8 has is a row's, and no defect of the sink that was to write it. One that is not ASCII is."""
    if not isinstance(error, UnicodeEncodeError) or error.encoding.replace("-", "").lower() != "utf8":
        return error
    return SinkRejected("a row, or its table, has a text that is not UTF-8", hint="is the database in SQL_ASCII?")
