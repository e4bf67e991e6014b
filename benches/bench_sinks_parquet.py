"""Rows from the wire into Parquet files of a local folder: the sink, a part of it alone, and rows as Python objects."""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from benches.capture import WORKLOADS, capture
from benches.report import Section, aligned
from pgcdc.events import Insert, Update
from pgcdc.protocol import Batch, RowFormat
from pgcdc.sinks import Parquet

WHAT = (
    "What a slot has sent for ten mixed columns becomes Parquet files (zstd), with a manifest, synced to the disk. "
    "Beside it: only the Arrow tables, which are made from the wire; and the same rows by way of Python objects and "
    "pyarrow, as a sink does that is written by hand."
)
READ = (
    "Medians over the rounds. CPU: user and system time of the process for each row; rows/s: of a core's time; bytes: "
    "of the files, for each row."
)
SKIPPED: list[str] = []
ROWS = 100_000


@dataclass(frozen=True)
class Line:
    """One way of writing, in one round or the median of several; nanoseconds of CPU time and bytes for each row."""

    contestant: str
    form: str
    rows: int
    cpu: float
    bytes: float
    rounds: int = 1


def _sink(batches: list[Batch]) -> int:
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        sink = Parquet(Path(folder) / "lake")
        sink.open()
        for batch in batches:
            sink.write(batch)
        sink.close()
        return sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))


def _arrow(batches: list[Batch]) -> int:
    for batch in batches:
        batch.to_arrow()
    return 0


def _objects(batches: list[Batch]) -> int:
    size = 0
    for batch in batches:
        rows = [
            {"_action": change.action, "_position": str(change.position), **change.new}
            for change in batch.changes(RowFormat("dict", json="text"))
            if isinstance(change, Insert | Update)
        ]
        output = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), output, compression="zstd")
        size += output.tell()
    return size


CONTESTANTS: dict[str, Callable[[list[Batch]], int]] = {
    "Parquet sink": _sink,
    "Arrow tables only": _arrow,
    "dicts, pyarrow": _objects,
}


def measure(arguments: list[str]) -> tuple[list[Section], list[dict[str, object]]]:
    """Run it alone.

    Args:
        arguments: Of the command line.

    Returns:
        The sections of the report, and the same as data.
    """
    parser = argparse.ArgumentParser(prog="./dev bench sinks_parquet", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each has its turn (%(default)s)")
    return run(parser.parse_args(arguments).rounds)


def run(rounds: int) -> tuple[list[Section], list[dict[str, object]]]:
    """Run all in turns.

    Args:
        rounds: How often each has its turn.

    Returns:
        The sections of the report, and the same as data.
    """
    captured = capture(replace(WORKLOADS[0], name="ten columns, many", changes=ROWS))
    for write in CONTESTANTS.values():  # what is imported or allocated once
        write(Batch.of(captured.binary).pieces(1000)[:2])
    found: dict[tuple[str, str, int], list[Line]] = defaultdict(list)
    for _ in range(rounds):
        for form, messages in (("binary", captured.binary), ("text", captured.text)):
            for at_once in (ROWS, 10_000, 1_000):
                for name, write in CONTESTANTS.items():
                    if at_once != ROWS and name != "Parquet sink":
                        continue
                    # New ones each time: what a batch has made it keeps.
                    batches = Batch.of(messages).pieces(at_once)
                    begin = time.process_time()
                    size = write(batches)
                    cpu = (time.process_time() - begin) * 1e9 / captured.changes
                    found[name, form, at_once].append(Line(name, form, at_once, cpu, size / captured.changes))
                    print(f"{name}, {form}, {at_once:,} rows a write: {cpu:,.0f} ns/row", file=sys.stderr)
    lines = [
        replace(
            turns[0],
            cpu=statistics.median(turn.cpu for turn in turns),
            rounds=len(turns),
        )
        for turns in found.values()
    ]
    about = f"{captured.changes:,} changes (78 % inserts, 16 % updates, 6 % deletes) of ten columns."
    return [Section("Parquet", about, _table(lines))], [asdict(line) for line in lines]


def _table(lines: list[Line]) -> str:
    rows = [
        [
            line.contestant,
            line.form,
            f"{line.rows:,}",
            f"{line.cpu:,.0f}",
            f"{1e9 / line.cpu:,.0f}",
            f"{line.bytes:.0f}" if line.bytes else "",
        ]
        for line in lines
    ]
    return aligned(["way", "form", "rows a write", "CPU ns/row", "rows/s", "bytes"], rows, left=2)
