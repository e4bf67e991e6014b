"""One PostgreSQL cluster of our own: made from a template, started, crashed, restarted and ended by its own pid."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.servers.leftovers import alive
from tests.servers.ports import free_port
from tests.servers.programs import Programs, find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 60.0
_PREFIX: Final = "pgcdc-tests-"
_MEMORY: Final = Path("/dev/shm")
_ROOM: Final = 8 << 30
_SIGNALS: Final = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

# Only what the tests need differs from a server as users have it. fsync is off because no test cuts the power:
# a crash (`immediate`) loses nothing that was written, with or without it.
_SETTINGS: Final = {
    "wal_level": "logical",
    "fsync": "off",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_prepared_transactions": "10",
    "listen_addresses": "'127.0.0.1'",
}


class PostgresServer:
    """A PostgreSQL server of one major version, in a folder of its own under the system's folder for temporary files.

    PostgreSQL refuses to run as root; started by root it runs as `nobody`, and its files belong to `nobody`.

        with PostgresServer(18) as server:
            psycopg.connect(server.dsn())

    Args:
        version: The major version, 14 to 18.
        settings: Lines for `postgresql.conf`, over those that are made anyway (`wal_level = logical` and enough slots).
        say: Takes a line that tells the user why the tests wait (for a download).
        in_memory: Have its data in memory, where there is enough: not for what measures.

    Raises:
        ServerUnavailable: This machine does not have that version and cannot get it.
    """

    def __init__(
        self,
        version: int,
        settings: dict[str, str] | None = None,
        *,
        say: Callable[[str], None] = print,
        in_memory: bool = False,
    ) -> None:
        self.version = version
        self.port = free_port()
        self._user = "nobody" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        _remove_leftovers()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        self._place = self.folder
        try:
            self.folder.chmod(0o755)
            self.programs = self._within_reach(find(version, say=say))
            if in_memory and _memory_has_room():
                self._place = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_MEMORY))
                self._place.chmod(0o755)
                self._give_to_user(self._place)
            self.data = self._place / "data"
            self.socket_directory = self.folder
            self.log = self.folder / "log"
            self._give_to_user(self.folder)
            self._make_cluster({**_SETTINGS, **(settings or {})})
        except BaseException:
            self._remove()
            raise

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.destroy()

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"<PostgresServer {self.version} ({self.programs.origin}) on port {self.port}, {state}>"

    def dsn(self, dbname: str = "postgres", *, tcp: bool = False, **parameters: Any) -> str:
        """How to connect as superuser `postgres`: through the Unix socket, or by TCP for tests with a proxy."""
        host = "127.0.0.1" if tcp else str(self.socket_directory)
        return make_conninfo(**{"host": host, "port": self.port, "user": "postgres", "dbname": dbname, **parameters})

    def connect(self, dbname: str = "postgres", **parameters: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """An autocommit connection of psycopg's, as superuser."""
        return psycopg.connect(self.dsn(dbname, **parameters), autocommit=True)

    @property
    def running(self) -> bool:
        """Whether the server process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process number of the postmaster."""
        assert self._process is not None, "the server was never started"
        return self._process.pid

    def start(self) -> None:
        """Starts the server and returns when it takes connections; does nothing when it runs.

        Raises:
            RuntimeError: It ended, or was not ready in time; with the end of its log.
        """
        if self.running:
            return
        # Not through pg_ctl: so the server is our own child, whose pid cannot have become somebody else's.
        with self.log.open("ab") as log:
            self._process = self._popen("postgres", "-D", str(self.data), stdout=log, stderr=log)
        self._wait_ready()

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stops the server; `fast` writes a checkpoint, `immediate` is what a crash looks like.

        Source:
            PostgreSQL manual, "Shutting Down the Server".
        """
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(_SIGNALS[mode])
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"PostgreSQL {self.version} did not stop ({mode}):\n{self.log_tail()}") from error

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stops the server and starts it again, on the same port."""
        self.stop(mode)
        self.start()

    def crash(self) -> None:
        """Ends the server without a checkpoint: the next `start()` goes through crash recovery."""
        self.stop("immediate")

    @contextlib.contextmanager
    def settings(self, *, restart: bool = False, **values: str) -> Iterator[None]:
        """Other settings for the length of a block (`ALTER SYSTEM`), for those that a running server can change.

        Args:
            restart: Restart the server instead of a reload, for the settings that ask for it.
            values: Names and values, `wal_sender_timeout="2s"`.
        """
        with self.connect() as connection:
            for name, value in values.items():
                connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        self._apply(values, restart=restart)
        try:
            yield
        finally:
            self.start()
            with self.connect() as connection:
                for name in values:
                    connection.execute(sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name)))
            self._apply(values, restart=restart)

    def destroy(self) -> None:
        """Stops the server and deletes its folder."""
        try:
            self.stop("immediate")
        finally:
            self._remove()

    def _remove(self) -> None:
        for folder in {self.folder, self._place}:
            shutil.rmtree(folder, ignore_errors=True)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the server's log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _apply(self, names: dict[str, str], *, restart: bool) -> None:
        """Makes changed settings count, and returns when they do."""
        if restart:
            self.restart()
            return
        with self.connect() as connection:
            loaded = connection.execute("SELECT pg_conf_load_time()").fetchone()
            connection.execute("SELECT pg_reload_conf()")

        def reloaded() -> bool:
            # The postmaster hands a new connection the configuration that it has itself read again.
            with self.connect() as fresh:
                return fresh.execute("SELECT pg_conf_load_time()").fetchone() != loaded

        _poll(reloaded, _START_SECONDS, lambda: f"PostgreSQL {self.version} did not reload {', '.join(names)}")

    def _wait_ready(self) -> None:
        status = self.data / "postmaster.pid"

        def ready() -> bool:
            if not self.running:
                raise RuntimeError(f"PostgreSQL {self.version} ended while starting:\n{self.log_tail()}")
            with contextlib.suppress(OSError, IndexError):
                lines = status.read_text().splitlines()
                # Line 1 is the postmaster's pid (a crashed one leaves its file behind), line 8 its state.
                return int(lines[0]) == self.pid and lines[7].strip() == "ready"
            return False

        _poll(ready, _START_SECONDS, lambda: f"PostgreSQL {self.version} was not ready:\n{self.log_tail()}")

    def _within_reach(self, programs: Programs) -> Programs:
        """The programs where `nobody` can run them: a checkout in root's home is copied out of it."""
        if self._user is None:
            return programs
        try:
            self._run(programs.bin / "postgres", "--version")
        except (PermissionError, RuntimeError):
            copied = self.folder / "programs"
            shutil.copytree(programs.root, copied, symlinks=True)
            return Programs(programs.version, copied, copied / programs.bin.relative_to(programs.root), programs.origin)
        return programs

    def _make_cluster(self, settings: dict[str, str]) -> None:
        template = _templates.get(self.version)
        if template is None:
            self._run(
                self.programs.bin / "initdb",
                *("--pgdata", str(self.data), "--username", "postgres", "--auth", "trust"),
                *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
            )
            template = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")) / "data"
            shutil.copytree(self.data, template)
            _templates[self.version] = template
        else:
            shutil.copytree(template, self.data)
        lines = {**settings, "port": str(self.port), "unix_socket_directories": f"'{self.socket_directory}'"}
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = {value}\n" for name, value in lines.items())
        self._give_to_user(self.data)

    def _give_to_user(self, path: Path) -> None:
        if self._user is None:
            return
        owner = pwd.getpwnam(self._user)
        os.chown(path, owner.pw_uid, owner.pw_gid)
        for inner in path.rglob("*"):
            os.chown(inner, owner.pw_uid, owner.pw_gid, follow_symlinks=False)

    def _run(self, program: Path, *arguments: str) -> None:
        process = self._popen(program.name, *arguments, folder=program.parent, stdout=subprocess.PIPE)
        output, _ = process.communicate(timeout=_START_SECONDS)
        if process.returncode != 0:
            raise RuntimeError(
                f"{program.name} of PostgreSQL {self.version} failed:\n{output.decode(errors='replace')}"
            )

    def _popen(
        self,
        program: str,
        *arguments: str,
        folder: Path | None = None,
        stdout: Any = None,
        stderr: Any = subprocess.STDOUT,
    ) -> subprocess.Popen[bytes]:
        # Without the caller's PG* variables: PGDATA or PGPORT of a developer's shell must not reach our server.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        group = None if self._user is None else pwd.getpwnam(self._user).pw_gid
        return subprocess.Popen(
            [str((folder or self.programs.bin) / program), *arguments],
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C is for pytest, which then stops the server
            user=self._user,
            group=group,
            extra_groups=None if group is None else [],
        )


_templates: dict[int, Path] = {}


def remove_templates() -> None:
    """Deletes the clusters that `initdb` made to be copied; at the end of a session."""
    for template in _templates.values():
        shutil.rmtree(template.parent, ignore_errors=True)
    _templates.clear()


def _poll(condition: Callable[[], bool], seconds: float, message: Callable[[], str]) -> None:
    """Returns when a condition holds; raises RuntimeError with the message when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(message())
        time.sleep(0.02)


def _memory_has_room() -> bool:
    """Whether a cluster may be in memory, where a database is made and dropped in a third of the time.

    Asked before each: those that come when there is little left are on the disk.
    """
    if not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < _ROOM:
        return False
    available = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return available is not None and int(available[1]) << 10 > _ROOM


def _remove_leftovers() -> None:
    """Ends the servers and deletes the folders of test sessions that were killed; the names hold the session's pid."""
    for folder in chain(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"), _MEMORY.glob(f"{_PREFIX}*")):
        session = int(folder.name.removeprefix(_PREFIX).split("-")[0])
        if not alive(session):
            with contextlib.suppress(OSError, ValueError, IndexError):
                _end_leftover(int((folder / "data" / "postmaster.pid").read_text().splitlines()[0]), folder)
            shutil.rmtree(folder, ignore_errors=True)


def _end_leftover(postmaster: int, folder: Path) -> None:
    # A pid may have become another program's: only a process that was started in this folder is ours.
    if str(folder) in Path(f"/proc/{postmaster}/cmdline").read_text():
        os.kill(postmaster, signal.SIGQUIT)
        _poll(lambda: not alive(postmaster), _STOP_SECONDS, lambda: f"the leftover server {postmaster} does not end")
