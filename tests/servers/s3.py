"""An S3 of our own: moto's server, from the package that the tests have anyway."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from tests.servers.leftovers import new_folder
from tests.servers.ports import free_port
from tests.servers.programs import ServerUnavailable

if TYPE_CHECKING:
    from typing import Self

__all__ = ["S3Server"]

_READY_SECONDS = 60.0


class S3Server:
    """One server on 127.0.0.1 for the length of a `with` block; it keeps objects in memory, and takes any credentials.

    Raises:
        ServerUnavailable: The package is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
            raise ServerUnavailable("S3: the package moto[s3,server] is not installed")
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._folder = new_folder()
        self._log = tempfile.TemporaryFile()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(
            command,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + _READY_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._log.seek(0)
                said = self._log.read()[-2000:].decode(errors="replace")
                self.__exit__()
                raise ServerUnavailable(f"S3: moto's server did not start: {said}")
            time.sleep(0.05)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def make_bucket(self, name: str) -> None:
        """Make a bucket, unless there is one."""
        self._request("PUT", f"/{name}")

    def config(self, endpoint: str | None = None) -> dict[str, Any]:
        """What obstore needs to know of it.

        Args:
            endpoint: Where it is to be reached; None: where it is.
        """
        return {
            "endpoint": self.endpoint if endpoint is None else endpoint,
            "access_key_id": "test",
            "secret_access_key": "test",
            "region": "us-east-1",
        }

    def _is_ready(self) -> bool:
        with suppress(OSError):
            self._request("GET", "/")
            return True
        return False

    def _request(self, method: str, path: str) -> None:
        request = urllib.request.Request(self.endpoint + path, method=method)
        with urllib.request.urlopen(request, timeout=5) as answer:
            answer.read()
