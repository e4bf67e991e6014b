"""SIGTERM and SIGINT while a pipeline runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Signals"]


class Signals:
    """SIGTERM and SIGINT call a function, in the main thread of the main interpreter; elsewhere nothing is changed."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, lambda *_: call())

    def close(self) -> None:
        """Put back what was there."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
