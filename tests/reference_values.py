"""The reference decoder's values: slow, plain, one function for each form of each type, checked against the manual.

Written without a look at the Rust decoder, so that the two agreeing means something. Nothing here is fast or shared
with the package, except the two result classes for what Python's own types cannot hold.

Over 400 lines, because it is one table: the two forms of a type stand next to each other, the arrays of all types last.

Source: PostgreSQL manual, "Data Types"; server files `utils/adt/*.c` (the `_out` and `_send` functions).
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, Inexact, InvalidOperation
from fractions import Fraction
from typing import Any
from uuid import UUID

from pgcdc.protocol import PgArray, PgText

EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation, Inexact])
UTC = UTC
DAY = 86_400_000_000  # microseconds


class BadValue(ValueError):
    """The bytes are not a value of the type."""


def need(condition: bool, reason: str) -> None:
    """Refuse the value unless the condition holds."""
    if not condition:
        raise BadValue(reason)


def text_of(data: bytes) -> str:
    """UTF-8; bytes that are not come through as lone surrogates and can be written back."""
    return data.decode("utf-8", "surrogateescape")


def ascii_of(data: bytes) -> str:
    """Text of a type that prints ASCII only."""
    need(data.isascii(), "not ASCII")
    return data.decode("ascii")


def matched(pattern: str, data: bytes) -> re.Match[str]:
    """The whole text against a pattern."""
    match = re.fullmatch(pattern, ascii_of(data), re.ASCII)
    if match is None:
        raise BadValue("not in the type's text form")
    return match


def unpack(format: str, data: bytes) -> tuple[Any, ...]:
    """Fixed-width binary forms; any other length is refused."""
    need(len(data) == struct.calcsize(format), "wrong length")
    return struct.unpack(format, data)


# --- numbers


def integer(bits: int, signed: bool = True) -> tuple[Callable[[bytes], int], Callable[[bytes], int]]:
    """Text and binary form of int2, int4, int8 and oid."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    code = {16: "h", 32: "i", 64: "q"}[bits]

    def from_text(data: bytes) -> int:
        value = int(matched(r"-?[0-9]{1,20}", data).group())
        need(low <= value <= high, "out of range")
        return value

    def from_binary(data: bytes) -> int:
        value: int = unpack(">" + (code if signed else code.upper()), data)[0]
        return value

    return from_text, from_binary


FLOAT = r"-?(?:[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?|Infinity)|NaN"


def float_text(data: bytes) -> float:
    """float4 and float8 as printed with extra_float_digits >= 1: the shortest decimal that reads back the same."""
    return float(matched(FLOAT, data).group())


def float8_binary(data: bytes) -> float:
    """The eight bytes."""
    value: float = unpack(">d", data)[0]
    return value


def shortest_float4(bits: int) -> Decimal:
    """What `float4out` prints for a positive finite float4 that is not zero.

    The decimal with the fewest digits strictly inside the interval that rounds to the float4, and of those the closest
    to it. The interval's ends are left out, although round-half-even would bring them back.

    Source:
        Server file `common/f2s.c`, with STRICTLY_SHORTEST = 0 (`common/ryu_common.h`).
    """

    def exact(pattern: int) -> Fraction:
        exponent, mantissa = pattern >> 23, pattern & 0x7FFFFF
        if exponent == 0:
            return Fraction(mantissa) * Fraction(2) ** -149
        return Fraction(mantissa | 0x800000) * Fraction(2) ** (exponent - 150)

    value = exact(bits)
    low, high = (exact(bits - 1) + value) / 2, (exact(bits + 1) + value) / 2  # 0x7f800000 reads as 2**128: right here
    for exponent in range(40, -60, -1):
        unit = Fraction(10) ** exponent
        below = value // unit
        inside = [digits for digits in (below, below + 1) if low < digits * unit < high]
        if inside:
            digits = min(inside, key=lambda n: (abs(n * unit - value), n % 2))
            return Decimal((0, tuple(map(int, str(digits))), exponent))
    raise AssertionError("every float4 has nine digits at most")


def float4_binary(data: bytes) -> float:
    """The float that the printed text reads as, so that text and binary are equal."""
    (bits,) = unpack(">I", data)
    sign, magnitude = bits >> 31, bits & 0x7FFFFFFF
    if magnitude > 0x7F800000:
        return float("nan")
    if magnitude == 0x7F800000:
        return float("-inf") if sign else float("inf")
    value = float(shortest_float4(magnitude)) if magnitude else 0.0
    return -value if sign else value


def numeric_text(data: bytes) -> Decimal:
    """Every digit that was printed."""
    return EXACT.create_decimal(matched(r"-?(?:[0-9]+(?:\.[0-9]+)?|Infinity)|NaN", data).group())


def numeric_binary(data: bytes) -> Decimal:
    """Base-10000 digits, their weight, the sign and the number of decimals to print."""
    need(len(data) >= 8, "wrong length")
    count, weight, sign, scale = struct.unpack_from(">HhHH", data)
    need(len(data) == 8 + 2 * count, "wrong length")
    if sign in (0xC000, 0xD000, 0xF000):
        return Decimal({0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}[sign])
    need(sign in (0, 0x4000), "unknown sign")
    need(scale <= 0x3FFF, "scale out of range")
    digits = struct.unpack_from(f">{count}H", data, 8)
    need(all(digit < 10000 for digit in digits), "digit out of range")

    def at(power: int) -> int:
        index = weight - power
        return int(digits[index]) if 0 <= index < count else 0

    whole = "".join(f"{at(power):04d}" for power in range(max(weight, 0), -1, -1)).lstrip("0") or "0"
    groups = -(-scale // 4)
    fraction = "".join(f"{at(-1 - group):04d}" for group in range(groups))[:scale]
    return EXACT.create_decimal(("-" if sign else "") + whole + ("." + fraction if fraction else ""))


# --- text, bytes, bool, uuid


def bool_text(data: bytes) -> bool:
    """t or f."""
    need(data in (b"t", b"f"), "not t or f")
    return data == b"t"


def bool_binary(data: bytes) -> bool:
    """One byte."""
    need(data in (b"\x00", b"\x01"), "not 0 or 1")
    return data == b"\x01"


def char_text(data: bytes) -> str:
    """The one byte of "char" as servers from 16 on print it; 14 and 15 send a byte above 127 as it is."""
    return char_binary(data) if len(data) == 1 else text_of(data)


def char_binary(data: bytes) -> str:
    """The one byte of "char", printed as servers from 16 on print it: nothing for 0, octal above 127."""
    (byte,) = unpack(">B", data)
    if byte == 0:
        return ""
    return chr(byte) if byte < 128 else f"\\{byte:03o}"


def bytea_text(data: bytes) -> bytes:
    """The hex form (pgcdc pins bytea_output to it); without the prefix the escape form of other people's sessions."""
    if data[:2] == b"\\x":
        return bytes.fromhex(matched(r"\\x((?:[0-9a-fA-F]{2})*)", data).group(1))
    need(re.fullmatch(rb"(?:[^\\]|\\\\|\\[0-3][0-7][0-7])*", data, re.DOTALL) is not None, "not in escape form")
    return re.sub(
        rb"\\(\\|[0-3][0-7][0-7])", lambda found: b"\\" if found[1] == b"\\" else bytes([int(found[1], 8)]), data
    )


def uuid_text(data: bytes) -> UUID:
    """36 characters."""
    return UUID(matched(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", data).group())


def uuid_binary(data: bytes) -> UUID:
    """16 bytes."""
    need(len(data) == 16, "wrong length")
    return UUID(bytes=data)


# --- json


def json_float(token: str) -> float | Decimal:
    """A float where the float prints as the same number again, else Decimal: no digit is lost."""
    value = float(token)
    exact = EXACT.create_decimal(token)
    return value if EXACT.create_decimal(repr(value)) == exact else exact


def refuse_constant(token: str) -> Any:
    """NaN and Infinity are not JSON."""
    raise BadValue("not JSON")


def json_text(data: bytes) -> Any:
    """json in both forms, and what is behind the version of jsonb."""
    text = text_of(data)
    try:
        return json.loads(
            text,
            parse_int=lambda token: int(EXACT.create_decimal(token)),  # int() itself refuses more than 4300 digits
            parse_float=json_float,
            parse_constant=refuse_constant,
        )
    except json.JSONDecodeError:
        raise BadValue("not JSON") from None


def jsonb_binary(data: bytes) -> Any:
    """Version 1, then text."""
    need(data[:1] == b"\x01", "unknown jsonb version")
    return json_text(data[1:])


# --- dates and times


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


# --- the table: name -> (OID, OID of its array, from text, from binary)

Form = Callable[[bytes], Any]
SCALARS: dict[str, tuple[int, int, Form, Form]] = {
    "bool": (16, 1000, bool_text, bool_binary),
    "bytea": (17, 1001, bytea_text, bytes),
    '"char"': (18, 1002, char_text, char_binary),
    "name": (19, 1003, text_of, text_of),
    "int8": (20, 1016, *integer(64)),
    "int2": (21, 1005, *integer(16)),
    "int4": (23, 1007, *integer(32)),
    "text": (25, 1009, text_of, text_of),
    "oid": (26, 1028, *integer(32, signed=False)),
    "json": (114, 199, json_text, json_text),
    "float4": (700, 1021, float_text, float4_binary),
    "float8": (701, 1022, float_text, float8_binary),
    "bpchar": (1042, 1014, text_of, text_of),
    "varchar": (1043, 1015, text_of, text_of),
    "date": (1082, 1182, TEMPORAL["date"], date_binary),
    "time": (1083, 1183, TEMPORAL["time"], time_binary),
    "timestamp": (1114, 1115, TEMPORAL["timestamp"], timestamp(aware=False)),
    "timestamptz": (1184, 1185, TEMPORAL["timestamptz"], timestamp(aware=True)),
    "timetz": (1266, 1270, TEMPORAL["timetz"], timetz_binary),
    "numeric": (1700, 1231, numeric_text, numeric_binary),
    "uuid": (2950, 2951, uuid_text, uuid_binary),
    "jsonb": (3802, 3807, json_text, jsonb_binary),
}


# --- arrays


def nested(items: list[Any], lengths: list[int]) -> list[Any]:
    """A flat list cut into lists of lists, row by row."""
    for length in reversed(lengths[1:]):
        items = [items[start : start + length] for start in range(0, len(items), length)]
    return items


def bounded(items: list[Any], lower_bounds: list[int]) -> list[Any]:
    """A list, or a PgArray when an index does not begin at 1."""
    if all(bound == 1 for bound in lower_bounds):
        return items
    return PgArray(items, tuple(lower_bounds))


def array_binary(element_oid: int, element: Form) -> Form:
    """Dimensions, NULL flag, element type; then for each element its length and bytes."""

    def from_binary(data: bytes) -> list[Any]:
        need(len(data) >= 12, "wrong length")
        dimensions, flags, oid = struct.unpack_from(">iiI", data)
        need(0 <= dimensions <= 6 and flags in (0, 1) and oid == element_oid, "wrong header")
        need(len(data) >= 12 + 8 * dimensions, "wrong length")
        shape = [struct.unpack_from(">ii", data, 12 + 8 * number) for number in range(dimensions)]
        need(all(length >= 0 for length, _ in shape), "negative dimension")
        count = 1 if shape else 0
        for length, _ in shape:
            count *= length
        at = 12 + 8 * dimensions
        need(count <= (len(data) - at) // 4, "wrong length")
        items: list[Any] = []
        for _ in range(count):
            need(len(data) >= at + 4, "wrong length")
            (size,) = struct.unpack_from(">i", data, at)
            at += 4
            if size == -1:
                items.append(None)
                continue
            need(0 <= size <= len(data) - at, "wrong length")
            items.append(element(data[at : at + size]))
            at += size
        need(at == len(data), "trailing bytes")
        if not items:
            return []
        return bounded(nested(items, [length for length, _ in shape]), [bound for _, bound in shape])

    return from_binary


def array_text(element: Form) -> Form:
    r"""`{1,NULL,"a \"b\""}`, nested, with `[0:2]=` in front when an index does not begin at 1."""

    def from_text(data: bytes) -> list[Any]:
        at = 0
        lower_bounds: list[int] = []
        lengths: list[int] = []
        while data[at : at + 1] == b"[":
            match = re.compile(rb"\[(-?[0-9]+):(-?[0-9]+)\]").match(data, at)
            need(match is not None, "malformed bounds")
            assert match is not None
            lower_bounds.append(int(match.group(1)))
            lengths.append(int(match.group(2)) - int(match.group(1)) + 1)
            at = match.end()
        if lower_bounds:
            need(data[at : at + 1] == b"=", "malformed bounds")
            at += 1

        def item() -> Any:
            nonlocal at
            if data[at : at + 1] == b"{":
                return braces()
            word = bytearray()
            quoted = data[at : at + 1] == b'"'
            at += quoted
            while True:
                need(at < len(data), "unexpected end")
                byte = data[at]
                if byte == b"\\"[0]:
                    need(at + 1 < len(data), "unexpected end")
                    word.append(data[at + 1])
                    at += 2
                    continue
                if quoted and byte == b'"'[0]:
                    at += 1
                    break
                if not quoted and byte in b",}":
                    break
                need(quoted or byte not in b'{"', "malformed element")
                word.append(byte)
                at += 1
            if not quoted:
                need(bool(word), "empty element")
                if bytes(word).upper() == b"NULL":
                    return None
            return element(bytes(word))

        def braces() -> list[Any]:
            nonlocal at
            need(data[at : at + 1] == b"{", "not an array")
            at += 1
            items: list[Any] = []
            kinds: set[bool] = set()
            if data[at : at + 1] == b"}":
                at += 1
                return items
            while True:
                kinds.add(data[at : at + 1] == b"{")
                items.append(item())
                need(len(kinds) == 1, "mixed depths")
                separator = data[at : at + 1]
                at += 1
                if separator == b"}":
                    return items
                need(separator == b",", "malformed array")

        items = braces()
        need(at == len(data), "trailing bytes")
        if lengths:
            need(lengths[0] == len(items), "bounds do not fit")
        return bounded(items, lower_bounds)

    return from_text


TEXT_FORMS: dict[int, Form] = {}
BINARY_FORMS: dict[int, Form] = {}
for _oid, _array_oid, _text, _binary in SCALARS.values():
    TEXT_FORMS[_oid], BINARY_FORMS[_oid] = _text, _binary
    TEXT_FORMS[_array_oid], BINARY_FORMS[_array_oid] = array_text(_text), array_binary(_oid, _binary)


def decode_value(type_oid: int, binary: bool, data: bytes) -> Any:
    """One column's bytes.

    Args:
        type_oid: The column's type.
        binary: Whether the bytes are the output of the type's send function, not of its output function.
        data: The bytes.

    Returns:
        The value; for a type that is not in the table str as sent, or bytes as sent when they came in binary.

    Raises:
        BadValue: When the bytes do not fit the type.
    """
    if binary:
        return BINARY_FORMS.get(type_oid, bytes)(data)
    return TEXT_FORMS.get(type_oid, text_of)(data)
