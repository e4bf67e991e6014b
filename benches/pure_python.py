"""A pgoutput parser in pure Python, as tight as it goes with the standard library: what a careful team writes itself.

It gives the same events and the same typed values as `pgcdc.Decoder`; the benchmark checks that before it measures. All
that can be done once per relation is done there: a list of column decoders, a class for the rows. Where the standard
library offers a faster way, it is taken (`int` and `float` read bytes, `datetime.fromisoformat` reads what PostgreSQL
prints). It checks nothing that costs time: no bounds, no trailing bytes, no JSON number that a float cannot hold. That
is in its favour.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from struct import Struct
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET

from pgcdc.events import Begin, Column, Commit, Delete, Event, Insert, Relation, Update

Decode = Callable[[bytes], Any]

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
LOCAL_EPOCH = datetime(2000, 1, 1)
EXACT = Context(prec=1000)
u16 = Struct(">H").unpack_from
i32 = Struct(">i").unpack_from
u32 = Struct(">I").unpack_from
i64 = Struct(">q").unpack
begin_fields = Struct(">QqI").unpack_from
commit_fields = Struct(">BQQq").unpack_from
numeric_head = Struct(">HhHH").unpack_from
numeric_digits = [Struct(f">8x{count}H").unpack for count in range(2000)]
scales = [Decimal((0, (1,), -scale)) for scale in range(40)]
json_document = json.JSONDecoder().decode
array_item = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}]+)')
unescape = re.compile(r"\\(.)")


def utc(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)


def numeric_text(data: bytes) -> Decimal:
    return Decimal(data.decode())


def numeric_binary(data: bytes) -> Decimal:
    count, weight, sign, scale = numeric_head(data)
    if sign > 0x4000:
        return Decimal({0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}[sign])
    whole = 0
    for digit in numeric_digits[count](data):
        whole = whole * 10000 + digit
    shift = 4 * (weight + 1 - count) + scale
    whole = whole * 10**shift if shift >= 0 else whole // 10**-shift
    return EXACT.multiply(Decimal(-whole if sign else whole), scales[scale])


def timestamptz_text(data: bytes) -> datetime:
    return datetime.fromisoformat(data.decode())


def timestamptz_binary(data: bytes) -> datetime:
    return EPOCH + timedelta(microseconds=i64(data)[0])


def timestamp_text(data: bytes) -> datetime:
    return datetime.fromisoformat(data.decode())


def timestamp_binary(data: bytes) -> datetime:
    return LOCAL_EPOCH + timedelta(microseconds=i64(data)[0])


def uuid_text(data: bytes) -> UUID:
    return UUID(int=int(data.replace(b"-", b""), 16))


def uuid_binary(data: bytes) -> UUID:
    return UUID(int=int.from_bytes(data, "big"))


def jsonb_text(data: bytes) -> Any:
    return json_document(data.decode())


def jsonb_binary(data: bytes) -> Any:
    return json_document(data[1:].decode())


def text_array_text(data: bytes) -> list[str | None]:
    text = data.decode()
    if text == "{}":
        return []
    if '"' not in text:
        items = text[1:-1].split(",")
        return [None if item == "NULL" else item for item in items] if "NULL" in text else items  # type: ignore[return-value]
    return [
        (unescape.sub(r"\1", match[1]) if "\\" in match[1] else match[1])
        if match[2] is None
        else (None if match[2] == "NULL" else match[2])
        for match in array_item.finditer(text)
    ]


def text_array_binary(data: bytes) -> list[str | None]:
    if len(data) == 12:
        return []
    items: list[str | None] = []
    (count,) = i32(data, 12)
    at = 20
    for _ in range(count):
        (length,) = i32(data, at)
        at += 4
        if length < 0:
            items.append(None)
        else:
            items.append(data[at : at + length].decode())
            at += length
    return items


def bool_text(data: bytes) -> bool:
    return data == b"t"


def integer_binary(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


unpack_double = Struct(">d").unpack


def float8_binary(data: bytes) -> float:
    value: float = unpack_double(data)[0]
    return value


TEXT: dict[int, Decode] = {
    16: bool_text,
    20: int,
    23: int,
    25: bytes.decode,
    701: float,
    1009: text_array_text,
    1042: bytes.decode,
    1114: timestamp_text,
    1184: timestamptz_text,
    1700: numeric_text,
    2950: uuid_text,
    3802: jsonb_text,
}
BINARY: dict[int, Decode] = {
    16: b"\x01".__eq__,
    20: integer_binary,
    23: integer_binary,
    25: bytes.decode,
    701: float8_binary,
    1009: text_array_binary,
    1042: bytes.decode,
    1114: timestamp_binary,
    1184: timestamptz_binary,
    1700: numeric_binary,
    2950: uuid_binary,
    3802: jsonb_binary,
}


class Table:
    """What is known once the Relation came."""

    __slots__ = ("forms", "is_key", "make", "relation")

    def __init__(self, relation: Relation, rows: str) -> None:
        names = [column.name for column in relation.columns]
        self.relation = relation
        self.forms = [(TEXT[column.type_oid], BINARY[column.type_oid]) for column in relation.columns]
        self.is_key = [column.is_key for column in relation.columns]
        self.make: Callable[[list[Any]], Any]
        if rows == "struct":
            row = msgspec.defstruct(relation.name, [(name, Any) for name in names], frozen=True, gc=False)
            self.make = lambda values: row(*values)
        elif rows == "dict":
            self.make = lambda values: dict(zip(names, values, strict=True))
        else:
            self.make = tuple


class PureDecoder:
    """The parser: `decode` for one message, `decode_many` for a list."""

    def __init__(self, rows: str = "struct") -> None:
        self.rows = rows
        self.tables: dict[int, Table] = {}
        self.final_lsn: Any = UNSET
        self.commit_time: Any = UNSET
        self.index = 0

    def decode_many(self, messages: list[bytes]) -> list[Event]:
        decode = self.decode
        return [decode(message) for message in messages]

    def decode(self, message: bytes) -> Event:
        kind = message[0]
        if kind == 73:  # I
            table = self.tables[u32(message, 1)[0]]
            new, _ = self.row(message, 6, table, False)
            index = self.index
            self.index = index + 1
            return Insert(table.relation, new, UNSET, UNSET, UNSET, self.final_lsn, self.commit_time, index)
        if kind == 85:  # U
            table = self.tables[u32(message, 1)[0]]
            letter = message[5]
            old: Any = UNSET
            at = 6
            if letter != 78:
                old, at = self.row(message, 6, table, letter == 75)
                at += 1
            new, _ = self.row(message, at, table, False)
            index = self.index
            self.index = index + 1
            return Update(table.relation, new, old, UNSET, UNSET, self.final_lsn, self.commit_time, index)
        if kind == 68:  # D
            table = self.tables[u32(message, 1)[0]]
            old, _ = self.row(message, 6, table, message[5] == 75)
            index = self.index
            self.index = index + 1
            return Delete(table.relation, UNSET, old, UNSET, UNSET, self.final_lsn, self.commit_time, index)
        if kind == 66:  # B
            final_lsn, clock, xid = begin_fields(message, 1)
            self.final_lsn, self.commit_time, self.index = final_lsn, utc(clock), 0
            return Begin(final_lsn, self.commit_time, xid)
        if kind == 67:  # C
            flags, commit_lsn, end_lsn, clock = commit_fields(message, 1)
            self.final_lsn = self.commit_time = UNSET
            return Commit(flags, commit_lsn, end_lsn, utc(clock))
        if kind == 82:  # R
            return self.relation(message)
        raise ValueError(f"message kind {kind} is not part of the benchmark")

    def row(self, message: bytes, at: int, table: Table, is_key: bool) -> tuple[Any, int]:
        at += 2
        if is_key:
            return self.key(message, at, table)
        values: list[Any] = []
        append = values.append
        for text, binary in table.forms:
            form = message[at]
            if form == 116:  # t
                start = at + 5
                at = start + u32(message, at + 1)[0]
                append(text(message[start:at]))
            elif form == 98:  # b
                start = at + 5
                at = start + u32(message, at + 1)[0]
                append(binary(message[start:at]))
            else:
                append(None if form == 110 else UNSET)
                at += 1
        return table.make(values), at

    def key(self, message: bytes, at: int, table: Table) -> tuple[Any, int]:
        values: list[Any] = []
        for number, is_key in enumerate(table.is_key):
            form = message[at]
            if form == 110:
                values.append(None if is_key else UNSET)
                at += 1
                continue
            start = at + 5
            at = start + u32(message, at + 1)[0]
            values.append(table.forms[number][form == 98](message[start:at]))
        return table.make(values), at

    def relation(self, message: bytes) -> Relation:
        (oid,) = u32(message, 1)
        end = message.index(b"\0", 5)
        schema = message[5:end].decode() or "pg_catalog"
        start, end = end + 1, message.index(b"\0", end + 1)
        name = message[start:end].decode()
        identity = chr(message[end + 1])
        at = end + 4
        columns = []
        for _ in range(u16(message, end + 2)[0]):
            end = message.index(b"\0", at + 1)
            columns.append(
                Column(
                    message[at + 1 : end].decode(), u32(message, end + 1)[0], i32(message, end + 5)[0], message[at] == 1
                )
            )
            at = end + 9
        relation = Relation(oid, schema, name, identity, columns)  # type: ignore[arg-type]
        self.tables[oid] = Table(relation, self.rows)
        return relation
