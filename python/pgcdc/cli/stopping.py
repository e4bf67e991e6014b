"""Whether a signal has come that ends a verb which runs until it is stopped."""

from __future__ import annotations

import signal
import threading
from typing import Any

__all__ = ["Stopping"]


class Stopping:
    """SIGINT and SIGTERM are noted for the length of a block; a second one ends the process at once.

    Nothing is raised: an exception could come at any place, also where it is swallowed.
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def asked(self) -> bool:
        """Whether one has come."""
        return self._asked.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for one.

        Args:
            seconds: How long; None: until one comes.

        Returns:
            Whether one has come.
        """
        return self._asked.wait(seconds)

    def _ask(self, *_: object) -> None:
        self._asked.set()
        self.__exit__()
