"""When to read again while much comes: a little later, so that one read finds many messages.

A reader that takes each message as soon as it is there wakes up for every one, and the server's process has to wake it:
that costs both of them more than the message itself. While messages come thick and fast, a short pause before each read
saves that; nobody waits when they come one by one. What was measured is in docs/decisions/0028-reading-less-often.md.
"""

from __future__ import annotations

from typing import Final

__all__ = ["PAUSE_SECONDS", "Pace"]

PAUSE_SECONDS: Final = 0.0005
"""The time from one read to the next while much comes."""
_SHORTEST_SECONDS: Final = 0.00005
"""A shorter pause is not worth it: the system takes as long to wake somebody up."""
_LEAK_PER_SECOND: Final = 4_000.0
"""So many messages a second are read as they come: a thousand transactions of one row each, and a few more."""
_MUCH: Final = 8.0
"""More than the messages of one small transaction."""
_FULL: Final = 64.0


class Pace:
    """A bucket that messages fill and time empties; while there is much in it, reads are put off."""

    def __init__(self) -> None:
        self._level = 0.0
        self._noted_at = 0.0
        self._read_at = 0.0
        self._found: tuple[float, int, bool] | None = None

    def pause(self, now: float) -> float:
        """How long to wait before the next read.

        Args:
            now: Seconds of `time.monotonic`.

        Returns:
            Seconds; 0 for not at all.
        """
        self._count()
        if self._level <= _MUCH:
            return 0.0
        left = self._read_at + PAUSE_SECONDS - now
        return left if left >= _SHORTEST_SECONDS else 0.0

    def read(self, now: float, messages: int, *, more: bool) -> None:
        """Note what a read has found.

        Args:
            now: Seconds of `time.monotonic`.
            messages: How many messages there were.
            more: Whether the next one is not to be put off: this one has left some, or what it found is worked on
                already.
        """
        self._count()
        self._found = now, messages, more  # who has read them has better things to do first

    def _count(self) -> None:
        if self._found is None:
            return
        (now, messages, more), self._found = self._found, None
        left = max(0.0, self._level - (now - self._noted_at) * _LEAK_PER_SECOND)
        self._noted_at = now
        self._level = min(_FULL, left + messages)
        self._read_at = 0.0 if more else now
