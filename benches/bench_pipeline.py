"""The pipeline beside a bare stream of the same slot: what dispatch costs, what more sinks cost, what slow ones keep.

Every program is a process of its own and reads a copy of one slot, by TCP on the loopback interface; they take turns.
The server's processes work at the same time on the same processors.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from benches import stream_server
from benches.capture import VERSION
from benches.pipeline_clients import Kind, Spooled, Task, Work
from benches.report import Section, aligned
from benches.stream_clients import Taken
from benches.stream_server import PUBLICATION, Source

WHAT = (
    "A pipeline hands what its slot sends to consumers. Its sinks count the rows of each batch (nothing), make them "
    "(changes: structs, jsonb as Python objects), or write lines (json); its handlers are called with one change after "
    "the other and do nothing. The yardstick is a loop over the bare stream that does the same work."
)
READ = (
    "Medians over the rounds. CPU: user and system time of the whole process for each row of the slot, however many "
    "consumers it went to; over the stream: what is left when the bare stream with the same work is taken away, the "
    "median of the differences within each round; peak: what the process grew by at most. All from the first row on; "
    "rows/s: of the wall-clock time."
)
SKIPPED: list[str] = []


@dataclass(frozen=True)
class Contestant:
    """What reads.

    Attributes:
        name: As printed.
        kind: As in `Task`, like all that follow.
        work: Likewise.
        sinks: Likewise.
        slow: Likewise.
    """

    name: str
    kind: Kind
    work: Work = "changes"
    sinks: int = 1
    slow: int = 0


DISPATCH = (
    Contestant("stream, nothing", "stream", "nothing"),
    Contestant("one sink, nothing", "sinks", "nothing"),
    Contestant("stream, changes", "stream"),
    Contestant("one sink, changes", "sinks"),
    Contestant("handler, one call an event", "handler"),
    Contestant("coroutine, one call an event", "coroutine"),
)
SINKS = tuple(
    Contestant(f"{count} sink{'s' if count > 1 else ''}, {work}", "sinks", work, count)
    for work in ("changes", "json")
    for count in (1, 5)
)
SLOW = tuple(Contestant(f"{slow} slow of {slow + 1} sinks", "sinks", "changes", slow + 1, slow) for slow in (0, 1, 8))


@dataclass(frozen=True)
class Line:
    """One program in one round, or the medians of several; microseconds for each row, bytes."""

    section: str
    contestant: str
    cpu: float
    over_stream: float | None
    ratio: float | None
    rows_per_second: float
    growth: float
    rounds: int = 1


def measure(arguments: list[str]) -> tuple[list[Section], list[dict[str, object]]]:
    """Run all programs in turns.

    Args:
        arguments: Of the command line.

    Returns:
        The sections of the report, and the same as data.
    """
    parser = argparse.ArgumentParser(prog="./dev bench pipeline", description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000, help="rows of the slot (%(default)s)")
    parser.add_argument("--large", type=int, default=1_000_000, help="rows of the large transaction (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each has its turn (%(default)s)")
    options = parser.parse_args(arguments)
    lines: list[Line] = []
    with Source(VERSION) as source:
        rows = stream_server.write_rows(source, options.rows, 100)
        source.end()
        lines += _rounds(source, "dispatch", DISPATCH, rows, options.rounds)
        lines += _rounds(source, "sinks", SINKS, rows, options.rounds)
        spooled = [_spool(source, rows) for _ in range(options.rounds)]
        rows = stream_server.write_rows(source, options.large, options.large)
        source.end()
        lines += _rounds(source, "slow", SLOW, rows, max(1, options.rounds // 2))
    abouts = {
        "dispatch": ("Dispatch", f"{options.rows:,} rows in transactions of 100."),
        "sinks": ("More sinks", "The same rows; x: the CPU time of one sink that does the same, within each round."),
        "slow": (
            "Slow sinks",
            f"One transaction of {options.large:,} rows; slow sinks sleep 10 µs for each row, without a spool.",
        ),
    }
    sections = [
        Section(title, about, _table([line for line in lines if line.section == name]))
        for name, (title, about) in abouts.items()
    ]
    sections.append(
        Section("The spool", f"The {options.rows:,} rows of dispatch, made durable every 16 MiB.", _spools(spooled))
    )
    data: list[dict[str, object]] = [asdict(line) for line in lines]
    return sections, [*data, *({"section": "spool", **msgspec.structs.asdict(one)} for one in spooled)]


def _rounds(source: Source, section: str, contestants: tuple[Contestant, ...], rows: int, rounds: int) -> list[Line]:
    found: dict[Contestant, list[Taken]] = defaultdict(list)
    for _ in range(rounds):
        for contestant in contestants:
            taken = _turn(source, contestant, rows)
            found[contestant].append(taken)
            print(f"{contestant.name}: {taken.cpu_seconds * 1e6 / rows:.2f} µs/row", file=sys.stderr)
    return [_line(section, contestant, found) for contestant in contestants]


def _spool(source: Source, rows: int) -> Spooled:
    with source.slot() as slot, tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        task = Task("spool", source.dsn, slot, PUBLICATION, rows, directory=str(Path(folder) / "spool"))
        command = [sys.executable, "-m", "benches.pipeline_clients", msgspec.json.encode(task).decode()]
        watched = stream_server.watch(source, slot, command)
    spooled = msgspec.json.decode(watched.output, type=Spooled)
    print(f"spool: {spooled.nbytes / spooled.append_seconds / 1e6:,.0f} MB/s", file=sys.stderr)
    return spooled


def _turn(source: Source, contestant: Contestant, rows: int) -> Taken:
    with source.slot() as slot:
        task = Task(
            contestant.kind, source.dsn, slot, PUBLICATION, rows, contestant.work, contestant.sinks, contestant.slow
        )
        command = [sys.executable, "-m", "benches.pipeline_clients", msgspec.json.encode(task).decode()]
        watched = stream_server.watch(source, slot, command)
    taken = msgspec.json.decode(watched.output, type=Taken)
    assert taken.rows >= rows, f"{contestant.name} has seen {taken.rows} rows of {rows}"
    return taken


def _line(section: str, contestant: Contestant, found: dict[Contestant, list[Taken]]) -> Line:
    own = found[contestant]

    def against(kind: Kind, sinks: int) -> list[Taken]:
        same = (one for one in found if (one.kind, one.work, one.sinks) == (kind, contestant.work, sinks))
        other = next(same, None)
        return [] if other is None or other is contestant else found[other]

    pairs = list(zip(own, against("stream", 1), strict=False))
    over = [(one.cpu_seconds - other.cpu_seconds) * 1e6 / one.rows for one, other in pairs]
    ratios = [one.cpu_seconds / other.cpu_seconds for one, other in zip(own, against("sinks", 1), strict=False)]
    return Line(
        section,
        contestant.name,
        statistics.median(taken.cpu_seconds * 1e6 / taken.rows for taken in own),
        statistics.median(over) if over else None,
        statistics.median(ratios) if ratios and contestant.sinks > 1 else None,
        statistics.median(taken.rows / taken.seconds for taken in own),
        statistics.median(taken.rss_peak - taken.rss_before for taken in own),
        len(own),
    )


def _spools(found: list[Spooled]) -> str:
    def megabytes(seconds: Callable[[Spooled], float]) -> str:
        return f"{statistics.median(one.nbytes / seconds(one) for one in found) / 1e6:,.0f} MB/s"

    size = f"{found[0].nbytes / 1e6:,.0f} MB in {found[0].stored / 1e6:,.0f} MB"
    cells = [size, megabytes(lambda one: one.append_seconds), megabytes(lambda one: one.read_seconds)]
    return aligned(["raw messages in files", "append and sync", "read"], [cells], left=1)


def _table(found: list[Line]) -> str:
    header = ["program", "CPU µs/row", "over the stream", "x one sink", "rows/s", "peak"]
    rows = []
    for line in found:
        over = "" if line.over_stream is None else f"{line.over_stream:.2f}"
        ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
        rate = f"{line.rows_per_second:,.0f}"
        rows.append([line.contestant, f"{line.cpu:.2f}", over, ratio, rate, f"{line.growth / 1e6:,.1f} MB"])
    return aligned(header, rows, left=1)
