"""Reference: what is made of values of other types: arrays, ranges, multiranges, composites, hstore.

Source: server files `utils/adt/arrayfuncs.c`, `rangetypes.c`, `multirangetypes.c`, `rowtypes.c`;
`contrib/hstore/hstore_io.c`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from pgcdc.protocol import PgArray, PgMultirange, PgRange
from tests.reference_values.reading import need, text_of

Form: TypeAlias = Callable[[bytes], Any]


class Composite(dict[str, Any]):
    """A composite's attributes by name; the decoder gives a struct with the same fields."""


class Parts:
    """Reads lengths and what they announce, one after the other."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    def number(self) -> int:
        """A signed number of four bytes."""
        need(len(self.data) >= self.at + 4, "unexpected end")
        self.at += 4
        number: int = struct.unpack_from(">i", self.data, self.at - 4)[0]
        return number

    def part(self) -> bytes | None:
        """A length and as many bytes; None for the length -1."""
        size = self.number()
        if size == -1:
            return None
        need(0 <= size <= len(self.data) - self.at, "unexpected end")
        self.at += size
        return self.data[self.at - size : self.at]

    def end(self) -> None:
        """Nothing may be left."""
        need(self.at == len(self.data), "trailing bytes")


# --- arrays


def nested(items: list[Any], lengths: list[int]) -> list[Any]:
    """A flat list cut into lists of lists, row by row."""
    for length in reversed(lengths[1:]):
        items = [items[start : start + length] for start in range(0, len(items), length)]
    return items


def bounded(items: list[Any], lower_bounds: list[int]) -> list[Any]:
    """A list, or a PgArray when an index does not begin at 1."""
    if all(bound == 1 for bound in lower_bounds):
        return items
    return PgArray(items, tuple(lower_bounds))


def array_binary(element_oid: int, element: Form) -> Form:
    """Dimensions, NULL flag, element type; then for each element its length and bytes."""

    def from_binary(data: bytes) -> list[Any]:
        need(len(data) >= 12, "wrong length")
        dimensions, flags, oid = struct.unpack_from(">iiI", data)
        need(0 <= dimensions <= 6 and flags in (0, 1) and oid == element_oid, "wrong header")
        need(len(data) >= 12 + 8 * dimensions, "wrong length")
        shape = [struct.unpack_from(">ii", data, 12 + 8 * number) for number in range(dimensions)]
        need(all(length >= 0 for length, _ in shape), "negative dimension")
        count = 1 if shape else 0
        for length, _ in shape:
            count *= length
        at = 12 + 8 * dimensions
        need(count <= (len(data) - at) // 4, "wrong length")
        items: list[Any] = []
        for _ in range(count):
            need(len(data) >= at + 4, "wrong length")
            (size,) = struct.unpack_from(">i", data, at)
            at += 4
            if size == -1:
                items.append(None)
                continue
            need(0 <= size <= len(data) - at, "wrong length")
            items.append(element(data[at : at + size]))
            at += size
        need(at == len(data), "trailing bytes")
        if not items:
            return []
        return bounded(nested(items, [length for length, _ in shape]), [bound for _, bound in shape])

    return from_binary


def vector_binary(element_oid: int, element: Form) -> Form:
    """int2vector and oidvector: an array, whose subscripts begin at 0."""
    array = array_binary(element_oid, element)
    return lambda data: list(array(data))


def array_text(element: Form, delimiter: bytes = b",") -> Form:
    r"""`{1,NULL,"a \"b\""}`, nested, with `[0:2]=` in front when an index does not begin at 1."""

    def from_text(data: bytes) -> list[Any]:
        at = 0
        lower_bounds: list[int] = []
        lengths: list[int] = []
        while data[at : at + 1] == b"[":
            match = re.compile(rb"\[(-?[0-9]+):(-?[0-9]+)\]").match(data, at)
            need(match is not None, "malformed bounds")
            assert match is not None
            lower_bounds.append(int(match.group(1)))
            lengths.append(int(match.group(2)) - int(match.group(1)) + 1)
            at = match.end()
        if lower_bounds:
            need(data[at : at + 1] == b"=", "malformed bounds")
            at += 1

        def item() -> Any:
            nonlocal at
            word = bytearray()
            quoted = data[at : at + 1] == b'"'
            at += quoted
            while True:
                need(at < len(data), "unexpected end")
                byte = data[at]
                if byte == b"\\"[0]:
                    need(at + 1 < len(data), "unexpected end")
                    word.append(data[at + 1])
                    at += 2
                    continue
                if quoted and byte == b'"'[0]:
                    at += 1
                    break
                if not quoted and byte in delimiter + b"}":
                    break
                need(quoted or byte not in b'{"', "malformed element")
                word.append(byte)
                at += 1
            if not quoted:
                need(bool(word), "empty element")
                if bytes(word) == b"NULL":  # the server reads any case, and writes this one
                    return None
            return element(bytes(word))

        widths: dict[int, int] = {}

        def braces(depth: int = 0) -> list[Any]:
            nonlocal at
            need(data[at : at + 1] == b"{", "not an array")
            at += 1
            items: list[Any] = []
            kinds: set[bool] = set()
            if data[at : at + 1] == b"}" and depth == 0:
                at += 1
                return items
            while True:
                deeper = data[at : at + 1] == b"{"
                kinds.add(deeper)
                items.append(braces(depth + 1) if deeper else item())
                need(len(kinds) == 1, "mixed depths")
                separator = data[at : at + 1]
                at += 1
                if separator == b"}":
                    need(widths.setdefault(depth, len(items)) == len(items), "not rectangular")
                    return items
                need(separator == delimiter, "malformed array")

        items = braces()
        need(at == len(data), "trailing bytes")
        if lengths:
            need(lengths == [widths[depth] for depth in sorted(widths)], "bounds do not fit")
        return bounded(items, lower_bounds)

    return from_text


# --- ranges

EMPTY, LOWER_IN, UPPER_IN, LOWER_INFINITE, UPPER_INFINITE = 0x01, 0x02, 0x04, 0x08, 0x10


def range_binary(bound: Form) -> Form:
    """One byte of flags, then the bounds that there are."""

    def from_binary(data: bytes) -> PgRange[Any]:
        need(len(data) >= 1, "wrong length")
        flags, parts = data[0], Parts(data, 1)
        need(flags < 0x20, "unknown flags")
        found: list[Any] = [None, None]
        for number, infinite in enumerate((LOWER_INFINITE, UPPER_INFINITE)):
            if not flags & (EMPTY | infinite):
                part = parts.part()
                need(part is not None, "a bound is missing")
                assert part is not None
                found[number] = bound(part)
        parts.end()
        if flags & EMPTY:
            return PgRange(empty=True)
        lower_in = flags & LOWER_IN and not flags & LOWER_INFINITE
        upper_in = flags & UPPER_IN and not flags & UPPER_INFINITE
        return PgRange(found[0], found[1], ("[" if lower_in else "(") + ("]" if upper_in else ")"))

    return from_binary


def word(data: bytes, at: int, ends: bytes) -> tuple[bytes | None, int]:
    """A bound or an attribute up to one of the bytes that end it; None for nothing at all.

    Quotes may begin and end anywhere; a quote within them is written twice, or behind a backslash.
    """
    found = bytearray()
    begun = quoted = False
    while True:
        need(at < len(data), "unexpected end")
        byte = data[at : at + 1]
        if not quoted and byte in ends:
            return (bytes(found) if begun else None), at
        begun = True
        if byte == b"\\":
            at += 1
            need(at < len(data), "unexpected end")
            found += data[at : at + 1]
        elif byte == b'"' and not quoted:
            quoted = True
        elif byte == b'"' and data[at + 1 : at + 2] == b'"':
            found += byte
            at += 1
        elif byte == b'"':
            quoted = False
        else:
            found += byte
        at += 1


def one_range(data: bytes, at: int, bound: Form) -> tuple[PgRange[Any], int]:
    """The range that begins here, and where it ends."""
    if data.startswith(b"empty", at):
        return PgRange(empty=True), at + 5
    opening = data[at : at + 1]
    need(opening in (b"[", b"("), "not a range")
    lower, at = word(data, at + 1, b",")
    upper, at = word(data, at + 1, b"])")
    bounds = (opening + data[at : at + 1]).decode()
    if lower is None:
        bounds = "(" + bounds[1]
    if upper is None:
        bounds = bounds[0] + ")"
    ends = [None if end is None else bound(end) for end in (lower, upper)]
    return PgRange(ends[0], ends[1], bounds), at + 1


def range_text(bound: Form) -> Form:
    """`[1,10)`, `(,"a b"]`, `empty`."""

    def from_text(data: bytes) -> PgRange[Any]:
        value, end = one_range(data, 0, bound)
        need(end == len(data), "trailing bytes")
        return value

    return from_text


def multirange_binary(range_: Form) -> Form:
    """How many ranges, then the length and bytes of each."""

    def from_binary(data: bytes) -> PgMultirange:
        parts = Parts(data)
        count = parts.number()
        need(0 <= count <= len(data), "unexpected end")
        ranges = [parts.part() for _ in range(count)]
        parts.end()
        need(None not in ranges, "a range is missing")
        return PgMultirange([range_(each) for each in ranges if each is not None])

    return from_binary


def multirange_text(bound: Form) -> Form:
    """`{[1,3),[5,7)}`."""

    def from_text(data: bytes) -> PgMultirange:
        need(data[:1] == b"{", "not a multirange")
        ranges = PgMultirange()
        at = 1
        while data[at : at + 1] != b"}":
            if ranges:
                need(data[at : at + 1] == b",", "malformed multirange")
                at += 1
            value, at = one_range(data, at, bound)
            ranges.append(value)
        need(at + 1 == len(data), "trailing bytes")
        return ranges

    return from_text


# --- composites

Attributes: TypeAlias = Sequence[tuple[str, int, Form]]
"""Name, type OID, and how that type is read, of each attribute."""


def composite_binary(attributes: Attributes) -> Form:
    """How many attributes; of each its type, its length and its bytes."""

    def from_binary(data: bytes) -> Composite:
        parts = Parts(data)
        need(parts.number() == len(attributes), "another number of attributes")
        row = Composite()
        for name, oid, form in attributes:
            need(parts.number() & 0xFFFFFFFF == oid, "another type")
            part = parts.part()
            row[name] = None if part is None else form(part)
        parts.end()
        return row

    return from_binary


def composite_text(attributes: Attributes) -> Form:
    """`(1,"a b",)`."""

    def from_text(data: bytes) -> Composite:
        need(data[:1] == b"(" and data[-1:] == b")", "not a composite")
        row = Composite()
        at = 0
        for name, _, form in attributes:
            part, at = word(data, at + 1, b",)")
            row[name] = None if part is None else form(part)
            need((data[at : at + 1] == b")") == (len(row) == len(attributes)), "another number of attributes")
        need(at == len(data) - 1 or not attributes, "trailing bytes")
        return row

    return from_text


# --- hstore


def hstore_binary(data: bytes) -> dict[str, str | None]:
    """How many pairs; of each the length and bytes of the key and of the value."""
    parts = Parts(data)
    count = parts.number()
    need(0 <= count <= len(data), "unexpected end")
    pairs: dict[str, str | None] = {}
    for _ in range(count):
        key, value = parts.part(), parts.part()
        need(key is not None, "a key is missing")
        assert key is not None
        pairs[text_of(key)] = None if value is None else text_of(value)
    parts.end()
    return pairs


def hstore_text(data: bytes) -> dict[str, str | None]:
    """`"a"=>"1", "b"=>NULL`."""
    quoted = rb'"((?:[^"\\]|\\.)*)"'
    pairs: dict[str, str | None] = {}
    at = 0
    while at < len(data):
        match = re.compile(quoted + rb"=>(?:NULL|" + quoted + rb")(, (?!$)|$)", re.DOTALL).match(data, at)
        need(match is not None, "malformed pair")
        assert match is not None
        parts = (
            None if part is None else re.sub(rb"\\(.)", rb"\1", part, flags=re.DOTALL) for part in match.group(1, 2)
        )
        key, value = (None if part is None else text_of(part) for part in parts)
        assert key is not None
        pairs[key] = value
        at = match.end()
    return pairs
