"""Columns as registered schemas have them: a few kinds of values, made from lines of JSON; everything else is text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal, TypeAlias

import msgspec

from pgcdc.events import Column
from pgcdc.protocol.json_columns import REFUSED, decode_columns, decode_text, encode_columns

__all__ = ["Kind", "Line", "kind_of", "legal_names", "precision_of", "read_line", "value_of"]

Kind: TypeAlias = Literal[
    "boolean", "int", "long", "float", "double", "bytes", "date", "time", "timestamp", "instant", "decimal", "string"
]
"""What a column's values are. `timestamp` has no zone, `instant` has one."""

_KINDS: Final[dict[int, Kind]] = {
    16: "boolean",
    17: "bytes",
    20: "long",
    21: "int",
    23: "int",
    26: "long",
    700: "float",
    701: "double",
    1082: "date",
    1083: "time",
    1114: "timestamp",
    1184: "instant",
}
_NUMERIC: Final = 1700
_ILLEGAL: Final = re.compile(r"[^A-Za-z0-9_]")


class Line(msgspec.Struct):
    """A line of `Batch.to_json`, as far as it is needed; columns as their JSON."""

    action: str
    position: str | None = None
    schema_version: int | None = None
    commit_time: str | None = None
    new: dict[str, msgspec.Raw] | None = None
    old: dict[str, msgspec.Raw] | None = None
    prefix: str | None = None
    content: str | None = None
    transactional: bool | None = None


_reader: Final = msgspec.json.Decoder(Line)


def read_line(line: bytes) -> Line:
    """Read a line.

    Args:
        line: JSON.

    Raises:
        ValueError: When a text beside the rows is no text.
    """
    try:
        return _reader.decode(line)
    except REFUSED:
        members = decode_columns(line)
        rows = {name: decode_columns(members.pop(name)) for name in ("new", "old") if name in members}
        try:
            return msgspec.structs.replace(_reader.decode(encode_columns(members)), **rows)
        except msgspec.DecodeError:
            raise ValueError("a text is not UTF-8") from None


def kind_of(column: Column) -> Kind:
    """What the values of a column are.

    Args:
        column: The column.

    Source:
        PostgreSQL: `pg_type.dat` for the OIDs, `numeric.c` for the type modifier.
    """
    if column.type_oid == _NUMERIC:
        return "string" if precision_of(column) is None else "decimal"
    return _KINDS.get(column.type_oid, "string")


def precision_of(column: Column) -> tuple[int, int] | None:
    """The precision and scale of a numeric column; None where it has none, or they are not of a decimal fraction.

    Args:
        column: The column.
    """
    modifier = column.type_modifier - 4
    if modifier < 0:
        return None
    precision, scale = modifier >> 16 & 0xFFFF, ((modifier & 0x7FF) ^ 0x400) - 0x400
    return (precision, scale) if 0 <= scale <= precision else None


def value_of(kind: Kind, raw: msgspec.Raw) -> Any:
    """A value from its JSON.

    Args:
        kind: What the column's values are.
        raw: The JSON.

    Returns:
        None for null. What its kind cannot hold (infinity, years past 9999, NaN of a decimal) is a str, in PostgreSQL's
        words; so is everything of kind `string`, JSON text where it is no string in JSON.
    """
    read = bytes(raw)
    if kind == "string" and read[:1] != b'"':
        return None if read == b"null" else read.decode()
    value = decode_text(read)
    if value is None or kind in ("boolean", "int", "long", "string"):
        return value
    try:
        match kind:
            case "float" | "double":
                return float(value)
            case "bytes":
                return bytes.fromhex(value.removeprefix("\\x"))
            case "date":
                return date.fromisoformat(value)
            case "time":
                return value if value.startswith("24") else time.fromisoformat(value)
            case "timestamp" | "instant":
                return datetime.fromisoformat(value)
            case "decimal":
                number = Decimal(value)
                return number if number.is_finite() else value
    except (ValueError, InvalidOperation):
        return value
    return value


def legal_names(names: Iterable[str]) -> list[str]:
    """Names as registered schemas may have them, no two alike.

    Args:
        names: As they are in the database.
    """
    made: list[str] = []
    for name in names:
        legal = _ILLEGAL.sub("_", name)
        if not legal or legal[0].isdigit():
            legal = f"_{legal}"
        unique, number = legal, 2
        while unique in made:
            unique, number = f"{legal}_{number}", number + 1
        made.append(unique)
    return made
