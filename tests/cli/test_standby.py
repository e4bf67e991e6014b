"""A standby in the place of the primary: what is said by the verbs that would have to write to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.demo.running import run
from tests.servers.standby import primary_and_standby

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.postgres import PostgresServer

DECODES = 16
"""The first version whose standbys do."""


@pytest.fixture(scope="module")
def standby(postgres: PostgresServer) -> Iterator[PostgresServer]:
    with primary_and_standby(postgres.version, "CREATE TABLE orders (id int PRIMARY KEY)") as (_, standby):
        yield standby


def pipeline(standby: PostgresServer, folder: Path, more: str = "") -> str:
    path = folder / "shop.toml"
    path.write_text(
        f'[pipeline]\nname = "shop"\ndsn = "{standby.dsn()}"\ntables = ["orders"]\n{more}'
        '[consumers.sink]\nsink = "tests.pipeline.targets:Recorder"\n'
    )
    return str(path)


def errors(*arguments: str, code: int) -> str:
    """Runs `pgcdc`; gives the error and its hint."""
    ended = run(*arguments)
    assert ended.code == code, ended
    return "\n".join(line for line in ended.stderr.splitlines() if line.startswith(("error: ", "hint: ", "warning: ")))


@pytest.mark.parametrize("verb", ["init", "run"])
def test_a_pipeline(standby: PostgresServer, tmp_path: Path, verb: str) -> None:
    more = ["--yes"] if verb == "init" else []
    told = errors(verb, pipeline(standby, tmp_path), *more, code=2 if verb == "init" else 1)
    if standby.version < DECODES:
        assert told.startswith(f"error: this server is a standby, and one of PostgreSQL {standby.version} has no ")
        assert "hint: connect to its primary (target_session_attrs=read-write" in told and "SqlitePositions" not in told
        return
    assert "is a standby, where" in told and "pgcdc.positions" in told and "GRANT" not in told
    assert "hint: positions=SqlitePositions(…), or PostgresPositions(…) with the primary's DSN" in told
    options = f'{{ path = "{tmp_path}/positions.sqlite" }}'
    elsewhere = pipeline(standby, tmp_path, f'[positions]\nstore = "sqlite"\noptions = {options}\n')
    told = errors(verb, elsewhere, *more, code=2 if verb == "init" else 1)
    assert told.startswith("error: this server is a standby, where publication 'pgcdc_shop' of pipeline 'shop' cannot")
    assert 'hint: on its primary, from where it comes by itself: CREATE PUBLICATION "pgcdc_shop" FOR TABLE ' in told


def test_tail_and_snapshot(standby: PostgresServer) -> None:
    told = errors("tail", standby.dsn(), code=2)
    assert "warning: " not in told, "it has not tried to make anything"
    if standby.version < DECODES:
        assert "one of PostgreSQL" in told
        assert "one of PostgreSQL" in errors("tail", standby.dsn(), "--publication", "any", code=2)
        assert "one of PostgreSQL" in errors("snapshot", standby.dsn(), code=2)
        return
    assert told == (
        "error: this server is a standby, where no publication can be made, not even for a while\n"
        "hint: --publication NAME takes one that was made on its primary; or connect to that"
    )
