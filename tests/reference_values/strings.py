"""Reference: bool, "char", bytea, uuid, json, jsonb, bit strings.

Source: server files `utils/adt/bool.c`, `char.c`, `encode.c`, `varlena.c`, `uuid.c`, `json.c`, `jsonb.c`, `varbit.c`.
"""

from __future__ import annotations

import json
import re
import struct
from decimal import Decimal
from typing import Any
from uuid import UUID

from pgcdc.protocol import PgBits
from tests.reference_values.numbers import EXACT
from tests.reference_values.reading import BadValue, matched, need, text_of, unpack


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


# --- bit strings


def bits_text(data: bytes) -> PgBits:
    """Zeros and ones."""
    digits = matched(r"[01]*", data).group()
    return PgBits(len(digits), int(digits or "0", 2))


def bits_binary(data: bytes) -> PgBits:
    """The number of bits, then eight to a byte, the last byte filled up with zeros."""
    need(len(data) >= 4, "wrong length")
    (length,) = struct.unpack_from(">i", data)
    need(length >= 0 and len(data) == 4 + (length + 7) // 8, "wrong length")
    value, rest = divmod(int.from_bytes(data[4:], "big"), 1 << -length % 8)
    need(rest == 0, "bits behind the end")
    return PgBits(length, value)


# --- text behind a version


def versioned_text(data: bytes) -> str:
    """jsonpath, ltree, lquery and ltxtquery: version 1, then text."""
    need(data[:1] == b"\x01", "unknown version")
    return text_of(data[1:])
