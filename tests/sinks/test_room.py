"""What all sinks of the room have: a name in configuration files, and a library that is imported when it is needed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pgcdc.sinks

ROOT = Path(__file__).parents[2]
NAMES = pgcdc.sinks.__all__


@pytest.mark.parametrize("name", NAMES)
def test_a_sink_has_a_short_name_and_a_page(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pgcdc.sinks"][name.lower()] == f"pgcdc.sinks:{name}"
    kind = getattr(pgcdc.sinks, name)
    for method in ("open", "write", "close"):
        assert callable(getattr(kind, method))
    assert f"`{name}`" in (ROOT / "docs" / "sinks" / "index.md").read_text(encoding="utf-8")
    assert name in dir(pgcdc.sinks)


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    program = "import sys, pgcdc.sinks; print([name for name in sys.modules if name.startswith('pgcdc.sinks.')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_library_that_is_missing() -> None:
    """One sentence, with what to do."""
    program = """
import sys
sys.modules["redis"] = None
from pgcdc.errors import ConfigError
try:
    from pgcdc.sinks import Redis
except ConfigError as error:
    print(error, "|", error.hint)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "the sink Redis needs the package redis | pip install 'pgcdc[redis]'"


def test_what_is_no_sink() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        getattr(pgcdc.sinks, "Nothing")  # noqa: B009
