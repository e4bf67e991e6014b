"""The sink Kafka beside Debezium's embedded engine.

pgcdc and Debezium read the same WAL through copies of one slot and produce the same envelope to the same broker; each
is a process of its own, and they take turns. What is compared is the time of the process on a processor: the broker and
the walsender have the same work from both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from benches import stream_server
from benches.capture import VERSION
from benches.report import Section, aligned
from benches.sinks_clients import Task
from benches.stream_clients import Taken
from benches.stream_server import PUBLICATION, Source
from tests.servers.jvm import java, libraries
from tests.servers.kafka import KafkaServer

DEBEZIUM = "3.6.1.Final"
ARTIFACTS = [
    f"io.debezium:{name}:{DEBEZIUM}" for name in ("debezium-api", "debezium-embedded", "debezium-connector-postgres")
]
SKIPPED: list[str] = []

WHAT = (
    "The same WAL and the same envelope to the same broker. pgcdc commits each batch in a transaction, with its "
    "position; Debezium's embedded engine "
    f"({DEBEZIUM}, schemas off, JSON as bytes) produces with acks=all, flushes each of its batches, and has no "
    "transactions. Both compress with lz4."
)
READ = (
    "Medians over the rounds, from a third of the rows on, when a JVM has compiled what it runs often. client: user "
    "and system time of the process for each row change; a core: the rows that one second of it is enough for; peak: "
    "the most memory that was resident; x and the part of Debezium's memory: the median of the ratios of each round."
)


@dataclass(frozen=True)
class Line:
    """One program in one round, or the medians of several; microseconds for each row, bytes."""

    contestant: str
    client: float
    rows_per_second: float
    rss_peak: float
    rounds: int = 1
    rate_ratio: float | None = None
    memory_ratio: float | None = None


NAMES = {
    "debezium": "Debezium's embedded engine",
    "small": "Debezium's embedded engine, heap of 256 MB",
    "plain": "pgcdc, Kafka sink",
    "headers": "pgcdc, Kafka sink, with headers",
    "pgcdc": "pgcdc, Kafka sink, everything as it came",
}
HEAPS: dict[str, list[str]] = {"debezium": [], "small": ["-Xmx256m"]}
"""Debezium with the JVM's defaults, which everything is compared with, and with as little heap as it runs well in."""


def measure(arguments: list[str]) -> tuple[list[Section], list[dict[str, object]]]:
    """Run all of it.

    Args:
        arguments: Of the command line.

    Returns:
        The sections of the report, and the same as data.
    """
    parser = argparse.ArgumentParser(prog="./dev bench sinks_kafka", description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000, help="row changes (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each has its turn (%(default)s)")
    parser.add_argument("--only", default="", help=f"of {', '.join(NAMES)}, with commas between")
    options = parser.parse_args(arguments)
    chosen = [name for name in NAMES if not options.only or name in options.only.split(",")]
    lines = kafka(chosen, options.rows, options.rounds)
    about = "The ten columns of `./dev bench decode` and its mix of changes, 1,000 a transaction; Debezium's envelope."
    return [Section("Kafka", about, _table(lines))], [asdict(line) for line in lines]


def kafka(chosen: list[str], rows: int, rounds: int) -> list[Line]:
    """All in turns.

    Args:
        chosen: Who.
        rows: How many row changes.
        rounds: How often.

    Returns:
        The medians of each.
    """
    found: dict[str, list[Line]] = {name: [] for name in chosen}
    with (
        KafkaServer(options=("-Xmx1g", "-XX:+UseSerialGC")) as broker,
        Source(VERSION) as source,
        tempfile.TemporaryDirectory() as folder,
    ):
        written = stream_server.write_rows(source, rows // 1000 * 1000, 1000)
        source.end()
        for number in range(rounds):
            for name in chosen:
                with source.slot() as slot:
                    prefix = f"{name}{number}"
                    if name in HEAPS:
                        command = _debezium(source, slot, broker, prefix, written, Path(folder), HEAPS[name])
                    else:
                        options = {
                            "bootstrap": broker.bootstrap,
                            "prefix": prefix,
                            "format": "pgcdc" if name == "pgcdc" else "debezium",
                            "headers": name == "headers",
                            "database": "postgres",
                            "timeout": 60,
                        }
                        task = Task(source.dsn, slot, PUBLICATION, written, written // 3, "Kafka", options)
                        command = task.command()
                    taken = msgspec.json.decode(stream_server.watch(source, slot, command).output, type=Taken)
                micros = taken.cpu_seconds / taken.rows * 1e6
                found[name].append(Line(NAMES[name], micros, taken.rows / taken.seconds, taken.rss_peak))
                print(f"{NAMES[name]}: {micros:.2f} µs, {taken.rss_peak / 1e6:.0f} MB", file=sys.stderr, flush=True)
    return [_median(lines, found.get("debezium", [])) for lines in found.values()]


def _debezium(
    source: Source, slot: str, broker: KafkaServer, prefix: str, rows: int, folder: Path, options: list[str]
) -> list[str]:
    host, port = source.host_and_port
    settings = {
        "name": prefix,
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "database.hostname": host,
        "database.port": str(port),
        "database.user": "postgres",
        "database.password": "-",
        "database.dbname": "postgres",
        "topic.prefix": prefix,
        "plugin.name": "pgoutput",
        "slot.name": slot,
        "publication.name": PUBLICATION,
        "publication.autocreate.mode": "disabled",
        "snapshot.mode": "no_data",
        "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
        "converter.schemas.enable": "false",
    }
    file = folder / f"{prefix}.properties"
    file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    jars = libraries(f"debezium-{DEBEZIUM}", ARTIFACTS, say=lambda line: print(line, file=sys.stderr))
    program = str(Path(__file__).parent / "debezium" / "Produce.java")
    arguments = [str(file), broker.bootstrap, str(rows), str(rows // 3)]
    return [java("Debezium"), *options, "-cp", f"{jars}/*", program, *arguments]


def _median(lines: list[Line], yardsticks: list[Line]) -> Line:
    def middle(values: list[float]) -> float | None:
        return statistics.median(values) if values else None

    pairs = list(zip(lines, yardsticks, strict=False))
    return Line(
        lines[0].contestant,
        statistics.median(line.client for line in lines),
        statistics.median(line.rows_per_second for line in lines),
        statistics.median(line.rss_peak for line in lines),
        len(lines),
        middle([yardstick.client / line.client for line, yardstick in pairs]),
        middle([line.rss_peak / yardstick.rss_peak for line, yardstick in pairs]),
    )


def _table(lines: list[Line]) -> str:
    header = ["program", "client µs", "rows a core", "x", "rows/s", "peak MB", "of Debezium's"]
    rows = [
        [
            line.contestant,
            f"{line.client:.2f}",
            f"{1e6 / line.client:,.0f}",
            "" if line.rate_ratio is None else f"{line.rate_ratio:.2f}",
            f"{line.rows_per_second:,.0f}",
            f"{line.rss_peak / 1e6:.0f}",
            "" if line.memory_ratio is None else f"{line.memory_ratio:.2f}",
        ]
        for line in lines
    ]
    return aligned(header, rows, 1)
