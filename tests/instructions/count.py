"""Counts the instructions that a change takes to decode: `python -m tests.instructions.count` renews `counts.json`.

Times on shared machines differ by a half from one minute to the next; the instructions for the same bytes do not. What
is counted is the difference between many rounds and one, so neither start nor imports are in it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
COUNTS = HERE / "counts.json"
CHANGES = 300
ROUNDS = 6

# Each capture is a stretch of the benchmark's ten columns, as PostgreSQL 18 sent it.
RUST = [(work, form) for form in ("binary", "text") for work in ("parse", "json", "debezium", "arrow")]
PYTHON = [("struct", "binary")]

ROWS = """
import sys
from pgcdc.protocol import Decoder
file, rows, rounds = sys.argv[1:]
data, messages, at = open(file, "rb").read(), [], 16
while at < len(data):
    end = at + 12 + int.from_bytes(data[at + 8 : at + 12], "big")
    messages.append(data[at + 12 : end])
    at = end
decode_many = Decoder(rows).decode_many
for _ in range(int(rounds)):
    decode_many(messages)
"""


def missing() -> str | None:
    """What this machine lacks for counting, None when it lacks nothing."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed (Debian and Ubuntu: apt install valgrind)"
    if shutil.which("cargo") is None:
        return "cargo is not on PATH"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "instructions were counted on Linux x86_64 only"
    return None


def versions() -> dict[str, str]:
    """What decides how many instructions there are, besides our own code."""
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    return {"rustc": rustc, "python": platform.python_version()}


def capture(form: str) -> Path:
    """The bytes that are decoded."""
    return HERE / f"ten-columns-{form}.capture"


def program() -> Path:
    """The Rust program that decodes a capture, built as the extension is built."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CARGO_PROFILE")}
    subprocess.run(
        ["cargo", "build", "--quiet", "--release", "--locked", "--workspace", "--example", "decode_capture"],
        cwd=ROOT,
        env=environment,
        check=True,
    )
    folder = Path(environment.get("CARGO_TARGET_DIR", ROOT / "target"))
    return folder / "release" / "examples" / "decode_capture"


def instructions(*command: str | Path) -> int:
    """How many instructions a command takes."""
    with tempfile.TemporaryDirectory() as folder:
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        done = subprocess.run(
            [*valgrind, *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": f"{ROOT / 'python'}:{ROOT}"},
            capture_output=True,
            text=True,
            check=True,
        )
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found, done.stderr
    return int(found[1])


def per_change(*command: str | Path) -> int:
    """How many a change takes, of a command that takes the number of rounds last."""
    once, often = (instructions(*command, str(rounds)) for rounds in (1, 1 + ROUNDS))
    return round((often - once) / (ROUNDS * CHANGES))


def count_rust() -> dict[str, int]:
    """Of the Rust half alone."""
    decode = program()
    return {f"{work}, {form}": per_change(decode, work, capture(form)) for work, form in RUST}


def count_python() -> dict[str, int]:
    """Of rows as Python objects."""
    return {
        f"{rows} rows, {form}": per_change(sys.executable, "-c", ROWS, capture(form), rows) for rows, form in PYTHON
    }


def known() -> dict[str, Any]:
    """What was counted last, and with which versions."""
    found: dict[str, Any] = json.loads(COUNTS.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Count and keep."""
    counted = {**versions(), "instructions a change": {**count_rust(), **count_python()}}
    COUNTS.write_text(json.dumps(counted, indent=1) + "\n", encoding="utf-8")
    print(COUNTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
