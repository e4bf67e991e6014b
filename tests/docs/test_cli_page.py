"""The page "The command line": its commands are run in their order, on a real server; below stands what they say."""

from __future__ import annotations

import difflib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pgcdc import cli
from tests.demo.running import environment, run
from tests.pipeline.running import until

if TYPE_CHECKING:
    from tests.conftest import Database

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FIRST_TAIL = (
    "INSERT INTO orders VALUES (1, 'new', 99.90)",
    "UPDATE orders SET status = 'paid' WHERE id = 1",
    "INSERT INTO notes VALUES ('it is paid')",
)
SECOND_TAIL = (
    "INSERT INTO orders VALUES (2, 'new', 250), (3, 'new', 3)",
    "UPDATE orders SET status = 'paid'",
)
VARIES = [
    (r"\b[0-9A-F]{1,8}/[0-9A-F]{1,8}\b", "X/Y"),
    (r"\b[0-9A-F]{16}\.", "X."),
    (r"20\d\d-\d\d-\d\d[T ][\d:.]+( UTC|Z|\+\d\d:?\d\d)?", "NOW"),
    (r"\d\d:\d\d:\d\d UTC", "NOW"),
    (r"\d[\d,.]* (bytes|kB|MB|GB|TB)", "SIZE"),
    (r"\b\d+ s\b", "N s"),
    (r"(PostgreSQL|PostgreSQL 14 or later:) \d+\.\d+", r"\1 N"),
    (r" +", " "),
    (r"(inactive SIZE) \d* ?SIZE", r"\1 N SIZE"),
]


def even(text: str, database: str) -> str:
    text = text.replace(database, "shop")
    for pattern, word in VARIES:
        text = re.sub(pattern, word, text)
    return text


def fits(found: str, shown: str) -> bool:
    """Whether an output is as it is shown, where `…` stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, shown.split("…"))), found, re.DOTALL) is not None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page(newest_database: Database, tmp_path: Path) -> None:
    pytest.importorskip("duckdb", reason="duckdb is not installed: pip install 'pgcdc[demo]'")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'pgcdc[objects]'")
    variables = environment(SHOP=newest_database.dsn)
    variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"
    wrong: list[str] = []
    for kind, block in BLOCKS:
        if kind == "sql":
            newest_database.execute(*block.split(";\n"))
        elif kind in ("python", "toml"):
            name, _, text = block.removeprefix("# ").partition("\n")
            (tmp_path / name).write_text(text)
        else:
            for given in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, shown = given.partition("\n")
                found = perform(command, newest_database, tmp_path, variables)
                one, other = (even(text, newest_database.name) for text in (found, shown))
                if not fits(one, other):
                    difference = difflib.unified_diff(other.splitlines(), one.splitlines(), "the page", "found", n=0)
                    wrong.append("\n".join([f"$ {command}", *difference, "", found]))
    assert not wrong, "\n\n".join(wrong)


def perform(command: str, database: Database, place: Path, variables: dict[str, str]) -> str:
    """Runs a command of the page; gives what is seen of it on a terminal."""
    process = subprocess.Popen(
        command,
        shell=True,
        cwd=place,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    found = ""
    with process:
        try:
            if command.startswith("pgcdc tail"):
                while "Ctrl-C ends it" not in found:
                    line = process.stdout.readline()
                    assert line, found
                    found += line
                database.execute(*(SECOND_TAIL if "--where" in command else FIRST_TAIL))
            elif command.startswith("pgcdc run"):
                letters = "SELECT count(*) FROM pgcdc.dead_letters"
                copied = "SELECT count(*) FROM pgcdc.positions WHERE snapshot = 'done'"
                until(lambda: database.execute(copied) == [(1,)], "the copy is over", 120, 0.25)
                database.execute("INSERT INTO orders VALUES (4, 'new', 5000)")
                until(lambda: database.execute(letters) == [(1,)], "there is a letter", 120, 0.25)
                os.killpg(process.pid, signal.SIGTERM)
            found += process.stdout.read()
        finally:
            process.kill()
    return found


def test_every_verb_has_a_place_with_an_example() -> None:
    listed = run("--help").stdout.partition("--help")[2]
    verbs = re.findall(r"^  ([a-z]+)  ", listed, re.MULTILINE)
    assert len(verbs) > 10
    for verb in verbs:
        assert re.search(rf"^### pgcdc {verb}$", PAGE, re.MULTILINE), verb
        assert re.search(rf"^\$ pgcdc {verb} |`pgcdc {verb}", PAGE, re.MULTILINE), verb


def test_every_exit_code_is_in_the_table() -> None:
    table = PAGE.partition("| exit code |")[2]
    codes = {value for name, value in vars(cli).items() if name.startswith("EXIT_")}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == codes | {0}
