"""The forms of the Redis sink held to the contract of sinks, on a real Redis and a real Valkey."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from pgcdc.sinks import Redis
from pgcdc.testing.contracts import SinkContract
from tests.testing.orders import OfCounts, OfOrders

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from tests.servers.redis import RedisServer


class OnRedis(SinkContract):
    """Keys that begin with the place."""

    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def _on_server(self, redis_server: RedisServer) -> None:
        self._server = redis_server

    def key(self, place: Path) -> str:
        return f"{place}:{{id}}"

    def make_sink(self, place: Path) -> Redis:
        return Redis(self._server.url, key=self.key(place), **self.options)

    @contextlib.contextmanager
    def down(self, place: Path) -> Iterator[None]:
        """Its socket has another name."""
        away = self._server.socket.rename(self._server.socket.with_name("away"))
        try:
            yield
        finally:
            away.rename(self._server.socket)

    @contextlib.contextmanager
    def busy(self, place: Path) -> Iterator[None]:
        """It takes commands that write, and answers none."""
        self._server.client.execute_command("CLIENT", "PAUSE", "60000", "WRITE")
        try:
            yield
        finally:
            self._server.client.execute_command("CLIENT", "UNPAUSE")

    def keys(self, place: Path) -> dict[int, str]:
        """The keys of the rows."""
        found = self._server.client.keys(f"{place}:*")
        return {int(key.rpartition(":")[2]): key for key in found}


def _said(row: Mapping[str, Any], columns: Iterable[str]) -> dict[str, str]:
    """A row as text, without NULL."""
    return {name: str(row[name]) for name in columns if row.get(name) is not None}


class TestJson(OnRedis):
    options: ClassVar[dict[str, Any]] = {"max_value": 20_000}
    refused: ClassVar[Mapping[str, Any] | None] = {"id": 9, "name": "x" * 20_000, "amount": None, "note": None}

    def content(self, place: Path) -> dict[int, dict[str, str]]:
        rows = {number: json.loads(self._server.client.get(key)) for number, key in self.keys(place).items()}
        return {number: _said(row, row) for number, row in rows.items()}

    def expected(self, rows: Mapping[Any, Mapping[str, Any]], columns: Iterable[str]) -> dict[int, dict[str, str]]:
        names = list(columns)
        return {key: _said(row, names) for key, row in rows.items()}


class TestHash(TestJson):
    options: ClassVar[dict[str, Any]] = {"form": "hash", "max_value": 20_000}

    def content(self, place: Path) -> dict[int, dict[str, str]]:
        return {number: self._server.client.hgetall(key) for number, key in self.keys(place).items()}


class TestCount(OnRedis, OfCounts):
    options: ClassVar[dict[str, Any]] = {"form": "count"}

    def key(self, place: Path) -> str:
        return f"{place}:{{user_id}}"

    def content(self, place: Path) -> dict[int, int]:
        return {user: int(self._server.client.get(key)) for user, key in self.keys(place).items()}


class TestSum(TestCount):
    """The ids of each user's orders, added up."""

    options: ClassVar[dict[str, Any]] = {"form": "count", "amount": "id"}

    def expected(self, rows: Mapping[Any, Mapping[str, Any]], columns: Iterable[str]) -> dict[int, int]:
        users = {row["user_id"] for row in rows.values()}
        return {user: sum(row["id"] for row in rows.values() if row["user_id"] == user) for user in users}


class TestStream(OnRedis, OfOrders):
    """The entries, applied in their order."""

    options: ClassVar[dict[str, Any]] = {"form": "stream"}
    _late = False

    def test_a_dead_letter_is_written_later(self, tmp_path: Path) -> None:
        """It goes to the end, as often as it comes."""
        self._late = True
        super().test_a_dead_letter_is_written_later(tmp_path)

    def key(self, place: Path) -> str:
        return f"{place}:{{table}}"

    def expected(self, rows: Mapping[Any, Mapping[str, Any]], columns: Iterable[str]) -> dict[int, dict[str, Any]]:
        names = list(columns)
        kept = {key: {name: row.get(name) for name in names} for key, row in rows.items()}
        return json.loads(json.dumps(kept, default=str), object_hook=_by_number)  # type: ignore[no-any-return]

    def content(self, place: Path) -> dict[int, dict[str, Any]]:
        rows: dict[int, dict[str, Any]] = {}
        positions = []
        for _, entry in self._server.client.xrange(f"{place}:orders"):
            change = json.loads(entry["change"])
            assert entry["action"] == change["action"]
            assert entry["position"] == change["position"]
            positions.append(entry["position"])
            if entry["action"] == "truncate":
                rows.clear()
                continue
            assert entry["table"] == "public.orders"
            before = rows.pop((change.get("old") or change["new"])["id"], {})
            if entry["action"] != "delete":
                rows[change["new"]["id"]] = before | change["new"]
        assert self._late or positions == sorted(positions)
        streamed = [position for position in positions if not position.endswith(".00000000")]
        assert self._late or len(streamed) == len(set(streamed)), "something was added twice"
        names = {name for row in rows.values() for name in row}
        return {key: {name: row.get(name) for name in names} for key, row in rows.items()}


class OnValkey(OnRedis):
    """Redis's commands, another server."""

    @pytest.fixture(autouse=True)
    def _on_server(self, valkey_server: RedisServer) -> None:
        self._server = valkey_server


class TestJsonOnValkey(OnValkey, TestJson):
    pass


class TestHashOnValkey(OnValkey, TestHash):
    pass


class TestCountOnValkey(OnValkey, TestCount):
    pass


class TestStreamOnValkey(OnValkey, TestStream):
    pass


def _by_number(found: dict[str, Any]) -> dict[Any, Any]:
    return {int(key) if key.isdigit() else key: value for key, value in found.items()}
