"""The program of the sinks benches that is pgcdc's: `python -m benches.sinks_clients TASK`, TASK being JSON.

It runs a pipeline with one sink on a slot that is there, and says what that took from one row on to the last.
"""

from __future__ import annotations

import logging
import sys
from inspect import isawaitable, iscoroutinefunction
from typing import Any

import msgspec

from benches.stream_clients import Meter, Taken, memory

__all__ = ["Shared", "Task"]


class Task(msgspec.Struct, frozen=True):
    """What it is to do.

    Attributes:
        dsn: The server.
        slot: Its slot.
        publication: What is published.
        rows: How many row changes are in the slot.
        begin: The one from which on it is measured.
        sink: The name of the sink's class.
        options: What it is made with, by name.
        target: The number of the process that it writes to, whose time is taken as well; None for none.
    """

    dsn: str
    slot: str
    publication: str
    rows: int
    begin: int
    sink: str
    options: dict[str, Any]
    target: int | None = None

    def command(self) -> list[str]:
        """What runs it."""
        return [sys.executable, "-m", "benches.sinks_clients", msgspec.json.encode(self).decode()]


class Shared(Taken, frozen=True):
    """What it took.

    Attributes:
        target_seconds: User and system time of the process that it writes to, meanwhile.
    """

    target_seconds: float = 0.0


def run(task: Task) -> Shared:
    """Run it."""
    import pgcdc
    from pgcdc import sinks
    from pgcdc.pipeline import MemoryPositions

    logging.getLogger("pgcdc").setLevel(logging.ERROR)
    pipeline = pgcdc.Pipeline(
        "bench",
        task.dsn,
        tables=["orders"],
        slot=task.slot,
        publication=task.publication,
        snapshot="never",
        positions=MemoryPositions(),
    )
    taken: list[Shared] = []
    meter: Meter | None = None
    rows = begun = 0
    target_begun = 0.0
    sink: Any = getattr(sinks, task.sink)(**task.options)
    write = sink.write

    def note(batch: Any) -> None:
        nonlocal rows, begun, meter, target_begun
        rows += batch.changes_count
        if meter is None and rows >= task.begin:
            meter, begun, target_begun = Meter(), rows, _seconds(task.target)
        if rows >= task.rows and not taken and meter is not None:
            target = _seconds(task.target) - target_begun
            measured = msgspec.structs.asdict(meter.taken(rows - begun))
            taken.append(Shared(**measured, target_seconds=target))
            pipeline.stop()

    def written(batch: Any) -> None:
        write(batch)
        note(batch)

    async def written_by_and_by(batch: Any) -> None:
        made = write(batch)
        assert isawaitable(made)
        await made
        note(batch)

    sink.write = written_by_and_by if iscoroutinefunction(write) else written
    pipeline.add(sink, name="sink")
    pipeline.run()
    peak = memory("VmHWM")
    return msgspec.structs.replace(taken[0], rss_peak=max(peak, taken[0].rss_peak))


def _seconds(process: int | None) -> float:
    if process is None:
        return 0.0
    import psutil

    times = psutil.Process(process).cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    print(msgspec.json.encode(run(msgspec.json.decode(sys.argv[1], type=Task))).decode())
