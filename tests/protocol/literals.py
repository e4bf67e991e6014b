"""Hypothesis strategies for literals of every everyday type, as text that PostgreSQL takes."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from tests.golden.workload import EXTREMES, array
from tests.reference_values import clock_words, date_words, zone_words

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")


def _integers(bits: int) -> st.SearchStrategy[str]:
    return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1).map(str)


def _floats(width: Any) -> st.SearchStrategy[str]:
    return st.floats(width=width).map(repr).map(lambda text: {"inf": "Infinity", "-inf": "-Infinity"}.get(text, text))


def _numeric(value: Decimal) -> str:
    return f"{value:f}" if abs(value.adjusted()) < 1000 else str(value.scaleb(-value.adjusted()))


def _document(value: Any) -> str:
    if isinstance(value, Decimal):
        return _numeric(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(_document, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_document(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


_decimals = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**40), max_value=10**40)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | _decimals | st.text(CHARACTERS, max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(CHARACTERS, max_size=4), inner, max_size=3),
    max_leaves=8,
).map(_document)
_clock = st.integers(0, 86_400_000_000).map(clock_words)
_day = st.one_of(st.integers(-2_451_545, 2_145_031_948), st.integers(-731_000, 2_923_000))
_moment_day = st.one_of(st.integers(-2_451_544, 106_751_982), st.integers(-731_000, 2_923_000))
_zone = st.one_of(st.just(0), st.integers(-57_599, 57_599)).map(zone_words)


def _short(limit: int) -> st.SearchStrategy[str]:
    return st.text(CHARACTERS, max_size=limit)


_PLAIN: dict[str, st.SearchStrategy[str]] = {
    "bool": st.sampled_from(["t", "f"]),
    "bytea": st.binary(max_size=20).map(lambda data: "\\x" + data.hex()),
    '"char"': st.characters(min_codepoint=1, max_codepoint=127),
    "name": _short(15),
    "int8": _integers(64),
    "int2": _integers(16),
    "int4": _integers(32),
    "text": _short(30),
    "oid": st.integers(0, 2**32 - 1).map(str),
    "json": _json,
    "float4": _floats(32),
    "float8": _floats(64),
    "bpchar": _short(6),
    "varchar": _short(30),
    "date": _day.map(lambda days: "".join(date_words(days))),
    "time": _clock,
    "timestamp": st.tuples(_moment_day, _clock).map(
        lambda both: "{0[0]} {1}{0[1]}".format(date_words(both[0]), both[1])
    ),
    "timestamptz": st.tuples(_moment_day, _clock, _zone).map(
        lambda all_: "{0[0]} {1}{2}{0[1]}".format(date_words(all_[0]), all_[1], all_[2])
    ),
    "timetz": st.tuples(_clock, _zone).map("".join),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False).map(_numeric),
    "uuid": st.uuids().map(str),
    "jsonb": _json,
}
LITERALS = {name: strategy | st.sampled_from(EXTREMES[name]) for name, strategy in _PLAIN.items()}
"""For each type what chance finds, and the extremes that are known to matter."""


@st.composite
def arrays(draw: st.DrawFn, type_name: str) -> str:
    """An array literal of one to three dimensions, with NULLs and with any lower bounds."""
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    elements = st.none() | LITERALS[type_name]

    def part(lengths: list[int]) -> str:
        if len(lengths) == 1:
            return array([draw(elements) for _ in range(lengths[0])])
        return "{" + ",".join(part(lengths[1:]) for _ in range(lengths[0])) + "}"

    body = part(shape)
    if draw(st.integers(0, 3)):
        return body
    bounds = [draw(st.integers(-3, 3)) for _ in shape]
    return "".join(f"[{low}:{low + length - 1}]" for low, length in zip(bounds, shape, strict=True)) + "=" + body


def values(type_name: str, *, array: bool) -> st.SearchStrategy[str | None]:
    """A literal, or None for NULL."""
    return st.none() | (st.just("{}") | arrays(type_name) if array else LITERALS[type_name])


def quoted_literal(text: str) -> str:
    """A string constant of SQL that says this text."""
    return "'" + text.replace("'", "''") + "'"
