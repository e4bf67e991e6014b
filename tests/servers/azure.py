"""Azure's Blob Storage of our own: Azurite, Microsoft's emulator, from its npm package; it keeps objects in memory."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from email.utils import formatdate
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from tests.servers.leftovers import new_folder
from tests.servers.ports import free_port
from tests.servers.programs import ServerUnavailable, install_npm

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = ["AzureServer", "program"]

# The newest for Node.js 20: 3.36 asks for 21.
_VERSION: Final = "3.35.0"
_CACHE: Final = Path(__file__).resolve().parents[2] / ".cache" / "azurite"
_READY_SECONDS: Final = 60.0
# Every Azurite has this account; its key is no secret.
_ACCOUNT: Final = "devstoreaccount1"
_KEY: Final = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def program(say: Callable[[str], None]) -> tuple[str, Path]:
    """Node.js, and the script that is the server, downloaded when it is not in the cache yet.

    Args:
        say: Takes a line that tells the user why the tests wait.

    Raises:
        ServerUnavailable: This machine does not have it and cannot get it.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None:
        raise ServerUnavailable("Azure: no node on PATH (Debian and Ubuntu: apt install nodejs npm)")
    home = _CACHE / _VERSION
    script = home / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    if not script.exists():
        if npm is None:
            raise ServerUnavailable("Azure: no npm to download Azurite with")
        say(f"downloading Azurite {_VERSION} (about 40 MB, once) ...")
        # Made under another name first: what stands in the cache is whole, also with two test runs at once.
        partial = home.with_name(f"{home.name}.{os.getpid()}")
        try:
            if (problem := install_npm(npm, f"azurite@{_VERSION}", partial)) is not None:
                raise ServerUnavailable(f"Azure: npm could not download Azurite: {problem}")
            with contextlib.suppress(OSError):  # the other run was faster
                partial.rename(home)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return node, script


class AzureServer:
    """One server on 127.0.0.1 for the length of a `with` block; what it has is gone with it.

    Args:
        say: Takes a line that tells the user why the tests wait.

    Raises:
        ServerUnavailable: This machine does not have it.
    """

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self._node, self._script = program(say)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}/{_ACCOUNT}"

    def __enter__(self) -> Self:
        self._folder = new_folder()
        self._log = tempfile.TemporaryFile()
        options = ["--blobHost", "127.0.0.1", "--blobPort", str(self.port), "--inMemoryPersistence", "--silent"]
        # obstore asks with a version of the API that is newer than Azurite.
        options += ["--disableTelemetry", "--skipApiVersionCheck"]
        self._process = subprocess.Popen(
            [self._node, str(self._script), *options],
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
                raise ServerUnavailable(f"Azure: Azurite did not start: {said}")
            time.sleep(0.05)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self._process.kill()  # there is nothing on disk that it would have to finish
            self._process.wait()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def make_container(self, name: str) -> None:
        """Make a container."""
        self._request("PUT", name, "restype:container")

    def config(self, port: int | None = None) -> dict[str, Any]:
        """What obstore needs to know of it.

        Args:
            port: Where it is to be reached; None: where it is.
        """
        endpoint = self.endpoint if port is None else f"http://127.0.0.1:{port}/{_ACCOUNT}"
        return {"endpoint": endpoint, "account_name": _ACCOUNT, "account_key": _KEY}

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            self._request("GET", "", "comp:list")
            return True
        return False

    def _request(self, method: str, path: str, query: str) -> None:
        """Ask for something, signed; https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key."""
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        lines = [method, *[""] * 11, *(f"{name}:{value}" for name, value in headers.items())]
        signed = "\n".join([*lines, f"/{_ACCOUNT}/{_ACCOUNT}/{path}", query])
        digest = hmac.digest(base64.b64decode(_KEY), signed.encode(), hashlib.sha256)
        headers["Authorization"] = f"SharedKey {_ACCOUNT}:{base64.b64encode(digest).decode()}"
        url = f"{self.endpoint}/{path}?{query.replace(':', '=')}"
        request = urllib.request.Request(url, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=5) as answer:
            answer.read()
