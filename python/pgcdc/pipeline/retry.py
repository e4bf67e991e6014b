"""What is tried again, how often, and after what pauses: a target, the server, the position store."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any

import msgspec

from pgcdc.errors import ConfigError, Error
from pgcdc.replication import Reconnect

__all__ = ["Away", "Retry", "attempts", "check"]

_NAME = "a consumer of pgcdc"
"""What attempts are called, for whoever counts or logs those of stamina."""


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """What of one consumer's failures is tried again, and how.

    What raises `SinkUnavailable` is always tried again. Pauses grow from `first` to `longest`, twice as long each time,
    with jitter. When attempts or seconds are spent it is the consumer's `on_failure` that says what becomes of the
    change.

    Attributes:
        attempts: How often one change, or one batch of a sink, is tried in all; None for any number.
        give_up: Seconds after its first failure when it is not tried again; None for never.
        first: The first pause, in seconds.
        longest: The longest pause, in seconds.
        on: Classes of exceptions that are tried again, beside SinkUnavailable.
        breaker_after: After so many failures in a row, whatever they were of, the target is left alone for
            `breaker_pause`, then tried once, and so on until that goes well.
        breaker_pause: Seconds.
    """

    attempts: int | None = None
    give_up: float | None = None
    first: float = 0.1
    longest: float = 15.0
    on: tuple[type[Exception], ...] = ()
    breaker_after: int = 8
    breaker_pause: float = 15.0

    def __post_init__(self) -> None:
        for name in ("attempts", "breaker_after"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"Retry({name}={value!r}) is not a number from 1 on")
        for name in ("give_up", "first", "longest", "breaker_pause"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise ConfigError(f"Retry({name}={value!r}) is not a number of seconds above 0")
        kinds: Any = self.on
        if not isinstance(kinds, tuple) or not all(
            isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds
        ):
            raise ConfigError("Retry(on=…) is a tuple of classes of exceptions", hint="on=(TimeoutError,)")


def check() -> None:
    """Make sure that what retries need is installed: at the start, not at the first failure; and that it is quiet.

    Raises:
        ConfigError: When it is not.
    """
    try:
        import stamina  # noqa: F401

        logging.getLogger("stamina").addFilter(_not_ours)
    except ImportError:
        raise ConfigError(
            "a pipeline needs the package stamina, which is not installed", hint="pip install 'pgcdc[pipeline]'"
        ) from None


def _not_ours(record: logging.LogRecord) -> bool:
    # A line for each attempt, with what was raised, whose text can have values of rows. Others may log theirs.
    return getattr(record, "stamina.callable", None) != _NAME


def attempts(policy: Retry, again: Callable[[Exception], bool]) -> AsyncIterator[AbstractContextManager[Any]]:
    """Make a row of attempts with growing pauses and jitter between them.

    Args:
        policy: How many, and how long the pauses are.
        again: Told of each failure, before the pause; says whether it is one to be tried again.

    Returns:
        To be used as `async for attempt in attempts(...): with attempt: ...`; it ends at the first attempt that does
        not raise. What is not to be tried again ends it too, and so does the last attempt: that exception is raised.
    """
    import stamina

    context = stamina.retry_context(
        on=again,
        attempts=policy.attempts,
        timeout=policy.give_up,
        wait_initial=policy.first,
        wait_max=policy.longest,
        wait_jitter=min(1.0, 10 * policy.first),
    )
    return context.with_name(_NAME, (), {}).__aiter__()


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
