"""A NATS server of our own with JetStream; its program is built by Go once, into the cache."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.servers.leftovers import new_folder
from tests.servers.ports import free_port
from tests.servers.programs import ServerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

_VERSION: Final = "v2.12.0"
_CACHE: Final = Path(__file__).resolve().parents[2] / ".cache" / "nats"
_GO: Final = "/usr/local/go/bin/go"
_BUILD_SECONDS: Final = 600
_START_SECONDS: Final = 60.0


def program(say: Callable[[str], None]) -> Path:
    """The program nats-server, built when it is not in the cache yet.

    Args:
        say: Takes a line that tells the user why the tests wait.

    Raises:
        ServerUnavailable: This machine does not have it and cannot build it.
    """
    return build("nats-server", "github.com/nats-io/nats-server/v2", _VERSION, _CACHE, say)


def build(name: str, module: str, version: str, cache: Path, say: Callable[[str], None]) -> Path:
    """A program, built by Go when it is not in the cache yet.

    Args:
        name: The program's.
        module: What it is made of.
        version: Of the module.
        cache: The folder in which it is kept.
        say: Takes a line that tells the user why the tests wait.

    Raises:
        ServerUnavailable: This machine does not have it and cannot build it.
    """
    built = cache / f"{name}-{version}"
    if built.exists():
        return built
    go = shutil.which("go") or (_GO if Path(_GO).exists() else None)
    if go is None:
        raise ServerUnavailable(f"no Go on PATH to build {name} with (Debian and Ubuntu: apt install golang)")
    say(f"building {name} {version} with Go, once ...")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        environment = {**os.environ, "GOBIN": folder, "GOFLAGS": "-modcacherw"}
        try:
            done = subprocess.run(
                [go, "install", f"{module}@{version}"],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=_BUILD_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise ServerUnavailable(f"Go has not built {name} in ten minutes") from None
        made = Path(folder) / name
        if done.returncode != 0 or not made.exists():
            raise ServerUnavailable(f"Go cannot build {name}: {done.stderr.strip()[-300:]}")
        # In one step: another process of the tests may do the same.
        made.replace(built)
    return built


class NatsServer:
    """One server; its streams are kept while it is stopped and started again.

        with NatsServer() as server:
            await nats.connect(server.url)

    Args:
        say: Takes a line that tells the user why the tests wait.

    Raises:
        ServerUnavailable: This machine does not have it, or not the client.
    """

    def __init__(self, say: Callable[[str], None] = print) -> None:
        try:
            import nats  # noqa: F401
        except ImportError:
            raise ServerUnavailable("nats is not installed: pip install 'pgcdc[nats]'") from None
        self._program = program(say)
        self._folder = new_folder()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it listens and has its streams."""
        arguments = ["-js", "-a", "127.0.0.1", "-p", str(self.port), "-sd", str(self._folder)]
        self._process = subprocess.Popen([str(self._program), *arguments], cwd=self._folder, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_SECONDS
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("nats-server did not start")
            time.sleep(0.02)

    def _listens(self) -> bool:
        # It says what it is on every connection, and does not listen before its streams are there.
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as probe:
            probe.settimeout(5)
            return probe.recv(4) == b"INFO"
        return False

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stopped for the length of a block: its connections stay open, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> NatsServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
