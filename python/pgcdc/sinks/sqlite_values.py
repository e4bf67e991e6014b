"""What a PostgreSQL value is in SQLite, which knows integers, floats, text and bytes; nothing is changed or lost."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Final

import msgspec

from pgcdc.events import Column
from pgcdc.protocol.printing import pg_text

__all__ = ["declared", "plain", "stored"]

# Type OIDs. Source: server file `pg_type.dat`.
_INTEGERS: Final = frozenset({16, 20, 21, 23, 26, 28, 29})
_FLOATS: Final = frozenset({700, 701})
_BYTEA: Final = 17

Storing = Callable[[Any], Any]


def declared(column: Column) -> str:
    """Say which type a column has in a STRICT table.

    Args:
        column: The column of the source.

    Returns:
        The type: ANY for floats, because SQLite has no NaN and takes one for NULL.
    """
    if column.type_oid in _INTEGERS:
        return "INTEGER"
    if column.type_oid in _FLOATS:
        return "ANY"
    return "BLOB" if column.type_oid == _BYTEA else "TEXT"


def stored(column: Column, *, in_key: bool = False) -> Storing:
    """Give what makes a column's values into those that SQLite stores.

    Args:
        column: The column of the source.
        in_key: Whether rows are known by it: equal numbers must have equal digits then.

    Returns:
        The function; None and UNSET are not for it.
    """
    if column.type_oid in _INTEGERS:
        return int
    if column.type_oid in _FLOATS:
        return plain
    if column.type_oid == _BYTEA:
        return bytes
    return _key_text if in_key else _text


def _key_text(value: Any) -> str:
    """Likewise, but equal numbers have the same digits."""
    if isinstance(value, Decimal) and value.is_finite():
        # Not by `normalize`, which rounds to the digits of the context.
        digits = f"{value:f}"
        return digits.rstrip("0").rstrip(".") if "." in digits else digits
    return _text(value)


def _text(value: Any) -> str:
    """In the words of `Batch.to_json` where that has text; arrays and objects as JSON; else what PostgreSQL prints."""
    found = plain(value)
    if isinstance(found, list | dict):
        return msgspec.json.encode(found).decode()
    return found if isinstance(found, str) else pg_text(found)


def plain(value: Any) -> Any:
    """Give what JSON has for a value.

    Args:
        value: What a column decodes to.

    Returns:
        None, a truth value, a number, a string, or lists and dicts of these.
    """
    match value:
        case None | bool() | int():
            return value
        case str():
            return str(value)
        case float():
            return value if math.isfinite(value) else pg_text(value)
        case Decimal():
            return f"{value:f}"
        case bytes():
            return "\\x" + value.hex()
        case datetime():
            if value.tzinfo is None:
                return value.isoformat()
            return value.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
        case time():
            return value.isoformat().replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case list():
            return [plain(item) for item in value]
        case dict():
            return {name: plain(item) for name, item in value.items()}
        case _:
            return pg_text(value)
