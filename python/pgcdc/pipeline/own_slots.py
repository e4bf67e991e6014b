"""Consumers with a slot of their own: each is a pipeline beside the pipeline, that runs and ends with it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any

from pgcdc.errors import ConfigError, Error
from pgcdc.pipeline.positions import PositionStore
from pgcdc.pipeline.statistics import PipelineStatistics
from pgcdc.pipeline.subscription import Subscription
from pgcdc.pipeline.worker import Worker

__all__ = ["LOOK_EVERY", "Start", "checked", "joined", "shared", "store_beside", "together"]

logger = logging.getLogger("pgcdc.pipeline")

LOOK_EVERY = 0.02
"""Seconds after which it is looked again whether the pipeline has begun, or was stopped."""


def shared(subscription: Subscription) -> Subscription:
    """The same consumer, as one among those of its slot.

    Args:
        subscription: A consumer that has asked for its own.

    Returns:
        What the pipeline beside registers.
    """
    return dataclasses.replace(subscription, options=dataclasses.replace(subscription.options, own_slot=False))


def store_beside(store: PositionStore, pipeline: str) -> PositionStore:
    """Another store in the same place: each run opens and closes its own.

    Args:
        store: The pipeline's.
        pipeline: Its name, for the error.

    Returns:
        A store that is not open.

    Raises:
        ConfigError: When this kind of store does not offer it.
    """
    again = getattr(store, "again", None)
    if again is None:
        raise ConfigError(
            f"the position store of pipeline {pipeline!r} cannot be opened once more, for a consumer with its own slot",
            hint=f"give {type(store).__name__} a method again() that returns another store in the same place",
        )
    other: PositionStore = again()
    return other


async def together(runs: Collection[Coroutine[Any, Any, None]]) -> None:
    """Run several pipelines until all have ended; the first error, or being cancelled, drains all of them.

    Args:
        runs: What runs them; each drains when it is cancelled.

    Raises:
        Error: The first one of them that could not go on; the log has the others.
        CancelledError: After the drain.
    """
    first: BaseException | None = None

    async def run(one: Coroutine[Any, Any, None]) -> None:
        nonlocal first
        try:
            await one
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if first is None:
                first = error
            else:
                logger.warning("while it ended: %s: %s", type(error).__name__, error)
            raise

    try:
        async with asyncio.TaskGroup() as group:
            for one in runs:
                group.create_task(run(one))
    except BaseExceptionGroup:
        assert first is not None  # a group is raised when one of them was
        raise first from first.__cause__


async def checked(check: Callable[[], None], is_stopped: Callable[[], bool]) -> bool:
    """Make a check that blocks, in a thread that is left behind when nobody wants to know any more.

    Args:
        check: The check.
        is_stopped: Whether nobody does.

    Returns:
        Whether it was made, and all is well.

    Raises:
        Error: What it found.
    """
    worker = Worker("pgcdc-check")
    call = asyncio.ensure_future(worker.call(check))
    try:
        while not call.done():
            if is_stopped():
                return False
            await asyncio.wait({call}, timeout=LOOK_EVERY)
        call.result()
        return True
    finally:
        call.cancel()
        await worker.stop(0)


class Start:
    """Lets what has a slot of its own begin when the pipeline has: not while it waits, nor when it was stopped."""

    def __init__(self) -> None:
        self._decided = asyncio.Event()
        self._begun = False

    @property
    def is_decided(self) -> bool:
        """Whether it is known."""
        return self._decided.is_set()

    def begun(self) -> None:
        """The pipeline's has."""
        self._begun = True
        self._decided.set()

    async def by(self, run: Coroutine[Any, Any, None]) -> None:
        """Run the pipeline's; when that ends well before it has begun, it was stopped, and the others begin no more.

        Args:
            run: What runs it.

        Raises:
            Error: When that cannot go on.
        """
        await run
        self._decided.set()

    async def behind(self, consumer: str, run: Callable[..., Coroutine[Any, Any, None]]) -> None:
        """Run the pipeline of a consumer then; a way out that its errors name is the consumer's alone.

        Args:
            consumer: The consumer.
            run: What runs its pipeline.

        Raises:
            Error: When that cannot go on.
        """
        await self._decided.wait()
        if not self._begun:
            return
        try:
            await run(source="")
        except Error as error:
            if error.hint:
                error.hint = error.hint.replace("Pipeline.destroy()", f"Pipeline.forget({consumer!r})")
            raise


def joined(
    name: str, pipeline: PipelineStatistics | None, beside: Mapping[str, PipelineStatistics]
) -> PipelineStatistics:
    """The numbers of a pipeline with those of the consumers that have slots of their own.

    Args:
        name: The pipeline's name.
        pipeline: What runs on the pipeline's slot; None when nothing does.
        beside: What runs beside it, by consumer.

    Returns:
        All consumers in one; the source is that of the pipeline's slot, where something runs on it.
    """
    first = pipeline or next(iter(beside.values()))
    consumers = dict({} if pipeline is None else pipeline.consumers)
    for one in beside.values():
        consumers |= one.consumers
    own = {name: one.source for name, one in beside.items()}
    all_of_them = [*([] if pipeline is None else [pipeline]), *beside.values()]
    return PipelineStatistics(
        name=name,
        source=first.source,
        consumers=consumers,
        own_slots=own,
        loop_ago=max((one.loop_ago for one in all_of_them if one.loop_ago is not None), default=None),
        stored_ago=max((one.stored_ago for one in all_of_them if one.stored_ago is not None), default=None),
    )
