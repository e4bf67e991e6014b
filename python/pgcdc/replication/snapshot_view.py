"""Shows how far a snapshot is while it is taken: a bar where somebody sits at a terminal, lines of the log elsewhere.

From a thread of its own, so that it goes on while whoever takes the rows is busy with them, in either colour.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from pgcdc.replication.snapshot_progress import SnapshotProgress

__all__ = ["SnapshotView"]

logger = logging.getLogger("pgcdc.snapshot")

LINE_SECONDS: Final = 10.0
"""Seconds between two lines of the log."""
BAR_SECONDS: Final = 0.2
"""Seconds between two looks at the numbers for a bar."""


class SnapshotView:
    """Shows the progress of a snapshot; a context manager, entered beside the snapshot.

    Args:
        read: Gives the numbers: `Snapshot.progress`.
        name: What the snapshot is of, for people.
        bar: Whether to draw a bar on stderr, which needs the extra `cli`. None: when stderr is a terminal and the extra
            is there. Without a bar there are lines of the log "pgcdc.snapshot", level INFO, the last one at the end.
        seconds: Seconds between two lines.
    """

    def __init__(
        self,
        read: Callable[[], SnapshotProgress],
        name: str,
        *,
        bar: bool | None = None,
        seconds: float = LINE_SECONDS,
    ) -> None:
        self._read = read
        self._name = name
        self._seconds = seconds
        self._bar: Any = _bar(name) if (can_draw() if bar is None else bar) else None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._show, name=f"pgcdc-{name}-progress", daemon=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Show the last numbers and end the thread."""
        self._done.set()
        self._thread.join()
        self._once()
        if self._bar is not None:
            self._bar.stop()

    def _show(self) -> None:
        while not self._done.wait(self._seconds if self._bar is None else BAR_SECONDS):
            self._once()

    def _once(self) -> None:
        progress = self._read()
        if self._bar is None:
            logger.info("snapshot of %s: %s", self._name, progress)
        else:
            self._bar.update(self._bar.task_ids[0], completed=progress.done, numbers=str(progress))


def can_draw() -> bool:
    """Whether somebody sees stderr, and there is something to draw with."""
    return sys.stderr.isatty() and importlib.util.find_spec("rich") is not None


def _bar(name: str) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[numbers]}"))
    bar = Progress(*columns, console=Console(stderr=True))
    bar.add_task(name, total=1.0, numbers="")
    return bar
