"""Numbers, sizes, times and places as people read them: one form each, for pages and for what is sent to them later."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from pgcdc.lsn import Position, format_lsn

__all__ = ["ago", "count", "lsn", "moment", "place", "rate", "size", "span"]

_UNITS: Final = ("kB", "MB", "GB", "TB", "PB")
_NOTHING: Final = "–"


def size(nbytes: float | None) -> str:
    """Bytes, as `pg_size_pretty` counts them: 1 kB is 1,024 bytes.

    Args:
        nbytes: So many bytes; None where that is not known.

    Returns:
        `"512 bytes"`, `"16.2 MB"`, `"–"`.
    """
    if nbytes is None:
        return _NOTHING
    value = float(nbytes)
    if abs(value) < 1024:
        return f"{value:.0f} bytes"
    for unit in _UNITS:
        value /= 1024
        if abs(value) < 1023.95 or unit == _UNITS[-1]:
            return f"{value:,.1f} {unit}"
    raise AssertionError("the last unit ends the loop")


def span(seconds: float | None) -> str:
    """A length of time, in its two largest units.

    Args:
        seconds: So many seconds; None where that is not known.

    Returns:
        `"3 s"`, `"4 min 10 s"`, `"2 h 5 min"`, `"3 d 4 h"`, `"–"`.
    """
    if seconds is None:
        return _NOTHING
    whole = max(round(seconds), 0)
    for unit, part, length, inner in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // inner} {part}"
    return f"{whole} s"


def ago(then: datetime | None, now: datetime) -> str:
    """How long ago something was.

    Args:
        then: When; None where that is not known.
        now: The present.

    Returns:
        `"12 s ago"`, `"–"`.
    """
    return _NOTHING if then is None else f"{span((now - then).total_seconds())} ago"


def count(number: float | None) -> str:
    """A number of things.

    Args:
        number: How many; None where that is not known.

    Returns:
        `"1,234"`, `"–"`.
    """
    return _NOTHING if number is None else f"{number:,.0f}"


def rate(number: float | None) -> str:
    """So many in a second.

    Args:
        number: How many; None where that is not known.

    Returns:
        `"0"`, `"0.4"`, `"1,234"`, `"–"`.
    """
    if number is None:
        return _NOTHING
    return f"{number:.1f}" if 0.05 <= number < 9.95 else f"{number:,.0f}"


def moment(when: datetime | None) -> str:
    """A point in time, in UTC: the reader's clock and the server's may be in different places.

    Args:
        when: When; None where that is not known.

    Returns:
        `"2026-11-27 18:30:02 UTC"`, `"–"`.
    """
    return _NOTHING if when is None else when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def lsn(place: int | None) -> str:
    """An LSN.

    Args:
        place: The number; None or 0 where there is none.

    Returns:
        `"0/16B3748"`, `"–"`.
    """
    return format_lsn(place) if place else _NOTHING


def place(position: Position | None) -> str:
    """A position.

    Args:
        position: The position; None before the first change.

    Returns:
        `"0/16B3748, change 3"`, `"0/16B3748, initial copy"`, `"–"`.
    """
    if position is None:
        return _NOTHING
    commit_lsn, index = position
    return f"{format_lsn(commit_lsn)}, {'initial copy' if index < 0 else f'change {index}'}"
