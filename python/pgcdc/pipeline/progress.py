"""Those who wait until every consumer has done everything up to an LSN."""

from __future__ import annotations

import threading
from concurrent.futures import Future

__all__ = ["Waiters"]


class Waiters:
    """Waiting callers of one pipeline; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, Future[None]]] = []

    @property
    def waiting(self) -> bool:
        """Whether anybody waits: the source asks for keepalives then, because a quiet server says nothing by itself."""
        return bool(self._waiting)

    def add(self, lsn: int) -> Future[None]:
        """Wait for an LSN.

        Args:
            lsn: What must be reached.

        Returns:
            Done when it is; it may be cancelled.
        """
        future: Future[None] = Future()
        with self._lock:
            self._waiting.append((lsn, future))
        return future

    def reached(self, lsn: int) -> None:
        """Everything up to here is done by every consumer."""
        self._end(lsn, None)

    def fail(self, error: BaseException) -> None:
        """The run ended before: all who still wait get an error."""
        self._end(None, error)

    def _end(self, lsn: int | None, error: BaseException | None) -> None:
        with self._lock:
            ended = [future for wanted, future in self._waiting if lsn is None or wanted <= lsn]
            self._waiting = [(wanted, future) for wanted, future in self._waiting if lsn is not None and wanted > lsn]
        for future in ended:
            if not future.set_running_or_notify_cancel():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
