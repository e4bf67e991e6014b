"""The forms of the Redis sink held to the contract of sinks, on a real Redis and a real Valkey."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from msgspec import UNSET

from pgcdc import Batch, Position, RowFormat, Truncate
from pgcdc.sinks import Redis
from pgcdc.testing.contracts import SinkContract
from tests.testing.orders import OfCounts, OfOrders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from tests.servers.redis import RedisServer


CACHED = frozenset(range(1, 400))
"""The keys of rows that a cache has."""


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
    without: ClassVar[Mapping[str, str]] = {"renamed": "a value has the names that it was written with"}

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


class Told(Redis):
    """Form `"delete"`, and the rows that it was told of: just before each batch somebody reads what it changes.

    Attributes:
        cache: The server.
        name: Makes a key of a row's.
        rows: Of each that was changed the last position, and whether it is there.
    """

    cache: Any
    name: Callable[[int], str]
    rows: dict[int, tuple[Position, bool]]

    def write(self, batch: Batch) -> None:
        changed: set[int] = set()
        for change in batch.changes(RowFormat("dict")):
            position: Any = change.position
            if isinstance(change, Truncate):
                self._tell(CACHED, position, there=False)
                changed |= CACHED
            else:
                for of in ("old", "new"):
                    row = getattr(change, of, UNSET)
                    if row is not UNSET:
                        self._tell([row["id"]], position, there=of == "new")
                        changed.add(row["id"])
        names = [self.name(row) for row in changed]
        self.cache.mset(dict.fromkeys(names, "cached"))
        super().write(batch)
        assert self.cache.exists(*names) == 0, "a row that was changed is in the cache as it was"

    def _tell(self, rows: Iterable[int], position: Position, *, there: bool) -> None:
        for row in rows:
            # What comes again says nothing of what is there by now.
            if row not in self.rows or self.rows[row][0] <= position:
                self.rows[row] = position, there


class TestDelete(OnRedis):
    """A cache that had every row before anything was written: it has none that was changed since, and all others."""

    without: ClassVar[Mapping[str, str]] = {
        "refused": "the key of every row can be deleted; one without a key is refused: tests/sinks/test_redis.py",
        "renamed": "nothing of a row is kept",
    }

    def make_sink(self, place: Path) -> Redis:
        if place not in self._told:
            self._told[place] = {}
            self._server.client.mset({f"{place}:{number}": "cached" for number in CACHED})
        sink = Told(self._server.url, key=self.key(place), form="delete")
        sink.rows, sink.cache, sink.name = self._told[place], self._server.client, f"{place}:{{}}".format
        return sink

    @pytest.fixture(autouse=True)
    def _nothing_told(self) -> None:
        self._told: dict[Path, dict[int, tuple[Position, bool]]] = {}

    def content(self, place: Path) -> dict[int, str]:
        """The rows that a reader has to ask the database for."""
        told = self._told[place]
        assert self.keys(place).keys() == CACHED - told.keys()
        return {row: "asked for" for row, (_, there) in told.items() if there}

    def expected(self, rows: Mapping[Any, Mapping[str, Any]], columns: Iterable[str]) -> dict[int, str]:
        return dict.fromkeys(rows, "asked for")


class TestCount(OnRedis, OfCounts):
    options: ClassVar[dict[str, Any]] = {"form": "count"}
    without: ClassVar[Mapping[str, str]] = {
        "toast": "of a row is kept what it counts for; columns that may not be sent are refused as such",
        "added": "nothing of other columns is kept",
        "renamed": "nothing of columns is kept",
    }
    whole: ClassVar[bool] = False

    # Its counter's key holds a word.
    refused: ClassVar[Mapping[str, Any] | None] = {
        "id": 9,
        "user_id": 999,
        "status": None,
        "total": None,
        "shipping_address": None,
    }

    def key(self, place: Path) -> str:
        return f"{place}:{{user_id}}"

    def make_sink(self, place: Path) -> Redis:
        self._server.client.set(f"{place}:999", "word")
        return super().make_sink(place)

    def content(self, place: Path) -> dict[int, int]:
        keys = {user: key for user, key in self.keys(place).items() if user != 999}
        return {user: int(self._server.client.get(key)) for user, key in keys.items()}


class TestSum(TestCount):
    """The ids of each user's orders, added up."""

    options: ClassVar[dict[str, Any]] = {"form": "count", "amount": "id"}

    def expected(self, rows: Mapping[Any, Mapping[str, Any]], columns: Iterable[str]) -> dict[int, int]:
        users = {row["user_id"] for row in rows.values()}
        return {user: sum(row["id"] for row in rows.values() if row["user_id"] == user) for user in users}


class TestStream(OnRedis, OfOrders):
    """The entries, applied in their order."""

    options: ClassVar[dict[str, Any]] = {"form": "stream"}
    without: ClassVar[Mapping[str, str]] = {
        "refused": "a stream takes any row, or none: where its key holds something else: tests/sinks/test_redis.py",
        "renamed": "an entry has the names of its time",
    }
    _late = False

    def test_a_dead_letter_is_written_later(self, tmp_path: Path) -> None:
        """It goes to the end, as often as it comes."""
        self._late = True
        super().test_a_dead_letter_is_written_later(tmp_path)

    def test_what_comes_late_leaves_what_is_newer(self, tmp_path: Path) -> None:
        """Its position says where it belongs."""
        self._late = True
        super().test_what_comes_late_leaves_what_is_newer(tmp_path)

    def key(self, place: Path) -> str:
        return f"{place}:{{table}}"

    def expected(self, rows: Mapping[Any, Mapping[str, Any]], columns: Iterable[str]) -> dict[int, dict[str, Any]]:
        names = list(columns)
        kept = {key: {name: row.get(name) for name in names} for key, row in rows.items()}
        return json.loads(json.dumps(kept, default=str), object_hook=_by_number)  # type: ignore[no-any-return]

    def content(self, place: Path) -> dict[int, dict[str, Any]]:
        rows: dict[int, dict[str, Any]] = {}
        positions = []
        entries = [entry for _, entry in self._server.client.xrange(f"{place}:orders")]
        for entry in sorted(entries, key=lambda entry: entry["position"]) if self._late else entries:
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


class TestDeleteOnValkey(OnValkey, TestDelete):
    pass


class TestCountOnValkey(OnValkey, TestCount):
    pass


class TestStreamOnValkey(OnValkey, TestStream):
    pass


def _by_number(found: dict[str, Any]) -> dict[Any, Any]:
    return {int(key) if key.isdigit() else key: value for key, value in found.items()}
