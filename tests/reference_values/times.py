"""Reference: date, time, timetz, timestamp, timestamptz, interval.

Source: server files `utils/adt/date.c`, `timestamp.c`, `datetime.c`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

from pgcdc.protocol import PgInterval, PgText
from tests.reference_values.reading import matched, need, text_of, unpack

DAY = 86_400_000_000  # microseconds


def civil(days: int) -> tuple[int, int, int]:
    """Days since 2000-01-01 in the proleptic Gregorian calendar; year 0 is 1 BC."""
    shifted = days + 730_425  # days since 0000-03-01
    era, day_of_era = divmod(shifted, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_index = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month_index + 2) // 5 + 1
    month = month_index + 3 if month_index < 10 else month_index - 9
    return era * 400 + year_of_era + (month <= 2), month, day


def days_of(year: int, month: int, day: int) -> int:
    """What `civil` undoes: the days of the whole years and months before, counted one by one."""
    leaps = year - 1  # the last year that is over
    over = 365 * leaps + leaps // 4 - leaps // 100 + leaps // 400
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    months = [31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    need(1 <= month <= 12 and 1 <= day <= months[month - 1], "no such day")
    return over + sum(months[: month - 1]) + day - 1 - 730_119  # days from 0001-01-01 to 2000-01-01


def date_words(days: int) -> tuple[str, str]:
    """A date as PostgreSQL prints it, and what follows at the very end."""
    year, month, day = civil(days)
    if year > 0:
        return f"{year:04d}-{month:02d}-{day:02d}", ""
    return f"{1 - year:04d}-{month:02d}-{day:02d}", " BC"


def clock_words(microseconds: int) -> str:
    """A time of day as PostgreSQL prints it."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    words = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return words + (f".{fraction:06d}".rstrip("0") if fraction else "")


def zone_words(east: int) -> str:
    """An offset in seconds east of UTC as PostgreSQL prints it."""
    hours, rest = divmod(abs(east), 3600)
    minutes, seconds = divmod(rest, 60)
    tail = f":{minutes:02d}" if minutes or seconds else ""
    return f"{'-' if east < 0 else '+'}{hours:02d}{tail}" + (f":{seconds:02d}" if seconds else "")


def date_binary(data: bytes) -> date | PgText:
    """Days since 2000-01-01."""
    (days,) = unpack(">i", data)
    if days in (0x7FFFFFFF, -0x80000000):
        return PgText("infinity" if days > 0 else "-infinity")
    if 1 <= civil(days)[0] <= 9999:
        return date(*civil(days))
    return PgText("".join(date_words(days)))


def time_binary(data: bytes) -> time | PgText:
    """Microseconds since midnight."""
    (microseconds,) = unpack(">q", data)
    return clock(microseconds, None)


def timetz_binary(data: bytes) -> time | PgText:
    """Microseconds since midnight, seconds west of UTC."""
    microseconds, west = unpack(">qi", data)
    return clock(microseconds, -west)


def clock(microseconds: int, east: int | None) -> time | PgText:
    """A time, or its words for 24:00:00."""
    need(0 <= microseconds <= DAY, "out of range")
    need(abs(east or 0) < 86_400, "zone out of range")
    if microseconds == DAY:
        return PgText("24:00:00" + ("" if east is None else zone_words(east)))
    zone = None if east is None else timezone(timedelta(seconds=east))
    return (datetime(2000, 1, 1) + timedelta(microseconds=microseconds)).time().replace(tzinfo=zone)


def timestamp(aware: bool) -> Callable[[bytes], datetime | PgText]:
    """Microseconds since 2000-01-01, in UTC when aware."""

    def from_binary(data: bytes) -> datetime | PgText:
        (microseconds,) = unpack(">q", data)
        if microseconds in ((1 << 63) - 1, -(1 << 63)):
            return PgText("infinity" if microseconds > 0 else "-infinity")
        days, of_day = divmod(microseconds, DAY)
        if 1 <= civil(days)[0] <= 9999:
            return datetime(2000, 1, 1, tzinfo=UTC if aware else None) + timedelta(days=days, microseconds=of_day)
        words, era = date_words(days)
        return PgText(f"{words} {clock_words(of_day)}{'+00' if aware else ''}{era}")

    return from_binary


DATE = r"(?P<year>[0-9]{4}|[1-9][0-9]{4,6})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
CLOCK = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{1,6}))?"
ZONE = r"(?P<zone>[+-][0-9]{2}(?::[0-9]{2}(?::[0-9]{2})?)?)"


def seconds_east(words: str) -> int:
    """An offset as PostgreSQL prints it."""
    hours, minutes, seconds = ([int(part) for part in words[1:].split(":")] + [0, 0])[:3]
    east = hours * 3600 + minutes * 60 + seconds
    return -east if words[0] == "-" else east


def temporal_text(pattern: str) -> Callable[[bytes], Any]:
    """The ISO text form of date, time, timetz, timestamp and timestamptz: read, and written in the binary form."""

    def from_text(data: bytes) -> Any:
        if data in (b"infinity", b"-infinity") and "year" in pattern:
            return PgText(text_of(data))
        parts = matched(pattern, data).groupdict()
        days = of_day = 0
        if "year" in parts:
            year = int(parts["year"])
            need(year > 0, "there is no year 0")
            days = days_of(1 - year if parts["era"] else year, int(parts["month"]), int(parts["day"]))
            if "hour" not in parts:
                need(-(1 << 31) < days < (1 << 31) - 1, "out of range")
                return date_binary(struct.pack(">i", days))
        minute, second = int(parts["minute"]), int(parts["second"])
        need(minute < 60 and second < 60, "no such time")
        of_day = (int(parts["hour"]) * 60 + minute) * 60_000_000 + second * 1_000_000
        of_day += int((parts["fraction"] or "").ljust(6, "0"))
        need(of_day <= DAY, "no such time")
        east = seconds_east(parts["zone"]) if "zone" in parts else None
        if "year" not in parts:
            return clock(of_day, east)
        moment = days * DAY + of_day - (east or 0) * 1_000_000
        need(-(1 << 63) < moment < (1 << 63) - 1, "out of range")
        return timestamp(aware=east is not None)(struct.pack(">q", moment))

    return from_text


ERA = r"(?P<era> BC)?"
TEMPORAL = {
    "date": temporal_text(DATE + ERA),
    "time": temporal_text(CLOCK),
    "timetz": temporal_text(CLOCK + ZONE),
    "timestamp": temporal_text(f"{DATE} {CLOCK}{ERA}"),
    "timestamptz": temporal_text(f"{DATE} {CLOCK}{ZONE}{ERA}"),
}


# --- interval

UNIT = r"(?P<{0}>[+-]?[0-9]+) {1}s?"
INTERVAL = (
    r"(?:" + UNIT.format("years", "year") + r")? ?(?:" + UNIT.format("months", "mon") + r")? ?"
    r"(?:" + UNIT.format("days", "day") + r")? ?"
    r"(?:(?P<sign>[+-]?)(?P<hour>[0-9]{2,}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{1,6}))?)?"
)  # fmt: skip


def interval_text(data: bytes) -> PgInterval:
    """IntervalStyle postgres: `1 year 2 mons -3 days +04:05:06.789`."""
    if data == b"infinity":
        return PgInterval((1 << 31) - 1, (1 << 31) - 1, (1 << 63) - 1)
    if data == b"-infinity":
        return PgInterval(-1 << 31, -1 << 31, -1 << 63)
    need(data[:1] not in (b"", b" ") and data[-1:] != b" ", "not in the type's text form")
    parts = matched(INTERVAL, data).groupdict(default="0")
    months = int(parts["years"]) * 12 + int(parts["months"])
    days = int(parts["days"])
    need(-(1 << 31) <= months < 1 << 31 and -(1 << 31) <= days < 1 << 31, "out of range")
    minute, second = int(parts["minute"]), int(parts["second"])
    need(minute < 60 and second < 60, "no such time")
    microseconds = (int(parts["hour"]) * 3600 + minute * 60 + second) * 1_000_000
    microseconds += int(parts["fraction"].ljust(6, "0"))
    microseconds = -microseconds if parts["sign"] == "-" else microseconds
    need(-(1 << 63) <= microseconds < 1 << 63, "out of range")
    return PgInterval(months, days, microseconds)


def interval_binary(data: bytes) -> PgInterval:
    """Microseconds, days, months."""
    microseconds, days, months = unpack(">qii", data)
    return PgInterval(months, days, microseconds)
