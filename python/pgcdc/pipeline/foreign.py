"""What users' code raises, as an exception that can be told of: a cancellation of its own must not look like ours."""

from __future__ import annotations

import asyncio

__all__ = ["as_exception", "is_foreign"]


def is_foreign(error: BaseException) -> bool:
    """Whether what came out of users' code is theirs, on the event loop's thread.

    A task that they cancelled and then awaited raises CancelledError, and nobody has asked this task to end.

    Args:
        error: What came.
    """
    if not isinstance(error, asyncio.CancelledError):
        return isinstance(error, Exception)
    task = asyncio.current_task()
    return task is not None and not task.cancelling()


def as_exception(error: BaseException) -> Exception:
    """The exception to take it for.

    Args:
        error: What came out of users' code.

    Returns:
        Itself; a RuntimeError for a CancelledError, and for a StopIteration, which no future can hold.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    told = RuntimeError(f"{type(error).__name__} was raised")
    told.__cause__ = error
    return told
