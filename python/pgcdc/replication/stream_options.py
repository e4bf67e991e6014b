"""What one asks of a stream, in one place, so that it can be asked again of another connection."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Literal

import msgspec

from pgcdc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["Reconnect", "StreamOptions", "reconnecting"]


class Reconnect(msgspec.Struct, frozen=True):
    """How a stream that lost its connection makes another.

    The pause before an attempt grows from `first` to `longest`, twice as long each time; of each pause a random half is
    left out, so that many clients of one server do not all come back in the same moment.

    Attributes:
        first: The first pause, in seconds.
        longest: The longest pause, in seconds.
        give_up: Seconds without a connection after which the error is raised; None for never.
    """

    first: float = 0.1
    longest: float = 15.0
    give_up: float | None = None

    def pause(self, attempt: int) -> float:
        """How long to wait before an attempt.

        Args:
            attempt: 0 for the first.

        Returns:
            Seconds.
        """
        whole = min(self.longest, self.first * 2.0 ** min(attempt, 60))
        return whole * random.uniform(0.5, 1.0)  # noqa: S311 (nobody guesses it to break in)


def reconnecting(asked: object) -> Reconnect | None:
    """Read what was asked for.

    Args:
        asked: True: with the pauses of a `Reconnect` of no arguments; False: not at all.

    Returns:
        How to make another connection; None: not at all.

    Raises:
        ConfigError: When it is something else.
    """
    if isinstance(asked, Reconnect):
        return asked
    if not isinstance(asked, bool):
        raise ConfigError(f"reconnect={asked!r} is neither True nor False nor a Reconnect", hint="choose one of them")
    return Reconnect() if asked else None


class StreamOptions(msgspec.Struct, frozen=True):
    """What one asks of a stream; the contract is `AsyncConnection.stream`'s.

    Attributes:
        slot: The slot's name.
        publications: The publications' names.
        binary: Whether values come in binary; None for wherever they can be decoded.
        streaming: Whether large transactions come before they are committed.
        two_phase: Whether prepared transactions come at their PREPARE.
        messages: Whether logical messages come.
        origin: Which changes come, by where they were made.
        confirm_idle: Whether what keepalives tell is confirmed when nothing else is in flight.
        feedback: Whether status updates go out by themselves.
        receive_timeout: How many seconds a request for an answer may be left unanswered.
        reconnect: How to get another connection; None for not at all.
        heartbeat: Seconds between two messages that are written only to make WAL; None for none.
        max_memory: How many bytes of unfinished transactions are kept in memory.
        spill_directory: Where the rest of them goes.
    """

    slot: str
    publications: Sequence[str]
    binary: bool | None = None
    streaming: Literal["off", "on", "parallel"] = "off"
    two_phase: bool = False
    messages: bool = True
    origin: Literal["any", "none"] | None = None
    confirm_idle: bool = True
    feedback: bool = True
    receive_timeout: float = 60.0
    reconnect: Reconnect | None = None
    heartbeat: float | None = None
    max_memory: int = 1 << 25
    spill_directory: str | None = None

    def __post_init__(self) -> None:
        if self.streaming not in ("off", "on", "parallel"):
            raise ConfigError(f"streaming={self.streaming!r} is none of off, on, parallel", hint="choose one of them")
        if self.origin not in (None, "any", "none"):
            raise ConfigError(f"origin={self.origin!r} is neither any nor none", hint="choose one of them")
        for name in ("two_phase", "messages", "confirm_idle", "feedback"):
            if not isinstance(value := getattr(self, name), bool):
                raise ConfigError(f"{name}={value!r} is neither True nor False", hint="choose one of them")
        if self.max_memory < 0:
            raise ConfigError(f"max_memory={self.max_memory!r} is below 0", hint="give it in bytes")
        if not self.receive_timeout > 0:
            raise ConfigError(f"receive_timeout={self.receive_timeout!r} is not above 0", hint="give it in seconds")
        if self.heartbeat is not None and not self.heartbeat > 0:
            raise ConfigError(f"heartbeat={self.heartbeat!r} is not above 0", hint="give it in seconds, None for none")

    @property
    def assembled(self) -> bool:
        """Whether transactions may come in pieces that have to be put together."""
        return self.streaming != "off" or self.two_phase
