"""Python values as cells of a row: of which type they are, and what PostgreSQL would print for them."""

from __future__ import annotations

import datetime
import ipaddress
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec

from pgcdc.event_text import TYPE_NAMES
from pgcdc.protocol import PgText
from pgcdc.protocol.printing import float_text, pg_text

__all__ = ["TEXT", "cell", "fits", "type_of", "type_of_class"]

BOOL, BYTEA, INT8, TEXT, FLOAT8, INET = 16, 17, 20, 25, 701, 869
DATE, TIME, TIMESTAMP, TIMESTAMPTZ, TIMETZ, NUMERIC, UUID_OID, JSONB = 1082, 1083, 1114, 1184, 1266, 1700, 2950, 3802
JSON: Final = frozenset({114, JSONB})
_INTEGERS: Final = {20: 63, 21: 15, 23: 31}
_STRINGS: Final = frozenset({19, TEXT, 142, 1042, 1043})
_FLOATS: Final = frozenset({700, FLOAT8})
_ARRAYS: Final = frozenset(oid for oid, name in TYPE_NAMES.items() if name.endswith("[]") and oid not in (199, 3807))

_CLASSES: Final[dict[type, int]] = {
    bool: BOOL,
    int: INT8,
    float: FLOAT8,
    Decimal: NUMERIC,
    str: TEXT,
    bytes: BYTEA,
    datetime.datetime: TIMESTAMPTZ,
    datetime.date: DATE,
    datetime.time: TIME,
    UUID: UUID_OID,
    dict: JSONB,
    list: JSONB,
}

_json = msgspec.json.Encoder(decimal_format="number")


def type_of_class(kind: Any) -> int:
    """The type of a column that holds values of a class.

    Args:
        kind: The class.

    Returns:
        The type's OID.

    Raises:
        TypeError: When there is none.
    """
    if isinstance(kind, type):
        if kind in _CLASSES:
            return _CLASSES[kind]
        if issubclass(kind, msgspec.Struct):
            return JSONB
    raise TypeError(f"no column holds values of the class {getattr(kind, '__name__', kind)!s}")


def type_of(value: Any) -> int:
    """The type of a column that holds a value.

    Args:
        value: The value; not None.

    Returns:
        The type's OID.

    Raises:
        TypeError: When no column holds such a value.
    """
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        return INT8 if -(2**63) <= value < 2**63 else NUMERIC
    if isinstance(value, datetime.datetime):
        return TIMESTAMP if value.tzinfo is None else TIMESTAMPTZ
    if isinstance(value, datetime.time):
        return TIME if value.tzinfo is None else TIMETZ
    if isinstance(value, str):
        return TEXT
    for kind in type(value).__mro__:
        if kind in _CLASSES:
            return _CLASSES[kind]
    if hasattr(value, "pg_text"):
        return TEXT
    if isinstance(value, ipaddress.IPv4Address | ipaddress.IPv6Address | ipaddress.IPv4Network | ipaddress.IPv6Network):
        return INET
    if isinstance(value, msgspec.Struct | tuple):
        return JSONB
    raise TypeError(f"a value of the class {type(value).__name__} cannot be that of a column")


def fits(value: Any, type_oid: int, before: Any) -> bool:
    """Whether a value can stand in a column of a type.

    Args:
        value: The value; not None.
        type_oid: The type.
        before: What the column held, as it was decoded: for types that only the database knows.

    Returns:
        Whether it can.
    """
    if type_oid in _INTEGERS:
        bound = 1 << _INTEGERS[type_oid]
        return isinstance(value, int) and not isinstance(value, bool) and -bound <= value < bound
    if type_oid in _STRINGS:
        return isinstance(value, str)
    if type_oid in _FLOATS:
        return isinstance(value, float)
    if type_oid in JSON:
        return True
    if type_oid in _ARRAYS:
        return isinstance(value, list)
    if type_oid == NUMERIC:
        return isinstance(value, Decimal | int) and not isinstance(value, bool)
    if type_oid in (DATE, TIME, TIMESTAMP, TIMESTAMPTZ, TIMETZ) and isinstance(value, PgText):
        return True
    if type_oid in (BOOL, BYTEA, DATE, TIME, TIMESTAMP, TIMESTAMPTZ, TIMETZ, UUID_OID):
        return type_of(value) == type_oid
    # Enums, domains, intervals, ranges: what is of the same class prints in the same form. A dict may be an hstore.
    return type(value) is type(before) and not isinstance(value, dict | list | Decimal)


def cell(value: Any, type_oid: int) -> str:
    """What PostgreSQL would print for a value in a column.

    Args:
        value: The value; not None.
        type_oid: The column's type.

    Returns:
        The characters.

    Raises:
        TypeError: When it is nothing that prints.
    """
    if type_oid in JSON:
        return _json.encode(value).decode()
    if type_oid in _STRINGS and not isinstance(value, str):
        return pg_text(value) if not isinstance(value, dict | tuple) else _json.encode(value).decode()
    if isinstance(value, float) and type_oid == NUMERIC:
        return float_text(value)
    return pg_text(value)
