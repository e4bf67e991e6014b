"""A password is planted in a DSN that works, and looked for in all that is served, shown and printed."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import re
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

import pgcdc
from pgcdc import cli
from pgcdc.cli.console import served
from pgcdc.cli.redaction import Redactor
from pgcdc.errors import SinkUnavailable
from pgcdc.observe import exporting, serving
from tests.cli.test_planted_password import PASSWORD, shown
from tests.pipeline.running import running, until
from tests.pipeline.shop import ORDERS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database

pytest.importorskip("starlette")
PAGES = (
    "", "slots", "slot?name=pgcdc_shop", "consumers", "consumer?pipeline=shop&name=away", "tables", "deadletters",
    "schema", "streams", "no-such-page",
)  # fmt: skip


class Away:
    """A target whose driver puts into its error what it was given."""

    def open(self) -> None:
        """Nothing is held."""

    def write(self, batch: pgcdc.Batch) -> None:
        raise SinkUnavailable(f"no answer of redis://app:{PASSWORD}@cache")

    def close(self) -> None:
        """Nothing was held."""


def first_event(url: str) -> str:
    """What the pages are kept up to date by, as far as the end of the first event."""
    place = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)) as connection:
        connection.request("GET", "/live", headers={"Host": place.netloc})
        answer = connection.getresponse()
        assert answer.status == 200
        lines = []
        while line := answer.readline().strip():
            lines.append(line.decode())
        return "\n".join(lines)


def test_nothing_that_is_served_has_it(newest_database: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    newest_database.execute(ORDERS, "INSERT INTO orders VALUES (1, 'new')")
    quoted = PASSWORD.replace("'", r"\'")
    dsn = f"{newest_database.dsn} password='{quoted}'"
    redactor = Redactor({})
    redactor.learn_dsn(dsn)
    pipeline = pgcdc.Pipeline("shop", dsn, tables=["orders"])
    pipeline.add(Away(), name="away")
    said = [repr(pipeline)]

    def read(url: str) -> str:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                text = str(answer.read().decode())
        except urllib.error.HTTPError as error:
            text = error.read().decode()
        said.append(text)
        return text

    with (
        running(pipeline),
        serving(pipeline, 0, redact=redactor) as endpoint,
        exporting(dsn, 0) as exporter,
        served("127.0.0.1:0", dsn, redactor, pipeline=pipeline, running=True) as console,
    ):
        until(lambda: "no answer of redis" in read(f"{endpoint.url}/statistics"), "its error is told", pause=0.1)
        for page in ("metrics", "readyz", "healthz"):
            read(f"{endpoint.url}/{page}")
        assert "pgcdc_server_up 1.0" in read(f"{exporter.url}/metrics")
        until(lambda: "no answer of redis" in read(f"{console.url}{PAGES[4]}"), "the console has seen it", pause=0.1)
        for page in PAGES:
            read(f"{console.url}{page}")
        said.append(first_event(console.url))
        pipeline.stop()
    assert shown("".join(said)) == []
    assert re.search(r"no answer of redis://app:\*\*\*@cache", "".join(said))


def test_nothing_that_is_printed_has_it(
    newest_database: Database, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    newest_database.execute(ORDERS)
    dsn = f"{newest_database.dsn} password='{PASSWORD}'"
    file = tmp_path / "pgcdc.toml"
    file.write_text(
        f'[pipeline]\nname = "shop"\ndsn = {json.dumps(dsn)}\ntables = ["orders"]\n'
        f'[consumers.lines]\nsink = "duckdb"\noptions = {{ path = {json.dumps(str(tmp_path / "x.duckdb"))} }}\n'
    )
    for arguments in (
        ["config", "validate", str(file), "--json"],
        ["config", "show", str(file)],
        ["config", "show", str(file), "--json"],
        ["doctor", str(file), "--json"],
        ["doctor", str(file)],
        ["init", str(file), "--yes"],
        ["top", dsn, "--once"],
        ["top", dsn, "--json", "--once"],
        ["slots", "--dsn", dsn],
        ["snapshot", dsn, "--table", "orders"],
        ["schema", "history", "--target", str(file)],
        ["deadletter", "list", "--target", str(file)],
        ["events", "init", "--dsn", dsn],
        ["events", "check", "--dsn", dsn, "--json"],
        ["destroy", str(file), "--yes", "--json"],
    ):
        assert cli.main(arguments) in (0, 1, 2), arguments
        printed = capfd.readouterr()
        assert "No such option" not in printed.err, arguments
        assert shown(printed.out + printed.err) == [], arguments
    assert shown(caplog.text) == []
