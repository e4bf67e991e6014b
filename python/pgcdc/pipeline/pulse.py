"""Whether an event loop still turns: who looks from another thread sees how long ago it last did."""

from __future__ import annotations

import asyncio
import time
from typing import Final

__all__ = ["Pulse"]

BEAT_EVERY: Final = 1.0
"""Seconds: one call of the loop, which costs nothing beside what else it does."""


class Pulse:
    """The pulse of an event loop, from its making on; made on the loop's thread.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._beat()

    def _beat(self) -> None:
        self._last = time.monotonic()
        self._next = self._loop.call_later(BEAT_EVERY, self._beat)

    @property
    def seconds(self) -> float:
        """How long ago the loop last turned, to a second."""
        return max(0.0, time.monotonic() - self._last)

    def end(self) -> None:
        """Stop; on the loop's thread."""
        self._next.cancel()
