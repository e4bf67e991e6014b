"""How long to wait before what is not available is tried again: a target, the server, the position store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any

from pgcdc.errors import ConfigError, Error, SinkUnavailable
from pgcdc.replication import Reconnect

__all__ = ["Away", "attempts", "check"]

FIRST_WAIT = 0.1
"""Seconds before the second attempt; doubled each time."""
LONGEST_WAIT = 15.0
"""Seconds between two attempts at most, so that a target that comes back is soon noticed."""


def check() -> None:
    """Make sure that what retries need is installed: at the start, not at the first failure.

    Raises:
        ConfigError: When it is not.
    """
    try:
        import stamina  # noqa: F401
    except ImportError:
        raise ConfigError(
            "a pipeline needs the package stamina, which is not installed", hint="pip install 'pgcdc[pipeline]'"
        ) from None


def attempts(failed: Callable[[SinkUnavailable], None]) -> AsyncIterator[AbstractContextManager[Any]]:
    """Make an endless row of attempts with growing pauses and jitter between them.

    Args:
        failed: Told of each failure, before the pause.

    Returns:
        To be used as `async for attempt in attempts(...): with attempt: ...`; it ends at the first attempt that does
        not raise SinkUnavailable. Any other exception ends it too, and is raised.
    """
    import stamina

    def is_unavailable(error: Exception) -> bool:
        if not isinstance(error, SinkUnavailable):
            return False
        failed(error)
        return True

    return stamina.retry_context(
        on=is_unavailable, attempts=None, timeout=None, wait_initial=FIRST_WAIT, wait_max=LONGEST_WAIT
    ).__aiter__()


class Away:
    """Since when a server has been away, and when it is tried again.

    Args:
        policy: How; None: not at all.
    """

    def __init__(self, policy: Reconnect | None) -> None:
        self._policy = policy
        self._since: float | None = None
        self._attempts = 0

    @property
    def known(self) -> bool:
        """Whether it is away, as far as is known."""
        return self._since is not None

    def pause(self, error: Error) -> float:
        """It is away, or an attempt has failed.

        Args:
            error: What was met.

        Returns:
            How long to wait before the next attempt, in seconds.

        Raises:
            Error: What was given, when there is to be no other attempt.
        """
        if self._policy is None:
            raise error
        now = monotonic()
        if self._since is None:
            self._since = now
        if self._policy.give_up is not None and now - self._since > self._policy.give_up:
            raise error
        self._attempts += 1
        return self._policy.pause(self._attempts - 1)

    def over(self) -> None:
        """It is back."""
        self._since = None
        self._attempts = 0
