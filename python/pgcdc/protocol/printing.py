"""Python values in PostgreSQL's words, for the `pg_text()` of values that hold others.

Source: the `…_out` functions in the server's `utils/adt`; the settings are those that pgcdc pins (ISO dates in UTC,
hexadecimal bytea, the shortest floats).
"""

from __future__ import annotations

import ipaddress
import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import msgspec

__all__ = ["float_text", "pg_text", "quoted"]

_SPACE = " \t\n\v\f\r"


def pg_text(value: Any) -> str:
    """Print one value.

    Args:
        value: What a column decodes to. A list is an array; a float is a float8.

    Returns:
        What PostgreSQL prints for it.

    Raises:
        TypeError: When it is of another class, or a dict: nobody knows whether that was an hstore or a JSON document.
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, int):
        return f"{Decimal(value):f}"  # str() refuses thousands of digits
    if isinstance(value, float):
        return float_text(value)
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, datetime):
        return f"{value.date().isoformat()} {_clock(value.time())}{_zone(value.utcoffset())}"
    if isinstance(value, time):
        return _clock(value) + _zone(value.utcoffset())
    if isinstance(value, date):
        return value.isoformat()
    if callable(own := getattr(value, "pg_text", None)):
        return str(own())
    if isinstance(value, UUID | ipaddress.IPv4Address | ipaddress.IPv4Network):
        return str(value)
    if isinstance(value, ipaddress.IPv6Network):
        return f"{_ipv6(value.network_address)}/{value.prefixlen}"
    if isinstance(value, ipaddress.IPv6Address):
        prefix = f"/{value.network.prefixlen}" if isinstance(value, ipaddress.IPv6Interface) else ""
        return _ipv6(value) + prefix
    if isinstance(value, msgspec.Struct):
        fields = (getattr(value, name) for name in value.__struct_fields__)
        return "(" + ",".join("" if each is None else quoted(pg_text(each), '"\\(),') for each in fields) + ")"
    if isinstance(value, list):
        return _array(value)
    raise TypeError(f"a {type(value).__name__} is no value that can be printed as PostgreSQL does")


def _ipv6(address: ipaddress.IPv6Address) -> str:
    """An address; what stands for an IPv4 address ends like one (Python prints that so since 3.13, and not always).

    Source: server file `port/inet_net_ntop.c`.
    """
    high, low = divmod(int(address), 1 << 32)
    if high == 0xFFFF or (high == 0 and low > 0xFFFF):
        return f"::{'ffff:' if high else ''}{ipaddress.IPv4Address(low)}"
    return address.compressed.partition("/")[0]


def quoted(text: str, special: str) -> str:
    """Put a part of a range or composite into quotes where it needs them.

    Args:
        text: The part.
        special: The characters that need quotes, besides white space.

    Returns:
        The part as PostgreSQL prints it.

    Source:
        Server functions `range_bound_escape`, `record_out`.
    """
    if text and not any(character in special or character in _SPACE for character in text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '""') + '"'


def float_text(value: float) -> str:
    """Print a float8: the fewest digits that lie strictly between the midpoints to the neighbouring floats.

    `repr` also takes digits that lie on such a midpoint: 1e+23 for what PostgreSQL prints as 9.999999999999999e+22.

    Args:
        value: The number.

    Returns:
        What PostgreSQL prints for it.

    Source:
        Server function `float8out`; server file `common/d2s.c`.
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    shortest = Decimal(repr(value)).normalize()
    digits = len(shortest.as_tuple().digits)
    while _on_midpoint(Fraction(shortest), value):
        shortest = Decimal(f"{value:.{digits}e}").normalize()
        digits += 1
    sign, tuple_, _ = shortest.as_tuple()
    exponent = shortest.adjusted()
    if -4 <= exponent < 15:
        return f"{shortest:f}"
    head, *tail = map(str, tuple_)
    mantissa = head + ("." + "".join(tail) if tail else "")
    return f"{'-' if sign else ''}{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02}"


def _on_midpoint(text: Fraction, value: float) -> bool:
    exact = Fraction(value)
    # The neighbour beyond the largest float is where the next one would be.
    step = Fraction(math.ulp(value))
    away = text - exact
    if away == 0:
        return False
    below = abs(exact) - Fraction(abs(math.nextafter(value, 0)))
    return abs(away) == (step / 2 if (away > 0) == (value > 0) else below / 2)


def _clock(value: time) -> str:
    return value.replace(tzinfo=None).isoformat().rstrip("0") if value.microsecond else value.strftime("%H:%M:%S")


def _zone(offset: timedelta | None) -> str:
    if offset is None:
        return ""
    seconds = round(abs(offset.total_seconds()))
    parts = [f"{seconds // 3600:02}", f"{seconds // 60 % 60:02}", f"{seconds % 60:02}"]
    while len(parts) > 1 and parts[-1] == "00":
        parts.pop()
    return ("-" if offset < timedelta() else "+") + ":".join(parts)


def _array(elements: list[Any]) -> str:
    bounds, inner, first = "", elements, elements
    for low in getattr(elements, "lower_bounds", ()):
        bounds += f"[{low}:{low + len(inner) - 1}]"
        inner = inner[0]
    while _is_array(first) and first:
        first = first[0]
    return bounds + ("=" if bounds else "") + _level(elements, getattr(first, "array_delimiter", ","))


def _is_array(value: Any) -> bool:
    return isinstance(value, list) and not hasattr(value, "pg_text")  # a multirange is no array


def _level(value: Any, delimiter: str) -> str:
    if _is_array(value):
        return "{" + delimiter.join(_level(each, delimiter) for each in value) + "}"
    if value is None:
        return "NULL"
    text = pg_text(value)
    if text and text.upper() != "NULL" and not any(each in '"\\{}' + _SPACE + delimiter for each in text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
