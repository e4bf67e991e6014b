"""What a consumer writes to, and what it may meet there."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Protocol, TypeAlias, runtime_checkable

from pgcdc.errors import DecodeError
from pgcdc.lsn import Position
from pgcdc.pipeline.items import Expected, Sending
from pgcdc.protocol import Batch
from pgcdc.schema import SchemaChange
from pgcdc.transforms.applying import AnyChange

__all__ = ["AheadTarget", "GaveUp", "HandlerFailed", "Held", "Reach", "SinkFailed", "Target"]

Reach: TypeAlias = Callable[[Position, int, int], None]
"""How far a write is: see `Target.write`."""


class Held(Exception):
    """Nothing is wrong with the target: the pipeline has lost its server, and may not be the owner any more."""


class GaveUp(Exception):
    """The time to drain is over; what was reached until then was reported."""


class HandlerFailed(Exception):
    """A handler raised, or a change could not be decoded for it; or a filter or transform of any consumer did.

    Args:
        change: The change, or the error in its place.
        cause: What was raised.
        number: Which change of the batch it is, or comes from: the first has 0. All before it are done, or settled.
        shaping: Whether it was a filter or transform.
    """

    def __init__(
        self, change: AnyChange | DecodeError, cause: Exception, number: int, *, shaping: bool = False
    ) -> None:
        super().__init__()
        self.change = change
        self.cause = cause
        self.number = number
        self.shaping = shaping


class SinkFailed(Exception):
    """A sink raised.

    Args:
        cause: What it raised.
        refused: The numbers of the batch's changes that it was about.
        left: The numbers of those that come behind and were not written.
    """

    def __init__(self, cause: Exception, refused: Sequence[int], left: Sequence[int]) -> None:
        super().__init__()
        self.cause = cause
        self.refused = refused
        self.left = left


class Target(Protocol):
    """The two kinds of targets, for a consumer."""

    async def open(self) -> Position | None:
        """Get ready; returns the target's own position when it keeps one."""

    async def write(self, batch: Batch, reach: Reach, settled: Set[int] = frozenset()) -> None:
        """Write a batch; called again with the same batch after a failure, with more of it settled perhaps.

        Args:
            batch: The batch.
            reach: Told each time that something became durable: the last position, how many changes, and how many of
                the batch's, from the first on, are durable or settled by now. All changes up to the position are
                durable then, also where some above it are.
            settled: The numbers of those of its changes that are not to be written: they are dead letters.

        Raises:
            HandlerFailed: When a handler raised, or a filter or transform.
            SinkFailed: When a sink did.
            Held: When it has to wait.
            GaveUp: When it is to end.
        """

    async def rewrite(self, batch: Batch) -> None:
        """Write what was a dead letter; what the target knows of its position does not change.

        Args:
            batch: A batch of one change.

        Raises:
            HandlerFailed: As `write`.
            SinkFailed: As `write`.
            Held: When it has to wait.
            GaveUp: When it is to end.
        """

    async def schema_changed(self, change: SchemaChange) -> None:
        """Tell it that a table has another shape from here on, if it asked for that; durable when this returns.

        Args:
            change: What happened.
        """

    def give_up(self) -> None:
        """End at the next opportunity."""

    async def close(self, timeout: float) -> bool:
        """Let go of everything.

        Args:
            timeout: How long a call that still runs is waited for, in seconds.

        Returns:
            Whether nothing of it still runs.
        """

    @property
    def keeps_position(self) -> bool:
        """Whether it stores its position together with the data."""


@runtime_checkable
class AheadTarget(Protocol):
    """A target with a thread of its own, which waits there for what comes and writes it before the event loop knows."""

    @property
    def goes_ahead(self) -> bool:
        """Whether it can."""

    async def ahead(
        self,
        expect: Callable[[], Expected | None],
        is_plain: Callable[[Batch], bool],
        reach: Reach,
        done: Callable[[Batch], None],
    ) -> None:
        """Wait for batches in the thread and write them there, until there is one with more to it.

        Of that one the writing may have begun; `write` is given it next, and goes on with it.

        Args:
            expect: Gives the next batch; None when there is none. Called in the thread, as all of these are.
            is_plain: Whether there is nothing to be seen to before it is written.
            reach: As for `write`.
            done: Told that a batch is durable, and there is nothing to be seen to behind it either.
        """

    @property
    def sends(self) -> bool:
        """Whether it has `send`."""

    def send(self, batch: Batch) -> Sending | None:
        """Put a batch on its way without a wait, in any thread, while its own waits in `ahead`.

        Args:
            batch: The batch; there is nothing to be seen to before it is written.

        Returns:
            What waits for the answer; None, and nothing done, when it is to be written in the thread.
        """
