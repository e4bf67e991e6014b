"""Waiting and reading in tests, until something is there or the time is over."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeVar

from pgcdc.events import Begin, Commit

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgcdc.replication import AsyncStream

T = TypeVar("T")
SECONDS = 30.0


async def until(condition: Callable[[], T], seconds: float = SECONDS) -> T:
    """Ask again and again, with a deadline; returns the first answer that is true."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)
    return answer


async def read_commits(stream: AsyncStream, count: int, seconds: float = SECONDS) -> list[Any]:
    """All events up to the count-th Commit, without the empty transactions that PostgreSQL 14 sends for DDL."""
    events: list[Any] = []
    deadline = time.monotonic() + seconds
    while sum(isinstance(event, Commit) for event in events) < count:
        assert time.monotonic() < deadline, f"{count} commits did not come in time: {events}"
        for event in (await stream.read(1.0)).events(stream.format):
            if isinstance(event, Commit) and events and isinstance(events[-1], Begin):
                events.pop()
            else:
                events.append(event)
    return events


async def read_past(stream: AsyncStream, lsn: int, seconds: float = SECONDS) -> list[Any]:
    """All events until the stream knows that everything up to an LSN has come."""
    events: list[Any] = []
    deadline = time.monotonic() + seconds
    while stream.idle_lsn < lsn:
        assert time.monotonic() < deadline, f"the stream did not get to {lsn:X}: {events}"
        stream.send_status(reply_requested=True)
        events += (await stream.read(0.1)).events(stream.format)
    return events
