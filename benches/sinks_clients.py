"""The program of the sinks bench that is pgcdc's: `python -m benches.sinks_clients TASK`, TASK being JSON.

It runs a pipeline with the Kafka sink on a slot that is there, and says what that took from one row on to the last.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import msgspec

from benches.stream_clients import Meter, Taken, memory

__all__ = ["Task"]


class Task(msgspec.Struct, frozen=True):
    """What it is to do.

    Attributes:
        dsn: The server.
        slot: Its slot.
        publication: What is published.
        rows: How many row changes are in the slot.
        begin: The one from which on it is measured.
        bootstrap: The brokers.
        prefix: Of the topics.
        format: Of the values.
        headers: Whether records have some.
    """

    dsn: str
    slot: str
    publication: str
    rows: int
    begin: int
    bootstrap: str
    prefix: str
    format: Literal["debezium", "json", "pgcdc"] = "debezium"
    headers: bool = False


def run(task: Task) -> Taken:
    """Run it."""
    import pgcdc
    from pgcdc.pipeline import MemoryPositions
    from pgcdc.sinks import Kafka

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
    taken: list[Taken] = []
    meter: Meter | None = None
    rows = begun = 0

    class Measured(Kafka):
        """Counts what is committed."""

        def write(self, batch: Any) -> None:
            nonlocal rows, begun, meter
            super().write(batch)
            rows += batch.changes_count
            if meter is None and rows >= task.begin:
                meter, begun = Meter(), rows
            if rows >= task.rows and not taken and meter is not None:
                taken.append(meter.taken(rows - begun))
                pipeline.stop()

    sink = Measured(
        task.bootstrap, prefix=task.prefix, format=task.format, headers=task.headers, database="postgres", timeout=60
    )
    pipeline.add(sink, name="kafka")
    peak = 0
    pipeline.run()
    peak = memory("VmHWM")
    return msgspec.structs.replace(taken[0], rss_peak=max(peak, taken[0].rss_peak))


if __name__ == "__main__":
    print(msgspec.json.encode(run(msgspec.json.decode(sys.argv[1], type=Task))).decode())
