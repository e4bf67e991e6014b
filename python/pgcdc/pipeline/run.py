"""One run of a pipeline: builds its parts, waits for a stop or the first error, and ends everything in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pgcdc.errors import ConfigError, ConnectionLost, Error, PositionError
from pgcdc.pipeline import retry
from pgcdc.pipeline.consumer import Consumer
from pgcdc.pipeline.copying import forget_unused
from pgcdc.pipeline.deadletter import DeadLetterStore, Marks
from pgcdc.pipeline.ledger import Ledger
from pgcdc.pipeline.migrations import Migrations
from pgcdc.pipeline.parking import Desk
from pgcdc.pipeline.positions import PositionStore
from pgcdc.pipeline.progress import Waiters
from pgcdc.pipeline.queue import Lane
from pgcdc.pipeline.reshaping import Reshaping, Together
from pgcdc.pipeline.row_formats import RowFormats
from pgcdc.pipeline.schemas import SchemaStore
from pgcdc.pipeline.settings import Settings, spool_place
from pgcdc.pipeline.source import Source
from pgcdc.pipeline.spooling import Backlog
from pgcdc.pipeline.statistics import ConsumerStatistics, PipelineStatistics, SourceStatistics
from pgcdc.pipeline.subscription import HandlerSubscription, SinkSubscription, Subscription
from pgcdc.pipeline.target import Target
from pgcdc.pipeline.target_handler import HandlerTarget
from pgcdc.pipeline.target_sink import SinkTarget
from pgcdc.pipeline.versioning import Versioning
from pgcdc.pipeline.worker import Worker

__all__ = ["Run"]

logger = logging.getLogger("pgcdc.pipeline")

SAVE_EVERY = 1.0
"""Seconds between two writes of positions: what a crash repeats at most, for targets that keep no position."""
DRAIN_WITHIN = 3.5
"""Seconds that consumers have after a stop to finish what is queued; with what comes after it, a stop takes 5 s."""
LAST_CHANCE = 0.3
"""Seconds that a consumer has to end after the time to drain is over, before its task is cancelled."""
STORE_WITHIN = 2.0
"""Seconds that the position store has at the end: it may be locked, or behind a connection that nobody answers."""
FINISH_WITHIN = 2.0
"""Seconds that the source has to send the last confirmation."""


class Run:
    """One run, made on the event loop that it runs on.

    Args:
        settings: The pipeline's.
        subscriptions: The consumers by name.
        store: Where positions are kept.
        waiters: Who waits for progress.
        schemas: Where the versions of tables' shapes are kept.
        migrations: What is to run when a table has another.
        make_source: Where changes come from: made with what `Source` is made with.
        letters: Where dead letters are kept; None: nowhere.
    """

    def __init__(
        self,
        settings: Settings,
        subscriptions: Mapping[str, Subscription],
        store: PositionStore,
        waiters: Waiters,
        schemas: SchemaStore,
        migrations: Migrations,
        make_source: Callable[..., Any] = Source,
        letters: DeadLetterStore | None = None,
    ) -> None:
        retry.check()
        self._settings = settings
        self._waiters = waiters
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        self._quiet = asyncio.Event()
        self._error: BaseException | None = None
        self._stored_at = time.monotonic()
        self._store_away = retry.Away(settings.reconnect)
        backlogs = _backlogs(settings, subscriptions)
        condition = threading.Condition()
        self._condition = condition
        self._lanes = {
            name: Lane(
                name,
                condition,
                settings.max_rows_in_flight,
                settings.max_bytes_in_flight,
                self._loop,
                self.progressed,
                backlogs.get(name),
            )
            for name in subscriptions
        }
        formats = RowFormats()
        self._versioning = Versioning(settings.name, schemas, condition)
        together = Together(self._versioning, migrations)
        self._ledger = ledger = Ledger(settings.name, store, self._lanes)
        parks = any(one.options.on_failure != "stop" for one in subscriptions.values())
        self._desk = None if letters is None else Desk(settings.name, letters, used=parks)
        self._consumers = {}
        for name, subscription in subscriptions.items():
            target = _target(subscription, formats, self._lanes[name])
            self._consumers[name] = Consumer(
                subscription,
                target,
                self._lanes[name],
                Reshaping(subscription, target, together),
                self._desk,
                lambda name=name: ledger.through_lsn(name),  # type: ignore[misc]
                formats,
            )
        if len(self._consumers) == 1:
            # With others the source would keep them waiting while it waits for the target of one.
            for consumer in self._consumers.values():
                consumer.be_sent_to()
        self._source = make_source(
            settings,
            subscriptions,
            self._lanes,
            self._ledger,
            formats,
            self._versioning,
            condition,
            waiters,
            self._source_ended,
        )

    async def run(self) -> None:
        """Run until it is stopped.

        Raises:
            Error: The first thing that went wrong.
        """
        worker = Worker(f"pgcdc-{self._settings.name}-positions")
        # The source is ended from another thread than positions are stored in: that one may hang.
        ender = Worker(f"pgcdc-{self._settings.name}-ender")
        tasks = {
            asyncio.create_task(self._consume(consumer), name=f"pgcdc-{name}"): consumer
            for name, consumer in self._consumers.items()
        }
        keeper = asyncio.create_task(self._keep(worker), name="pgcdc-positions")
        watch = asyncio.create_task(self._watch_letters(), name="pgcdc-dead-letters")
        self._source.start()
        await self._ending.wait()
        await self._drain(tasks, ender)
        watch.cancel()
        await self._finish(keeper, worker, ender)
        if self._desk is not None:
            await self._desk.close(STORE_WITHIN)
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Drain and end; on the event loop's thread."""
        self._ending.set()

    async def _consume(self, consumer: Consumer) -> None:
        # A lane that nobody empties blocks all: whatever ends a consumer before the run ends is told.
        try:
            await consumer.run()
        except asyncio.CancelledError:
            if self._ending.is_set():
                raise
            self._fail(Error(f"consumer {consumer.name!r} was cancelled"))
        except BaseException as error:  # a panic of the Rust half is no Exception
            self._fail(error)
        else:
            if not self._ending.is_set():
                self._fail(Error(f"consumer {consumer.name!r} has ended before the pipeline"))

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        elif error is not self._error:
            logger.warning("pipeline %r: while it ended: %s: %s", self._settings.name, type(error).__name__, error)
        self._ending.set()

    def _source_ended(self, reason: BaseException | None) -> None:
        def tell() -> None:
            if reason is not None:
                self._fail(reason)
            self._quiet.set()
            self._ending.set()

        with contextlib.suppress(RuntimeError):  # It hung, and the run and its loop ended without it.
            self._loop.call_soon_threadsafe(tell)

    def progressed(self) -> None:
        """Tell those who wait how far every consumer is; from any thread."""
        if self._waiters.waiting:
            with self._condition:
                lowest = min(0 if lane.incomplete else lane.through_lsn for lane in self._lanes.values())
            self._waiters.reached(lowest)

    async def _keep(self, worker: Worker) -> None:
        """Write positions down now and then, and confirm what is written."""
        answered, pause = 0, SAVE_EVERY
        while not self._ending.is_set():
            try:
                await asyncio.wait_for(self._ending.wait(), pause)
            except TimeoutError:
                # A server that is being stopped asks, and waits until everything is confirmed, however little it is.
                # Where positions are stored in it that fails, and it is let go of after a while.
                asked = self._source.asked
                # A dead letter waits until its transaction is stored as done, however little it is.
                waits = any((parking := one.delivery.parking) and parking.waiting for one in self._consumers.values())
                lost = await self._save(worker, final=asked != answered or waits)
                pause = SAVE_EVERY if lost is None else self._pause(lost)
                answered = asked

    async def _watch_letters(self) -> None:
        """See now and then whether somebody wants a dead letter delivered again, or has dropped one."""
        desk = self._desk
        while desk is not None and desk.used:
            await asyncio.sleep(SAVE_EVERY)
            try:
                marks = await desk.call(desk.store.marks, desk.pipeline)
            except Exception as error:  # It is not this that has to work: who has a letter to store says what is wrong.
                logger.debug("pipeline %r: its dead letters cannot be seen: %s", self._settings.name, error)
                continue
            for name, consumer in self._consumers.items():
                parking = consumer.delivery.parking
                if parking is not None and (parking.waiting or parking.marks != marks.get(name, Marks())):
                    self._lanes[name].nudge()

    async def _save(self, worker: Worker, *, final: bool) -> ConnectionLost | None:
        """Store how far everything is, and have it confirmed; tell when the store is away, and fail otherwise."""
        try:
            self._source.confirm(await worker.call(self._ledger.save, final=final))
            self._stored_at = time.monotonic()
        except ConnectionLost as error:
            return error
        except Exception as error:
            if isinstance(error, PositionError):
                for lane in self._lanes.values():
                    lane.hold()  # what is queued is another process's business now
            self._fail(error)
        if self._store_away.known:
            logger.warning("pipeline %r: its position store is back", self._settings.name)
            self._store_away.over()
        return None

    def _pause(self, error: ConnectionLost) -> float:
        """How long the store is left alone: consumers go on meanwhile, and nothing is confirmed."""
        known = self._store_away.known
        try:
            pause = self._store_away.pause(error)
        except ConnectionLost as raised:
            self._fail(raised)
            return SAVE_EVERY
        logger.log(
            logging.INFO if known else logging.WARNING,
            "pipeline %r: its position store is away, trying again: %s",
            self._settings.name,
            error,
        )
        return max(SAVE_EVERY, pause)

    async def _drain(self, tasks: Mapping[asyncio.Task[None], Consumer], ender: Worker) -> None:
        """Let consumers finish what is queued, within a time."""
        deadline = self._loop.time() + DRAIN_WITHIN
        self._source.stop()
        try:
            await asyncio.wait_for(self._quiet.wait(), DRAIN_WITHIN / 2)
        except TimeoutError:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ender.call(self._source.interrupt), max(0.0, deadline - self._loop.time()))
        for lane in self._lanes.values():
            lane.close()
        for task, consumer in tasks.items():
            if consumer.pausing:
                task.cancel()  # a target that is away is not waited for: what is queued comes again
        _, late = await asyncio.wait(tasks, timeout=max(0.0, deadline - self._loop.time()))
        if late:
            for task in late:
                tasks[task].give_up()
            _, late = await asyncio.wait(late, timeout=LAST_CHANCE)
        for task in late:
            logger.warning("consumer %r did not finish in time: the rest comes again", tasks[task].name)
            task.cancel()
        if late:
            await asyncio.wait(late)

    async def _finish(self, keeper: asyncio.Task[None], worker: Worker, ender: Worker) -> None:
        """Store what is durable, confirm it, and let go of everything, within a time."""
        answers = await self._store_last(keeper, worker)
        if not await asyncio.shield(ender.call(self._source.finish, FINISH_WITHIN)):
            logger.warning("pipeline %r: its connection still hangs in a command", self._settings.name)
        await ender.call(self._versioning.close)
        await ender.stop(FINISH_WITHIN)
        if answers:
            try:
                await asyncio.wait_for(self._close_store(worker), STORE_WITHIN)
            except TimeoutError:
                logger.warning("pipeline %r: its position store did not close in time", self._settings.name)
                answers = False
            except Exception as error:
                self._fail(error)
        # One that hangs is left behind, with the store open: it may be in the midst of using it.
        if await worker.stop(STORE_WITHIN if answers else 0):
            for lane in self._lanes.values():
                if not await lane.spool.close(LAST_CHANCE):
                    logger.warning("consumer %r: reading its spool hangs", lane.consumer)

    async def _store_last(self, keeper: asyncio.Task[None], worker: Worker) -> bool:
        """Store how far everything came, after a write that may still be under way; tell whether the store answered."""
        try:
            async with asyncio.timeout(STORE_WITHIN):
                await keeper
                lost = await self._save(worker, final=True)
        except TimeoutError:
            answered, why = False, f"within {STORE_WITHIN:g} s"
        else:
            if lost is None:
                return True
            answered, why = True, f"({lost})"
        # Nothing of it is confirmed, so the server still has it.
        logger.warning(
            "pipeline %r: its positions could not be stored %s:"
            " what was delivered since they last were comes again at the next start",
            self._settings.name,
            why,
        )
        return answered

    async def _close_store(self, worker: Worker) -> None:
        if self._source.unfinished_copy:
            await worker.call(forget_unused, self._ledger, self._lanes)
        await worker.call(self._ledger.close)

    def statistics(self) -> PipelineStatistics:
        """What can be said now; from any thread."""
        consumers = {
            name: ConsumerStatistics(
                delivered=lane.delivered,
                position=lane.position,
                through_lsn=lane.through_lsn,
                queued_rows=lane.rows,
                queued_bytes=lane.bytes,
                state=self._consumers[name].state,
                last_error=self._consumers[name].last_error,
                failures=(breaker := self._consumers[name].delivery.breaker).failures,
                breaker=breaker.state,
                next_attempt_in=breaker.next_attempt_in,
                dead_letters=0 if (parking := self._consumers[name].delivery.parking) is None else parking.count,
                held_keys=0 if parking is None else parking.held_keys,
                waiting=lane.waiting,
                spooled_batches=0 if lane.spool.backlog is None else lane.spool.backlog.blocks,
                spooled_bytes=0 if lane.spool.backlog is None else lane.spool.backlog.bytes,
                lag_seconds=self._consumers[name].lateness(self._source.lag_seconds(lane.through_lsn)),
                parked=self._consumers[name].parked,
            )
            for name, lane in self._lanes.items()
        }
        received = self._source.received_lsn
        done = min(lane.through_lsn for lane in self._lanes.values())
        source = SourceStatistics(
            phase=self._source.phase,
            received_lsn=received,
            confirmed_lsn=self._source.confirmed_lsn,
            binary=self._source.binary,
            lag=max(0, received - done),
            snapshot=self._source.snapshot,
            moved_ago=self._source.moved_ago,
        )
        stored_ago = max(0.0, time.monotonic() - self._stored_at)
        return PipelineStatistics(name=self._settings.name, source=source, consumers=consumers, stored_ago=stored_ago)


def _backlogs(settings: Settings, subscriptions: Mapping[str, Subscription]) -> dict[str, Backlog]:
    """The spools of consumers, none of which two share; a run that only copies has none."""
    backlogs: dict[str, Backlog] = {}
    owners: dict[str, str] = {}
    for name, subscription in {} if settings.snapshot == "only" else subscriptions.items():
        place = spool_place(settings, subscription)
        if place is None:
            continue
        first = owners.setdefault(os.path.realpath(place.directory), name)
        if first != name:
            raise ConfigError(
                f"consumers {first!r} and {name!r} have the same spool, {place.directory}",
                hint="a directory for each; or one for the pipeline, which gives each consumer its own in it",
            )
        backlogs[name] = Backlog(place)
    return backlogs


def _target(subscription: Subscription, formats: RowFormats, lane: Lane) -> Target:
    if isinstance(subscription, HandlerSubscription):
        return HandlerTarget(subscription, formats, lambda: lane.held)
    assert isinstance(subscription, SinkSubscription)
    return SinkTarget(subscription, formats)
