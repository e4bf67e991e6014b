"""ClickHouse's engine behind its HTTP interface: PyPI's `chdb` in a process of its own. It is not the server.

The engine parses, checks and stores as a server does; connections, users and the statuses of HTTP are this file's.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import importlib
import importlib.util
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.servers.leftovers import new_folder
from tests.servers.ports import free_port
from tests.servers.programs import ServerUnavailable

if TYPE_CHECKING:
    from typing import Self

_START_SECONDS: Final = 90.0
_STOP_SECONDS: Final = 30.0
_ROOT: Final = Path(__file__).parents[2]
_LOGIN: Final = "Basic cGdjZGM6c2VjcmV0"  # pgcdc:secret
_NO_SETTINGS: Final = frozenset(("query", "database", "wait_end_of_query"))


class ClickHouseServer:
    """The engine on 127.0.0.1.

    Raises:
        ServerUnavailable: chdb is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("chdb") is None:
            raise ServerUnavailable("ClickHouse: chdb is not installed")
        self.port = free_port()
        self._folder = new_folder()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.servers.clickhouse", str(self.port), str(self._folder / "data")]
        log = self._folder / "log"
        with log.open("ab") as output:
            # It ends when this process does: then its standard input is closed.
            self._process = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=output, stderr=output)
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"ClickHouse's engine did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(_STOP_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.query("SELECT 1") == "1\n"
        return False

    def query(self, statement: str) -> str:
        """Run a statement, apart from any sink.

        Args:
            statement: With its format.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", "/", statement.encode())
            answer = connection.getresponse()
            text = answer.read().decode()
        assert answer.status == 200, text
        return text


def _serve(port: int, folder: str) -> None:
    session: Any = importlib.import_module("chdb.session")
    engine = session.Session(folder)
    # Connections have threads; the engine is used by this one alone.
    asked: queue.Queue[tuple[list[str], Future[bytes]] | None] = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self._body()
            parameters = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
            settings = [f"SET {name} = '{value}'" for name, value in parameters.items() if name not in _NO_SETTINGS]
            statement = f"{parameters['query']}\n{body}" if "query" in parameters else body
            if self.headers.get("Authorization", _LOGIN) != _LOGIN:
                return self._answer(403, b"Code: 516. DB::Exception: Authentication failed. (AUTHENTICATION_FAILED)\n")
            done: Future[bytes] = Future()
            asked.put(([*settings, statement], done))
            try:
                return self._answer(200, done.result())
            except Exception as error:
                return self._answer(400, re.sub(r"^.*?(?=Code: )", "", str(error), flags=re.DOTALL).encode())

        def _body(self) -> str:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces).decode()

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    def wait_for_the_end() -> None:
        sys.stdin.read()
        asked.put(None)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    for target in (server.serve_forever, wait_for_the_end):
        threading.Thread(target=target, daemon=True).start()
    while (one := asked.get()) is not None:
        statements, done = one
        try:
            for statement in statements:
                result = engine.query(statement, "TabSeparated")
            done.set_result(bytes(result.bytes()))
        except Exception as error:
            done.set_exception(error)
    # Without the ends of Python's threads and the engine's: what it has written is in files that are removed.
    os._exit(0)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2])
