"""A folder for each server that is started in it; those of a session that was killed are ended by the next one."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Final

__all__ = ["alive", "new_folder", "started_in"]

_PREFIX: Final = "pgcdc-server-"


def new_folder() -> Path:
    """A folder for a server to be started in; what killed sessions have left is gone first.

    The names hold the session's pid.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if not alive(int(folder.name.removeprefix(_PREFIX).split("-")[0])):
            for server in started_in(folder):
                with contextlib.suppress(OSError):  # another session may be at it, too
                    os.kill(server, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))


def started_in(folder: Path) -> list[int]:
    """The processes that have a folder for their own, where the system says so.

    Args:
        folder: The folder.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if (process / "cwd").readlink() == folder:
                found.append(int(process.name))
    return found


def alive(pid: int) -> bool:
    """Whether a process of this number exists, ours or another's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
