"""What a caller may give, looked at before a server is asked; the same for every store.

What the server, or a slice of a list, makes of a wrong argument depends on where it ends up. So it is said here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from pgcdc.errors import ConfigError

__all__ = ["LAST", "behind", "looked_at", "moment_of", "piece_of", "version_of"]

LAST: Final = 2**63 - 1
"""The largest sequence and id that there can be."""


def looked_at(stream: str, stream_type: str | None = None) -> None:
    """See that PostgreSQL can hold a stream's id and type.

    Args:
        stream: The id.
        stream_type: The type, where one is given.

    Raises:
        ConfigError: When it is no text, or has a character that PostgreSQL's text cannot have.
    """
    _text(stream)
    if stream_type is not None:
        _text(stream_type)


def version_of(after: object) -> int:
    """A version behind which something is inserted.

    Args:
        after: As given.

    Returns:
        The same.

    Raises:
        ConfigError: When it is none.
    """
    if not isinstance(after, int) or isinstance(after, bool) or after < 0:
        raise ConfigError("after is the version that the stream has", hint="the version that load has returned")
    if after >= LAST:
        raise _too_large()
    return after


def moment_of(at: object) -> int | datetime:
    """A moment in a stream's past.

    Args:
        at: As given.

    Returns:
        The same; 0 for what is before the first event.

    Raises:
        ConfigError: When it is neither a sequence nor a time, or the time has no zone.
    """
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise ConfigError("the time has no zone", hint="datetime.now(timezone.utc)")
        return at
    if not isinstance(at, int) or isinstance(at, bool):
        raise ConfigError("at is a sequence or a time", hint="at=5, or at=datetime.now(timezone.utc)")
    if at > LAST:
        raise _too_large()
    return max(0, at)


def piece_of(name: str, count: object, least: int) -> None:
    """See that a number of events is one.

    Args:
        name: Of the argument.
        count: As given; None: all.
        least: The least that makes sense.

    Raises:
        ConfigError: When it is less, or no number.
    """
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < least):
        raise ConfigError(f"{name} is {least} or more", hint=f"{name}=1000")


def behind(name: str, place: object) -> int:
    """A sequence or an id behind which to begin.

    Args:
        name: Of the argument.
        place: As given.

    Returns:
        The same; 0 for what is before the first event.

    Raises:
        ConfigError: When it is none.
    """
    if not isinstance(place, int) or isinstance(place, bool) or place > LAST:
        raise ConfigError(f"{name} is a number that an event has", hint=f"{name}=0 for all")
    return max(0, place)


def _too_large() -> ConfigError:
    return ConfigError("a version is larger than a stream can have", hint="the version that load has returned")


def _text(text: object) -> None:
    if not isinstance(text, str):
        raise ConfigError("a stream's id or type is text", hint="str(…) of it")
    if "\0" in text:
        raise ConfigError(
            "a stream's id or type has the character U+0000, which PostgreSQL cannot hold", hint="take it out"
        )
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigError(
            "a stream's id or type has half of a surrogate pair, which is no character",
            hint="was it decoded with errors='surrogateescape'? give it as it should be",
        )
