"""Many changes under way at once, and each key's in order: what may begin when, for threads and for tasks."""

from __future__ import annotations

import asyncio
import heapq
import threading
from collections.abc import Awaitable, Callable, Sequence
from zlib import crc32

from pgcdc.pipeline.worker import Worker

__all__ = ["Schedule", "parts", "run_in_tasks", "run_in_threads"]


class Schedule:
    """Which of some changes may begin: not thread-safe.

    A change waits for the last one before it of each of its keys. One without a key waits for all before it, and all
    behind it wait for it.

    Args:
        keys: The keys of each change; None for one that is in order with all.
        done: Which of them are done already (true or 1): these are left out.
    """

    def __init__(self, keys: Sequence[tuple[bytes, ...] | None], done: Sequence[int]) -> None:
        self._followers: dict[int, list[int]] = {}
        self._waits_for = [0] * len(keys)
        self._ready: list[int] = []
        self._running = 0
        last: dict[bytes, int] = {}
        since: list[int] = []  # since the last one that is in order with all
        barrier: int | None = None
        for number, of in enumerate(keys):
            if done[number]:
                continue
            before: set[int]
            if of is None:
                before = set(since) if since else set() if barrier is None else {barrier}
                last, since, barrier = {}, [], number
            else:
                before = {last[key] for key in of if key in last}
                if not before and barrier is not None:
                    before = {barrier}
                last.update(dict.fromkeys(of, number))
                since.append(number)
            self._waits_for[number] = len(before)
            for one in before:
                self._followers.setdefault(one, []).append(number)
            if not before:
                self._ready.append(number)

    def next(self) -> int | None:
        """The lowest change that may begin; None when there is none now. It is under way then."""
        if not self._ready:
            return None
        self._running += 1
        return heapq.heappop(self._ready)

    def finish(self, number: int) -> None:
        """One is done: what waited for it alone may begin.

        Args:
            number: Which.
        """
        self._running -= 1
        for follower in self._followers.pop(number, ()):
            self._waits_for[follower] -= 1
            if not self._waits_for[follower]:
                heapq.heappush(self._ready, follower)

    def fail(self) -> None:
        """One ended without being done: nothing that waits for it ever begins."""
        self._running -= 1

    @property
    def over(self) -> bool:
        """Whether nothing is under way and nothing may begin."""
        return not self._running and not self._ready


def _lowest(failed: dict[int, BaseException]) -> None:
    """Raise what the lowest one that failed has raised."""
    if failed:
        raise failed[min(failed)]


async def run_in_tasks(
    schedule: Schedule, most: int, handle: Callable[[int], Awaitable[None]], done: Callable[[int], None]
) -> None:
    """Handle changes in tasks of the running event loop; after a failure no further one begins.

    Args:
        schedule: What may begin when.
        most: So many at once.
        handle: Handles one.
        done: Told of each that is done.

    Raises:
        BaseException: What the lowest one that failed raised, when all that were under way have ended.
    """
    running: dict[asyncio.Task[None], int] = {}
    failed: dict[int, BaseException] = {}

    async def one(number: int) -> None:
        await handle(number)

    try:
        while True:
            while not failed and len(running) < most and (number := schedule.next()) is not None:
                running[asyncio.create_task(one(number))] = number
            if not running:
                break
            ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                number = running.pop(task)
                error = asyncio.CancelledError() if task.cancelled() else task.exception()
                if error is None:
                    schedule.finish(number)
                    done(number)
                else:
                    schedule.fail()
                    failed[number] = error
    finally:
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
            for task in running:
                if not task.cancelled():
                    task.exception()  # it is not the one to tell
    _lowest(failed)


async def run_in_threads(
    schedule: Schedule, workers: Sequence[Worker], handle: Callable[[int], None], done: Callable[[int], None]
) -> None:
    """Handle changes in threads; after a failure no further one begins.

    Args:
        schedule: What may begin when.
        workers: The threads.
        handle: Handles one.
        done: Told of each that is done, one after the other.

    Raises:
        BaseException: What the lowest one that failed raised, when all that were under way have ended.
    """
    condition = threading.Condition()
    failed: dict[int, BaseException] = {}

    def begin() -> int | None:
        with condition:
            while not failed and not schedule.over:
                number = schedule.next()
                if number is not None:
                    return number
                condition.wait()
            condition.notify_all()
            return None

    def work() -> None:
        while (number := begin()) is not None:
            try:
                handle(number)
            except BaseException as error:
                with condition:
                    schedule.fail()
                    failed[number] = error
                    condition.notify_all()
            else:
                with condition:
                    schedule.finish(number)
                    done(number)
                    condition.notify_all()

    await asyncio.gather(*(worker.call(work) for worker in workers))
    _lowest(failed)


def parts(keys: Sequence[tuple[bytes, ...] | None], origins: Sequence[int] | None, most: int) -> list[list[list[int]]]:
    """Divide changes into segments, one after the other, and each into parts that may be written at once.

    Args:
        keys: The keys of each change; None for one that is in order with all.
        origins: Which change each comes from; None where it is itself.
        most: So many parts in each segment.

    Returns:
        Numbers of changes, rising in each part. All changes of a key are in one part of a segment, and all that come
        from one change in one segment.
    """
    segments: list[list[list[int]]] = []
    open_parts: list[list[int]] | None = None
    alone: int | None = None
    for number, of in enumerate(keys):
        origin = number if origins is None else origins[number]
        # Not hash(), which is another in each process: what is tried again is divided as it was.
        lanes = None if of is None else {crc32(key) % most for key in of}
        if lanes is None or len(lanes) > 1:
            if alone == origin:
                segments[-1][0].append(number)
            else:
                segments.append([[number]])
            alone, open_parts = origin, None
            continue
        alone = None
        if open_parts is None:
            open_parts = [[] for _ in range(most)]
            segments.append(open_parts)
        open_parts[lanes.pop()].append(number)
    return [[part for part in segment if part] for segment in segments]
