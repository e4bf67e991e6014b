"""What was measured, as a table for people and as JSON for later comparison."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PACKAGES = (
    "msgspec",
    "psycopg",
    "psycopg-binary",
    "psycopg2-binary",
    "pypgoutput",
    "eventsourcing",
    "pytest-benchmark",
)


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: Its heading.
        about: A sentence about it.
        table: The table, in Markdown.
    """

    title: str
    about: str
    table: str


@dataclass(frozen=True)
class Line:
    """One contestant.

    Attributes:
        workload: What was decoded.
        form: The form of the values, text or binary.
        contestant: Its name.
        nanoseconds: CPU time for each row change, the median over the rounds.
        spread: How far apart the quarters of the rounds lie, in percent of the median.
        rounds: How many there were.
        ratios: How many times the CPU time of this line each yardstick takes, by its name: the median of the ratios of
            each turn, because a slow minute of the machine hits a whole turn.
    """

    workload: str
    form: str
    contestant: str
    nanoseconds: float
    spread: float
    rounds: int
    ratios: dict[str, float]


def lines(benchmarks: list[dict[str, Any]], yardsticks: dict[str, str | None]) -> list[Line]:
    """Sum the rounds of each contestant up.

    Args:
        benchmarks: The `benchmarks` of pytest-benchmark's JSON; seconds.
        yardsticks: What the others are compared with: name and the form it is taken in, None for the line's own form.
    """
    rounds: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for item in benchmarks:
        info = item["extra_info"]
        rounds[info["workload"], info["form"], info["contestant"]] += [
            seconds * 1e9 / info["rows"] for seconds in item["stats"]["data"]
        ]
    result = []
    for (workload, form, contestant), values in rounds.items():
        own = statistics.median(values)
        quarters = statistics.quantiles(values, n=4) if len(values) > 1 else [own, own, own]
        ratios = {
            name: statistics.median(
                other / one for one, other in zip(values, rounds[workload, at or form, name], strict=True)
            )
            for name, at in yardsticks.items()
            if (workload, at or form, name) in rounds
        }
        result.append(
            Line(workload, form, contestant, own, (quarters[2] - quarters[0]) / own * 100, len(values), ratios)
        )
    return result


def facts(command: str) -> dict[str, str]:
    """Where and with what: machine and what it had to do, Python, versions, command, date."""
    versions = [f"pgcdc {_project_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} not installed")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_processor()}, {platform.system()} {platform.machine()}",
        "load": f"{os.getloadavg()[1]:.1f} processes on average in the last five minutes, those of the bench included",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": ", ".join(versions),
        "command": command,
    }


def _project_version() -> str:
    """The version in this checkout, and its commit: an installed package would have the version only."""
    cargo = tomllib.loads((HERE.parent / "Cargo.toml").read_text(encoding="utf-8"))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return f"{cargo['workspace']['package']['version']} {commit.stdout.strip()}".strip()


def _processor() -> str:
    """The processor's model and how many the system has."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{os.cpu_count()} x {model or 'unknown processor'}"


def sections(found: list[Line]) -> list[Section]:
    """A section for each workload of lines that were measured by pytest-benchmark."""
    made = []
    for workload in dict.fromkeys(line.workload for line in found):
        name, _, about = workload.partition(": ")
        table = _table([line for line in found if line.workload == workload])
        made.append(Section(f"{name[:1].upper()}{name[1:]}", f"{about[:1].upper()}{about[1:]}.", table))
    return made


def reading(found: list[Line]) -> str:
    """How the tables of such lines are read."""
    rounds = min((line.rounds for line in found), default=0)
    return (
        f"Medians of {rounds} rounds of CPU time (`time.process_time`); x NAME: how many times as much NAME takes, "
        "the median of the ratios within each round; "
        "spread: from the first to the third quarter, in percent of the median."
    )


def markdown(title: str, what: str, found: list[Section], read: str, about: dict[str, str], notes: list[str]) -> str:
    """The tables and everything that is needed to read them."""
    tables = [part for section in found for part in (f"## {section.title}", section.about, section.table)]
    facts_ = [f"- {name}: {value}" for name, value in about.items()]
    parts = [f"# {title}", what, *tables, read]
    parts += [f"Skipped: {note}." for note in notes]
    return "\n\n".join([*parts, "\n".join(facts_)]) + "\n"


def _table(found: list[Line]) -> str:
    yardsticks = list(dict.fromkeys(name for line in found for name in line.ratios))
    compared = [f"x {name}" for name in yardsticks]
    header = ["values", "contestant", "CPU ns/row", "rows/s a core", *compared, "spread"]
    rows = []
    for line in sorted(found, key=lambda line: (line.form != "text", line.form != "binary", line.nanoseconds)):
        ratios = [f"{line.ratios[name]:.2f}" if name in line.ratios else "" for name in yardsticks]
        rate = f"{1e9 / line.nanoseconds:,.0f}"
        rows.append([line.form, line.contestant, f"{line.nanoseconds:,.0f}", rate, *ratios, f"{line.spread:.0f} %"])
    return aligned(header, rows, left=2)


def aligned(header: list[str], rows: list[list[str]], left: int) -> str:
    """A table in Markdown whose source can be read, too.

    Args:
        header: The names of its columns.
        rows: Its cells.
        left: So many columns are text, the others numbers.
    """
    rows = [header, ["---" if number < left else "---:" for number in range(len(header))], *rows]
    widths = [max(len(row[number]) for row in rows) for number in range(len(header))]
    table = []
    for row in rows:
        cells = []
        for number, (cell, width) in enumerate(zip(row, widths, strict=True)):
            fill = "-" if cell.startswith("--") else " "
            cells.append(cell.ljust(width, fill) if number < left else cell.rjust(width, fill))
        table.append("| " + " | ".join(cells) + " |")
    return "\n".join(table)


def save(name: str, text: str, found: list[dict[str, Any]], about: dict[str, str]) -> Path:
    """Keep a result in `benches/results/`, named by its date.

    Returns:
        The Markdown file; the JSON is beside it.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{about['date'][:10]}-{name}.md"
    path.write_text(text, encoding="utf-8")
    data = {**about, "lines": found}
    path.with_suffix(".json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
