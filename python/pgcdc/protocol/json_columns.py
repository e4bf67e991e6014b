"""Rows as JSON taken apart into columns, and put together again; each value stays as it was written.

PostgreSQL has JSON that other parsers refuse: half of a surrogate pair in a column of type json, bytes that are no
UTF-8 in a database in SQL_ASCII, which are written as such halves, and thousands of arrays within each other. Here
that goes the slow way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from pgcdc._pgoutput import json_members

__all__ = ["REFUSED", "Columns", "decode_columns", "decode_text", "encode_columns", "loads"]

Columns: TypeAlias = Mapping[str, msgspec.Raw]
"""Values as JSON, by column."""

REFUSED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for what PostgreSQL allows."""
_decode: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode: Final = msgspec.json.Encoder().encode


def decode_columns(row: bytes | msgspec.Raw, *, foreign: bool = False) -> dict[str, msgspec.Raw]:
    """Take a JSON object apart.

    Args:
        row: The object.
        foreign: Whether somebody else may have written it: then its values are looked at, too.

    Returns:
        Its values as they stand there, by name.

    Raises:
        ValueError: When it is no JSON object.
    """
    try:
        return _decode(row)
    except REFUSED:
        members = json_members(bytes(row))
        for value in members.values() if foreign else ():
            loads(value.decode(), parse_int=str)  # of any length
        return {name: msgspec.Raw(value) for name, value in members.items()}


def encode_columns(columns: Mapping[str, msgspec.Raw | str]) -> bytes:
    """Put an object together.

    Args:
        columns: Its values by name: JSON as it is to stand there, or text.

    Returns:
        JSON text in UTF-8.
    """
    try:
        return _encode(columns)
    except UnicodeEncodeError:
        members = (
            json.dumps(name).encode() + b":" + (json.dumps(value).encode() if isinstance(value, str) else bytes(value))
            for name, value in columns.items()
        )
        return b"{" + b",".join(members) + b"}"


def decode_text(value: bytes | msgspec.Raw) -> Any:
    """A value of JSON as an object; bytes that are no UTF-8 as lone surrogates, and what is very deep as its text.

    Args:
        value: The value.
    """
    try:
        return msgspec.json.decode(value)
    except REFUSED:
        return loads(bytes(value).decode("utf-8", "surrogateescape"))


def loads(text: str, **hooks: Any) -> Any:
    """`json.loads`, but that what is nested more deeply than Python's stack has room for stays text.

    Args:
        text: JSON.
        **hooks: As for `json.loads`.
    """
    try:
        return json.loads(text, **hooks)
    except RecursionError:
        return text
