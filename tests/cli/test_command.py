"""The command itself: version, help, exit codes, and what it says when a package is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pgcdc
from pgcdc import cli
from tests.demo.running import environment, run

SINK = '[consumers.lines]\nsink = "duckdb"\noptions = { path = "x.duckdb" }\n'


def test_version() -> None:
    ended = run("--version")
    assert (ended.code, ended.stdout, ended.stderr) == (0, f"pgcdc {pgcdc.__version__}\n", "")


def test_help_names_every_verb() -> None:
    ended = run("--help")
    assert (ended.code, ended.stderr) == (0, "")
    assert "demo" in ended.stdout
    assert "run" in ended.stdout
    demo = run("demo", "--help")
    assert demo.code == 0
    for option in ("--seconds", "--json", "--dsn", "--rate", "--redis", "--directory"):
        assert option in demo.stdout
    verb = run("run", "--help")
    assert verb.code == 0
    for option in ("TARGET", "--check", "--log-level", "--json"):
        assert option in verb.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-verb"],
        ["demo", "--seconds", "soon"],
        ["demo", "--rate", "-1"],
        ["run"],
        ["run", "a:b", "--log-level=loud"],
    ],
)
def test_wrong_command_line(arguments: list[str]) -> None:
    ended = run(*arguments)
    assert ended.code == 2
    assert ended.stdout == ""
    assert "Usage: " in ended.stderr


@pytest.mark.parametrize("group", ["config", "deadletter", "consumer", "schema", "events"])
def test_what_verbs_do_is_not_cut_off(group: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main([group, "--help"]) == 0
    listed = capfd.readouterr().out.partition("Commands:")[2]
    assert listed and "..." not in listed


@pytest.mark.parametrize("arguments", [["slots", "--json", "too-much"], ["tail", "a", "--count", "x", "--json"]])
def test_a_wrong_command_line_is_told_as_json(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    shown = capfd.readouterr()
    told = json.loads(shown.err)
    assert shown.out == "" and told["kind"] == "UsageError" and told["hint"] == f"pgcdc {arguments[0]} --help"


def test_a_reader_that_has_gone(tmp_path: Path) -> None:
    """Nobody reads what is printed: neither a trace nor the exit code of a check that has failed."""
    (tmp_path / "shop.toml").write_text('[pipeline]\nname = "shop"\ntables = ["orders"]\n' + SINK)
    for arguments in (["config", "show", "shop.toml"], ["--help"]):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "pgcdc", *arguments],
                env=environment(),
                cwd=tmp_path,
                stdout=writer,
                stderr=subprocess.PIPE,
                check=False,
            )
        finally:
            os.close(writer)
        assert (ended.stderr, ended.returncode) == (b"", cli.EXIT_READER_GONE)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
def test_an_output_that_is_full() -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "pgcdc", "--help"]
        ended = subprocess.run(command, env=environment(), stdout=full, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (1, b"error: the output cannot be written: No space left on device\n")


def _imported(*arguments: str) -> set[str]:
    """The modules that are loaded when the command is over."""
    program = (
        "import sys\nfrom pgcdc import cli\ncode = cli.main(sys.argv[1:])\n"
        "print(*sorted(name.partition('.')[0] for name in sys.modules), file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment(), capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


def test_version_and_help_load_no_more_than_they_need() -> None:
    assert not {"typer", "rich", "psycopg", "asyncio"} & _imported("--version")
    assert not {"rich", "psycopg", "duckdb", "sqlite3"} & _imported("--help")
    assert not {"rich", "psycopg", "asyncio", "sqlite3"} & _imported("run", "--help")


def test_missing_package(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pgcdc.cli.verbs", raising=False)
    monkeypatch.setitem(sys.modules, "typer", None)
    assert cli.main(["demo"]) == cli.EXIT_ERROR
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: the command pgcdc needs the package typer")
    assert "hint: pip install 'pgcdc[cli]'" in shown.err


def test_error_with_a_hint(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from pgcdc.cli import verbs

    def refuse(arguments: object) -> int:
        raise pgcdc.ConfigError("wal_level is replica", hint="ALTER SYSTEM SET wal_level = logical;")

    monkeypatch.setattr(verbs, "run", refuse)
    assert cli.main(["demo"]) == cli.EXIT_CONFIGURATION
    assert capsys.readouterr().err == "error: wal_level is replica\nhint: ALTER SYSTEM SET wal_level = logical;\n"


def test_interrupt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from pgcdc.cli import verbs

    def interrupt(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(verbs, "run", interrupt)
    assert cli.main(["demo"]) == cli.EXIT_INTERRUPTED
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    from pgcdc.cli import verbs

    def break_down(arguments: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(verbs, "run", break_down)
    with pytest.raises(ZeroDivisionError):
        cli.main(["demo"])
