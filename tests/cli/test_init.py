"""`pgcdc init` and `pgcdc destroy` as a new user meets them: the plan, the question, what is there afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.demo.running import Ended, environment, run
from tests.pipeline.test_provision import catalog

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database

if sys.platform != "win32":
    import pty


@pytest.fixture
def file(newest_database: Database, tmp_path: Path) -> str:
    newest_database.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    path = tmp_path / "shop.toml"
    path.write_text(
        f'[pipeline]\nname = "shop"\ndsn = "{newest_database.dsn} password=hush-hush"\ntables = ["orders"]\n'
        '[consumers.sink]\nsink = "tests.pipeline.targets:Recorder"\n'
    )
    return str(path)


def test_there_and_back(newest_database: Database, file: str) -> None:
    before = catalog(newest_database)
    planned = run("init", file, "--dry-run")
    assert (planned.code, planned.stderr) == (0, "") and "hush" not in planned.stdout
    assert planned.stdout.startswith(
        "init of pipeline 'shop': 7 changes\n  + schema pgcdc: for the tables of pipelines\n"
    )
    assert '      CREATE PUBLICATION "pgcdc_shop" FOR TABLE "public"."orders"; COMMENT ON ' in planned.stdout
    assert "  . slot pgcdc_shop: the first run makes it" in planned.stdout
    refused = run("init", file)
    assert refused.code == 2 and refused.stderr.splitlines() == [
        "error: init changes the server, and there is nobody to be asked",
        "hint: --yes does what the plan says, --dry-run only prints it",
    ]
    assert catalog(newest_database) == before, "neither has changed anything"
    made = run("init", file, "--yes", "--json")
    assert (made.code, made.stderr) == (0, "")
    assert (made.report["done"], made.report["changes"], made.report["does"]) == (True, 7, "init")
    assert {step["state"] for step in made.report["steps"]} == {"made", "later"}
    again = run("init", file)
    assert (again.code, again.stderr) == (0, "") and again.stdout.startswith(
        "init of pipeline 'shop': nothing to change"
    )
    removed = run("destroy", file, "--yes")
    assert removed.code == 0 and removed.stderr == "done; what stays: the rows of the targets\n"
    assert '  - publication pgcdc_shop: is dropped\n      DROP PUBLICATION "pgcdc_shop";\n' in removed.stdout
    assert catalog(newest_database) == before


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
def test_on_a_terminal_it_asks(newest_database: Database, file: str, answer: str, code: int) -> None:
    ended = on_a_terminal(f"{answer}\n", "init", file)
    assert ended.code == code and "init: do this? [y/N]:" in ended.stderr, ended
    assert ended.stderr.endswith("nothing was changed\n") == (answer == "n")
    made = ("publication", "pgcdc_shop") in catalog(newest_database)
    assert made == (answer == "y")


def on_a_terminal(typed: str, *arguments: str) -> Ended:
    """Runs `pgcdc` with a terminal as its stdin."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, typed.encode())
        done = subprocess.run(
            [sys.executable, "-m", "pgcdc.cli", *arguments],
            env=environment(),
            stdin=theirs,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    return Ended(done.returncode, done.stdout, done.stderr)


def test_a_server_that_is_not_there_is_an_error_without_secrets(file: str, tmp_path: Path) -> None:
    path = tmp_path / "away.toml"
    path.write_text((tmp_path / "shop.toml").read_text().replace(" password=", " port=1 password="))
    ended = run("destroy", str(path), "--yes", "--json")
    told = json.loads(ended.stderr)
    assert ended.code == 1 and told["kind"] == "ConnectionLost" and "hush" not in ended.stderr and ended.stdout == ""
