"""What a verb says of a server that it cannot connect to: one hint and exit code, whichever part of pgcdc has tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pgcdc import cli

if TYPE_CHECKING:
    from tests.conftest import Database

VERBS = [
    ["slots", "--dsn"],
    ["lag", "some_slot", "--dsn"],
    ["doctor", "--dsn"],
    ["top", "--once"],
    ["tail"],
    ["snapshot"],
    ["deadletter", "list", "--dsn"],
    ["schema", "history", "--pipeline", "shop", "--dsn"],
    ["events", "stats", "--dsn"],
    ["events", "init", "--dsn"],
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_the_hint_fits(verb: list[str], newest_database: Database, capfd: pytest.CaptureFixture[str]) -> None:
    cases = [
        ("user=no_such_role", 2, 'hint: CREATE ROLE "no_such_role" LOGIN'),
        ("dbname=no_such_database", 2, "hint: correct the database's name in the DSN, or CREATE DATABASE"),
        ("port=1", 1, "hint: is the server running there"),
        ("host=no-such-host.invalid", 1, "hint: check the host's name"),
    ]
    for changed, code, hint in cases:
        assert cli.main([*verb, f"{newest_database.dsn} {changed}"]) == code, changed
        said = capfd.readouterr().err
        assert said.startswith("error: ") and hint in said, changed
