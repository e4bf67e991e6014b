"""The reference decoder's values: slow, plain, one function for each form of each type, checked against the manual.

Written without a look at the Rust decoder, so that the two agreeing means something. Nothing here is fast or shared
with the package, except the classes of the results for what Python's own types cannot hold.

Source: PostgreSQL manual, "Data Types"; server files `utils/adt/*.c` (the `_out` and `_send` functions).
"""

from __future__ import annotations

from typing import Any

from tests.reference_values.nested import Composite
from tests.reference_values.reading import BadValue, text_of
from tests.reference_values.times import clock_words, date_words, zone_words
from tests.reference_values.types import NAMES, OTHERS, SCALARS, Types, forms

__all__ = [
    "NAMES",
    "OTHERS",
    "SCALARS",
    "BadValue",
    "Composite",
    "Types",
    "clock_words",
    "date_words",
    "decode_value",
    "text_of",
    "zone_words",
]


def decode_value(type_oid: int, binary: bool, data: bytes, types: Types | None = None) -> Any:
    """One column's bytes.

    Args:
        type_oid: The column's type.
        binary: Whether the bytes are the output of the type's send function, not of its output function.
        data: The bytes.
        types: What is known of types that PostgreSQL does not bring along.

    Returns:
        The value; for a type of which nothing is known str as sent, or bytes as sent when they came in binary.

    Raises:
        BadValue: When the bytes do not fit the type.
    """
    both = forms(type_oid, types or {})
    if both is None:
        return data if binary else text_of(data)
    return both[binary](data)
