"""`pgcdc console` and `pgcdc run --console` as processes: they answer, end at a signal, and say what is wrong."""

from __future__ import annotations

import re
import signal
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest

from pgcdc import cli
from tests.cli.test_run import FILE, PASSWORD, Command, orders, place
from tests.demo.running import finish, start
from tests.pipeline.running import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database

pytest.importorskip("starlette")
__all__ = ["orders", "place"]  # fixtures


def address_in(text: str) -> str | None:
    found = re.search(r"the console is at (http://localhost:\d+/)", text)
    return None if found is None else found[1]


def read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=60) as answer:
        page: str = answer.read().decode()
    return page


def test_a_database(newest_database: Database) -> None:
    process = start("console", f"{newest_database.dsn} password={PASSWORD}", "--listen", ":0")
    try:
        assert process.stderr is not None
        address = address_in(process.stderr.readline())
        assert address is not None
        assert f"database {newest_database.name}" in read(address)
        assert "No pipeline has stored a position" in read(f"{address}consumers")
        assert "There are none." in read(f"{address}deadletters")
        assert "Nothing is known yet" in read(f"{address}schema")
        assert "There is no event store" in read(f"{address}streams")
        assert newest_database.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgcdc'") == [(0,)]
    finally:
        process.send_signal(signal.SIGTERM)
        ended = finish(process)
    assert (ended.code, ended.stdout, ended.stderr) == (0, "", "")


def test_with_the_pipeline(orders: Database, place: Path) -> None:
    command = Command(place, orders, "pgcdc.toml", "--console", ":0")
    try:
        until(lambda: address_in(command.stderr) is not None, "it listens", 120, 0.1)
        address = str(address_in(command.stderr))
        until(lambda: "mirror</a>" in read(f"{address}consumers"), "it has begun", 120, 0.1)
        page = f"{address}consumer?pipeline=shop&name=mirror"
        until(lambda: "Delivered in this run" in read(page), "it is in this process", 120, 0.1)
        assert "SqliteMirror" in read(page)
        until(lambda: "public.orders" in read(f"{address}tables"), "its publication is there", 120, 0.1)
        assert PASSWORD not in "".join(read(f"{address}{name}") for name in ("", "slots", "consumers", "tables"))
    finally:
        code = command.end(signal.SIGTERM)
    assert code == 0, command.stderr
    assert "pipeline 'shop' ended" in command.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("console", "--listen", "x"), "error: 'x' is no address to listen at\nhint: 8432, "),
        (
            ("console", "--listen", "0.0.0.0:0"),
            "error: a console at 0.0.0.0 can be reached by others, and has no token",
        ),
        (("console", "no-such-module:pipeline"), "error: "),
        (("console", "", "--store", "shop"), "error: there is no event store shop\nhint: --store MODULE:STORE"),
        (("console", "", "--state", "order=x"), "error: --state order=x names no class"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(says) and captured.out == ""


def test_run_says_it_before_it_begins(orders: Database, place: Path) -> None:
    command = Command(place, orders, "pgcdc.toml", "--console", "0.0.0.0:0")
    assert command.end() == 2
    assert "error: a console at 0.0.0.0 can be reached by others, and has no token" in command.stderr
    assert not (place / "mirror.db").exists()
    assert 'sink = "tests' in FILE
