"""`pgcdc schema history`: what it prints, of which pipeline, and what it says when there is nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import pgcdc
from pgcdc import cli
from tests.demo.running import run
from tests.pipeline.running import running
from tests.pipeline.targets import Recorder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database


def test_it_prints_versions_and_what_differs(newest_database: Database, tmp_path: Path) -> None:
    database = newest_database
    database.execute(
        "CREATE TYPE mood AS ENUM ('good')",
        "CREATE TABLE orders (id int PRIMARY KEY, status text, feeling mood)",
        "CREATE TABLE items (id int PRIMARY KEY)",
    )
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders", "items"])
    pipeline.add(Recorder(), name="sink", on_schema_change="follow")
    with running(pipeline) as one:
        one.streaming()
        for change in (
            "ADD COLUMN total numeric(10,2), DROP COLUMN feeling",
            "ALTER COLUMN total TYPE numeric(12,2)",
            "RENAME COLUMN status TO state",
            "DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id, state)",
            "RENAME TO purchases",
        ):
            database.execute(f"ALTER TABLE orders {change}")
            table = "purchases" if "purchases" in change else "orders"
            database.execute(f"INSERT INTO {table} SELECT count(*) + 1, 's' FROM {table}")
        one.catch_up(database)
    ended = run("schema", "history", "purchases", "--pipeline", "shop", "--dsn", database.dsn)
    assert (ended.code, ended.stderr) == (0, "")
    lines = [line for line in ended.stdout.splitlines() if "  version" not in line]
    assert lines == [
        "public.purchases",
        "    id int4 key, status text, feeling public.mood",
        "    + total numeric(10,2)",
        "    - feeling public.mood",
        "    total numeric(10,2) is now total numeric(12,2)",
        "    status renamed to state",
        "    the replica identity is now id, state",
        "    public.orders renamed to public.purchases",
    ]
    assert ended.stdout.count("initial copy") == 1 and ended.stdout.count("change 0") == 5
    (tmp_path / "shop.toml").write_text(
        f'[pipeline]\nname = "shop"\ndsn = "{database.dsn}"\ntables = ["purchases"]\n'
        '[consumers.sink]\nsink = "tests.pipeline.targets:Recorder"\non_schema_change = { add = "warn" }\n'
    )
    ended = run("schema", "history", "--json", "--target", str(tmp_path / "shop.toml"))
    assert (ended.code, ended.stderr) == (0, "")
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [(one["table"], one["version"]) for one in found] == [
        ("items", 1),
        *(("orders", number) for number in range(1, 6)),
        ("purchases", 6),
    ]
    assert found[1]["columns"][2]["type"] == "public.mood"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: it is not said of which pipeline"),
        (["--pipeline", "shop", "--target", "a:b"], "error: it is not said of which pipeline"),
        (["--pipeline", "other"], "error: nothing is known of the pipeline"),
        (["orders", "--pipeline", "other"], "error: nothing is known of table orders"),
    ],
)
def test_mistakes(newest_database: Database, arguments: list[str], message: str) -> None:
    ended = run("schema", "history", *arguments, "--dsn", newest_database.dsn)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith(message), ended.stderr
    assert "hint: " in ended.stderr


def test_who_looks_makes_nothing(newest_database: Database, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema", "history", "--pipeline", "shop", "--dsn", newest_database.dsn]) == 2
    assert capfd.readouterr().err.startswith("error: nothing is known of the pipeline")
    assert newest_database.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgcdc'") == [(0,)]
