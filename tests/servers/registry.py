"""A schema registry of our own: Apicurio's, which speaks the API of Confluent's."""

from __future__ import annotations

import sys
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tests.servers.jvm import JavaServer, archive, java
from tests.servers.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_VERSION: Final = "3.0.9"


def programs(say: Callable[[str], None]) -> Path:
    """The registry's jars, downloaded once.

    Args:
        say: Takes a line that tells the user why the tests wait.

    Raises:
        ServerUnavailable: They are not there and cannot be had.
    """
    name = f"apicurio-registry-app-{_VERSION}"
    return archive(name, f"io.apicurio:apicurio-registry-app:{_VERSION}:tar.gz:all", say=say)


class RegistryServer(JavaServer):
    """One registry on 127.0.0.1, which keeps what it has in memory: stopped, it forgets.

    Args:
        say: Takes a line that tells the user why the tests wait (for a download).

    Raises:
        ServerUnavailable: This machine does not have it and cannot get it.
    """

    def __init__(self, *, say: Callable[[str], None] = print) -> None:
        java("Apicurio")
        self._programs = programs(say)
        super().__init__(f"Apicurio registry {_VERSION}")
        self.port = free_port()

    @property
    def url(self) -> str:
        """What clients call the URL of the registry."""
        return f"http://127.0.0.1:{self.port}/apis/ccompat/v7"

    def command(self) -> list[str]:
        """Start it."""
        [runner] = self._programs.rglob("*-runner.jar")
        return [
            "-Xmx256m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            f"-Dquarkus.http.port={self.port}",
            "-Dquarkus.http.host=127.0.0.1",
            "-cp",
            f"{runner}:{runner.parent}/lib/*",
            "io.quarkus.runner.GeneratedMain",
        ]

    def is_ready(self) -> bool:
        """Whether it lists its subjects."""
        with urllib.request.urlopen(f"{self.url}/subjects", timeout=2) as answer:
            return bool(answer.status == 200)


if __name__ == "__main__":
    # For those who want to look at it: `python -m tests.servers.registry`.
    with RegistryServer(say=lambda line: print(line, file=sys.stderr)) as _registry:
        print(_registry.url, flush=True)
        with suppress(KeyboardInterrupt):
            sys.stdin.read()
