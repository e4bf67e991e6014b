"""Hypothesis strategies for arrays, domains, composites, ranges and multiranges of any types, and their literals."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import strategies as st

from tests.protocol.conformance import MOODS, SPELLED
from tests.protocol.literals import LITERALS
from tests.protocol.regression_literals import EDGES, REGRESSION

ORDERED = ["int4", "int8", "text", "bytea", "numeric", "float8", "timestamptz", "date", "inet", "interval", "uuid"]
ORDERED += ["mood", "citext", "varbit", "timetz", "time", "xid8", "pg_lsn", '"char"', "name", "bpchar", "ltree", "bool"]
UNORDERED = [
    "json",
    "xml",
    "point",
    "box",
    "path",
    "tsvector",
    "tsquery",
    "jsonpath",
    "hstore",
    "cube",
    "lquery",
    "tid",
]
UNORDERED += [
    "lquery",
    "int4multirange",
    "float4",
    "polygon",
    "money",
    "macaddr8",
    "cidr",
    "jsonb",
    "oidvector",
    "pg_snapshot",
]


@dataclass
class Made:
    """A type: how it is called, the statements that make it, and its literals.

    `kind` is `base`, `array`, `domain`, `composite`, `range` or `multirange`.
    """

    kind: str
    name: str
    literals: st.SearchStrategy[str]
    statements: list[str] = field(default_factory=list)
    delimiter: str = ","
    is_list: bool = False


def _base(name: str) -> Made:
    some = [one for one in [*REGRESSION.get(name, []), *EDGES.get(name, [])] if len(one) < 120] or MOODS
    literals = st.sampled_from(some)
    if name in LITERALS:
        literals |= LITERALS[name]
    return Made("base", SPELLED.get(name, name), literals, delimiter=";" if name == "box" else ",")


def _in_quotes(text: str, escape: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', escape + '"') + '"'


@st.composite
def _array_literals(draw: st.DrawFn, element: Made) -> str:
    lengths = draw(st.lists(st.integers(1, 3), min_size=0, max_size=2))
    if not lengths:
        return "{}"

    def level(rest: list[int]) -> str:
        if not rest:
            one = draw(st.none() | element.literals)
            return "NULL" if one is None else _in_quotes(one, "\\")
        return "{" + element.delimiter.join(level(rest[1:]) for _ in range(rest[0])) + "}"

    text = level(lengths)
    if draw(st.booleans()):
        return text
    lows = [draw(st.integers(-2, 2)) for _ in lengths]
    return "".join(f"[{low}:{low + length - 1}]" for low, length in zip(lows, lengths, strict=True)) + "=" + text


def _range_literals(bound: Made) -> st.SearchStrategy[str]:
    # Both bounds are one value, so that the lower one is never above.
    def with_bound(text: str) -> st.SearchStrategy[str]:
        end = _in_quotes(text, _escape(text))
        return st.sampled_from([f"[{end},{end}]", f"({end},)", f"[{end},]", f"(,{end}]", f"(,{end})", "(,)", "empty"])

    return bound.literals.flatmap(with_bound)


def _escape(text: str) -> str:
    """How a quote is written within quotes: PostgreSQL takes both ways."""
    return '"' if len(text) % 2 else "\\"


@st.composite
def _composite_literals(draw: st.DrawFn, attributes: list[Made]) -> str:
    parts = []
    for attribute in attributes:
        one = draw(st.none() | attribute.literals)
        parts.append("" if one is None else _in_quotes(one, _escape(one)))
    return "(" + ",".join(parts) + ")"


@st.composite
def types(draw: st.DrawFn, numbers: Iterator[int]) -> Made:
    """A type of any depth up to four.

    Args:
        draw: Hypothesis's.
        numbers: Where the numbers in the names of made types come from.
    """
    statements: list[str] = []

    def name(kind: str) -> str:
        return f"{kind}{next(numbers)}"

    def made(depth: int, ordered: bool) -> Made:
        kinds = ["base"] if depth == 0 else ["base", "array", "domain", "composite", "range"]
        kind = draw(st.sampled_from(kinds + ([] if ordered or depth == 0 else ["multirange"])))
        if kind == "base":
            return _base(draw(st.sampled_from(ORDERED if ordered else ORDERED + UNORDERED)))
        if kind == "array":
            element = made(depth - 1, ordered)
            if element.is_list:
                return element
            return Made(kind, element.name + "[]", _array_literals(element), delimiter=element.delimiter, is_list=True)
        if kind == "domain":
            base = made(depth - 1, ordered)
            own = name("d")
            statements.append(f"CREATE DOMAIN {own} AS {base.name}")
            return Made(kind, own, base.literals, delimiter=base.delimiter)
        if kind == "composite":
            attributes = [made(depth - 1, ordered) for _ in range(draw(st.integers(1, 3)))]
            own = name("c")
            columns = ", ".join(f'"{"Ä " * number}a" {one.name}' for number, one in enumerate(attributes))
            statements.append(f"CREATE TYPE {own} AS ({columns})")
            return Made(kind, own, _composite_literals(attributes))
        bound = made(depth - 1, True)
        own = name("r")
        statements.append(f"CREATE TYPE {own} AS RANGE (subtype = {bound.name}, multirange_type_name = {own}_many)")
        ranges = _range_literals(bound)
        if kind == "range":
            return Made(kind, own, ranges)
        many = st.just("{}") | ranges.map(lambda one: "{" + one + "}") | ranges.map(lambda one: "{(,)," + one + "}")
        return Made(kind, own + "_many", many)

    whole = made(draw(st.integers(1, 4)), False)
    whole.statements = statements
    return whole


@dataclass
class Table:
    """The columns' types and the rows' literals."""

    columns: list[Made]
    rows: list[list[str | None]]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """One to four columns, one to four rows."""
    numbers = itertools.count()
    columns = [draw(types(numbers)) for _ in range(draw(st.integers(1, 4)))]
    rows = [[draw(st.none() | column.literals) for column in columns] for _ in range(draw(st.integers(1, 4)))]
    return Table(columns, rows)
