"""What users' code raises, as an exception that can be told of: a cancellation of its own must not look like ours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from inspect import isawaitable
from typing import Any

__all__ = ["as_exception", "awaited", "is_foreign"]


async def awaited(result: Awaitable[Any] | object) -> None:
    """Wait for what a method of theirs gave, if there is something to wait for.

    Args:
        result: What it gave.

    Raises:
        Exception: What came out of it; a cancellation of its own as a RuntimeError.
    """
    try:
        if isawaitable(result):
            await result
    except asyncio.CancelledError as error:
        if not is_foreign(error):
            raise
        raise as_exception(error) from error


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
