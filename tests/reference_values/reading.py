"""How the reference reads bytes: what does not fit is refused."""

from __future__ import annotations

import re
import struct
from typing import Any


class BadValue(ValueError):
    """The bytes are not a value of the type."""


def need(condition: bool, reason: str) -> None:
    """Refuse the value unless the condition holds."""
    if not condition:
        raise BadValue(reason)


def text_of(data: bytes) -> str:
    """UTF-8; bytes that are not come through as lone surrogates and can be written back."""
    return data.decode("utf-8", "surrogateescape")


def ascii_of(data: bytes) -> str:
    """Text of a type that prints ASCII only."""
    need(data.isascii(), "not ASCII")
    return data.decode("ascii")


def matched(pattern: str, data: bytes) -> re.Match[str]:
    """The whole text against a pattern."""
    match = re.fullmatch(pattern, ascii_of(data), re.ASCII)
    if match is None:
        raise BadValue("not in the type's text form")
    return match


def unpack(format: str, data: bytes) -> tuple[Any, ...]:
    """Fixed-width binary forms; any other length is refused."""
    need(len(data) == struct.calcsize(format), "wrong length")
    return struct.unpack(format, data)
