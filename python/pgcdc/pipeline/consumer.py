"""One consumer's task: takes what its lane brings, skips what is already durable, delivers the rest, tries again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import ClassVar

from pgcdc.errors import ConnectionLost, PositionError
from pgcdc.lsn import SNAPSHOT_INDEX, Position, format_lsn
from pgcdc.pipeline import failure
from pgcdc.pipeline.delivery import ConsumerState, Delivery
from pgcdc.pipeline.earlier_letters import of_another_policy
from pgcdc.pipeline.gathering import Unfinished, gathered
from pgcdc.pipeline.items import Appointment, Begin, CopyBegin, CopyEnd, Item, Nudge, Rows, Sending
from pgcdc.pipeline.parking import Desk, Parking
from pgcdc.pipeline.queue import Lane
from pgcdc.pipeline.reshaping import Reshaping
from pgcdc.pipeline.row_formats import RowFormats
from pgcdc.pipeline.subscription import SinkSubscription, Subscription
from pgcdc.pipeline.target import AheadTarget, GaveUp, Target
from pgcdc.protocol import Batch
from pgcdc.sink import Parked

__all__ = ["Consumer", "ConsumerState"]

logger = logging.getLogger("pgcdc.pipeline")

CLOSE_WITHIN = 1.0
"""Seconds that a call which still runs at the end is waited for."""


class Consumer:
    """One consumer of one run.

    Args:
        subscription: What it asked for.
        target: What it writes to.
        lane: Where its items come from.
        reshaping: What it does where a table changes shape; None: nothing.
        desk: Where its dead letters go; None when there are none.
        through: Gives what is stored of how far it is.
        formats: How rows of the pipeline are given, and what its tables' keys are.
    """

    has_target_alone: ClassVar = True
    """Whether nobody else calls the target, whose thread may wait for what the lane brings then."""

    def __init__(
        self,
        subscription: Subscription,
        target: Target,
        lane: Lane,
        reshaping: Reshaping | None = None,
        desk: Desk | None = None,
        through: Callable[[], int] = lambda: 0,
        formats: RowFormats | None = None,
    ) -> None:
        self.name = subscription.name
        self.lane = lane
        self.delivery = Delivery(subscription, target, lane)
        self._subscription = subscription
        self._target = target
        self._reshaping = reshaping
        self._through = through
        self._formats = RowFormats() if formats is None else formats
        self._desk = desk
        if desk is not None and desk.used:
            self.delivery.parking = Parking(self.name, subscription.options, desk, self._letters_away, self._formats)
        options = subscription.options
        alone = self.has_target_alone and subscription.gets_rows and not (options.max_wait or options.transactions)
        # What is entered around a write is entered here, on the event loop, and before it.
        alone = alone and subscription.around is None
        self._ahead = target if alone and isinstance(target, AheadTarget) and target.goes_ahead else None
        self._opened = False
        self._own: Position | None = None
        self._skip: Position | None = None

    def be_sent_to(self) -> None:
        """Let the thread that reads the stream write what is small and plain itself: nobody else may wait for that."""
        if self._ahead is not None and self._ahead.sends:
            self.lane.send_by(self._send, self._written)

    def _send(self, batch: Batch) -> Sending | None:
        """Put a plain batch on its way; in the source's thread, while the target's waits for what comes."""
        ahead = self._ahead
        return ahead.send(batch) if ahead is not None and self._is_plain(batch) else None

    @property
    def state(self) -> ConsumerState:
        """What it is about."""
        return self.delivery.state

    @property
    def last_error(self) -> str | None:
        """The last thing that went wrong."""
        return self.delivery.last_error

    @property
    def parked(self) -> str | None:
        """Why its target applies nothing for now; None when it does."""
        return None if (parked := self._parked) is None else parked.why

    @property
    def _parked(self) -> Parked | None:
        sink = self._subscription.sink if isinstance(self._subscription, SinkSubscription) else None
        return getattr(sink, "parked", None)

    def lateness(self, seconds: float | None) -> float | None:
        """How late it is.

        Args:
            seconds: How late it is by what came and was written.

        Returns:
            The same, or for how long what was written has not been applied.
        """
        parked = self._parked
        return seconds if parked is None else max(seconds or 0.0, time.time() - parked.since)

    def _fail(self, error: BaseException) -> None:
        self.delivery.state, self.delivery.last_error = "failed", str(error)

    async def run(self) -> None:
        """Deliver until the lane ends.

        Raises:
            Error: What could not be delivered, with the consumer, the table and the position named.
        """
        try:
            await self._work()
        except GaveUp:
            pass
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            await self._close()

    @property
    def pausing(self) -> bool:
        """Whether it waits for the next attempt at something that has failed: nothing of it is under way."""
        return self.delivery.pausing

    def give_up(self) -> None:
        """The time to drain is over: end at the next opportunity."""
        self._target.give_up()

    async def _open(self) -> None:
        self._opened = True
        try:
            self._own = await self.delivery.persist(self._target.open)
        except GaveUp:
            raise
        except Exception as error:
            raise failure.of_sink(self.name, None, error) from error

    async def _work(self) -> None:
        while (item := await self._take()) is not None:
            if isinstance(item, Nudge):
                if self._opened:
                    await self.delivery.again(self._through(), self._read)
                continue
            if isinstance(item, Begin):
                # Not before the pipeline is ours: until then another process may write to the target, whose position
                # moves on, and which would take whoever opens it for its successor.
                if not self._opened:
                    await self._open()
                self._begin(item)
                if self._reshaping is not None:
                    await self._reshaping.begin(item.stored, self.delivery.keep_trying)
                if self.delivery.parking is not None:
                    await self.delivery.parking.open(item.stored.epoch)
                elif self._desk is not None:
                    await self._check_left(self._desk)
            elif isinstance(item, CopyBegin):
                await self._begin_copy(item)
            elif isinstance(item, CopyEnd):
                self._skip = None
            elif isinstance(item, Appointment):
                await item.keep()
            elif isinstance(item, Rows) and not await self._gather(item):
                return
            self.lane.done()
            del item  # it may not live on while the next ones are written in the target's thread

    async def _take(self) -> Item | None:
        if self._ahead is not None and self._opened:
            try:
                await self._ahead.ahead(self.lane.expect, self._is_plain, self.lane.reach, self._written)
            except asyncio.CancelledError:
                self.lane.expect_nothing()
                raise
        return await self.lane.take()

    def _is_plain(self, batch: Batch) -> bool:
        """Whether a batch is only to be written: nothing of it is known, held or of a new shape, and all goes well.

        In the target's thread, or in that of the source while that one sleeps; this task waits.
        """
        if self._skip is not None or not batch.changes_count or not self.delivery.goes_well:
            return False
        reshaping = self._reshaping
        return reshaping is None or (batch.versions is not None and reshaping.next(batch) is None)

    def _written(self, batch: Batch) -> None:
        """Take down that a plain batch is durable; in the thread that has written it, which goes on to the next one.

        To tell the event loop of each, and to be given the next by it, takes longer than to write a small one.
        """
        self.delivery.wrote(batch)
        self.lane.done()

    async def _check_left(self, desk: Desk) -> None:
        left = await self.delivery.keep_trying(desk.left)
        error = of_another_policy(self.name, self._subscription.options.on_failure, left)
        if error is not None:
            raise error

    async def _close(self) -> None:
        try:
            ended = self._reshaping is None or await self._reshaping.close(CLOSE_WITHIN)
            closed = not self._opened or await self._target.close(CLOSE_WITHIN)
            if not (closed and ended):
                logger.warning("consumer %r: a call still runs and is left behind", self.name)
        except Exception as error:
            if self.state == "failed":  # The first error is the one to tell.
                logger.warning("consumer %r: closing it failed too: %s", self.name, type(error).__name__)
                return
            self._fail(error)
            raise failure.of_sink(self.name, None, error, "cannot be closed") from error
        if self.state != "failed":
            self.delivery.state = "stopped"

    def _read(self, message: bytes) -> Batch:
        """A dead letter's change, with the version that its table had there; under the names of now, for some sinks."""
        batch = Batch.from_bytes(message, self._formats.context().format)
        self._formats.meet(batch)
        return batch if self._reshaping is None else self._reshaping.as_now(self._reshaping.versioned(batch))

    # Where to go on.

    def _begin(self, item: Begin) -> None:
        stored, own = item.stored, self._own
        if own is not None and own.commit_lsn > item.server_lsn:
            raise self._contradiction(
                f"the target of consumer {self.name!r} is at {format_lsn(own.commit_lsn)}, but the server's WAL ends at"
                f" {format_lsn(item.server_lsn)}: it was filled from another server, or the server was set back",
                own,
            )
        skip = Position(stored.through_lsn, SNAPSHOT_INDEX)
        if stored.position is not None:
            if self._target.keeps_position and (own is None or own < stored.position):
                where = "empty" if own is None else f"only at {own}"
                raise self._contradiction(
                    f"the target of consumer {self.name!r} is {where}, but {stored.position} was reported durable:"
                    " it lost rows",
                    stored.position,
                )
            skip = max(skip, _resume_at(stored.position, item.exact))
        # A sink's own position is written with the data, ours up to a second later: the sink's wins.
        self._skip = skip if own is None else max(skip, _resume_at(own, item.exact))

    async def _begin_copy(self, item: CopyBegin) -> None:
        self._skip = None
        start = Position(item.lsn, SNAPSHOT_INDEX)
        if self._own is not None and self._own > start:
            raise self._contradiction(
                f"the target of consumer {self.name!r} is at {self._own}, past the initial copy that begins at {start}",
                start,
            )
        if self._reshaping is not None:
            mine = [one for one in item.relations if (one.schema, one.name) in self._subscription.tables]
            await self._reshaping.begin_copy(mine, item.lsn, self.delivery.keep_trying)
        if not (item.again or self._own is not None) or not self._subscription.takes("truncate"):
            return
        relations = [item for item in item.relations if (item.schema, item.name) in self._subscription.tables]
        await self._deliver(Batch.truncation(relations, item.lsn))

    def _contradiction(self, message: str, position: Position) -> PositionError:
        return PositionError(
            message,
            hint="empty the target and call Pipeline.destroy() once, so that the next start takes a new initial copy;"
            " or put the target back that belongs to the stored position",
            lsn=position.commit_lsn,
        )

    # Delivery.

    async def _gather(self, rows: Rows) -> bool:
        """Deliver what the lane has brought; whether all of it was."""
        options = self._subscription.options
        if not (options.max_wait or options.transactions):
            await self._deliver(rows.batch)
            return True
        try:
            async for batch in gathered(self.name, options, self.lane, rows):
                await self._deliver(batch)
        except Unfinished:
            return False
        return True

    async def _deliver(self, batch: Batch) -> None:
        if self._skip is not None:
            first = batch.first_position
            if first is not None and first > self._skip:
                self._skip = None
            else:
                batch = batch.after(self._skip)
                if not batch.changes_count:
                    return
        if self._reshaping is not None:
            if batch.versions is None:
                batch = self._reshaping.versioned(batch)
            while (shape := self._reshaping.next(batch)) is not None:
                before, batch = batch.split_at(shape.at)
                await self._pass_on(before)
                await self._reshaping.enter(shape, self.delivery.keep_trying)
        await self._pass_on(batch)

    async def _pass_on(self, batch: Batch) -> None:
        if not batch.changes_count:
            return
        if self._subscription.gets_rows:
            await self._write(batch)
        elif batch.last_position is not None:
            self.lane.reach(batch.last_position, 0)

    async def _write(self, batch: Batch) -> None:
        await self.delivery.write(batch)

    def _letters_away(self, error: ConnectionLost | None) -> None:
        """The store of dead letters is away, or back: until it is, this consumer stays where it is."""
        if error is None:
            logger.warning("consumer %r: the store of its dead letters is back", self.name)
            self.delivery.state = "running"
            return
        if self.state != "retrying":
            logger.warning("consumer %r: its dead letters cannot be stored, trying again: %s", self.name, error)
        self.delivery.state, self.delivery.last_error = "retrying", str(error)


def _resume_at(position: Position, exact: bool) -> Position:
    # An index counts the changes that the server sent. When it sends others now, only the transaction's start is sure.
    return position if exact else Position(position.commit_lsn, SNAPSHOT_INDEX)
