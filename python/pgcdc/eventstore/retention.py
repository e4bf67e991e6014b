"""Rules for how long events stay in the table, by the type of their stream.

An event is hot, warm or cold: by its age, or colder when it was appended so (`retention_class`). Hot ones stay. Warm
ones leave when their whole stream is at rest, so that a stream which goes on is read from the table alone. Cold ones
leave in any case. A stream's events leave in their order: what is left is always its end.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

import msgspec

from pgcdc.errors import ConfigError

__all__ = ["ALL_TYPES", "Rule", "period"]

ALL_TYPES: Final = "*"
"""What a rule is for when it is for the stream types that have none of their own."""
_PERIOD: Final = re.compile(r"(\d+) ?(hour|day|week|month|year)s?")
_DAYS: Final = {"day": 1, "week": 7, "month": 30, "year": 365}


class Rule(msgspec.Struct, frozen=True):
    """How long the events of a stream type stay.

    Attributes:
        stream_type: The type; `"*"` for those without a rule of their own.
        hot: Younger ones stay.
        warm: Between `hot` and this they leave with their whole stream, older ones in any case; None: never alone.
    """

    stream_type: str
    hot: timedelta
    warm: timedelta | None

    def __str__(self) -> str:
        """In words."""
        cold = "" if self.warm is None else f", cold after {_said(self.warm)}"
        which = "other types" if self.stream_type == ALL_TYPES else self.stream_type
        return f"{which}: hot for {_said(self.hot)}, then warm{cold}"


def rule(stream_type: str, hot: str | timedelta, warm: str | timedelta | None) -> Rule:
    """Make a rule of what was said.

    Args:
        stream_type: The type.
        hot: As for `Declarations.retention`.
        warm: Likewise.

    Returns:
        The rule.

    Raises:
        ConfigError: When a period is none, or warm ends before it begins.
    """
    made = Rule(stream_type, period(hot), None if warm is None else period(warm))
    if made.warm is not None and made.warm < made.hot:
        raise ConfigError(
            f"of the stream type {stream_type} events would be cold before they are warm",
            hint='both count from when the event occurred: hot="90 days", warm="2 years"',
        )
    return made


def period(said: str | timedelta) -> timedelta:
    """Read a period.

    Args:
        said: `"90 days"`, hours, weeks, months (of 30 days), years (of 365 days); or a timedelta.

    Returns:
        The period.

    Raises:
        ConfigError: When it is none.
    """
    if isinstance(said, timedelta):
        if said < timedelta(0):
            raise ConfigError("a period of retention is not negative", hint='hot="90 days"')
        return said
    found = _PERIOD.fullmatch(said.strip())
    if found is None:
        raise ConfigError(
            f"{said!r} is no period of retention", hint='"90 days"; hours, weeks, months and years; or a timedelta'
        )
    number, unit = int(found[1]), found[2]
    try:
        return timedelta(hours=number) if unit == "hour" else timedelta(days=number * _DAYS[unit])
    except OverflowError:
        raise ConfigError(f"{said!r} is longer than a period of retention can be") from None


def _said(some: timedelta) -> str:
    days, rest = some.days, some.seconds
    if rest or not days:
        return f"{days * 24 + rest // 3600} hours" if not rest % 3600 else str(some)
    if days % 365 == 0:
        return f"{days // 365} years" if days > 365 else "1 year"
    return f"{days} days" if days > 1 else "1 day"
