"""The programs of the pipeline bench: `python -m benches.pipeline_clients TASK`, TASK being the JSON of a `Task`.

Each reads a slot until all rows have reached all of its consumers, and says on stdout what it took from the first of
them on: how long a pipeline takes to start is another matter.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any, Literal, TypeAlias

import msgspec

from benches.stream_clients import Meter, Taken

__all__ = ["Kind", "Task", "Work"]

Kind: TypeAlias = Literal["stream", "sinks", "handler", "coroutine", "spool"]
"""A bare stream; a pipeline with sinks; one with a blocking handler, or one that is a coroutine; a spool."""
Work: TypeAlias = Literal["nothing", "changes", "json"]
"""What is done with each batch: it is counted, its rows are made, its lines are written."""


class Task(msgspec.Struct, frozen=True):
    """What a program is to do.

    Attributes:
        kind: What reads.
        dsn: The server.
        slot: Its slot.
        publication: What is published.
        rows: How many row changes are in the slot.
        work: What is done with them.
        sinks: How many sinks there are.
        slow: So many of them sleep for `SLOW_ROW` with each row.
        directory: Where a spool's files go.
    """

    kind: Kind
    dsn: str
    slot: str
    publication: str
    rows: int
    work: Work = "changes"
    sinks: int = 1
    slow: int = 0
    directory: str = ""


SLOW_ROW = 1e-5
"""Seconds that a slow sink sleeps for each row."""


def do(work: Work, batch: Any) -> int:
    """Do it; gives how many changes there were."""
    if work == "json":
        batch.to_json()
    elif work == "changes":
        rows = 0
        for _ in batch.changes():
            rows += 1
        return rows
    count: int = batch.changes_count
    return count


def stream(task: Task) -> Taken:
    """A stream in one's own loop: what is measured against."""
    import pgcdc

    with pgcdc.connect(task.dsn) as connection, connection.stream(task.slot, [task.publication]) as source:
        meter: Meter | None = None
        rows = 0
        for batch in source.batches():
            if meter is None and batch.changes_count:
                meter = Meter()
            rows += do(task.work, batch)
            if batch.end_lsn:
                source.confirm(batch.end_lsn)
                if meter is not None and rows >= task.rows:
                    return meter.taken(rows)
    raise AssertionError("the stream ended")


class Spooled(msgspec.Struct, frozen=True):
    """What a spool took, in seconds and bytes.

    Attributes:
        rows: How many rows went through it.
        nbytes: The raw messages.
        stored: What the files took.
        append_seconds: To append all of it, made durable every 16 MiB and at the end.
        read_seconds: To read all of it back.
    """

    rows: int
    nbytes: int
    stored: int
    append_seconds: float
    read_seconds: float


SYNC_EVERY = 16 * 1024 * 1024
"""Bytes of raw messages after which what was appended is made durable."""


def spool(task: Task) -> Spooled:
    """Batches as a stream gives them, through a spool: all of them are in memory before the clock starts."""
    import pgcdc
    from pgcdc.protocol import Spool

    batches = []
    with pgcdc.connect(task.dsn) as connection, connection.stream(task.slot, [task.publication]) as source:
        rows = 0
        for batch in source.batches():
            batches.append(batch)
            rows += batch.changes_count
            if rows >= task.rows:
                break
    kept = Spool(task.directory)
    begun = time.monotonic()
    unsynced = 0
    for batch in batches:
        kept.append(batch)
        unsynced += batch.nbytes
        if unsynced >= SYNC_EVERY:
            kept.sync()
            unsynced = 0
    kept.sync()
    appended = time.monotonic()
    stored, read = kept.stored_bytes, 0
    while (found := kept.read()) is not None:
        read += found[1].changes_count
    assert read == rows
    ended = time.monotonic()
    kept.close()
    return Spooled(rows, sum(batch.nbytes for batch in batches), stored, appended - begun, ended - appended)


class Counting:
    """A sink that does some work with what it gets, and says when it has all."""

    def __init__(self, task: Task, done: _Done, *, slow: bool) -> None:
        self._task = task
        self._done = done
        self._slow = slow
        self._rows = 0

    def open(self) -> None:
        """Nothing to open."""

    def write(self, batch: Any) -> None:
        """Work."""
        self._done.begin()
        rows = do(self._task.work, batch)
        if self._slow:
            time.sleep(rows * SLOW_ROW)
        self._rows += rows
        if self._rows >= self._task.rows:
            self._done.one()

    def close(self) -> None:
        """Nothing to close."""


class _Done:
    """Takes the measure and stops the pipeline when all consumers have everything."""

    def __init__(self, pipeline: Any, task: Task, consumers: int) -> None:
        self.taken: Taken | None = None
        self._meter: Meter | None = None
        self._pipeline = pipeline
        self._rows = task.rows
        self._left = consumers
        self._lock = threading.Lock()

    def begin(self) -> None:
        if self._meter is None:
            self._meter = Meter()

    def one(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                assert self._meter is not None
                self.taken = self._meter.taken(self._rows)
                self._pipeline.stop()


def pipeline(task: Task) -> Taken:
    """A pipeline on a slot that is there already, with its positions in memory."""
    import pgcdc
    from pgcdc.pipeline import MemoryPositions

    logging.getLogger("pgcdc").setLevel(logging.ERROR)
    made = pgcdc.Pipeline(
        "bench",
        task.dsn,
        tables=["orders"],
        slot=task.slot,
        publication=task.publication,
        snapshot="never",
        positions=MemoryPositions(),
    )
    if task.kind == "sinks":
        done = _Done(made, task, task.sinks)
        for number in range(task.sinks):
            made.add(Counting(task, done, slow=number < task.slow), name=f"sink{number}")
    else:
        done = _Done(made, task, 1)
        seen = 0

        def handle(change: Any) -> None:
            nonlocal seen
            if not seen:
                done.begin()
            seen += 1
            if seen == task.rows:
                done.one()

        async def handle_async(change: Any) -> None:
            handle(change)

        made.on("orders", name="handler")(handle if task.kind == "handler" else handle_async)
    made.run()
    assert done.taken is not None
    return done.taken


def main() -> None:
    """Do one task."""
    task = msgspec.json.decode(sys.argv[1], type=Task)
    taken: Taken | Spooled = (
        spool(task) if task.kind == "spool" else stream(task) if task.kind == "stream" else pipeline(task)
    )
    print(msgspec.json.encode(taken).decode())


if __name__ == "__main__":
    main()
