"""Appends that wait for a connection of a store and can go together, in the order in which they came."""

from __future__ import annotations

import queue
import sys
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Final

import psycopg

__all__ = ["MOST", "Group", "Value", "Waiter", "Waiters", "another", "array_of", "is_small"]

Value = bytes | str | int | None
"""Bytes are a text as it is sent."""

MOST: Final = 32
"""That go together: what one of them waits for the others is bounded, and so is what is done again when one fails."""
_SMALL: Final = 8_192
"""Bytes or characters of all values of one; what is larger goes by itself."""


def array_of(values: Iterable[Value]) -> bytes:
    """Values as an array's text.

    Args:
        values: The values.

    Returns:
        The text.

    Source:
        PostgreSQL manual, "Arrays" (Array Input and Output Syntax).
    """
    return b"{" + b",".join([b"NULL" if value is None else _element(value) for value in values]) + b"}"


def _element(value: bytes | str | int) -> bytes:
    text = value.encode() if isinstance(value, str) else b"%d" % value if isinstance(value, int) else value
    if 0 in text:  # libpq would take it for the end
        raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def another(error: psycopg.Error) -> psycopg.Error:
    """The same error once more: who is told of what has met others, too, gets no traceback with their values.

    Args:
        error: It.

    Returns:
        Its like.
    """
    return type(error)(*error.args)


def is_small(values: Iterable[Value]) -> bool:
    """Whether a statement's values may go with others.

    Args:
        values: The values.

    Returns:
        Whether.
    """
    return sum([len(value) for value in values if isinstance(value, bytes | str)]) <= _SMALL


class Group(list["Waiter"]):
    """Those that go together, and who sends them.

    Attributes:
        sender: The thread and the call that does; None when it is over.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sender: tuple[int, FrameType] | None = (threading.get_ident(), sys._getframe(1))

    def is_under_way(self) -> bool:
        """Whether that call goes on: one that a Ctrl-C has ended, in between two steps, tells nobody.

        Returns:
            Whether.
        """
        if self.sender is None:
            return False
        thread, call = self.sender
        frame = sys._current_frames().get(thread)
        while frame is not None and frame is not call:
            frame = frame.f_back
        return frame is not None


class Waiter:
    """One append that waits for a connection.

    Args:
        values: Those of its statement.

    Attributes:
        group: With whom it was sent.
        is_over: Whether it is known what has become of it.
        is_done: Whether it has written its row; None when it has to be sent by itself.
        error: Why that is not known.
    """

    __slots__ = ("_told", "error", "group", "is_done", "is_over", "values")

    def __init__(self, values: Sequence[Value]) -> None:
        self.values = values
        self.group: Group | None = None
        self.is_over = False
        self.is_done: bool | None = None
        self.error: psycopg.Error | None = None
        self._told: queue.SimpleQueue[None] = queue.SimpleQueue()

    def end(self, is_done: bool | None, error: psycopg.Error | None = None) -> None:
        """Say what has become of it; the first one to say it is right.

        Args:
            is_done: Whether it has written its row; None: it was undone with others.
            error: Why that is not known.
        """
        if not self.is_over:
            self.is_done, self.error = is_done, error
            self.is_over = True
            self._told.put(None)

    def wake(self) -> None:
        """Have it look whether a connection is free."""
        self._told.put(None)

    def wait(self, seconds: float) -> bool:
        """Wait until it is over, or to be looked after.

        Args:
            seconds: For how long at most.

        Returns:
            Whether it came to that.
        """
        try:
            self._told.get(timeout=seconds)
        except queue.Empty:
            return False
        return True


class Waiters:
    """All that wait, for any number of threads."""

    def __init__(self) -> None:
        self._line: deque[Waiter] = deque()
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._line)

    def add(self, waiter: Waiter) -> None:
        """Put one at the end.

        Args:
            waiter: It.
        """
        self._line.append(waiter)

    def gather(self, group: Group, first: Waiter) -> None:
        """Take those that go together.

        Each is in the group before it is out of the line: a Ctrl-C in between loses nobody.

        Args:
            group: What they become part of, empty.
            first: Who asks; it comes first, if nobody else has taken it.
        """
        with self._lock:
            if first.group is None and not first.is_over:
                group.append(first)
                first.group = group
            while self._line and len(group) < MOST:
                waiter = self._line[0]
                if waiter.group is None and not waiter.is_over:
                    group.append(waiter)
                    waiter.group = group
                self._line.popleft()

    def wake(self) -> None:
        """Have the first one look whether a connection is free."""
        with self._lock:
            while self._line and (self._line[0].group is not None or self._line[0].is_over):
                self._line.popleft()
            if self._line:
                self._line[0].wake()
