"""The clients in Python that read a slot, each as its users write it: `python -m benches.stream_clients TASK`.

TASK is the JSON of a `Task`. A client reads until it has seen the last transaction, and says on stdout what it took
from the moment at which it asked for the stream: its imports and its connections are done by then, but no class is made
for a table.
"""

from __future__ import annotations

import asyncio
import resource
import select
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

NAMESPACE = 1_000_000_000


class Task(msgspec.Struct, frozen=True):
    """What a client is to do.

    Attributes:
        client: Its name in CLIENTS.
        dsn: The server.
        slot: Its slot.
        publication: What is published.
        rows: How many row changes are in the slot; it stops at the first commit with so many behind it.
        binary: The form of the values.
        streaming: Whether large transactions come before they are committed.
        latency: Whether each row says when it was written, in a column `at`, and how old it is then is measured.
        connections: How many share a snapshot.
    """

    client: str
    dsn: str
    slot: str
    publication: str
    rows: int
    binary: bool = True
    streaming: Literal["off", "on"] = "off"
    latency: bool = False
    connections: int = 1


class Taken(msgspec.Struct, frozen=True):
    """What a client took.

    Attributes:
        rows: How many row changes it has seen.
        seconds: From the request for the stream to the last row.
        cpu_seconds: User and system time meanwhile, of all its threads.
        rss_before: Its resident memory before, in bytes.
        rss_peak: The most that it had meanwhile, in bytes.
        latencies: How old each row was when the user's code had it, in nanoseconds.
    """

    rows: int
    seconds: float
    cpu_seconds: float
    rss_before: int
    rss_peak: int
    latencies: list[int] = []


class Meter:
    """Begins when it is made."""

    def __init__(self) -> None:
        # Forgets the peak of the imports; Linux only, elsewhere there is no peak.
        if (forget := Path("/proc/self/clear_refs")).exists():
            forget.write_text("5")
        self.rss = memory("VmRSS")
        self.cpu = _cpu()
        self.clock = time.monotonic()
        self.latencies: list[int] = []

    def taken(self, rows: int) -> Taken:
        """What was taken until now."""
        seconds, cpu = time.monotonic() - self.clock, _cpu() - self.cpu
        return Taken(rows, seconds, cpu, self.rss, memory("VmHWM"), self.latencies)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory(name: str, pid: int | None = None) -> int:
    """What Linux says of a process's memory, in bytes; 0 when it says nothing.

    Args:
        name: `VmRSS`, what is resident, or `VmHWM`, the most that was.
        pid: The process; this one when None.
    """
    try:
        status = Path(f"/proc/{pid or 'self'}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(f"{name}:"))


def _age(at: datetime) -> int:
    """How old a row is whose time is in UTC, in nanoseconds."""
    return time.time_ns() - round(at.timestamp() * NAMESPACE)


def pgcdc_batches(task: Task) -> Taken:
    """Batches, decoded as a whole."""
    import pgcdc

    with pgcdc.connect(task.dsn) as connection:
        meter = Meter()
        rows = 0
        options: Any = {"binary": task.binary, "streaming": task.streaming, "messages": False}
        with connection.stream(task.slot, [task.publication], **options) as stream:
            for batch in stream.batches():
                for event in batch.changes():
                    rows += 1
                    if task.latency:
                        meter.latencies.append(_age(event.new.at))  # type: ignore[union-attr]
                if batch.end_lsn:
                    stream.confirm(batch.end_lsn)
                    if rows >= task.rows:
                        return meter.taken(rows)
    raise AssertionError("the stream ended")


def pgcdc_events(task: Task) -> Taken:
    """One event after the other."""
    import pgcdc

    with pgcdc.connect(task.dsn) as connection:
        meter = Meter()
        rows = 0
        options: Any = {"binary": task.binary, "streaming": task.streaming, "messages": False}
        with connection.stream(task.slot, [task.publication], **options) as stream:
            for event in stream:
                if isinstance(event, (pgcdc.Insert, pgcdc.Update, pgcdc.Delete)):
                    rows += 1
                    if task.latency:
                        meter.latencies.append(_age(event.new.at))  # type: ignore[union-attr]
                elif isinstance(event, pgcdc.Commit):
                    stream.confirm(event)
                    if rows >= task.rows:
                        return meter.taken(rows)
    raise AssertionError("the stream ended")


def pgcdc_async(task: Task) -> Taken:
    """Batches, in an event loop."""
    return asyncio.run(_pgcdc_async(task))


async def _pgcdc_async(task: Task) -> Taken:
    import pgcdc

    async with pgcdc.aconnect(task.dsn) as connection:
        meter = Meter()
        rows = 0
        options: Any = {"binary": task.binary, "streaming": task.streaming, "messages": False}
        async with connection.stream(task.slot, [task.publication], **options) as stream:
            async for batch in stream.batches():
                for event in batch.changes():
                    rows += 1
                    if task.latency:
                        meter.latencies.append(_age(event.new.at))  # type: ignore[union-attr]
                if batch.end_lsn:
                    stream.confirm(batch.end_lsn)
                    if rows >= task.rows:
                        return meter.taken(rows)
    raise AssertionError("the stream ended")


def pgcdc_json(task: Task) -> Taken:
    """Lines of JSON."""
    return _pgcdc_bytes(task, lambda batch: batch.to_json())


def pgcdc_arrow(task: Task) -> Taken:
    """Arrow tables."""
    return _pgcdc_bytes(task, lambda batch: batch.to_arrow())


def pgcdc_raw(task: Task) -> Taken:
    """Nothing is decoded, as pg_recvlogical decodes nothing."""
    return _pgcdc_bytes(task, lambda batch: batch.nbytes)


def _pgcdc_bytes(task: Task, work: Callable[[Any], object]) -> Taken:
    import pgcdc

    with pgcdc.connect(task.dsn) as connection:
        meter = Meter()
        rows = 0
        options: Any = {"binary": task.binary, "streaming": task.streaming, "messages": False}
        with connection.stream(task.slot, [task.publication], **options) as stream:
            for batch in stream.batches():
                rows += batch.changes_count
                work(batch)
                if batch.end_lsn:
                    stream.confirm(batch.end_lsn)
                    if rows >= task.rows:
                        return meter.taken(rows)
    raise AssertionError("the stream ended")


def _psycopg2(task: Task, options: dict[str, str], kind: Callable[[Any], str], make: Callable[[Any], object]) -> Taken:
    """psycopg2's replication cursor with a decoder: `make` decodes, `kind` says `change`, `commit` or else."""
    import psycopg2.extras

    connection = psycopg2.connect(task.dsn, connection_factory=psycopg2.extras.LogicalReplicationConnection)
    with connection, connection.cursor() as cursor:
        meter = Meter()
        rows = 0
        cursor.start_replication(task.slot, options=options, decode="proto_version" not in options)
        while True:
            message = cursor.read_message()
            if message is None:
                select.select([cursor], [], [], 1.0)
                continue
            made = make(message.payload)
            what = kind(message.payload)
            if what == "change":
                rows += 1
                if task.latency:
                    meter.latencies.append(_age(made.new.at))  # type: ignore[attr-defined]
            elif what == "commit":
                cursor.send_feedback(flush_lsn=message.data_start)
                if rows >= task.rows:
                    return meter.taken(rows)


def _kind(payload: bytes) -> str:
    first = payload[0]
    return "change" if first in b"IUD" else "commit" if first == 67 else "other"


def _pgoutput(task: Task, binary: bool) -> dict[str, str]:
    options = {"proto_version": "1", "publication_names": task.publication}
    return {**options, "binary": "true"} if binary else options


def pypgoutput(task: Task) -> Taken:
    """Strings, as its decoders give them."""
    from benches.peers import pypgoutput

    kinds = pypgoutput()
    return _psycopg2(task, _pgoutput(task, False), _kind, lambda payload: kinds[payload[0]](payload))


def transformer(task: Task) -> Taken:
    """psycopg 3's loaders on columns that are cut in Python."""
    from benches.peers import TransformerDecoder

    form: Literal["text", "binary"] = "binary" if task.binary else "text"
    return _psycopg2(task, _pgoutput(task, task.binary), _kind, TransformerDecoder(form).decode)


def pure(task: Task) -> Taken:
    """The parser of this folder, on the standard library."""
    from benches.pure_python import PureDecoder

    return _psycopg2(task, _pgoutput(task, task.binary), _kind, PureDecoder("struct").decode)


def wal2json(task: Task) -> Taken:
    """Structs of name, type and value, as wal2json has them."""
    from benches.peers import Wal2JsonChange

    decode = msgspec.json.Decoder(Wal2JsonChange).decode
    return _psycopg2(
        task,
        {"format-version": "2"},
        # What begins a payload is always {"action":"I" and so on.
        lambda payload: {"I": "change", "U": "change", "D": "change", "C": "commit"}.get(payload[11], "other"),
        decode,
    )


def snapshot(task: Task) -> Taken:
    """The rows of a snapshot, decoded."""
    return _snapshot(task, lambda batch: len(batch.changes()))


def snapshot_arrow(task: Task) -> Taken:
    """The same as Arrow tables."""
    return _snapshot(task, lambda batch: sum(table.num_rows for table in batch.to_arrow().values()))


def snapshot_raw(task: Task) -> Taken:
    """The same, not decoded."""
    return _snapshot(task, lambda batch: batch.changes_count)


def _snapshot(task: Task, work: Callable[[Any], int]) -> Taken:
    import pgcdc

    with pgcdc.connect(task.dsn) as connection:
        meter = Meter()
        with connection.snapshot(None, [task.publication], connections=task.connections) as snapshot:
            rows = sum(work(batch) for batch in snapshot.batches())
        return meter.taken(rows)


def copy(task: Task) -> Taken:
    """`COPY … (FORMAT binary)` through psycopg 3, not decoded, on one connection."""
    import psycopg

    with psycopg.connect(task.dsn) as connection, connection.cursor() as cursor:
        meter = Meter()
        rows = -1  # the trailer is a payload of its own, the header comes with the first row
        with cursor.copy("COPY orders TO STDOUT (FORMAT binary)") as payloads:
            for _ in payloads:
                rows += 1
        return meter.taken(rows)


CLIENTS: dict[str, Callable[[Task], Taken]] = {
    "batches": pgcdc_batches,
    "events": pgcdc_events,
    "async": pgcdc_async,
    "json": pgcdc_json,
    "arrow": pgcdc_arrow,
    "raw": pgcdc_raw,
    "pypgoutput": pypgoutput,
    "transformer": transformer,
    "pure": pure,
    "wal2json": wal2json,
    "snapshot": snapshot,
    "snapshot_arrow": snapshot_arrow,
    "snapshot_raw": snapshot_raw,
    "copy": copy,
}

if __name__ == "__main__":
    task = msgspec.json.decode(sys.argv[1], type=Task)
    sys.stdout.buffer.write(msgspec.json.encode(CLIENTS[task.client](task)) + b"\n")
