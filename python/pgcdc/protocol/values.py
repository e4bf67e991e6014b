"""Values for which Python has no type of its own, and the two parsers that the Rust half calls."""

from __future__ import annotations

import decimal as _decimal
import json as _json
from collections.abc import Iterable
from typing import Any

import msgspec

from pgcdc._pgoutput import json_number

__all__ = ["PgArray", "PgText"]


class PgText(str):
    """A value that Python's type for it cannot hold, in PostgreSQL's own words.

    Dates and times outside the years 1 to 9999, the infinities, and 24:00:00. Nothing is clamped to the nearest value
    that would fit.

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
    return _json.loads(text, parse_float=json_number, parse_int=_integer, parse_constant=_no_constant)


def _integer(digits: str) -> int:
    # int() refuses more digits than sys.set_int_max_str_digits allows; the way over Decimal is exact and has no limit.
    return int(digits) if len(digits) < 4000 else int(decimal(digits))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
