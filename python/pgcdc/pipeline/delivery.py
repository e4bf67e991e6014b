"""A batch to a consumer's target: tried again, taken apart, and what cannot be delivered put among its dead letters."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeAlias, TypeVar

from pgcdc.errors import DecodeError, Error, SinkRejected, SinkUnavailable
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.pipeline import failure, retry
from pgcdc.pipeline.breaker import Breaker
from pgcdc.pipeline.describing import Described
from pgcdc.pipeline.parking import Parking
from pgcdc.pipeline.queue import Lane
from pgcdc.pipeline.subscription import HandlerSubscription, Subscription
from pgcdc.pipeline.target import GaveUp, HandlerFailed, Held, SinkFailed, Target
from pgcdc.protocol import Batch

__all__ = ["ConsumerState", "Delivery"]

logger = logging.getLogger("pgcdc.pipeline")

ConsumerState: TypeAlias = Literal["starting", "running", "retrying", "failed", "stopped"]

Result = TypeVar("Result")


class _Further(Exception):
    """It failed again, but further on than before: the attempts are counted anew."""

    def __init__(self, failed: HandlerFailed | SinkFailed) -> None:
        super().__init__()
        self.failed = failed


class Delivery:
    """What writes to one consumer's target.

    Args:
        subscription: The consumer.
        target: Its target.
        lane: Its lane, which is told how far it is.

    Attributes:
        state: What the consumer is about.
        last_error: The last thing that went wrong.
        breaker: Its circuit breaker.
        parking: Its dead letters; None when the pipeline has none.
        numbers: Of what a sink is given now: those of its changes among those of the batch.
    """

    def __init__(self, subscription: Subscription, target: Target, lane: Lane) -> None:
        self.name = subscription.name
        self.state: ConsumerState = "starting"
        self.last_error: str | None = None
        self.parking: Parking | None = None
        self.numbers: Sequence[int] = ()
        self.breaker = Breaker(subscription.name, subscription.options.retry)
        self._policy = self._own_policy = subscription.options.retry
        self._parks = subscription.options.on_failure != "stop"
        self._handles = isinstance(subscription, HandlerSubscription)
        self._around = subscription.around
        self._target = target
        self._lane = lane
        self._calling = False
        self._tries = 0
        self._first_failure = 0.0
        self._before: Exception | None = None

    @property
    def goes_well(self) -> bool:
        """Whether nothing has failed lately, and no row is held back."""
        held = self.parking is not None and self.parking.held_keys > 0
        return self.state == "running" and self.breaker.state == "closed" and not held

    async def write(self, batch: Batch) -> None:
        """Deliver a batch: when this returns, each of its changes is durable in the target or among the dead letters.

        Args:
            batch: The batch.

        Raises:
            Error: What could not be delivered, with the consumer, the table and the position named.
            GaveUp: When it is to end.
        """
        if self._around is None:
            await (self._handle(batch) if self._handles else self._write(batch))
        else:
            with self._around(self.name, batch):
                await (self._handle(batch) if self._handles else self._write(batch))
        self._wrote(batch)

    def wrote(self, batch: Batch) -> None:
        """Take down that all of a batch is durable, which was written while `goes_well`; from any thread.

        Args:
            batch: The batch.
        """
        self.breaker.answered()
        self._wrote(batch)

    def _wrote(self, batch: Batch) -> None:
        # A target that keeps a position is asked for it at the next start, and does not know of what it has not got.
        if self._parks and not self._target.keeps_position and batch.last_position is not None:
            self._lane.reach(batch.last_position, 0)

    async def _handle(self, batch: Batch) -> None:
        parking = self.parking if self._parks else None
        part = Described(batch)
        settled: set[int] = set() if parking is None else await parking.hold_back(part)
        while True:
            try:
                done = frozenset(settled)
                await self.persist(lambda done=done: self._target.write(batch, self._lane.reach, done))  # type: ignore[misc]
            except HandlerFailed as failed:
                if parking is None:
                    raise _of_handler(self.name, failed) from failed.cause
                self._note(failed.cause)
                await parking.park(part, {failed.number: failed.cause}, self._tries)
                failure.forget(failed)
                settled = {*settled, failed.number}
                settled |= await parking.hold_back(part, settled, failed.number + 1)
            else:
                return

    async def _write(self, batch: Batch) -> None:
        parts = [Described(batch)]
        while parts:
            part = parts.pop()
            if self._parks and self.parking is not None:
                held = await self.parking.hold_back(part)
                if held:
                    part = part.take(set(range(part.batch.changes_count)) - held)
            batch = part.batch
            if not batch.changes_count:
                continue
            self.numbers = part.numbers
            try:
                await self.persist(lambda batch=batch: self._target.write(batch, self._lane.reach))  # type: ignore[misc]
            except GaveUp:
                raise
            except HandlerFailed as failed:  # a filter or transform
                if not self._parks or self.parking is None:
                    raise _of_handler(self.name, failed) from failed.cause
                self._note(failed.cause)
                await self.parking.park(part, {failed.number: failed.cause}, self._tries)
                failure.forget(failed)
                parts.append(part.take(range(failed.number + 1, batch.changes_count)))
            except SinkFailed as failed:
                error = failed.cause
                if not self._parks or not (isinstance(error, SinkRejected | DecodeError) or self._is_temporary(error)):
                    raise failure.of_sink(self.name, batch, error) from error
                parts.append(part.take(failed.left))
                parts += reversed(await self._take_apart(part.take(failed.refused), error))
                failure.forget(failed)
                del error

    async def _take_apart(self, part: Described, error: Exception) -> Sequence[Described]:
        """Put what was refused among the dead letters.

        Returns:
            What is left, in order.
        """
        batch = part.batch
        parking, count, spent = self.parking, batch.changes_count, self._is_temporary(error)
        if parking is None:
            raise failure.of_sink(self.name, batch, error) from error
        self._note(error)
        guilty = {0} if count == 1 else set(range(count)) if spent else _named(batch, error)
        if guilty:
            if parking.holds and not spent:
                # One after the other: what comes before one is delivered before its key is held.
                first = min(guilty)
                if first:
                    return [part.take(set(range(first))), part.take(set(range(first, count)))]
                guilty = {0}
            rest = set(range(count)) - guilty
            await parking.park(part, dict.fromkeys(guilty, error), self._tries)
            return [part.take(rest)]
        # Whole transactions as long as there are several.
        middle = _middle(batch)
        return [part.take(set(range(middle))), part.take(set(range(middle, count)))]

    async def again(self, through_lsn: int, read: Callable[[bytes], Batch]) -> None:
        """Deliver dead letters again that were asked for, and those that wait for nothing any more.

        Args:
            through_lsn: What was stored of how far the consumer is.
            read: Makes a batch of a letter's message.

        Raises:
            GaveUp: When it is to end.
        """
        parking = self.parking
        if parking is None:
            return
        async for letter, stays in parking.due(through_lsn):
            batch = read(letter.message)
            try:
                await self.persist(lambda batch=batch: self._target.rewrite(batch))  # type: ignore[misc]
            except GaveUp:
                raise
            except Exception as error:
                cause = _cause(error)
                self._note(cause)
                await parking.failed_again(letter, cause, self._tries)
                failure.forget(error)
                del cause
                stays()
            else:
                await parking.delivered(letter)
        await parking.look()

    def _note(self, cause: Exception) -> None:
        # The text of anything else than an error of ours can hold values of rows.
        self.last_error = str(cause) if isinstance(cause, Error) else type(cause).__name__

    # Trying again.

    async def keep_trying(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """Call until nothing is away that it needs, without end, for what is no change.

        Args:
            call: The call.

        Returns:
            What it returned.

        Raises:
            GaveUp: When it is to end.
            Exception: What it raised, but for SinkUnavailable.
        """
        return await self.persist(call, retry.Retry())

    async def persist(self, call: Callable[[], Awaitable[Result]], policy: retry.Retry | None = None) -> Result:
        """Call until the target takes it, refuses it, or has been tried often enough; only this consumer waits.

        Args:
            call: The call.
            policy: How often that is; None for the consumer's own.

        Returns:
            What it returned.

        Raises:
            GaveUp: When it is to end.
            Exception: What it raised last.
        """
        self._policy = self._own_policy if policy is None else policy
        self._tries = 1
        failed: Exception | None = None
        try:
            result = await self._call(call)
        except Exception as error:
            failed = error
        if failed is not None:
            # Only now: what counts attempts takes longer to set up than most calls.
            result = await self._try_again(call, failed)
            failure.forget(failed)
            self._forget()
            del failed
        self.breaker.answered()
        if self.state == "retrying":
            logger.warning("consumer %r: available again", self.name)
        self.state = "running"
        return result

    async def _try_again(self, call: Callable[[], Awaitable[Result]], failed: Exception) -> Result:
        """Go on after a first attempt that has failed."""
        pending: Exception | None = failed
        del failed  # it knows this frame, which must not know it
        while True:
            self._tries = 0
            place = pending.number if isinstance(pending, HandlerFailed) else None
            try:
                async for attempt in retry.attempts(self._policy, self._failed):
                    with attempt:
                        self._tries += 1
                        if pending is not None:
                            error, pending = pending, None
                            try:
                                raise error
                            finally:
                                del error
                        try:
                            return await self._call(call)
                        except HandlerFailed as again:
                            if place is not None and again.number > place:
                                raise _Further(again) from None
                            place = again.number if place is None else place
                            raise
                        except SinkFailed as again:
                            if isinstance(again.cause, SinkUnavailable) and again.cause.partly:
                                self.breaker.answered()
                                raise _Further(again) from None
                            raise
            except _Further as further:
                pending = further.failed

    def _forget(self) -> None:
        """What failed before is over, and nobody asks any more where it was raised."""
        before, self._before = self._before, None
        if before is not None:
            failure.forget(before)

    async def _call(self, call: Callable[[], Awaitable[Result]]) -> Result:
        while True:
            if not await self._lane.allowed():
                raise GaveUp
            await self.breaker.ready()
            self._calling = True
            try:
                return await call()
            except Held as held:
                self.state, self.last_error = "retrying", str(held)
                logger.info("consumer %r: %s", self.name, held)
            except Exception as error:
                if self._lane.closed and self._is_temporary(error):
                    raise GaveUp from None  # there is no time for another attempt: it comes again at the next start
                raise
            finally:
                self._calling = False

    @property
    def pausing(self) -> bool:
        """Whether it waits for the next attempt at something that has failed."""
        return self.state == "retrying" and not self._calling

    def _is_temporary(self, error: Exception) -> bool:
        return isinstance(_cause(error), (SinkUnavailable, *self._policy.on))

    def _failed(self, error: Exception) -> bool:
        """Told of each failure by what counts attempts; says whether there may be another attempt."""
        if error is not self._before:
            self._forget()
            self._before = error
        if not self._is_temporary(error):
            if not isinstance(error, _Further | GaveUp):
                self.breaker.answered()
            return False
        self._note(_cause(error))
        if self.state != "retrying":
            self.state = "retrying"
            logger.warning("consumer %r: not available, trying again: %s", self.name, self.last_error)
        self.breaker.failed()
        now = time.monotonic()
        if self._tries == 1:
            self._first_failure = now
        # The breaker may keep it waiting for longer than it is tried for.
        limit, pause = self._policy.give_up, self.breaker.next_attempt_in or 0.0
        return limit is None or now + pause - self._first_failure <= limit


def _cause(error: Exception) -> Exception:
    return error.cause if isinstance(error, HandlerFailed | SinkFailed) else error


def _named(part: Batch, error: Exception) -> set[int]:
    """The numbers of the changes that an error is about, where it says so and that is not all of the batch."""
    positions = set(error.positions) if isinstance(error, SinkRejected) else set()
    if isinstance(error, DecodeError) and error.position is not None:
        positions = {error.position}
    # Rows of the initial copy share a position: it says nothing.
    positions = {Position(*one) for one in positions if one[1] != SNAPSHOT_INDEX}
    if not positions:
        return set()
    found = [change.position for change in part.changes()]
    return {number for number, position in enumerate(found) if position in positions}


def _middle(part: Batch) -> int:
    """The number of the change at which to cut: where a transaction begins, if one does after the first change."""
    places = [change.position for change in part.changes()]
    half = len(places) // 2
    begins = [
        number
        for number in range(1, len(places))
        if isinstance(there := places[number], tuple)
        and isinstance(before := places[number - 1], tuple)
        and there[0] != before[0]
    ]
    return min(begins, key=lambda number: abs(number - half), default=half)


def _of_handler(consumer: str, failed: HandlerFailed) -> Error:
    return failure.of_handler(consumer, failed.change, failed.cause, shaping=failed.shaping)
