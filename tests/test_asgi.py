"""A pipeline inside a web application: run with it, drained with it, and its end is seen."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc.asgi import Lifespan
from pgcdc.pipeline import MemoryPositions

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Database

REPOSITORY = Path(__file__).parents[1]
NOWHERE = "host=/nowhere dbname=shop"

both = pytest.mark.parametrize("own_thread", [False, True])


async def ask(running: Lifespan, path: str, method: str = "GET", kind: str = "http") -> tuple[Any, Any]:
    """What the application that is to be mounted sends: the status and the body."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is to be received")

    await running.health({"type": kind, "method": method, "path": path}, receive, send)
    if kind != "http":
        return sent, None
    start, body = sent
    assert dict(start["headers"])[b"content-type"] == b"application/json"
    return start["status"], body["body"]


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def pipeline_of(dsn: str, **options: Any) -> tuple[pgcdc.Pipeline, list[Any]]:
    """A pipeline, and what its handler has seen: the id, and in which thread."""
    pipeline = pgcdc.Pipeline("shop", dsn, tables=["orders"], **options)
    seen: list[Any] = []

    @pipeline.on("orders")
    async def note(change: pgcdc.Change) -> None:
        seen.append((change.new and change.new.id, threading.current_thread()))

    return pipeline, seen


@both
async def test_it_runs_while_the_application_is_up(newest_database: Database, own_thread: bool) -> None:
    newest_database.execute("CREATE TABLE orders (id int PRIMARY KEY)", "INSERT INTO orders VALUES (1)")
    pipeline, seen = pipeline_of(newest_database.dsn)
    running = Lifespan(pipeline, own_thread=own_thread)
    try:
        async with running(None):
            await until(lambda: bool(seen))
            assert (seen[0][1] is threading.current_thread()) is not own_thread
            while (await ask(running, "/pipeline/readyz"))[0] != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert (await running.observe()).ready
            assert await ask(running, "/healthz") == (200, b'{"healthy":true,"reasons":[]}')
            with pytest.raises(RuntimeError, match="begun already"):
                await running.__aenter__()
        assert running.error is None
        assert (await ask(running, "/readyz"))[0] == 503
        newest_database.execute("INSERT INTO orders VALUES (2)")
        async with running:  # and again: what was done is not repeated
            await until(lambda: len(seen) > 1)
    finally:
        pipeline.destroy()
    assert [number for number, _ in seen] == [1, 2]


@both
async def test_an_end_is_seen(own_thread: bool, caplog: pytest.LogCaptureFixture) -> None:
    pipeline, _ = pipeline_of(NOWHERE, positions=MemoryPositions(), reconnect=False)
    told: list[BaseException] = []
    running = Lifespan(pipeline, own_thread=own_thread, on_failure=told.append)
    caplog.set_level(logging.ERROR, "pgcdc.asgi")
    with pytest.raises(pgcdc.ConnectionLost):  # noqa: PT012 (what is raised is raised at the end of it)
        async with running:
            await until(lambda: bool(told))
            assert told == [running.error]
            status, body = await ask(running, "/readyz")
            assert status == 503
            assert "/nowhere" in json.loads(body)["error"]
            status, body = await ask(running, "/healthz")
            [reason] = json.loads(body)["reasons"]
            assert (status, reason["text"]) == (503, "its run has ended")
    assert "pipeline 'shop' has ended" in caplog.text


@both
async def test_the_errors_of_others_are_called_by_their_class(
    own_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise ValueError("Gehe1m")

    pipeline, _ = pipeline_of(NOWHERE, positions=MemoryPositions())
    monkeypatch.setattr(pipeline, "arun", broken)
    running = Lifespan(pipeline, own_thread=own_thread)
    with pytest.raises(ValueError, match="Gehe1m"):  # noqa: PT012 (what is raised is raised at the end of it)
        async with running:
            await until(lambda: running.error is not None)
            _, body = await ask(running, "/readyz")
            assert json.loads(body)["error"] == "ValueError"


@both
async def test_it_ends_when_it_has_just_begun(newest_database: Database, own_thread: bool) -> None:
    newest_database.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    pipeline, _ = pipeline_of(newest_database.dsn)
    running = Lifespan(pipeline, own_thread=own_thread)
    for turns in range(3):
        async with running:
            for _ in range(turns):
                await asyncio.sleep(0)
    assert running.error is None
    pipeline.destroy()
    await until(lambda: not any(thread.name == "pgcdc-shop" for thread in threading.enumerate()))


@both
async def test_the_applications_own_error_comes_first(own_thread: bool) -> None:
    pipeline, _ = pipeline_of(NOWHERE, positions=MemoryPositions(), reconnect=False)
    running = Lifespan(pipeline, own_thread=own_thread)
    with pytest.raises(KeyError):  # noqa: PT012 (what is raised is raised at the end of it)
        async with running:
            await until(lambda: running.error is not None)
            raise KeyError("of the application")


async def test_what_else_is_asked() -> None:
    running = Lifespan(pipeline_of(NOWHERE)[0])
    assert (await ask(running, "/statistics"))[0] == 404
    assert (await ask(running, "/readyz", "POST"))[0] == 405
    assert (await ask(running, "/healthz", "HEAD"))[1] == b""
    assert await ask(running, "/readyz", kind="websocket") == ([{"type": "websocket.close"}], None)
    assert await ask(running, "/readyz", kind="lifespan") == ([], None)


class Application:
    """The example, as uvicorn runs it, on a Unix socket: no port that somebody else could have."""

    def __init__(self, dsn: str, place: Path) -> None:
        self._path = str(place / "application.sock")
        Path(self._path).unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "--uds", self._path, "examples.embed_fastapi:app"],
            cwd=REPOSITORY,
            env=os.environ | {"SHOP_DSN": dsn, "PYTHONPATH": f"{REPOSITORY / 'python'}:{REPOSITORY}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def get(self, path: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("localhost")
        with socket.socket(socket.AF_UNIX) as connected:
            connected.settimeout(30)
            connected.connect(self._path)
            connection.sock = connected
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def until(self, path: str, expected: tuple[int, Any]) -> None:
        deadline = time.monotonic() + 90
        said: Any = None
        while said != expected:
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
            try:
                said = self.get(path)
            except (FileNotFoundError, ConnectionRefusedError):
                continue

    def end(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.communicate(timeout=60)[1]
        finally:
            self.process.kill()
            self.process.wait()


def test_the_example(newest_database: Database, tmp_path: Path) -> None:
    """Two runs of it; the second goes on after the first."""
    newest_database.execute("CREATE TABLE orders (id int PRIMARY KEY)", "INSERT INTO orders VALUES (1), (2)")
    application = Application(newest_database.dsn, tmp_path)
    try:
        application.until("/counts", (200, {"insert": 2}))
        application.until("/pipeline/readyz", (200, {"ready": True, "reasons": []}))
    finally:
        said = application.end()
    assert "Application shutdown complete" in said
    newest_database.execute("DELETE FROM orders WHERE id = 1")
    application = Application(newest_database.dsn, tmp_path)
    try:
        application.until("/counts", (200, {"delete": 1}))
    finally:
        application.end()
    pipeline, _ = pipeline_of(newest_database.dsn)
    pipeline.destroy()
