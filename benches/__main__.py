"""`python -m benches [NAME …] [--save]`: runs benchmarks and prints what they measured on stdout.

A suite is either tests for pytest-benchmark, or has a function `measure`. Options that are not known here are for the
suite, as `--name=value`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import shlex
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import pytest

from benches import report
from tests.servers.postgres import remove_templates

HERE = Path(__file__).parent
PARTS = "sinks_"
"""The suites whose names begin so are all run by the suite `sinks`."""
NAMES = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def run(name: str, arguments: list[str]) -> tuple[int, list[dict[str, object]]]:
    """Run one suite; what pytest says goes to stderr."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        output = Path(folder) / "benchmark.json"
        status = pytest.main(
            [
                str(HERE / f"bench_{name}.py"),
                *("-q", "-c", str(HERE / "pytest.ini"), "--rootdir", str(HERE.parent)),
                *("-p", "no:cacheprovider", "-p", "no:asyncio"),  # not needed, and each has settings of its own
                *("--benchmark-quiet", "--benchmark-timer=time.process_time", f"--benchmark-json={output}"),
                *arguments,
            ]
        )
        measured = json.loads(output.read_text())["benchmarks"] if output.exists() and output.stat().st_size else []
    return int(status), measured


def main() -> int:
    """Run what was asked for; the exit status is pytest's."""
    parser = argparse.ArgumentParser(prog="python -m benches", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all without")
    parser.add_argument("--save", action="store_true", help="keep the result in benches/results/")
    options, arguments = parser.parse_known_args()
    for name in options.names:
        if name not in NAMES:
            parser.error(f"there is no benchmark {name!r}; there are {', '.join(NAMES)}")
    worst = 0
    for name in options.names or [name for name in NAMES if not name.startswith(PARTS)]:
        suite = importlib.import_module(f"benches.bench_{name}")
        status = 0
        if hasattr(suite, "measure"):  # processes of their own, which pytest-benchmark cannot time
            try:
                sections, data = suite.measure(arguments)
            finally:
                remove_templates()
            read = suite.READ
        else:
            status, measured = run(name, arguments)
            found = report.lines(measured, suite.YARDSTICKS)
            sections, data = report.sections(found), [asdict(line) for line in found]
            read = report.reading(found)
        worst = max(worst, status)
        if not data:
            continue
        about = report.facts(" ".join(["./dev bench", name, *map(shlex.quote, arguments)]))
        text = report.markdown(f"Benchmark: {name}", suite.WHAT, sections, read, about, suite.SKIPPED)
        print(text)
        if options.save and not status:
            print(f"saved: {report.save(name, text, data, about)}", file=sys.stderr)
    return worst


if __name__ == "__main__":
    sys.exit(main())
