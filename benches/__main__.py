"""`python -m benches [NAME …] [--save]`: runs pytest-benchmark suites and prints what they measured on stdout."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import shlex
import sys
import tempfile
from pathlib import Path

import pytest

from benches import report

HERE = Path(__file__).parent
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
    for name in options.names or NAMES:
        status, measured = run(name, arguments)
        worst = max(worst, status)
        if not measured:
            continue
        suite = importlib.import_module(f"benches.bench_{name}")
        found = report.lines(measured, suite.YARDSTICKS)
        about = report.facts(" ".join(["./dev bench", name, *map(shlex.quote, arguments)]))
        text = report.markdown(f"Benchmark: {name}", suite.WHAT, found, about, suite.SKIPPED)
        print(text)
        if options.save and not status:
            print(f"saved: {report.save(name, text, found, about)}", file=sys.stderr)
    return worst


if __name__ == "__main__":
    sys.exit(main())
