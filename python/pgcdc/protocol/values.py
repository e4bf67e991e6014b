"""Values for which Python has no type of its own, and the two parsers that the Rust half calls.

The structs compare and hash by what they hold, and `pg_text()` prints them as PostgreSQL does. `msgspec.json.encode`
writes their fields; `Batch.to_json`, which never makes them, writes a string in PostgreSQL's words instead.

Over 400 lines, most of which say what each class holds.
"""

from __future__ import annotations

import decimal as _decimal
import ipaddress as _ipaddress
import json as _json
import re
from collections.abc import Iterable
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from pgcdc._pgoutput import json_number
from pgcdc.protocol import printing

__all__ = [
    "PgArray",
    "PgBits",
    "PgBox",
    "PgCircle",
    "PgInterval",
    "PgLine",
    "PgLseg",
    "PgMultirange",
    "PgPath",
    "PgPoint",
    "PgPolygon",
    "PgRange",
    "PgText",
    "PgTid",
]

Bound = TypeVar("Bound")


class PgText(str):
    """A value that Python's type for it cannot hold, in PostgreSQL's own words.

    Dates and times outside the years 1 to 9999, the infinities, 24:00:00, and money that was printed in another locale
    than C. Nothing is clamped to the nearest value that would fit.

    Source:
        PostgreSQL manual, "Date/Time Types", "Special Values".
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"PgText({super().__repr__()})"


class PgArray(list[Any]):
    """An array whose lower bounds are not all 1.

    Attributes:
        lower_bounds: The subscript of the first element in each dimension.

    Source:
        PostgreSQL manual, "Arrays", "Array Input and Output Syntax".
    """

    __slots__ = ("lower_bounds",)

    def __init__(self, elements: Iterable[Any], lower_bounds: tuple[int, ...]) -> None:
        super().__init__(elements)
        self.lower_bounds = lower_bounds

    def __repr__(self) -> str:
        return f"PgArray({super().__repr__()}, {self.lower_bounds!r})"

    def __eq__(self, other: object) -> bool:
        # As in PostgreSQL: the same elements under other subscripts are another array.
        bounds = other.lower_bounds if isinstance(other, PgArray) else None
        return self.lower_bounds == bounds and super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None


class PgInterval(msgspec.Struct, frozen=True, gc=False):
    """An interval: three numbers, because a month has no fixed number of days and a day no fixed number of hours.

    The infinite intervals of PostgreSQL 17 are those with all three numbers at their highest or lowest.

    Attributes:
        months: Months; a year is 12.
        days: Days.
        microseconds: Microseconds.

    Source:
        PostgreSQL manual, "Date/Time Types", "Interval Input"; server functions `interval_out`, `interval_send`.
    """

    months: int = 0
    days: int = 0
    microseconds: int = 0

    def pg_text(self) -> str:
        """The value as PostgreSQL prints it with `IntervalStyle = postgres`."""
        if (self.months, self.days, self.microseconds) == (2**31 - 1, 2**31 - 1, 2**63 - 1):
            return "infinity"
        if (self.months, self.days, self.microseconds) == (-(2**31), -(2**31), -(2**63)):
            return "-infinity"
        years, months = divmod(abs(self.months), 12)
        sign = -1 if self.months < 0 else 1
        parts, after_minus = [], False
        for number, unit in ((sign * years, "year"), (sign * months, "mon"), (self.days, "day")):
            if number:
                parts.append(f"{'+' if after_minus and number > 0 else ''}{number} {unit}{'s' if number != 1 else ''}")
                after_minus = number < 0
        if self.microseconds or not parts:
            seconds, fraction = divmod(abs(self.microseconds), 1_000_000)
            minus = "-" if self.microseconds < 0 else "+" if after_minus else ""
            clock = f"{minus}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
            parts.append(clock + (f".{fraction:06}".rstrip("0") if fraction else ""))
        return " ".join(parts)


class PgBits(msgspec.Struct, frozen=True, gc=False):
    """A bit string (`bit`, `varbit`).

    Attributes:
        length: The number of bits.
        value: The bits as a number, the last one being its lowest.

    Source:
        PostgreSQL manual, "Bit String Types"; server functions `bit_out`, `bit_send`.
    """

    length: int
    value: int

    def pg_text(self) -> str:
        """Zeros and ones."""
        return f"{self.value:0{self.length}b}" if self.length else ""


class PgTid(msgspec.Struct, frozen=True, gc=False):
    """Where a row version lies in its table (`tid`, the type of `ctid`).

    Attributes:
        block: The number of the block.
        offset: The number of the row in it, from 1.

    Source:
        PostgreSQL manual, "System Columns"; server functions `tidout`, `tidsend`.
    """

    block: int
    offset: int

    def pg_text(self) -> str:
        """`(0,1)`."""
        return f"({self.block},{self.offset})"


class PgRange(msgspec.Struct, Generic[Bound], frozen=True):
    """A range of any type.

    Attributes:
        lower: The lower bound; None where there is none.
        upper: The upper bound; None where there is none.
        bounds: Whether each belongs to the range: `"[)"`, `"(]"`, `"[]"` or `"()"`. A bound that does not exist is none
            that belongs: `(,5)`.
        empty: Whether nothing is in it; it has no bounds then, and `bounds` means nothing: `PgRange(empty=True)`.

    Source:
        PostgreSQL manual, "Range Types"; server functions `range_out`, `range_send`.
    """

    lower: Bound | None = None
    upper: Bound | None = None
    bounds: str = "[)"
    empty: bool = False

    def pg_text(self) -> str:
        """The value as PostgreSQL prints it.

        A bound does not say which type it is of: a float prints as a float8, an int as an integer and not as a pg_lsn,
        a Decimal as a numeric and not as money, a list as an array and not as an oidvector.

        Raises:
            TypeError: When a bound is a dict, which may be an hstore or a JSON document, or of a class that no value of
                PostgreSQL's decodes to.
        """
        if self.empty:
            return "empty"
        lower, upper = (
            "" if bound is None else printing.quoted(printing.pg_text(bound), '"\\()[],')
            for bound in (self.lower, self.upper)
        )
        return f"{self.bounds[0]}{lower},{upper}{self.bounds[1]}"


class PgMultirange(list[PgRange[Any]]):
    """A multirange: ranges that do not touch, in order.

    Source:
        PostgreSQL manual, "Range Types"; server functions `multirange_out`, `multirange_send`.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"PgMultirange({super().__repr__()})"

    def pg_text(self) -> str:
        """The value as PostgreSQL prints it.

        Raises:
            TypeError: When a bound is a dict, which may be an hstore or a JSON document, or of a class that no value of
                PostgreSQL's decodes to.
        """
        return "{" + ",".join(each.pg_text() for each in self) + "}"


class PgPoint(msgspec.Struct, frozen=True, gc=False):
    """A point of the plane.

    Attributes:
        x: The first coordinate.
        y: The second.

    Source:
        PostgreSQL manual, "Geometric Types"; server functions `point_out`, `point_send`.
    """

    x: float
    y: float

    def pg_text(self) -> str:
        """`(1,2.5)`."""
        return f"({printing.float_text(self.x)},{printing.float_text(self.y)})"


class PgLine(msgspec.Struct, frozen=True, gc=False):
    """A line of the plane, a·x + b·y + c = 0.

    Attributes:
        a: The factor of x.
        b: The factor of y.
        c: The constant.

    Source:
        PostgreSQL manual, "Geometric Types"; server functions `line_out`, `line_send`.
    """

    a: float
    b: float
    c: float

    def pg_text(self) -> str:
        """`{1,-1,0}`."""
        return "{" + ",".join(map(printing.float_text, (self.a, self.b, self.c))) + "}"


class PgLseg(msgspec.Struct, frozen=True, gc=False):
    """A line segment.

    Attributes:
        start: Where it begins.
        end: Where it ends.

    Source:
        PostgreSQL manual, "Geometric Types"; server functions `lseg_out`, `lseg_send`.
    """

    start: PgPoint
    end: PgPoint

    def pg_text(self) -> str:
        """`[(0,0),(1,1)]`."""
        return f"[{self.start.pg_text()},{self.end.pg_text()}]"


class PgBox(msgspec.Struct, frozen=True, gc=False):
    """A rectangle.

    Attributes:
        high: The corner with the higher coordinates.
        low: The opposite corner.

    Source:
        PostgreSQL manual, "Geometric Types"; server functions `box_out`, `box_send`.
    """

    array_delimiter: ClassVar[str] = ";"

    high: PgPoint
    low: PgPoint

    def pg_text(self) -> str:
        """`(1,1),(0,0)`."""
        return f"{self.high.pg_text()},{self.low.pg_text()}"


class PgPath(msgspec.Struct, frozen=True, gc=False):
    """Points that are connected one after the other.

    Attributes:
        points: The points.
        closed: Whether the last is connected with the first.

    Source:
        PostgreSQL manual, "Geometric Types"; server functions `path_out`, `path_send`.
    """

    points: tuple[PgPoint, ...]
    closed: bool

    def pg_text(self) -> str:
        """`((0,0),(1,1))` when it is closed, else `[(0,0),(1,1)]`."""
        points = ",".join(point.pg_text() for point in self.points)
        return f"({points})" if self.closed else f"[{points}]"


class PgPolygon(msgspec.Struct, frozen=True, gc=False):
    """A polygon.

    Attributes:
        points: Its corners.

    Source:
        PostgreSQL manual, "Geometric Types"; server functions `poly_out`, `poly_send`.
    """

    points: tuple[PgPoint, ...]

    def pg_text(self) -> str:
        """`((0,0),(1,1),(1,0))`."""
        return "(" + ",".join(point.pg_text() for point in self.points) + ")"


class PgCircle(msgspec.Struct, frozen=True, gc=False):
    """A circle.

    Attributes:
        center: Its center.
        radius: Its radius.

    Source:
        PostgreSQL manual, "Geometric Types"; server functions `circle_out`, `circle_send`.
    """

    center: PgPoint
    radius: float

    def pg_text(self) -> str:
        """`<(0,0),1>`."""
        return f"<{self.center.pg_text()},{printing.float_text(self.radius)}>"


def bits(length: int, packed: bytes) -> PgBits:
    """Make a bit string of bytes, whose last one is filled up with zeros."""
    return PgBits(length, int.from_bytes(packed, "big") >> -length % 8)


def inet(
    address: bytes, prefix: int
) -> _ipaddress.IPv4Address | _ipaddress.IPv6Address | _ipaddress.IPv4Interface | _ipaddress.IPv6Interface:
    """Make a host address, with the network that it is in where that is a larger one."""
    if len(address) == 4:
        return _ipaddress.IPv4Address(address) if prefix == 32 else _ipaddress.IPv4Interface((address, prefix))
    return _ipaddress.IPv6Address(address) if prefix == 128 else _ipaddress.IPv6Interface((address, prefix))


def cidr(address: bytes, prefix: int) -> _ipaddress.IPv4Network | _ipaddress.IPv6Network:
    """Make a network."""
    made = _ipaddress.IPv4Network if len(address) == 4 else _ipaddress.IPv6Network
    return made((address, prefix))


# A numeric has up to 147,455 digits; a context with the usual 28 would round. create_decimal is the fastest way in.
decimal = _decimal.Context(
    prec=_decimal.MAX_PREC, Emin=_decimal.MIN_EMIN, Emax=_decimal.MAX_EMAX, traps=[_decimal.InvalidOperation]
).create_decimal

json = msgspec.json.Decoder(float_hook=json_number).decode


def json_slowly(document: bytes) -> Any:
    """Decode what msgspec refuses and PostgreSQL allows.

    Integers of any length, a lone half of a surrogate pair, bytes that are not UTF-8.

    Args:
        document: JSON text in UTF-8.

    Returns:
        The value, with Decimal for numbers that a float cannot hold.

    Raises:
        ValueError: When it is not JSON at all.
    """
    text = document.decode("utf-8", "surrogateescape")  # SQL_ASCII databases send any bytes
    try:
        return _decoder.decode(text)
    except RecursionError:
        return json_deeply(text)


def json_deeply(text: str) -> Any:
    """Decode what is nested more deeply than Python's stack has room for: PostgreSQL allows some thousands of levels.

    How much room that is depends on the caller; whether a document can be decoded must not.

    Args:
        text: JSON text.

    Returns:
        As `json_slowly`.

    Raises:
        ValueError: When it is not JSON at all.
    """
    opened: list[list[Any] | dict[str, Any]] = []
    names: list[str] = []  # of the member that each open object is at
    at = _after_space(text, 0)
    while True:
        value: Any
        begins = text[at : at + 1]
        if begins in ("[", "{"):
            value = [] if begins == "[" else {}
            at = _after_space(text, at + 1)
            if text[at : at + 1] != _CLOSES[begins]:
                opened.append(value)
                if begins == "{":
                    name, at = _member(text, at)
                    names.append(name)
                continue
            at += 1
        else:
            value, at = _decoder.raw_decode(text, at)
        while True:
            at = _after_space(text, at)
            if not opened:
                if at < len(text):
                    raise ValueError("more than one JSON value")
                return value
            container = opened[-1]
            if isinstance(container, dict):
                container[names[-1]] = value
            else:
                container.append(value)
            ends = text[at : at + 1]
            at += 1
            if ends == ",":
                at = _after_space(text, at)
                if isinstance(container, dict):
                    names[-1], at = _member(text, at)
                break
            if ends != ("}" if isinstance(container, dict) else "]"):
                raise ValueError("a JSON value that does not end")
            value = opened.pop()
            if isinstance(value, dict):
                names.pop()


_CLOSES = {"[": "]", "{": "}"}
_SPACE = re.compile(r"[ \t\n\r]*")


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _member(text: str, at: int) -> tuple[str, int]:
    """A member's name, and where its value begins."""
    if text[at : at + 1] != '"':
        raise ValueError("a JSON object's member without a name")
    name, at = _decoder.raw_decode(text, at)
    at = _after_space(text, at)
    if text[at : at + 1] != ":":
        raise ValueError("a JSON object's member without a value")
    return name, _after_space(text, at + 1)


def _integer(digits: str) -> int:
    # int() refuses more digits than sys.set_int_max_str_digits allows; the way over Decimal is exact and has no limit.
    return int(digits) if len(digits) < 4000 else int(decimal(digits))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decoder = _json.JSONDecoder(parse_float=json_number, parse_int=_integer, parse_constant=_no_constant)
