"""How events print: one short line for a notebook, with PostgreSQL's names for types and `X/Y` for LSNs.

These lines show values of rows. They are for the person who holds the rows: errors and logs never have them.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET

from pgcdc.lsn import format_lsn

if TYPE_CHECKING:
    from pgcdc.events import Column, Relation

__all__ = ["TYPE_NAMES", "event_text", "relation_text", "type_text"]

_MOST_COLUMNS: Final = 12

_NAMES: Final = """
16 bool 1000 | 17 bytea 1001 | 18 char 1002 | 19 name 1003 | 20 int8 1016 | 21 int2 1005 | 23 int4 1007 | 25 text 1009
26 oid 1028 | 114 json 199 | 142 xml 143 | 600 point 1017 | 601 lseg 1018 | 602 path 1019 | 603 box 1020
604 polygon 1027 | 628 line 629 | 650 cidr 651 | 700 float4 1021 | 701 float8 1022 | 718 circle 719 | 774 macaddr8 775
829 macaddr 1040 | 869 inet 1041 | 1042 bpchar 1014 | 1043 varchar 1015 | 1082 date 1182 | 1083 time 1183
790 money 791 | 1114 timestamp 1115 | 1184 timestamptz 1185 | 1186 interval 1187 | 1266 timetz 1270
1560 bit 1561 | 1562 varbit 1563 | 1700 numeric 1231 | 2950 uuid 2951 | 3220 pg_lsn 3221 | 3614 tsvector 3643
3615 tsquery 3645 | 3802 jsonb 3807 | 3904 int4range 3905 | 3906 numrange 3907 | 3908 tsrange 3909 | 3910 tstzrange 3911
3912 daterange 3913 | 3926 int8range 3927 | 5069 xid8 271
"""


def _type_names() -> dict[int, str]:
    names = {}
    for entry in _NAMES.replace("\n", "|").split("|"):
        if entry.strip():
            oid, name, array = entry.split()
            names[int(oid)], names[int(array)] = name, f"{name}[]"
    return names


TYPE_NAMES: Final = _type_names()
"""Names of the everyday types by OID, as `pg_type.typname` has them; an array's is its element's with `[]`."""


class _Short(reprlib.Repr):
    """Values in a few characters each; numbers and times as they are written, without the names of Python's classes."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 48
        self.maxlist = self.maxtuple = self.maxdict = 4
        self.maxlevel = 3

    def _as_printed(self, value: object, _level: int) -> str:
        text = str(value)
        return text if len(text) <= self.maxother else f"{text[: self.maxother - 3]}..."

    def repr_int(self, value: int, level: int) -> str:
        try:
            return super().repr_int(value, level)
        except ValueError:  # more digits than sys.set_int_max_str_digits allows
            return f"<int of {value.bit_length()} bits>"

    repr_Decimal = repr_UUID = repr_datetime = repr_date = repr_time = _as_printed  # noqa: N815 (reprlib looks for them)


_short = _Short()


def event_text(event: msgspec.Struct) -> str:
    """Print an event other than a Relation.

    Args:
        event: The event.

    Returns:
        Its kind, its tables, and each field that is known: rows with the key first, values shortened, LSNs as `X/Y`.
    """
    relation: Relation | None = getattr(event, "relation", None)
    parts = [type(event).__name__]
    for field in event.__struct_fields__:
        value = getattr(event, field)
        if field == "relation":
            parts.append(_table(value))
        elif field == "relations":
            parts.append(", ".join(map(_table, value)))
        elif value is UNSET or (field == "flags" and not value):
            continue
        elif relation is not None and field in ("new", "old"):
            parts.append(f"{field}={_row(value, relation)}")
        elif field == "lsn" or field.endswith("_lsn"):
            parts.append(f"{field}={format_lsn(value)}")
        else:
            parts.append(f"{field}={_short.repr(value)}")
    return f"<{' '.join(parts)}>"


def relation_text(relation: Relation) -> str:
    """Print a table's shape.

    Args:
        relation: The shape.

    Returns:
        The table's name, its columns with their types, which of them are the key, and the replica identity where it is
        not the default.
    """
    keyed = relation.replica_identity != "f"  # under FULL every column is, which says nothing
    columns = [
        f"{_name(column.name)} {_type(column)}{' key' if column.is_key and keyed else ''}"
        for column in relation.columns
    ]
    identity = {"n": " replica identity nothing", "f": " replica identity full", "i": " replica identity index"}
    return f"<Relation {_table(relation)} {_list(columns)}{identity.get(relation.replica_identity, '')}>"


def _row(row: Any, relation: Relation) -> str:
    names = [column.name for column in relation.columns]
    cells: Iterable[tuple[str, Any]]
    if isinstance(row, msgspec.Struct):
        cells = zip(row.__struct_encode_fields__, (getattr(row, field) for field in row.__struct_fields__), strict=True)
    elif isinstance(row, dict):
        cells = row.items()
    elif isinstance(row, tuple):
        cells = zip(names, row, strict=False)
    else:
        return _short.repr(row)
    keys = {column.name for column in relation.columns if column.is_key}
    sent = [(name, value) for name, value in cells if value is not UNSET]
    sent.sort(key=lambda cell: cell[0] not in keys)  # stable: the key first, the others as the table has them
    return _list([f"{_name(str(name))}={_short.repr(value)}" for name, value in sent])


def _list(items: list[str]) -> str:
    more = len(items) - _MOST_COLUMNS
    return f"({', '.join(items[:_MOST_COLUMNS])}{f', {more} more' if more > 0 else ''})"


def _table(relation: Relation) -> str:
    return f"{_name(relation.schema)}.{_name(relation.name)}"


def _name(name: str) -> str:
    """A name; line breaks, and the surrogates that stand for bytes of an SQL_ASCII database, as escapes."""
    return name if name.isprintable() else ascii(name)[1:-1]


def _type(column: Column) -> str:
    return type_text(TYPE_NAMES.get(column.type_oid, f"oid:{column.type_oid}"), column.type_modifier)


def type_text(name: str, type_modifier: int) -> str:
    """Print a type's name with its length or precision.

    Args:
        name: The type's name.
        type_modifier: `pg_attribute.atttypmod`.

    Returns:
        `"numeric(10,2)"`; the name alone where there is nothing more to say.

    Source:
        Server functions `numerictypmodout`, `varchartypmodout`.
    """
    modifier = type_modifier - 4
    if modifier < 0 or name.endswith("[]"):
        return name
    if name in ("varchar", "bpchar"):
        return f"{name}({modifier})"
    if name == "numeric":
        scale = ((modifier & 0x7FF) ^ 1024) - 1024  # eleven bits with a sign
        return f"numeric({modifier >> 16 & 0xFFFF},{scale})"
    return name
