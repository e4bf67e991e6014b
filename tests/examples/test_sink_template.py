"""The template of a package with a sink: its own tests pass, as whoever copies it would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

TEMPLATE = Path(__file__).parents[2] / "examples" / "sink_template"


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in memory where there is one: the sink waits for the disk after every row."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def test_its_tests_pass(place: Path) -> None:
    """The contract of sinks, in a process of its own, which has nothing of this project's settings for pytest."""
    path = os.pathsep.join([str(TEMPLATE), str(TEMPLATE.parents[1] / "python")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(TEMPLATE / "pyproject.toml")]
    done = subprocess.run(
        [*command, f"--basetemp={place / 'places'}", str(TEMPLATE)],
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ passed in ", done.stdout, re.MULTILINE), done.stdout


def test_its_entry_point_is_there() -> None:
    project = tomllib.loads((TEMPLATE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["pgcdc.sinks"]["folder"].partition(":")
    assert f"class {name}:" in (TEMPLATE / f"{module}.py").read_text(encoding="utf-8")
