"""`pgcdc consumer`: a consumer of a configuration file gets another name with all that it has, or is forgotten."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pgcdc.cli.building import build
from pgcdc.cli.redaction import Redactor
from tests.demo.running import run
from tests.pipeline.running import running
from tests.pipeline.shop import ORDERS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database


def test_it_is_renamed_and_forgotten(newest_database: Database, tmp_path: Path) -> None:
    newest_database.execute(ORDERS)

    def file(*names: str) -> str:
        path = tmp_path / "shop.toml"
        consumers = "".join(
            f'[consumers.{name}]\nsink = "tests.pipeline.targets:Recorder"\non_failure = "park"\n' for name in names
        )
        path.write_text(
            f'[pipeline]\nname = "shop"\ndsn = "{newest_database.dsn}"\ntables = ["orders"]\nsnapshot = "never"\n'
            + consumers
        )
        return str(path)

    with running(build(file("old", "cache"), Redactor({}))) as one:
        one.streaming()
        one.catch_up(newest_database)
    ended = run("run", file("new"))
    assert ended.code == 1 and "'cache', which is not registered" in ended.stderr
    assert "pgcdc consumer rename" in ended.stderr
    ended = run("consumer", "forget", file("new"), "cache")
    assert ended.code == 2 and "--yes does it" in ended.stderr
    ended = run("consumer", "forget", file("new"), "cache", "--yes")
    assert (ended.code, ended.stdout, ended.stderr) == (0, "cache is forgotten\n", "")
    ended = run("consumer", "rename", file("new"), "old", "new", "--json")
    assert (ended.code, json.loads(ended.stdout)) == (0, {"pipeline": "shop", "renamed": "old", "to": "new"})
    ended = run("consumer", "rename", file("new"), "old", "new", "--json")
    assert ended.code == 2 and "it has them for 'new'" in json.loads(ended.stderr)["hint"]
    rows = newest_database.execute("SELECT consumer FROM pgcdc.positions")
    assert rows == [("new",)]
