"""The blocks of the pages in docs/ are run in their order, as a reader would, and print what stands below them."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pgcdc.eventstore.event import default_registry

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.servers.azure import AzureServer
    from tests.servers.gcs import GcsServer

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if "```python" in page.read_text(encoding="utf-8")]

# The servers that pages name, by the fixture that has a real one and the attribute that says where it is.
SERVERS = {
    '"localhost:9092"': ("kafka", "bootstrap"),
    '"http://localhost:8123"': ("clickhouse", "url"),
    '"http://localhost:9200"': ("opensearch", "url"),
    '"nats://localhost:4222"': ("nats_server", "url"),
    '"redis://localhost:6379"': ("redis_server", "url"),
    '{"config": {"account_name": "shoplake", "account_key": os.environ["LAKE_KEY"]}}': ("lake_on_azure", "options"),
    '{"config": {"service_account": "/etc/pgcdc/lake.json"}}': ("lake_on_gcs", "options"),
}

# What is another number each time: LSNs, transaction ids, times of commits.
VARIES = [
    (r"\b[0-9A-F]{1,8}/[0-9A-F]{1,8}\b", "X/Y"),
    (r"\b[0-9A-F]{16}\.", "X."),
    (r"\bxid=\d+", "xid=N"),
    (r"20\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d\.\d{6}(\+00:00|Z)", "NOW"),
    (r"\brelation \d+", "relation N"),
]


def even(text: str) -> str:
    """Output without what varies."""
    for pattern, word in VARIES:
        text = re.sub(pattern, word, text)
    return text


@dataclass
class Lake:
    """A bucket that is called lake, as on the pages.

    Attributes:
        options: What reaches it, other than on the pages without TLS.
    """

    options: dict[str, Any]


@pytest.fixture
def lake_on_azure(azure: AzureServer, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """Of Azure; that it has no TLS is known to Polars from the environment."""
    monkeypatch.setenv("AZURE_ALLOW_HTTP", "true")
    azure.make_container("lake")
    return Lake({"config": azure.config(), "client_options": {"allow_http": True}})


@pytest.fixture
def lake_on_gcs(gcs: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """Of Google Cloud, likewise."""
    monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
    gcs.make_bucket("lake")
    key = tmp_path / "lake.json"
    key.write_text(gcs.key())
    return Lake({"config": {"service_account": str(key)}, "client_options": {"allow_http": True}})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_page(
    request: pytest.FixtureRequest, newest_database: Database, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQL and Python take effect in turn; text is what the Python block before it has printed."""
    # Events that a page defines are not there for other tests, which have some of the same names.
    monkeypatch.setattr(default_registry, "_types", {})
    names: dict[str, Any] = {"__name__": "page"}
    printed = ""
    replaced = {'"dbname=shop"': repr(newest_database.dsn)}
    for written, (fixture, attribute) in SERVERS.items():
        if written in page.read_text(encoding="utf-8"):
            replaced[written] = repr(getattr(request.getfixturevalue(fixture), attribute))
    for kind, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "sql":
            newest_database.execute(*(statement for statement in block.split(";\n") if statement.strip()))
        elif kind == "python":
            assert printed == "", "a block has printed something that the page does not show"
            for written, real in replaced.items():
                block = block.replace(written, real)
            program = compile(block, str(page), "exec", dont_inherit=True)
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(program, names)
            printed = output.getvalue()
        elif kind == "text":
            assert even(printed) == even(block)
            printed = ""
    assert printed == "", "the last block has printed something that the page does not show"


def test_there_are_pages() -> None:
    assert "decoder.md" in [page.name for page in PAGES]
