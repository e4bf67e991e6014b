"""How an error is printed: one sentence, a hint, no secrets; and the exit code for it."""

from __future__ import annotations

import json

import pytest
import typer

import pgcdc
from pgcdc import cli
from pgcdc.cli.complaint import complain, complaining, exit_code, given

SECRET = "hush-hush"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (pgcdc.ConfigError("x"), cli.EXIT_CONFIGURATION),
        (pgcdc.SlotInUse("x"), cli.EXIT_SLOT_IN_USE),
        (pgcdc.SlotLost("x"), cli.EXIT_ERROR),
        (pgcdc.ConnectionLost("x"), cli.EXIT_ERROR),
    ],
)
def test_exit_code(error: pgcdc.Error, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(error) == code
    with pytest.raises(typer.Exit) as raised, complaining():
        raise error
    assert raised.value.exit_code == code and capsys.readouterr() == ("", "error: x\n")


def _error() -> pgcdc.Error:
    error = pgcdc.SlotNotFound(f"no {SECRET} here", hint=f"password={SECRET}", slot=f"{SECRET}_slot", lsn=0x1_0000_00AB)
    error.add_note(f"of {SECRET}")
    return error


def _fail(dsn: str, *, json: bool = False) -> None:
    with complaining(json=json) as redactor:
        redactor.learn_dsn(dsn)
        raise _error()


def test_no_secret_is_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        _fail(f"host=db password={SECRET}")
    assert capsys.readouterr().err == "error: no *** here (of ***)\nhint: password=***\n"


def test_nor_in_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        _fail(f"postgresql://me:{SECRET}@db/shop", json=True)
    shown = capsys.readouterr()
    assert shown.out == "" and json.loads(shown.err) == {
        "error": "no *** here (of ***)",
        "hint": "password=***",
        "kind": "SlotNotFound",
        "slot": "***_slot",
        "lsn": "1/AB",
    }


def test_secrets_of_the_command_line_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    before = given.set(["events", "stats", "--dsn", f"host=db password={SECRET}"])
    try:
        complain(_error())
    finally:
        given.reset(before)
    assert SECRET not in capsys.readouterr().err


def test_what_a_terminal_cannot_show_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    complain(pgcdc.ConfigError("table \udcff does not exist"))
    assert capsys.readouterr().err == "error: table \\udcff does not exist\n"
