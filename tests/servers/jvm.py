"""Servers in Java: their files by `mvn` into the cache, and one process of a server, ended by its own pid."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.servers.leftovers import alive
from tests.servers.programs import ServerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

_PREFIX: Final = "pgcdc-jvm-"
_START_SECONDS: Final = 240.0  # on a machine that has much else to do
_STOP_SECONDS: Final = 30.0
_CACHE: Final = Path(__file__).resolve().parents[2] / ".cache" / "maven"
_DOWNLOAD_SECONDS: Final = 600


class JavaServer:
    """One server, with a folder of its own under the system's folder for temporary files.

        with RegistryServer() as registry:
            ...

    Args:
        name: What it is called in messages.

    Attributes:
        folder: Where its files are.
        user: Who it runs as; None: whoever runs the tests.
        environment: Its environment; None: that of the tests.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.user: str | None = None
        self.environment: dict[str, str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        _remove_leftovers()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))

    def command(self) -> list[str]:
        """What starts it: the arguments of `java`."""
        raise NotImplementedError

    def program(self) -> list[str]:
        """What runs: `java`, or a program that starts it."""
        return [java(self.name), *self.command()]

    def is_ready(self) -> bool:
        """Whether it answers; asked again and again, and may raise OSError while it does not."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.destroy()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.destroy()

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self._process is not None, "the server was never started"
        return self._process.pid

    def start(self) -> None:
        """Start it and return when it is ready; does nothing when it runs.

        Raises:
            RuntimeError: It ended, or was not ready in time; with the end of its log.
        """
        if self.running:
            return
        command = self.program()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                user=self.user,
                env=self.environment,
            )
        (self.folder / "pid").write_text(str(self._process.pid))
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.name} ended while starting:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} was not ready:\n{self.log_tail()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.is_ready()
        return False

    def stop(self) -> None:
        """End it as an operator does."""
        self._end(signal.SIGTERM)

    def crash(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stopped for the length of a block: its connections stay open, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _end(self, by: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(by)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP_SECONDS)

    def destroy(self) -> None:
        """End it and delete its folder."""
        try:
            self.crash()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        log = self.folder / "log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def _remove_leftovers() -> None:
    """Ends the servers and deletes the folders of test sessions that were killed; the names hold the session's pid."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if not alive(int(folder.name.removeprefix(_PREFIX).split("-")[0])):
            with contextlib.suppress(OSError, ValueError):
                server = int((folder / "pid").read_text())
                # A pid may have become another program's: only a process that was started in this folder is ours.
                if Path(f"/proc/{server}/cwd").readlink() == folder:
                    os.kill(server, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


def java(what: str) -> str:
    """Where the `java` is.

    Args:
        what: The server that wants it, for the message.

    Raises:
        ServerUnavailable: There is none.
    """
    found = shutil.which("java")
    if found is None:
        raise ServerUnavailable(f"{what}: no java on PATH")
    return found


def libraries(name: str, artifacts: Sequence[str], *, say: Callable[[str], None]) -> Path:
    """A folder with the jars of some artifacts and of all that they need, downloaded once.

    Args:
        name: What the folder is called; another version is another name.
        artifacts: `group:artifact:version` each.
        say: Takes a line that tells the user why the tests wait.

    Raises:
        ServerUnavailable: They are not there and cannot be had.
    """
    of = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>"
        for group, artifact, version in (one.split(":") for one in artifacts)
    )
    pom = (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>tests</groupId>'
        f"<artifactId>servers</artifactId><version>1</version><packaging>pom</packaging><dependencies>{of}</dependencies>"
        "</project>"
    )

    def fetch(folder: Path) -> list[str]:
        (folder / "pom.xml").write_text(pom)
        return ["-f", str(folder / "pom.xml"), "dependency:copy-dependencies", f"-DoutputDirectory={folder}"]

    return _cached(name, fetch, lambda folder: None, say)


def archive(name: str, artifact: str, *, say: Callable[[str], None]) -> Path:
    """A folder with what one archive (tar.gz or zip) holds, downloaded once.

    Args:
        name: What the folder is called; another version is another name.
        artifact: `group:artifact:version:tar.gz:classifier`, or `…:zip`.
        say: Takes a line that tells the user why the tests wait.

    Raises:
        ServerUnavailable: It is not there and cannot be had.
    """

    def fetch(folder: Path) -> list[str]:
        # With a folder that has no project, as this plugin wants none.
        options = ["-Dtransitive=false", f"-Dartifact={artifact}", f"-DoutputDirectory={folder}"]
        return ["dependency:get", "dependency:copy", *options]

    def unpack(folder: Path) -> None:
        for packed in folder.glob("*.tar.gz"):
            with tarfile.open(packed) as opened:
                opened.extractall(folder, filter="data")
            packed.unlink()
        for packed in folder.glob("*.zip"):
            shutil.unpack_archive(packed, folder)
            packed.unlink()

    return _cached(name, fetch, unpack, say)


def _cached(
    name: str, fetch: Callable[[Path], list[str]], unpack: Callable[[Path], None], say: Callable[[str], None]
) -> Path:
    home = _CACHE / name
    if home.exists():
        return home
    maven = shutil.which("mvn")
    if maven is None:
        raise ServerUnavailable(f"{name}: no mvn on PATH to download it with")
    say(f"downloading {name} (once) ...")
    _CACHE.mkdir(parents=True, exist_ok=True)
    # Made under another name first: what stands in the cache is whole, also with two test runs at once.
    partial = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=_CACHE))
    try:
        partial.chmod(0o755)
        command = [maven, "-q", "-B", *fetch(partial)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False, cwd=partial
            )
        except subprocess.TimeoutExpired:
            raise ServerUnavailable(f"{name}: not downloaded within {_DOWNLOAD_SECONDS} s") from None
        if done.returncode != 0:
            errors = [line for line in done.stdout.splitlines() if "ERROR" in line] or [f"exit code {done.returncode}"]
            raise ServerUnavailable(f"{name}: mvn could not download it: {errors[0]}")
        unpack(partial)
        with contextlib.suppress(OSError):  # the other run was faster
            partial.rename(home)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return home
