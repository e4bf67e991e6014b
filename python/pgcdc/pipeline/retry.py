"""How long to wait before a target that is not available is tried again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any

from pgcdc.errors import ConfigError, SinkUnavailable

__all__ = ["attempts", "check"]

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
