"""`pgcdc config`: a file that is right, one that is wrong, and what one means."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.demo.running import run

if TYPE_CHECKING:
    from pathlib import Path

FILE = """
[pipeline]
name = "shop"
dsn = "host=db dbname=shop password=${SHOP_PASSWORD}"
tables = ["orders", "sales.items"]

[consumers.search]
sink = "tests.pipeline.targets:Recorder"
tables = ["orders"]
on_failure = "park"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "shop.toml").write_text(FILE)
    return tmp_path / "shop.toml"


def test_a_file_that_is_right(file: Path) -> None:
    ended = run("config", "validate", str(file), SHOP_PASSWORD="hush-hush")
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout == f"{file}: pipeline 'shop' is in order; its consumers: search\n"
    ended = run("config", "validate", str(file), "--json", SHOP_PASSWORD="hush-hush")
    assert ended.report == {"file": str(file), "pipeline": "shop", "consumers": ["search"]}


def test_a_file_that_is_wrong(file: Path) -> None:
    ended = run("config", "validate", str(file))
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: {file}: pipeline.dsn needs the environment variable SHOP_PASSWORD")
    file.write_text(FILE.replace("on_failure", "on_failur"))
    ended = run("config", "validate", str(file), "--json", SHOP_PASSWORD="hush-hush")
    told = json.loads(ended.stderr)
    assert ended.code == 2 and told["kind"] == "ConfigError" and "did you mean 'on_failure'?" in told["hint"]


def test_what_a_file_means(file: Path) -> None:
    ended = run("config", "show", str(file), SHOP_PASSWORD="hush-hush")
    assert (ended.code, ended.stderr) == (0, "") and "hush" not in ended.stdout
    assert {
        "[pipeline]",
        "slot = pgcdc_shop",
        "publication = pgcdc_shop",
        "tables = public.orders, sales.items",
        "snapshot = initial",
        "positions = PostgresPositions",
        "[consumers.search]",
        "tables = public.orders",
        "on_failure = park",
    } <= set(ended.stdout.splitlines())
    told = run("config", "show", str(file), "--json", SHOP_PASSWORD="hush-hush").report
    assert told["consumers"][0]["name"] == "search" and told["slot"] == "pgcdc_shop"
