"""A receiver of webhooks as one would write it: it checks signatures, and skips what it was given before."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from pgcdc.sinks.signature import InvalidSignature, verify
from tests.servers.ports import free_port

if TYPE_CHECKING:
    from types import TracebackType

SECRET = "a secret of the tests"


class Rows:
    """A copy of a table, kept by changes that may come several times."""

    def __init__(self) -> None:
        self.rows: dict[Any, dict[str, Any]] = {}
        self.seen: dict[Any, str] = {}
        self.floor = ""

    def apply(self, change: dict[str, Any]) -> None:
        """Apply a change, unless a later one of its row was applied."""
        position = change["position"]
        if change["action"] == "truncate":
            if position > self.floor:
                self.floor = position
                # Rows of a copy that is made again have the position of the TRUNCATE that it begins with.
                self.rows = {key: row for key, row in self.rows.items() if self.seen[key] >= position}
            return
        if change["action"] == "message":  # belongs to no row
            return
        new, old = change.get("new"), change.get("old")
        now, then = new or old, old or new
        assert now is not None
        assert then is not None
        key = now["id"]
        before = self.rows.get(then["id"], {})
        if old is not None and new is not None and old["id"] != key:
            self._put(old["id"], position, None)
        self._put(key, position, None if new is None else before | new)

    def _put(self, key: Any, position: str, row: dict[str, Any] | None) -> None:
        if position < self.floor or position <= self.seen.get(key, ""):
            return
        self.seen[key] = position
        if row is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = row


class Receiver:
    """An HTTP server in a thread of its own; one `Rows` for each path.

    Attributes:
        requests: What came: path, headers, changes.
        answer: Gives another answer than 200 for some changes, or an awaitable that holds it.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.places: dict[str, Rows] = {}
        self.requests: list[tuple[str, dict[str, str], list[dict[str, Any]]]] = []
        self.answer: Callable[[list[dict[str, Any]]], web.Response | None] = lambda _changes: None
        self.held = threading.Event()
        self.held.set()
        self.under_way = 0
        self.most_under_way = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Begin to listen."""
        self._do(self._start())

    def stop(self) -> None:
        """Listen no more: connections are refused."""
        self._do(self._stop())

    async def _start(self) -> None:
        application = web.Application(client_max_size=1 << 26)
        application.router.add_post("/{place:.*}", self._take)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if "Pgcdc-Signature" in request.headers:
            try:
                verify(body, request.headers["Pgcdc-Signature"], SECRET)
            except InvalidSignature:
                return web.Response(status=400)
        content = json.loads(body)
        changes = content if isinstance(content, list) else [content]
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            while not self.held.is_set():  # noqa: ASYNC110 (it is set from any thread)
                await asyncio.sleep(0.01)
            other = self.answer(changes)
            self.requests.append((request.path, dict(request.headers), changes))
            if other is not None:
                return other
            rows = self.places.setdefault(request.match_info["place"], Rows())
            for change in changes:
                rows.apply(change)
            return web.Response(text="taken")
        finally:
            self.under_way -= 1

    def _do(self, what: Any) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(30)

    def __enter__(self) -> Receiver:
        self._thread.start()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.held.set()
        with contextlib.suppress(TimeoutError):
            self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()
