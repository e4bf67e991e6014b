"""What a consumer writes to: a sink, or a handler called change by change; blocking code has threads of its own.

Over 400 lines because the two kinds share how far a batch is, which nobody else is to see.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from inspect import isawaitable
from types import MappingProxyType
from typing import Protocol

from pgcdc.errors import DecodeError, SinkRejected
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.pipeline.ordering import Schedule, parts, run_in_tasks, run_in_threads
from pgcdc.pipeline.shaping import Keys, Shaping, Unshapable
from pgcdc.pipeline.subscription import HandlerSubscription, SinkSubscription, Subscription, Table, is_async
from pgcdc.pipeline.worker import Worker
from pgcdc.protocol import Batch, RowFormat, TypeCatalog
from pgcdc.schema import SchemaChange
from pgcdc.sink import RewritingSink, TransactionalSink
from pgcdc.transforms.applying import AnyChange, Context, Shaped

__all__ = [
    "AnyChange",
    "GaveUp",
    "HandlerFailed",
    "HandlerTarget",
    "Held",
    "RowFormats",
    "SinkFailed",
    "SinkTarget",
    "Target",
]

SAY_EVERY = 0.5
"""Seconds after which a handler's position is said within a batch: what a crash repeats is no more for a slow one."""


class Held(Exception):
    """Nothing is wrong with the target: the pipeline has lost its server, and may not be the owner any more."""


class GaveUp(Exception):
    """The time to drain is over; what was reached until then was reported."""


class HandlerFailed(Exception):
    """A handler raised, or a change could not be decoded for it; or a filter or transform of any consumer did.

    Args:
        change: The change, or the error in its place.
        cause: What was raised.
        number: Which change of the batch it is, or comes from: the first has 0. All before it are done, or settled.
        shaping: Whether it was a filter or transform.
    """

    def __init__(
        self, change: AnyChange | DecodeError, cause: Exception, number: int, *, shaping: bool = False
    ) -> None:
        super().__init__()
        self.change = change
        self.cause = cause
        self.number = number
        self.shaping = shaping


class SinkFailed(Exception):
    """A sink raised.

    Args:
        cause: What it raised.
        refused: The numbers of the batch's changes that it was about.
        left: The numbers of those that come behind and were not written.
    """

    def __init__(self, cause: Exception, refused: Sequence[int], left: Sequence[int]) -> None:
        super().__init__()
        self.cause = cause
        self.refused = refused
        self.left = left


class Target(Protocol):
    """The two kinds of targets, for a consumer."""

    async def open(self) -> Position | None:
        """Get ready; returns the target's own position when it keeps one."""

    async def write(
        self, batch: Batch, reach: Callable[[Position, int], None], settled: Set[int] = frozenset()
    ) -> None:
        """Write a batch; called again with the same batch after a failure, with more of it settled perhaps.

        Args:
            batch: The batch.
            reach: Told each time that something became durable: the last position, and how many changes. All changes up
                to the position are durable then, also where some above it are.
            settled: The numbers of those of its changes that are not to be written: they are dead letters.

        Raises:
            HandlerFailed: When a handler raised, or a filter or transform.
            SinkFailed: When a sink did.
            Held: When it has to wait.
            GaveUp: When it is to end.
        """

    async def rewrite(self, batch: Batch) -> None:
        """Write what was a dead letter; what the target knows of its position does not change.

        Args:
            batch: A batch of one change.

        Raises:
            HandlerFailed: As `write`.
            SinkFailed: As `write`.
            Held: When it has to wait.
            GaveUp: When it is to end.
        """

    async def schema_changed(self, change: SchemaChange) -> None:
        """Tell it that a table has another shape from here on, if it asked for that; durable when this returns.

        Args:
            change: What happened.
        """

    def give_up(self) -> None:
        """End at the next opportunity."""

    async def close(self, timeout: float) -> bool:
        """Let go of everything.

        Args:
            timeout: How long a call that still runs is waited for, in seconds.

        Returns:
            Whether nothing of it still runs.
        """

    @property
    def keeps_position(self) -> bool:
        """Whether it stores its position together with the data."""


class RowFormats:
    """How the rows of each consumer are made, and what its order is kept by, once the source's catalog is known."""

    def __init__(self) -> None:
        self._catalog: TypeCatalog | None = None
        self._former: frozenset[tuple[Table, Table]] = frozenset()
        self._formats: dict[tuple[object, ...], RowFormat] = {}
        self._routed: dict[str, frozenset[Table]] = {}
        self._keys: Mapping[int, Sequence[str]] = {}
        self._primary_keys: Mapping[int, Sequence[str]] = {}

    def use(self, catalog: TypeCatalog) -> None:
        """Set what is known of user-defined types; before the first batch is handed over."""
        self._catalog = catalog
        self._formats.clear()

    def order_by(
        self, keys: Mapping[int, Sequence[str]], primary_keys: Mapping[int, Sequence[str]] = MappingProxyType({})
    ) -> None:
        """Set the columns of each table's key; before the first batch is handed over.

        Args:
            keys: By the table's OID.
            primary_keys: Likewise, of those tables that have one.
        """
        self._keys = dict(keys)
        self._primary_keys = dict(primary_keys)

    def for_sink(self, batch: Batch) -> Batch:
        """What a sink is given: it knows its tables' keys.

        Args:
            batch: The batch.
        """
        return batch.with_primary_keys(self._primary_keys)

    @property
    def key_columns(self) -> Mapping[int, Sequence[str]]:
        """The columns of each table's primary key, by the table's OID."""
        return self._keys

    def renamed(self, then: Table, now: Table) -> None:
        """Rows come with a former name of a table: they are of the same class.

        Args:
            then: The name that they come with.
            now: The name that the consumers know.
        """
        self._former |= {(then, now)}

    def of(self, subscription: Subscription, batch: Batch | None = None) -> RowFormat:
        """The format of a consumer; consumers that want the same rows share one, and so the rows.

        Args:
            subscription: What it asked for.
            batch: What it is to be given, where transforms may have given tables other names.
        """
        row = subscription.row if isinstance(subscription, HandlerSubscription) else None
        former = self._former
        tables = subscription.tables
        if row is not None and batch is not None and subscription.options.transforms:
            tables = self._routed.get(subscription.name, tables)
            tables |= {(relation.schema, relation.name) for relation in batch.relations}
            self._routed[subscription.name] = tables
        key = () if row is None else (row, tables, former)
        if key not in self._formats:
            names = tables | {then for then, now in former if now in tables}
            types = {} if row is None else {".".join(table): row for table in names}
            self._formats[key] = RowFormat("struct", types=types, catalog=self._catalog)
        return self._formats[key]

    def context(self) -> Context:
        """What transforms need to know."""
        if () not in self._formats:
            self._formats[()] = RowFormat("struct", types={}, catalog=self._catalog)
        return Context(self._formats[()], self._former)

    def keys(self, subscription: Subscription) -> Keys:
        """What a consumer's changes are kept in order by.

        Args:
            subscription: What it asked for.
        """
        chosen = subscription.options.key
        return Keys(self._keys if chosen is None else dict.fromkeys(self._keys, chosen), chosen is None)


class _Progress:
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

    def origin(self, number: int) -> int:
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


class _Shaped:
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
        self._piece: _Progress | None = None

    def _next(self, batch: Batch, settled: Set[int]) -> _Progress | None:
        """The piece to go on with; None when all are done."""
        if batch is not self._batch:
            self._batch, self._left, self._base, self._piece = batch, self._shaping.pieces(batch), 0, None
        if self._piece is None and self._left:
            self._piece = self._shape(self._left[0], settled)
        elif self._piece is not None:
            self._piece.settle(settled)
        return self._piece

    def _shape(self, source: Batch, settled: Set[int]) -> _Progress:
        numbers: Sequence[int] = range(self._base, self._base + source.changes_count)
        if not settled.isdisjoint(numbers):
            numbers = [number for number in numbers if number not in settled]
            source = source.take([number - self._base for number in numbers])
        own = self._formats.of(self._subscription)
        try:
            return _Progress(source, numbers, self._shaping.shape(source, own, self._formats.context), None)
        except Unshapable as failed:
            return _Progress(source, numbers, failed.before, failed)

    def _piece_done(self, piece: _Progress, reach: Callable[[Position, int], None], unsaid: int) -> None:
        """All that the consumer gets of a piece is durable; raises where that is not all of it."""
        failed = piece.failed
        last = piece.source.last_position if failed is None else failed.reached
        if last is not None:
            reach(last, unsaid)
        self._piece = None
        if failed is not None:
            # From that change on it is to be tried again, or without it.
            number = piece.numbers[failed.number]
            rest = self._left[0]
            self._left[0] = rest.take(range(number - self._base, rest.changes_count))
            self._base = number
            raise HandlerFailed(failed.change, failed.cause, number, shaping=True) from failed.cause
        self._base += self._left.pop(0).changes_count

    def _keys(self, piece: _Progress) -> list[tuple[bytes, ...] | None]:
        """The keys of each change that the consumer gets: those of the change that it comes from."""
        keys = self._formats.keys(self._subscription)
        of = piece.source.keys(keys.columns, by_table=keys.by_table)
        return [of[piece.origin(number)] for number in range(piece.count)]


class SinkTarget(_Shaped):
    """A sink: asynchronous when its `write` is a coroutine function, else called in threads of its own.

    Args:
        subscription: The sink and its name.
        formats: How rows are made.
    """

    def __init__(self, subscription: SinkSubscription, formats: RowFormats | None = None) -> None:
        super().__init__(subscription, RowFormats() if formats is None else formats)
        self._sink = subscription.sink
        count = 0 if is_async(self._sink.write) else self._concurrency
        self._workers = _workers(subscription.name, count)
        self.keeps_position = isinstance(self._sink, TransactionalSink)
        # Of the piece in hand, written in parts: those that are left, segment by segment.
        self._parts: list[list[list[int]]] | None = None

    async def _call(self, method: Callable[..., Awaitable[None] | None], *arguments: object, by: int = 0) -> None:
        result = await self._workers[by].call(method, *arguments) if self._workers else method(*arguments)
        if isawaitable(result):
            await result

    async def open(self) -> Position | None:
        """Open the sink, and ask for its position."""
        await self._call(self._sink.open)
        if not isinstance(self._sink, TransactionalSink):
            return None
        ask = self._sink.position
        position = await self._workers[0].call(ask) if self._workers else ask()
        return None if position is None else Position(*position)

    async def write(
        self, batch: Batch, reach: Callable[[Position, int], None], settled: Set[int] = frozenset()
    ) -> None:
        """Write a batch: durable when the sink returns."""
        while True:
            known = self._piece is not None and batch is self._batch
            next, work = self._next, self._workers
            piece = await work[0].call(next, batch, settled) if work else next(batch, settled)
            if piece is None:
                self._batch = None
                return
            if not known:
                self._parts = None
            if piece.count and not piece.handled:
                if self._concurrency == 1:
                    try:
                        await self._call(self._sink.write, self._formats.for_sink(piece.shaped.batch))
                    except Exception as error:
                        refused = sorted({piece.number(number) for number in range(piece.count)})
                        raise self._failed(piece, error, refused) from error
                else:
                    await self._write_parts(piece, reach)
                piece.handled = piece.count
            self._piece_done(piece, reach, piece.count - piece.said)

    def _failed(
        self, piece: _Progress, error: Exception, refused: Sequence[int], behind: Set[int] = frozenset()
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
        return SinkFailed(error, refused, left)

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
            raise SinkFailed(error, [0], []) from error

    async def _write_parts(self, piece: _Progress, reach: Callable[[Position, int], None]) -> None:
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
                reach(last, written)
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
        return await _stopped(self._workers, timeout)


class HandlerTarget(_Shaped):
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
        self._workers = _workers(subscription.name, 0 if is_async(self._handler) else self._concurrency)
        self._held = held
        self._ended = threading.Event()
        self._changes: list[AnyChange | DecodeError] = []
        self._reach: Callable[[Position, int], None] = lambda _position, _count: None
        self._say_at = 0.0
        # What is done above one that is not, by position and the number among those of that: it may come again in
        # another batch, without what could not be done.
        self._ahead: set[tuple[Position, int]] = set()

    async def open(self) -> Position | None:
        """Nothing to open."""
        return None

    async def rewrite(self, batch: Batch) -> None:
        """Call the handler."""
        await self.write(batch, lambda _position, _count: None)

    async def write(
        self, batch: Batch, reach: Callable[[Position, int], None], settled: Set[int] = frozenset()
    ) -> None:
        """Call the handler with the changes of a batch that it has not had yet."""
        self._reach = reach
        while True:
            known = self._piece is not None and batch is self._batch
            prepared, work = self._prepared, self._workers
            piece = await work[0].call(prepared, batch, settled) if work else prepared(batch, settled)
            if piece is None:
                self._batch = None
                return
            if not known:
                self._say_at = time.monotonic() + SAY_EVERY
            try:
                await self._handle_piece(piece)
            finally:
                # Also after a failure: what was handled before it does not come again.
                self._say(piece)
                self._note_ahead(piece)
            self._piece_done(piece, reach, 0)

    def _prepared(self, batch: Batch, settled: Set[int]) -> _Progress | None:
        before = self._piece
        piece = self._next(batch, settled)
        if piece is not None and piece is not before:
            self._changes = piece.shaped.batch.changes(self._formats.of(self._subscription, piece.shaped.batch))
            if self._ahead:
                self._skip_known(piece)
        return piece

    async def _handle_piece(self, piece: _Progress) -> None:
        if self._concurrency > 1:
            schedule = Schedule(self._keys(piece), piece.done)

            def done(number: int) -> None:
                self._handled_one(piece, number)

            if self._workers:
                await run_in_threads(schedule, self._workers, self._handle, done)
            else:
                await run_in_tasks(schedule, self._concurrency, self._handle_async, done)
        elif self._workers:
            await self._workers[0].call(self._handle_all, piece)
        else:
            for number in range(piece.lowest, piece.count):
                if not piece.done[number]:
                    await self._handle_async(number)
                    self._handled_one(piece, number)

    def _handle_all(self, piece: _Progress) -> None:
        for number in range(piece.lowest, piece.count):
            if not piece.done[number]:
                self._handle(number)
                self._handled_one(piece, number)

    def _say(self, piece: _Progress) -> None:
        """Say how far it is."""
        reached = piece.reached()
        if piece.handled > piece.said and reached:
            position = self._changes[reached - 1].position
            if isinstance(position, tuple):
                self._reach(Position(*position), piece.handled - piece.said)
                piece.said = piece.handled
        self._say_at = time.monotonic() + SAY_EVERY

    def _handled_one(self, piece: _Progress, number: int) -> None:
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

    def _note_ahead(self, piece: _Progress) -> None:
        reached = piece.reached()
        if self._concurrency > 1 and reached < piece.count:
            places = self._places()
            done = (number for number in range(reached, piece.count) if piece.done[number])
            self._ahead |= {place for number in done if (place := places[number]) is not None}
        elif self._ahead and (last := piece.source.last_position) is not None:
            self._ahead = {place for place in self._ahead if place[0] > last}

    def _skip_known(self, piece: _Progress) -> None:
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
        except Exception as error:
            raise HandlerFailed(change, error, self._number(number)) from error

    async def _handle_async(self, number: int) -> None:
        self._check()
        change = self._changes[number]
        try:
            if isinstance(change, DecodeError):
                raise change
            result = self._handler(change)
            if isawaitable(result):
                await result
        except Exception as error:
            raise HandlerFailed(change, error, self._number(number)) from error

    async def schema_changed(self, change: SchemaChange) -> None:
        """Call the handler with it, if it asked for that."""
        if self._subscription.told:
            result = await self._workers[0].call(self._handler, change) if self._workers else self._handler(change)
            if isawaitable(result):
                await result

    def give_up(self) -> None:
        """Handle the changes in hand and no further one."""
        self._ended.set()

    async def close(self, timeout: float) -> bool:
        """End the threads."""
        return await _stopped(self._workers, timeout)


def _workers(name: str, count: int) -> list[Worker]:
    """So many threads for a consumer."""
    return [Worker(f"pgcdc-{name}" if not number else f"pgcdc-{name}-{number + 1}") for number in range(count)]


async def _stopped(workers: Sequence[Worker], timeout: float) -> bool:
    """End threads; whether all have."""
    return all(await asyncio.gather(*(worker.stop(timeout) for worker in workers)))
