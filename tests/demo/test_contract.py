"""The demo's targets that need something installed, held to the contract of sinks; others are in tests/testing."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pgcdc.demo.analytics import AnalyticsTables
from pgcdc.demo.cache import RedisCounts
from pgcdc.testing.contracts import SinkContract
from tests.testing.orders import OfCounts

if TYPE_CHECKING:
    from collections.abc import Iterator

duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed: pip install 'pgcdc[demo]'")


class TestAnalyticsTables(SinkContract):
    letters = False  # it keeps its position, and has no rewrite
    shared = False  # a reader that only reads cannot open the file in the process that has it

    def make_sink(self, place: Path) -> AnalyticsTables:
        return AnalyticsTables(place / "analytics.duckdb")

    def content(self, place: Path) -> dict[int, dict[str, Any]]:
        with contextlib.closing(duckdb.connect(str(place / "analytics.duckdb"), read_only=True)) as database:
            cursor = database.execute("SELECT * FROM contract")
            names = [column for column, *_ in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        return {row["id"]: row for row in rows}


class TestRedisCounts(OfCounts):
    letters = False

    @pytest.fixture(autouse=True)
    def url(self, redis_url: str) -> None:
        self._url = redis_url

    def make_sink(self, place: Path) -> RedisCounts:
        return RedisCounts(self._url, str(place))

    def content(self, place: Path) -> dict[int, int]:
        counts = RedisCounts(self._url, str(place))
        try:
            return counts.counts()
        finally:
            counts.close()

    @contextlib.contextmanager
    def down(self, place: Path) -> Iterator[None]:
        """Its socket has another name."""
        socket = Path(self._url.removeprefix("unix://"))
        away = socket.rename(socket.with_name("away"))
        yield
        away.rename(socket)
