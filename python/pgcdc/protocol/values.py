"""Values for which Python has no type of its own, and the two parsers that the Rust half calls."""

from __future__ import annotations

import decimal as _decimal
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
        bounds = other.lower_bounds if isinstance(other, PgArray) else None
        return self.lower_bounds == bounds and super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]


# A numeric has up to 147,455 digits; a context with the usual 28 would round. create_decimal is the fastest way in.
decimal = _decimal.Context(
    prec=_decimal.MAX_PREC, Emin=_decimal.MIN_EMIN, Emax=_decimal.MAX_EMAX, traps=[_decimal.InvalidOperation]
).create_decimal

json = msgspec.json.Decoder(float_hook=json_number).decode
