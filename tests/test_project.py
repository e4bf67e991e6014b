"""What holds for the project as a whole: links lead somewhere, versions agree, house rules that a program can check."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import pgcdc

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for folder, ending in (("python", "py"), ("tests", "py"), ("benches", "py"), ("examples", "py"), ("rust", "rs"))
    for path in sorted((ROOT / folder).rglob(f"*.{ending}"))
    if "target" not in path.parts
]
PURPOSE = r'(# Made from .*\n)?r?"""|//!|#!'
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


def test_every_decision_is_listed() -> None:
    decisions = ROOT / "docs" / "decisions"
    listed = re.findall(r"\]\(([^)]+)\)", (decisions / "index.md").read_text())
    assert listed == sorted(path.name for path in decisions.glob("0*.md"))


def test_files_that_contributing_names_exist() -> None:
    """What stands in code spans and looks like a path is one, from the root or from a room of the package."""
    named = re.findall(r"`([\w./-]+/[\w./-]*\w\.(?:py|rs|toml|md|pyi))`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 10
    missing = [name for name in named if not ((ROOT / name).exists() or (ROOT / "python" / "pgcdc" / name).exists())]
    assert missing == []


def test_versions_agree() -> None:
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    assert pgcdc.__version__ == cargo


def test_files_say_what_they_are_for_and_stay_short() -> None:
    silent = [path for path in SOURCES if path.read_text().strip() and not re.match(PURPOSE, path.read_text())]
    assert silent == []
    long = {str(path.relative_to(ROOT)): count for path in SOURCES if (count := _lines(path)) > 800}
    assert long == {}


def test_modules_are_named_for_what_they_hold() -> None:
    nothing_said = {"utils", "util", "common", "helpers", "helper", "base", "core", "manager", "misc"}
    assert [path for path in SOURCES if path.stem in nothing_said] == []


def test_caches_and_products_are_not_in_git() -> None:
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    tracked = listed.stdout.splitlines()
    assert [name for name in tracked if re.match(r"(target|\.venv|\.cache|dist)/|.*\.(so|pyc|whl)$", name)] == []


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())
