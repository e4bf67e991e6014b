"""A Prometheus of our own: one process that scrapes what a test serves, and evaluates rules; promtool beside it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers.leftovers import new_folder
from tests.servers.ports import free_port
from tests.servers.programs import ServerUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

_CONFIGURATION = """global: {{scrape_interval: 1s, evaluation_interval: 500ms}}
rule_files: {rules}
scrape_configs:
  - job_name: pgcdc
    static_configs: [{{targets: {targets}}}]
"""


def programs(*, install: bool) -> tuple[str, str]:
    """The programs prometheus and promtool.

    Args:
        install: Whether they may be installed, where that can be done.

    Raises:
        ServerUnavailable: This machine does not have them.
    """
    if install and shutil.which("promtool") is None and shutil.which("apt-get") and os.geteuid() == 0:
        # Without a service that begins to run: only the programs are wanted.
        environment = {**os.environ, "RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", "prometheus"]):
            subprocess.run(["apt-get", *command], check=False, capture_output=True, timeout=240, env=environment)
    found = shutil.which("prometheus"), shutil.which("promtool")
    if found[0] is None or found[1] is None:
        raise ServerUnavailable("no prometheus and promtool on PATH (Debian and Ubuntu: apt install prometheus)")
    return found[0], found[1]


class PrometheusServer:
    """One server. What it has is gone when it is stopped.

        with PrometheusServer(["127.0.0.1:9440"], rules=[path]) as server:
            server.query("up")

    Args:
        targets: What is scraped, as the job "pgcdc".
        rules: Files of rules.
        install: Whether the program may be installed.

    Raises:
        ServerUnavailable: This machine does not have it.
    """

    def __init__(self, targets: Sequence[str], rules: Sequence[Path] = (), *, install: bool = False) -> None:
        self._program, _ = programs(install=install)
        self.folder = new_folder()
        self._configuration = self.folder / "prometheus.yml"
        self._configuration.write_text(
            _CONFIGURATION.format(rules=json.dumps([str(path) for path in rules]), targets=json.dumps(list(targets)))
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def __enter__(self) -> PrometheusServer:
        for _ in range(5):  # another process may take the port that was free
            if self._start():
                return self
        raise RuntimeError(f"prometheus did not start: {(self.folder / 'log').read_text()[-2000:]}")

    def _start(self) -> bool:
        self._port = free_port()
        arguments = [
            f"--config.file={self._configuration}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=warn",
        ]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen([self._program, *arguments], cwd=self.folder, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                if self._get("/-/ready")[0] == 200:
                    return True
            except OSError:
                pass
            time.sleep(0.02)
        self._end()
        return False

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def ask(self, path: str, **parameters: str) -> Any:
        """What the HTTP API answers; an error of it is one here."""
        status, body = self._get(f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        answer = json.loads(body)
        assert status == 200 and answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[tuple[Mapping[str, str], float]]:
        """The labels and the value of each series that an expression has now."""
        return [(one["metric"], float(one["value"][1])) for one in self.ask("query", query=expression)["result"]]

    def _end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        shutil.rmtree(self.folder, ignore_errors=True)
