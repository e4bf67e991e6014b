"""All that there is of sinks, each beside its strongest peer: the suites `sinks_…`, one after the other.

Options are for all of them that know them: `--rounds`. Each can be asked for by its own name, with its own options.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from dataclasses import replace

from benches import peers
from benches.report import Section
from tests.servers.programs import ServerUnavailable

PARTS = ("kafka", "postgres", "servers", "parquet")
"""The suites, which have a function `measure` as this one has."""

WHAT = "A pipeline with the sink of a name, beside what else does the same, on the same WAL and the same machine."
READ = "What the columns of a table are is said above it."
SKIPPED: list[str] = []


def measure(arguments: list[str]) -> tuple[list[Section], list[dict[str, object]]]:
    """Run all of it.

    Args:
        arguments: Of the command line.

    Returns:
        The sections of the report, and the same as data.
    """
    parser = argparse.ArgumentParser(prog="./dev bench sinks", description=__doc__)
    parser.add_argument("--rounds", type=int, help="how often each has its turn (each suite's own number)")
    parser.add_argument("--only", default="", help=f"of {', '.join(PARTS)}, with commas between")
    options = parser.parse_args(arguments)
    sections: list[Section] = []
    data: list[dict[str, object]] = []
    SKIPPED.clear()
    for part in PARTS if not options.only else options.only.split(","):
        suite = importlib.import_module(f"benches.bench_sinks_{part}")
        try:
            measured, found = suite.measure([f"--rounds={options.rounds}"] if options.rounds else [])
        except (ServerUnavailable, peers.Unavailable) as error:
            print(f"{part}: {error}", file=sys.stderr)
            SKIPPED.append(f"{part}: {error}")
            continue
        SKIPPED.extend(suite.SKIPPED)
        first = measured[0]
        sections.append(replace(first, about=f"{suite.WHAT} {first.about}\n\n{suite.READ}"))
        sections.extend(measured[1:])
        data.extend({"suite": part, **line} for line in found)
    return sections, data
