"""A password is planted in what each verb is given, and looked for in all that it prints when it fails."""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import click
import msgspec
import pytest
import typer

import pgcdc
from pgcdc import cli
from pgcdc.cli import verbs
from pgcdc.cli.redaction import Redactor
from pgcdc.observe import exporting, serving
from pgcdc.pipeline import MemoryPositions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "Gehe1m/p@ss: wort"
FORMS = {PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD), PASSWORD.replace(" ", "\\ "), "Gehe1m", "p@ss", "wort"}

DSNS: Final[dict[str, str]] = {
    "nobody listens": f"postgresql://app:{quote(PASSWORD, safe='')}@127.0.0.1:1/shop",
    "pairs": f"host=127.0.0.1 port=1 user=app dbname=shop password='{PASSWORD}'",
    "of SQLAlchemy": f"postgresql+asyncpg://app:{quote(PASSWORD, safe='')}@127.0.0.1:1/shop",
    "not escaped": f"postgresql://app:{PASSWORD}@127.0.0.1:1/shop",
    "a bad escape": f"postgresql://app:%zz{quote(PASSWORD, safe='')}@127.0.0.1:1/shop",
    "no end": f"host=127.0.0.1 port=1 password='{PASSWORD}",
    "no such parameter": f"host=127.0.0.1 port=1 passwort='{PASSWORD}' sslmode=sometimes",
}

# How each verb is given a DSN, or a file that has one; those that go on without a server are in tests of their own.
CALLS: Final[dict[tuple[str, ...], list[str]]] = {
    ("demo",): ["--dsn", "DSN", "--seconds", "1"],
    ("tail",): ["DSN", "--table", "orders"],
    ("snapshot",): ["DSN", "--table", "orders"],
    ("doctor",): ["--dsn", "DSN"],
    ("init",): ["FILE"],
    ("run",): ["FILE", "--log-level", "debug"],
    ("destroy",): ["FILE"],
    ("top",): ["DSN", "--json"],
    ("slots",): ["--dsn", "DSN"],
    ("lag",): ["some_slot", "--dsn", "DSN"],
    ("config", "validate"): ["FILE"],
    ("config", "show"): ["FILE"],
    ("deadletter", "list"): ["--dsn", "DSN"],
    ("deadletter", "show"): ["1", "--dsn", "DSN"],
    ("deadletter", "retry"): ["1", "--dsn", "DSN"],
    ("deadletter", "drop"): ["1", "--dsn", "DSN"],
    ("consumer", "rename"): ["FILE", "lines", "rows"],
    ("consumer", "forget"): ["FILE", "lines"],
    ("schema", "history"): ["orders", "--dsn", "DSN"],
    ("events", "init"): ["--dsn", "DSN"],
    ("events", "history"): ["order-1", "--dsn", "DSN"],
    ("events", "stats"): ["--dsn", "DSN"],
    ("events", "check"): ["--dsn", "DSN"],
    ("events", "rebuild"): ["revenue", "--store", "MODULE:store"],
    ("events", "archive"): ["--store", "MODULE:store"],
    ("events", "adopt"): ["--store", "MODULE:store"],
}
SERVERS: Final = {("exporter",), ("console",)}


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every verb."""
    names = getattr(command, "list_commands", None)
    if names is None:
        yield path
        return
    context = click.Context(command)
    for name in names(context):
        yield from leaves(command.get_command(context, name), (*path, name))


def test_no_verb_is_left_out() -> None:
    assert set(leaves(typer.main.get_command(verbs._application))) == CALLS.keys() | SERVERS


def shown(text: str) -> list[str]:
    """What of the password is in a text."""
    return [form for form in FORMS if form in text]


@pytest.mark.parametrize(
    ("dsn", "as_json"), [(dsn, number % 2 == 1) for number, dsn in enumerate(DSNS.values())], ids=DSNS.keys()
)
def test_no_verb_prints_it(
    dsn: str,
    as_json: bool,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "pgcdc.toml"
    file.write_text(
        f'[pipeline]\nname = "shop"\ndsn = {json.dumps(dsn)}\ntables = ["orders"]\n'
        f'[consumers.lines]\nsink = "duckdb"\noptions = {{ path = {json.dumps(str(tmp_path / "x.duckdb"))} }}\n'
    )
    module = f"planted_{list(DSNS.values()).index(dsn)}"
    given = {"DSN": dsn, "FILE": str(file), "MODULE:store": f"{module}:store"}
    store = f"store = pgcdc.EventStore({dsn!r}, archive={str(tmp_path)!r})\n"
    (tmp_path / f"{module}.py").write_text(f"import pgcdc\n{store}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")  # a line that is broken would hide what is looked for
    for path, call in CALLS.items():
        arguments = [given.get(word, word) for word in call]
        if as_json and "--json" not in arguments and path != ("config", "validate"):
            arguments.append("--json")
        code = cli.main([*path, *arguments])
        printed = capfd.readouterr()
        assert "No such option" not in printed.err, path
        assert shown(printed.out + printed.err) == [], path
        assert code in (0, 1, 2), path
        assert path[0] == "config" or code != 0, path
    assert shown(caplog.text) == []


@pytest.mark.parametrize(("dsn", "as_json"), [(DSNS["not escaped"], False), (DSNS["pairs"], True)])
def test_none_prints_it_where_it_does_not_belong(
    dsn: str, as_json: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a target or a number, as one word too many, after an option that does not exist."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setenv("PGHOST", str(tmp_path))  # nobody listens where no DSN is taken
    for path in sorted(CALLS.keys() | SERVERS):
        for wrong in ([dsn], ["1", "2", "3", dsn], [f"--nonsense={dsn}"]):
            if path in {("console",), ("tail",), ("snapshot",), ("top",)} and wrong == [dsn]:
                continue  # there it belongs
            code = cli.main([*path, *wrong, *(["--json"] if as_json else [])])
            printed = capfd.readouterr()
            assert shown(printed.out + printed.err) == [], (path, wrong)
            assert code in (1, 2) and printed.err, (path, wrong)
            if as_json:
                assert msgspec.json.decode(printed.err), (path, wrong)


@pytest.mark.parametrize("dsn", DSNS.values(), ids=DSNS.keys())
def test_any_word_of_the_command_line_may_have_it(dsn: str) -> None:
    redactor = Redactor({})
    redactor.learn_arguments(["run", f"--where={dsn}", dsn])
    for text in (dsn, repr(dsn), json.dumps(dsn), f"No such option: --where={dsn}", quote(dsn)):
        assert shown(redactor(text)) == []


def fetched(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


@pytest.mark.parametrize("dsn", [DSNS["nobody listens"], DSNS["pairs"], DSNS["of SQLAlchemy"]])
def test_no_endpoint_answers_it(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    pipeline = pgcdc.Pipeline("shop", dsn, tables=["orders"], positions=MemoryPositions(), reconnect=False)
    pipeline.on("orders")(_nothing)
    with pytest.raises(pgcdc.ConnectionLost) as caught:
        pipeline.run()
    said = [repr(caught.value), repr(pipeline), repr(pipeline._settings), repr(pipeline.statistics())]
    with serving(pipeline, 0) as endpoint:
        said += [fetched(f"{endpoint.url}/{page}") for page in ("metrics", "statistics", "readyz", "healthz", "no")]
    with exporting(dsn, 0) as endpoint:
        said.append(fetched(f"{endpoint.url}/metrics"))
        assert "pgcdc_server_up 0.0" in said[-1]
    assert shown("".join(said) + caplog.text) == []


def _nothing(change: pgcdc.Change) -> None:
    """Not called."""
